"""The training loop and everything that surrounds one run."""
