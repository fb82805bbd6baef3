"""Devices, precision, compilation and ranks."""
