"""A workflow file in memory, what can be wrong with it, and the plain graph questions: links, ancestors, order, cycles.

The API form, which the executor runs, is the editor's own:
{"<id>": {"class_type": ..., "inputs": {name: constant | ["<id>", output index]}, "_meta": {"title": ...}}}
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .reading import read_document
from .schema import display_title
from .shapes import MAX_NODES, is_api_prompt, is_saved_graph, malformed

Prompt = dict[str, dict[str, Any]]
_MAX_LINE = 1000


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a graph from running. `kind` uses the editor's names of validation errors."""

    kind: str
    message: str  # what is wrong, with the value, and the fix
    node: str = ""  # as named by `node_name`
    input: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.node, self.input) if part)
        return one_line(f"{place}: {self.message}" if place else self.message)


def one_line(text: str) -> str:
    """Text for a terminal: what a file says can be long, can break the line, and can hold control sequences."""
    if len(text) > _MAX_LINE:
        text = f"{text[: _MAX_LINE - 300]} ... {text[-300:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)


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
    """Read a workflow file: JSON of either form, or a PNG or WebP with a graph in it.

    Raises WorkflowError, in one line, for whatever is not a workflow.
    """
    path = Path(path)
    try:
        data = read_document(path)
    except FileNotFoundError:
        raise _file_error(path, "no such file; check the path") from None
    except OSError as error:
        raise _file_error(path, f"cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise _file_error(path, str(error)) from None
    if is_saved_graph(data):
        for part in malformed(data):
            shown = json.dumps(part)[:80]
            raise _file_error(path, f"has a malformed node or link: {shown}; export it again from the editor")
        _check_size(path, data["nodes"])
        return Workflow(path, data, is_ui=True)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if is_api_prompt(data):
        _check_size(path, data)
        return Workflow(path, data, is_ui=False)
    raise _file_error(path, "is JSON but not a workflow: no list of nodes, no API prompt; export it from the editor")


def _check_size(path: Path, nodes: Sized) -> None:
    if len(nodes) > MAX_NODES:
        raise _file_error(path, f"has {len(nodes):,} nodes, more than {MAX_NODES:,}; split the graph")


def _file_error(path: Path, message: str) -> WorkflowError:
    return WorkflowError([Problem("invalid_prompt", f"{path}: {message}")])


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
