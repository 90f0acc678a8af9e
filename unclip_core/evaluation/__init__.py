"""Measuring: a judge of attributes, scores of the embedded stack. Nothing here knows of command lines."""
