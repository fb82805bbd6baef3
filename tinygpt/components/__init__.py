"""What a user chooses or adds: one package for each kind."""
