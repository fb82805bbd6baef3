"""Endless short stories from a grammar with exact probabilities."""
