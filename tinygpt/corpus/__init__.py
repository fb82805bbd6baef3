"""Text to prepared tokens on disk."""
