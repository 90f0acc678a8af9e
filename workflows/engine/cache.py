"""Outputs of nodes by content: what a node is, its constants, its IS_CHANGED, and the same of all it depends on.

Equal keys mean equal outputs, in any prompt, process or machine that has the same node code and files.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..document.graph import Prompt, links_of, topological_order
from ..document.schema import NodeClasses

# Of class ids: for each key the one that it would be if these classes had no IS_CHANGED.
KeysWithout = Callable[[Collection[str]], dict[str, str]]


@dataclass
class Entry:
    """One node's outputs, each a list of items, and what it showed."""

    outputs: list[list]
    ui: dict[str, list] = field(default_factory=dict)
    made_by_expansion: bool = False


class OutputCache:
    """Entries by key. `limit` as in Session: None, 0, or how many entries of earlier prompts are kept."""

    def __init__(self, limit: int | None = None):
        if limit is not None and limit < 0:
            raise ValueError(f"cache_limit {limit} is below 0; use None, 0 or a number of outputs")
        self.limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()  # least recently used first
        self._used: set[str] = set()  # by the present prompt

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: str) -> Entry:
        self._used.add(key)
        return self._entries[key]

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry; it counts as used by the present prompt."""
        self._entries[key] = entry
        self._used.add(key)

    def drop(self, key: str) -> None:
        """Forget an entry, if it is there."""
        self._entries.pop(key, None)

    def begin(self, keys: Iterable[str], prompt: Prompt, keys_without: KeysWithout) -> None:
        """A prompt with these keys starts: what it cannot use makes room before any work.

        `prompt` and `keys_without` are for a cache that outlives the process.
        """
        self._used = set(keys)
        # What an expansion will need is known only when it happens, so that waits until `end`.
        self._trim(lambda key: key not in self._used and not self._entries[key].made_by_expansion)

    def end(self) -> None:
        """The prompt ended: what it did not use goes, up to the limit."""
        if self.limit == 0:
            self.clear()
        self._trim(lambda key: key not in self._used)
        for key in [key for key in self._entries if key in self._used]:
            self._entries.move_to_end(key)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _trim(self, unused: Callable[[str], bool]) -> None:
        old = [key for key in self._entries if unused(key)]
        for key in old[: max(0, len(old) - (self.limit or 0))]:
            del self._entries[key]


class Keys(dict):
    """Node id -> content key of one prompt's nodes, computed on first use. Nodes may be added while it runs.

    A node on a cycle, or in need of a node that is not there, gets a key that equals no other.
    """

    def __init__(
        self,
        nodes: dict[str, dict],
        classes: NodeClasses,
        changed: Callable[[str], Any],
    ):
        """`changed(id)` is what IS_CHANGED returns, False when the class has none."""
        super().__init__()
        self._nodes = nodes
        self._classes = classes
        self._changed = changed

    def __missing__(self, node_id: str) -> str:
        origins: dict[str, list[str]] = {}  # of the node and of all that it needs, as far as they have no key yet
        waiting = [node_id]
        while waiting:
            if (current := waiting.pop()) not in origins:
                linked = [origin for origin, _ in links_of(self._nodes.get(current, {})).values()]
                origins[current] = [origin for origin in linked if origin not in self]
                waiting += origins[current]
        order, _ = topological_order(origins)
        for current in order:
            self[current] = self._digest(current) if current in self._nodes else unique_key()
        for current in origins.keys() - set(order):
            self[current] = unique_key()
        return self[node_id]

    def _digest(self, node_id: str) -> str:
        node = self._nodes[node_id]
        class_type, links = node["class_type"], links_of(node)
        hidden = self._classes.schema(class_type).hidden.values()
        own = getattr(self._classes[class_type], "NOT_IDEMPOTENT", False) or "UNIQUE_ID" in hidden
        constants = {name: value for name, value in node["inputs"].items() if name not in links}
        origins = {name: [self[origin], slot] for name, (origin, slot) in links.items()}
        changed = self._changed(node_id)
        try:
            text = _ENCODER.encode([class_type, changed, node_id if own else None, origins, constants])
        except (TypeError, ValueError, RecursionError):
            return unique_key()
        # nan never equals itself: an IS_CHANGED returns it to have its node run each time.
        return unique_key() if _holds_nan(changed) else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def unique_key() -> str:
    """A key that equals no other, for what cannot be used again."""
    return "once-" + secrets.token_hex(8)


def _plain(value: Any) -> Any:
    """Bytes and sets in a form of JSON. Raises TypeError for anything else, which is then never found again."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(repr, value))}
    raise TypeError(f"{type(value).__name__} has no content key")


_ENCODER = json.JSONEncoder(sort_keys=True, default=_plain, check_circular=False)


def _holds_nan(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    if isinstance(value, dict):
        return any(map(_holds_nan, value.values()))
    return any(map(_holds_nan, value)) if isinstance(value, list | tuple) else False
