"""Trained models as files of other tools."""
