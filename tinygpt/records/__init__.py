"""Run folders: written, read, listed and drawn."""
