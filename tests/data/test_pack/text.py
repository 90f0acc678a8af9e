"""Shared by the nodes: relative imports of a pack must work."""


def joined(*values):
    return " | ".join(map(repr, values))
