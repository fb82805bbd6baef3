"""Which runs of a sweep are worth going on with: chosen by `stopping=NAME`."""
