"""The command line: argument groups, typed options and exit status."""
