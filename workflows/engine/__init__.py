"""Running one prompt as the editor's server does: order, calls, caches, events."""
