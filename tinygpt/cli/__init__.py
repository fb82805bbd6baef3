"""The command line shared by all entry points."""
