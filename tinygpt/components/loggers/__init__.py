"""Where rows of metrics go."""
