"""Progress of a run to a fraction of the peak learning rate."""
