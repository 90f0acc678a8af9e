"""A workflow file in memory, what can be wrong with it, and the plain graph questions: links, ancestors, order, cycles.

The API form, which the executor runs, is the editor's own:
{"<id>": {"class_type": ..., "inputs": {name: constant | ["<id>", output index]}, "_meta": {"title": ...}}}
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .schema import display_title

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a graph from running. `kind` uses the editor's names of validation errors."""

    kind: str
    message: str  # what is wrong, with the value, and the fix
    node: str = ""  # as named by `node_name`
    input: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.node, self.input) if part)
        return f"{place}: {self.message}" if place else self.message


class WorkflowError(ValueError):
    """A workflow cannot run; `problems` lists everything that was found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass
class Workflow:
    """A loaded file. `data` is the parsed JSON, in the editor's saved form (`is_ui`) or the API form."""

    path: Path
    data: dict[str, Any]
    is_ui: bool

    def copy(self) -> Workflow:
        """An independent copy, to set values on."""
        return Workflow(self.path, copy.deepcopy(self.data), self.is_ui)


def load_workflow(path: str | Path) -> Workflow:
    """Read a workflow file. Raises WorkflowError when there is none, or it is not JSON, or not a workflow."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text)
    except FileNotFoundError:
        raise _file_error(path, "no such file; check the path") from None
    except OSError as error:
        raise _file_error(path, f"cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise _file_error(path, "is not text; give a workflow saved as JSON") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _file_error(path, f"is not valid JSON at {where}: {error.msg}; export it again from the editor") from None
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        links = data.get("links") or []
        malformed = [node for node in data["nodes"] if not _is_ui_node(node)]
        malformed += [link for link in (links if isinstance(links, list) else [links]) if not _is_ui_link(link)]
        if malformed:
            shown = json.dumps(malformed[0])[:80]
            raise _file_error(path, f"has a malformed node or link: {shown}; export it again from the editor")
        return Workflow(path, data, is_ui=True)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if isinstance(data, dict) and data and all(map(_is_api_node, data.values())):
        return Workflow(path, data, is_ui=False)
    raise _file_error(path, "is JSON but not a workflow: no list of nodes, no API prompt; export it from the editor")


def _file_error(path: Path, message: str) -> WorkflowError:
    return WorkflowError([Problem("invalid_prompt", f"{path}: {message}")])


def _is_ui_node(node: Any) -> bool:
    if not (isinstance(node, dict) and isinstance(node.get("id"), int | str) and isinstance(node.get("type"), str)):
        return False
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    if not (isinstance(inputs, list) and isinstance(outputs, list)):
        return False
    titled = isinstance(node.get("title") or "", str) and isinstance(node.get("widgets_values") or [], list | dict)
    return titled and all(map(_is_socket, inputs)) and all(map(_is_socket, outputs))


def _is_socket(entry: Any) -> bool:
    if not (isinstance(entry, dict) and isinstance(entry.get("name"), str) and "type" in entry):
        return False
    widget, links = entry.get("widget") or {}, entry.get("links") or []
    named = isinstance(widget, dict) and isinstance(widget.get("name", ""), str)
    ids = [entry.get("link"), *links] if isinstance(links, list) else [links]
    return named and all(isinstance(link, int | str | None) for link in ids)


def _is_ui_link(link: Any) -> bool:
    if isinstance(link, dict):
        fields = [link.get("id"), link.get("origin_id"), link.get("origin_slot")]
    elif isinstance(link, list) and len(link) >= 5:
        fields = link[:3]
    else:
        return link is None
    return all(isinstance(value, int | str) for value in fields) and isinstance(fields[2], int)


def _is_api_node(node: Any) -> bool:
    if not (isinstance(node, dict) and isinstance(node.get("class_type", ""), str)):
        return False
    meta = node.get("_meta") or {}
    return not isinstance(meta, dict) or isinstance(meta.get("title") or "", str)


def is_link(value: Any) -> bool:
    """True for ["<id>", output index]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def node_name(node_id: str, node: dict, classes: dict[str, type]) -> str:
    """How messages name a node: `node 5 "decoder" (UnCLIPDecoderSample)`."""
    class_type = node.get("class_type") or node.get("type") or "?"
    title = node_title(node, classes)
    return f'node {node_id} "{title}" ({class_type})' if title != class_type else f"node {node_id} ({class_type})"


def node_title(node: dict, classes: dict[str, type]) -> str:
    """The title saved in the graph, else the class's own. Takes nodes of both forms."""
    class_type = node.get("class_type") or node.get("type") or "?"
    return saved_title(node) or display_title(class_type, classes)


def saved_title(node: dict) -> str | None:
    """The title that the file itself carries, or None."""
    meta = node.get("_meta")
    return node.get("title") or (meta.get("title") if isinstance(meta, dict) else None)


def links_of(node: dict) -> dict[str, tuple[str, int]]:
    """The linked inputs of an API node: name -> (origin id, output index)."""
    inputs = node.get("inputs")
    return {name: (v[0], v[1]) for name, v in inputs.items() if is_link(v)} if isinstance(inputs, dict) else {}


def ancestors(prompt: Prompt, targets: Iterable[str]) -> set[str]:
    """The targets and every existing node they need."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        node_id = waiting.pop()
        if node_id in found or node_id not in prompt:
            continue
        found.add(node_id)
        waiting.extend(origin for origin, _ in links_of(prompt[node_id]).values())
    return found


def topological_order(prompt: Prompt, wanted: set[str], early: Iterable[str] = ()) -> list[str]:
    """`wanted` with every origin before its users, in the prompt's order where it is free; those in `early` as soon as
    they can. Raises ValueError on a cycle, which preflight names."""
    order: list[str] = []
    early = set(early)
    needs = {n: {origin for origin, _ in links_of(prompt[n]).values()} & wanted for n in prompt if n in wanted}
    users: dict[str, list[str]] = {n: [] for n in wanted}
    for node_id, origins in needs.items():
        for origin in origins:
            users[origin].append(node_id)
    ready = [n for n in prompt if n in wanted and not needs[n]]
    while ready:
        node_id = next((n for n in ready if n in early), ready[0])
        ready.remove(node_id)
        order.append(node_id)
        for user in users[node_id]:
            needs[user].discard(node_id)
            if not needs[user]:
                ready.append(user)
    if len(order) != len(wanted):
        raise ValueError("the graph has a cycle")
    return order


def find_cycle(prompt: Prompt, wanted: set[str]) -> list[str] | None:
    """The ids along one cycle among `wanted`, in the direction data would flow, or None. Works on any depth."""
    state: dict[str, int] = {}  # 1: on the current path, 2: done
    for start in wanted:
        if start in state:
            continue
        path = [start]
        iterators = [iter(sorted({origin for origin, _ in links_of(prompt[start]).values()} & wanted))]
        state[start] = 1
        while iterators:
            origin = next(iterators[-1], None)
            if origin is None:
                state[path.pop()] = 2
                iterators.pop()
            elif state.get(origin) == 1:
                return list(reversed(path[path.index(origin) :]))
            elif origin not in state:
                state[origin] = 1
                path.append(origin)
                iterators.append(iter(sorted({o for o, _ in links_of(prompt[origin]).values()} & wanted)))
    return None
