"""The command line: one file a command, loaded on use; `main` is the entry point."""
