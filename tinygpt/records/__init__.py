"""Write, read, list and plot run folders."""
