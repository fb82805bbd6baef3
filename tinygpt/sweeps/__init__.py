"""Sweeps of many runs: scheduling, folders, searches, stopping rules and launchers."""
