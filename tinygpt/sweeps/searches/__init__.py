"""Which configs a sweep tries: each module here registers one, chosen by `search=NAME`."""
