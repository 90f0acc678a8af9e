"""What a node is called with: declared constants, every link (declared or not), hidden inputs; each a list of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..document.graph import Prompt, is_link
from ..document.schema import Schemas
from .calls import Values
from .dynamic_graph import DynamicGraph


class Arguments:
    """Gathers arguments in one run. `outputs_of`: id -> the outputs of a node, or None while it has none."""

    def __init__(
        self,
        graph: DynamicGraph,
        schemas: Schemas,
        outputs_of: Callable[[str], list[list] | None],
        extra_pnginfo: dict[str, Any] | None,
    ):
        self._graph = graph
        self._schemas = schemas
        self._outputs_of = outputs_of
        self._extra_pnginfo = extra_pnginfo

    def full(self, node_id: str) -> tuple[Values, set[str]]:
        """For the node's work. Also the names of links that have no value (yet), which are given as None."""
        prompt = self._graph.get_original_prompt()
        return self._gather(node_id, self._linked, prompt, self._graph, self._extra_pnginfo)

    def constants(self, node_id: str) -> Values:
        """For IS_CHANGED, which sees links as None and no prompt."""
        return self._gather(node_id, lambda link: None, {}, None, None)[0]

    def _linked(self, link: list) -> list | None:
        outputs = self._outputs_of(link[0])
        return outputs[link[1]] if outputs is not None and link[1] < len(outputs) else None

    def _gather(
        self,
        node_id: str,
        linked: Callable[[list], list | None],
        prompt: Prompt,
        graph: DynamicGraph | None,
        extra_pnginfo: dict[str, Any] | None,
    ) -> tuple[Values, set[str]]:
        node = self._graph.get_node(node_id)
        schema = self._schemas[node["class_type"]]
        values: Values = {}
        missing = set()
        for name, value in node["inputs"].items():
            if is_link(value) and not schema.is_raw(name):
                items = linked(value)
                values[name] = [None] if items is None else items
                if items is None:
                    missing.add(name)
            elif schema.declares(name):
                values[name] = [value]
        hidden = {
            "UNIQUE_ID": node_id,
            "PROMPT": prompt,
            "DYNPROMPT": graph,
            "EXTRA_PNGINFO": extra_pnginfo,
            "AUTH_TOKEN_COMFY_ORG": None,
            "API_KEY_COMFY_ORG": None,
        }
        for name, kind in schema.hidden.items():
            if isinstance(kind, str) and kind in hidden:
                values[name] = [hidden[kind]]
        return values, missing
