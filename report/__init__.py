"""Arrays and records -> PNG, CSV, JSON and Markdown. Imports no other folder of the repository."""
