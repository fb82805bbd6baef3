"""What a trained model can do, measured from its run folder."""
