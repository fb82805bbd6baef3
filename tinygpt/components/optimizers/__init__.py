"""Parameters to torch.optim.Optimizer."""
