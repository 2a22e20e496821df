"""The command line: reads flags, calls the parts, prints."""
