"""Documents from local files of every supported format."""
