"""One node's work as the editor's server does it: gather its arguments, call it, read what it returned.

Every value travels as a list, and a node is called once for each item. Shorter lists repeat their last item.
INPUT_IS_LIST classes get the lists themselves, in one call. Outputs marked in OUTPUT_IS_LIST give several items a call.
An ExecutionBlocker among a call's arguments becomes that call's result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..document.graph import Prompt, is_link
from ..document.schema import NodeClasses
from .dynamic_graph import DynamicGraph

Values = dict[str, list]  # arguments by name, each a list of items


@dataclass(frozen=True)
class CallResult:
    """What one call returned. `result` is None when it gave nothing for the outputs."""

    result: tuple | None = None
    ui: dict[str, list] | None = None
    expand: dict[str, dict] | None = None  # a graph to run in its place; `result` then holds links into it


class Arguments:
    """What the nodes of one run are called with: declared constants, every link (declared or not), hidden inputs.

    `outputs_of(id)` gives the outputs of a node, None while it has none.
    """

    def __init__(
        self,
        graph: DynamicGraph,
        classes: NodeClasses,
        outputs_of: Callable[[str], list[list] | None],
        extra_pnginfo: dict[str, Any] | None,
    ):
        self._graph = graph
        self._classes = classes
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
        schema = self._classes.schema(node["class_type"])
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


def calls_of(values: Values, whole_lists: bool) -> list[dict[str, Any]]:
    """The keyword arguments of each call. Raises ValueError for a list without items."""
    if whole_lists or not values:
        return [dict(values)]
    for name, items in values.items():
        if not items:
            raise ValueError(f"{name} is an empty list, so there is nothing to work on")
    count = max(map(len, values.values()))
    return [{name: items[min(i, len(items) - 1)] for name, items in values.items()} for i in range(count)]


def is_blocker(value: Any) -> bool:
    """Whether a value is an ExecutionBlocker. By name, since a pack outside of the editor brings its own."""
    return type(value).__name__ == "ExecutionBlocker"


def blocker_in(arguments: dict[str, Any], whole_lists: bool) -> Any | None:
    """The first blocker among the arguments of a call, or None."""
    for value in arguments.values():
        for item in value if whole_lists and isinstance(value, list) else (value,):
            if is_blocker(item):
                return item
    return None


def call_each(
    target: Any,
    method: str,
    values: Values,
    prepare: Callable[[], None] = lambda: None,
    blocked: Callable[[Any], Any] = lambda blocker: blocker,
    start: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """Call a method of a node, or of its class, for every item, and return the results.

    `prepare` runs before each call; `blocked` makes a blocker among the arguments into the result of its call; `start`
    takes each result as it comes (coroutines are started there).
    """
    whole_lists = bool(getattr(target, "INPUT_IS_LIST", False))
    results = []
    for arguments in calls_of(values, whole_lists):
        prepare()
        blocker = blocker_in(arguments, whole_lists)
        results.append(start(getattr(target, method)(**arguments)) if blocker is None else blocked(blocker))
    return results


def read_result(value: Any, outputs: int) -> CallResult:
    """The result of one call in one form: nodes return tuples, dicts with `ui` or `expand`, or an ExecutionBlocker."""
    if isinstance(value, dict):
        result = value.get("result")
        if is_blocker(result):
            result = (result,) * outputs
        if result is None and value.get("expand") is not None:
            result = ()
        return CallResult(None if result is None else tuple(result), value.get("ui"), value.get("expand"))
    if is_blocker(value):
        return CallResult((value,) * outputs)
    return CallResult(tuple(value) if value is not None else ())


def merged_outputs(results: list[tuple], node_class: type) -> list[list]:
    """The items of each output, over all calls."""
    if not results:
        return []
    flags = getattr(node_class, "OUTPUT_IS_LIST", None) or (False,) * len(results[0])
    outputs = []
    for slot, several in zip(range(len(results[0])), flags, strict=False):
        items: list = []
        for result in results:
            value = result[slot]
            items.extend(value if several and not is_blocker(value) else [value])
        outputs.append(items)
    return outputs


def merged_ui(results: list[CallResult]) -> dict[str, list]:
    """The UI results of all calls, joined; the keys are the first call's."""
    shown = [result.ui for result in results if result.ui is not None]
    return {key: [item for ui in shown for item in ui[key]] for key in shown[0]} if shown else {}
