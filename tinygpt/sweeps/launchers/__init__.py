"""Launchers: where the runs of a sweep run, chosen by `launcher=NAME`."""
