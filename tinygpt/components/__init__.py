"""Components that users choose or add: one package for each kind."""
