"""The command line: `oubli`."""
