"""One node's work as the editor's server does it: every value travels as a list, a node is called once for each item.

Shorter lists repeat their last item. INPUT_IS_LIST classes get the lists themselves, in one call. Outputs marked in
OUTPUT_IS_LIST give several items a call. An ExecutionBlocker among a call's arguments becomes that call's result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Values = dict[str, list]  # arguments by name, each a list of items


@dataclass(frozen=True)
class Answer:
    """What one call returned. `result` is None when it gave nothing for the outputs."""

    result: tuple | None = None
    ui: dict[str, list] | None = None
    expand: dict[str, dict] | None = None  # a graph to run in its place; `result` then holds links into it


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
    """Call a method of a node, or of its class, for every item. `prepare` runs before each call, `blocked` turns a
    blocker into the result of its call, `start` takes each result as it comes (coroutines are started there)."""
    whole_lists = bool(getattr(target, "INPUT_IS_LIST", False))
    results = []
    for arguments in calls_of(values, whole_lists):
        prepare()
        blocker = blocker_in(arguments, whole_lists)
        results.append(start(getattr(target, method)(**arguments)) if blocker is None else blocked(blocker))
    return results


def read_answer(value: Any, outputs: int) -> Answer:
    """What a call returned, in any of its forms, for a class of so many outputs."""
    if isinstance(value, dict):
        result = value.get("result")
        if is_blocker(result):
            result = (result,) * outputs
        if result is None and value.get("expand") is not None:
            result = ()
        return Answer(None if result is None else tuple(result), value.get("ui"), value.get("expand"))
    if is_blocker(value):
        return Answer((value,) * outputs)
    return Answer(tuple(value) if value is not None else ())


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


def merged_ui(answers: list[Answer]) -> dict[str, list]:
    """What is shown, over all calls; the first call says under which keys."""
    shown = [answer.ui for answer in answers if answer.ui is not None]
    return {key: [item for ui in shown for item in ui[key]] for key in shown[0]} if shown else {}
