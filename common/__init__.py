"""What every folder uses: errors, files, tables, processes. It imports nothing of the project."""
