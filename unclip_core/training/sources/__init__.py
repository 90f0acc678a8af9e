"""Where training data comes from: folders, WebDataset shards, embedding files."""
