"""Saved graphs (*.json) and what runs them without an editor. No module here imports torch at module level."""
