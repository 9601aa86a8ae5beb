"""Arrays and records -> PNG and Markdown. Imports only `common`."""
