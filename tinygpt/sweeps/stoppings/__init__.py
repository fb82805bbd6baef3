"""Rules that end bad runs of a sweep early: chosen by `stopping=NAME`."""
