"""The graph of a run: the prompt, and the nodes that expansions add to it while it runs.

Nodes that ask for the hidden input DYNPROMPT get this object; the method names are the editor's.
"""

from __future__ import annotations

from typing import Any

from ..document.graph import Prompt


class DynamicGraph:
    """Nodes by id. Those that an expansion made know the node that made them and the one that shows their progress."""

    def __init__(self, prompt: Prompt):
        self.nodes: Prompt = dict(prompt)  # of the prompt and of expansions
        self._prompt = prompt
        self._parents: dict[str, str] = {}
        self._displays: dict[str, str] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        """A node. Raises KeyError when there is none."""
        return self.nodes[node_id]

    def has_node(self, node_id: str) -> bool:
        """Whether there is such a node."""
        return node_id in self.nodes

    def add(self, graph: Prompt, parent: str) -> None:
        """Add the nodes that `parent` expanded into. Raises ValueError for an id that is taken."""
        for node_id, node in graph.items():
            if self.has_node(node_id):
                raise ValueError(f"expands into a second node {node_id}; ids must be unique and always the same")
            self.nodes[node_id] = node
            self._parents[node_id] = parent
            self._displays[node_id] = node.get("override_display_id", parent)

    def is_added(self, node_id: str) -> bool:
        """Whether an expansion made the node."""
        return node_id in self._parents

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the prompt that a node stems from."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node that made it, None for the prompt's own."""
        return self._parents.get(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node that shows its progress."""
        seen = set()
        while node_id in self._displays and node_id not in seen:
            seen.add(node_id)
            node_id = self._displays[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """The ids of all nodes."""
        return set(self.nodes)

    def get_original_prompt(self) -> Prompt:
        """The prompt as it was given."""
        return self._prompt
