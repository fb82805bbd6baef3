"""tinygpt: a lab bench for small language models."""

__version__ = "0.1.0"
