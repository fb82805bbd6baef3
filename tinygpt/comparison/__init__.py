"""Comparisons of runs: statistics, tables and a page."""
