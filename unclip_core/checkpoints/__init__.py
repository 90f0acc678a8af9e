"""Files of weights: our own layout, foreign ones, and the catalog of what is installed."""
