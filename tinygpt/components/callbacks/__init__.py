"""Optional watchers of a run."""
