"""Searches: which configs a sweep tries, chosen by `search=NAME`."""
