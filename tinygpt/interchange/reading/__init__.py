"""Trained weights of tinygpt's runs and of other tools, as `init_from=` names them."""
