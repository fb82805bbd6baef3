"""What many runs say together: statistics, tables and a page."""
