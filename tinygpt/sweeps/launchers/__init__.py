"""Where the runs of a sweep run: chosen by `launcher=NAME`."""
