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

from ..document.graph import is_link
from ..document.schema import Schemas


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

    def begin(
        self,
        keys: Iterable[str],
        prompt: dict | None = None,
        keys_without: Callable[[Collection[str]], dict[str, str]] | None = None,
    ) -> None:
        """A prompt with these keys starts: what it cannot use makes room before any work.

        keys_without(classes): for each key the one that it would be if these classes had no IS_CHANGED.
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
        classes: dict[str, type],
        schemas: Schemas,
        changed: Callable[[str], Any],
    ):
        """`changed`: id -> what IS_CHANGED said, False when the class has none."""
        super().__init__()
        self._nodes = nodes
        self._classes = classes
        self._schemas = schemas
        self._changed = changed

    def __missing__(self, node_id: str) -> str:
        """Origins before users, without recursion: graphs may be deep."""
        path = [node_id]
        on_path = {node_id}
        while path:
            current = path[-1]
            node = self._nodes.get(current)
            links = {name: value for name, value in node["inputs"].items() if is_link(value)} if node else {}
            unknown = [value[0] for value in links.values() if value[0] not in self]
            waiting = next((origin for origin in unknown if origin not in on_path), None)
            if waiting is not None:
                path.append(waiting)
                on_path.add(waiting)
                continue
            self[current] = unique_key() if node is None or unknown else self._digest(current, node, links)
            on_path.discard(path.pop())
        return self[node_id]

    def _digest(self, node_id: str, node: dict, links: dict[str, list]) -> str:
        class_type = node["class_type"]
        node_class = self._classes[class_type]
        own = getattr(node_class, "NOT_IDEMPOTENT", False) or "UNIQUE_ID" in self._schemas[class_type].hidden.values()
        constants = {name: value for name, value in node["inputs"].items() if name not in links}
        origins = {name: [self[value[0]], value[1]] for name, value in links.items()}
        changed = self._changed(node_id)
        try:
            text = _ENCODER.encode([class_type, changed, node_id if own else None, origins, constants])
        except (TypeError, ValueError, RecursionError):
            return unique_key()
        # nan never equals itself: IS_CHANGED says so to be run each time.
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
