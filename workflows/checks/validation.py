"""Everything that is wrong with an API prompt, found before any work starts. Loads no torch.

The rules and the kinds of errors are the editor's server's: only what an output node needs is checked, but every node's
class must exist, and an output that is wrong does not stop the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..document.graph import Problem, Prompt, ancestors, find_cycle, links_of, node_name, saved_title
from ..document.schema import Schemas
from .awaiting import Loop
from .input_checks import node_faults

_SHORT = {
    "invalid_prompt": "The prompt cannot be read",
    "prompt_no_outputs": "The prompt has no output node",
    "prompt_outputs_failed_validation": "No output of the prompt can be made",
    "required_input_missing": "A required input has no value",
    "bad_linked_input": "The input is linked to nothing",
    "return_type_mismatch": "The linked output has another type",
    "invalid_input_type": "The value has another type",
    "value_smaller_than_min": "The value is too small",
    "value_bigger_than_max": "The value is too large",
    "value_not_in_list": "The value is not in the list",
    "custom_validation_failed": "The node refused the value",
    "exception_during_validation": "The node failed while it was checked",
    "exception_during_inner_validation": "The node needs its own output",
}
_ELSEWHERE = (
    "ComfyUI or another node pack may have it: add a pack with --nodes, or run the graph on ComfyUI "
    "(unclip run --server URL)"
)
_CLOSE = 0.75  # of 1: a slip of the fingers, while ImageBlend and ImageScale are two nodes
_MAX_CYCLES = 3  # named one by one; more tell nothing new
_MAX_DEPENDENT = 100  # outputs for which the nodes that spoil them are listed


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `advice` says what, with the value, and the fix."""

    kind: str
    advice: str
    node_id: str = ""
    input: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    repeated: bool = False  # says again for another input what the fault before it says

    def as_error(self) -> dict[str, Any]:
        """In the editor's shape."""
        named = {"input_name": self.input} if self.input else {}
        details = f"{self.input}: {self.advice}" if self.input else self.advice
        return {"type": self.kind, "message": _SHORT[self.kind], "details": details, "extra_info": named | self.info}


@dataclass(frozen=True)
class Validation:
    """The outcome. `prompt` is a copy with its constants brought to their declared types; that is what to run."""

    prompt: Prompt
    good_outputs: list[str]  # output nodes that can be made
    errors: dict[str, dict[str, Any]]  # node id -> {errors: [...], dependent_outputs: [ids], class_type}
    error: dict[str, Any] | None  # why nothing can run, in the editor's shape; None when some output can be made
    faults: list[Fault]

    def problems(self, classes: dict[str, type]) -> list[Problem]:
        """Every fault as a line for a person."""
        return [_problem(fault, self.prompt, classes) for fault in self.faults if not fault.repeated]


def output_nodes(prompt: Prompt, classes: dict[str, type]) -> list[str]:
    """Ids of the nodes that make something a person sees."""
    return [n for n, node in prompt.items() if getattr(classes.get(node.get("class_type")), "OUTPUT_NODE", False)]


def validate(prompt: Prompt, classes: dict[str, type], outputs: Collection[str] | None = None) -> Validation:
    """Check what `outputs` (None: every output node) need. The given prompt is left alone."""
    if not isinstance(prompt, dict) or not all(isinstance(node, dict) for node in prompt.values()):
        return _refused({}, [Fault("invalid_prompt", "the prompt is not a table of nodes; export the graph again")])
    prompt = {node_id: _copy(node) for node_id, node in prompt.items()}
    faults = [fault for node_id, node in prompt.items() if (fault := _class_fault(node_id, node, classes))]
    unknown = {fault.node_id for fault in faults}
    chosen = [n for n in output_nodes(prompt, classes) if outputs is None or n in outputs]
    if not chosen:
        advice = "the graph has no output node, so nothing would be made; add Save Image"
        return _refused(prompt, [*faults, Fault("prompt_no_outputs", advice)])
    origins = {node_id: [origin for origin, _ in links_of(node).values()] for node_id, node in prompt.items()}
    wanted = _needed(origins, chosen)
    schemas, loop = Schemas(classes), Loop()
    try:
        for node_id in prompt:
            if node_id in wanted and node_id not in unknown:
                faults += (Fault(*found) for found in node_faults(node_id, prompt, classes, schemas, loop))
    finally:
        loop.close()
    circular = _in_or_after_cycle(origins, wanted)
    faults += _cycle_faults(prompt, circular)
    if unknown:
        return _refused(prompt, faults)
    bad = _users(origins, {fault.node_id for fault in faults} | circular)
    good = [n for n in chosen if n not in bad]
    errors = _by_node(prompt, faults, [n for n in chosen if n in bad])
    error = None if good else Fault("prompt_outputs_failed_validation", _listed(faults)).as_error()
    return Validation(prompt, good, errors, error, faults)


def _copy(node: dict) -> dict:
    return {**node, "inputs": dict(node["inputs"])} if isinstance(node.get("inputs"), dict) else node


def _refused(prompt: Prompt, faults: list[Fault]) -> Validation:
    """Nothing runs: because of the first fault without a node, else of the first of all."""
    whole = next((fault for fault in faults if fault.kind == "invalid_prompt"), faults[-1])
    of_nodes = [fault for fault in faults if fault.node_id]
    return Validation(prompt, [], _by_node(prompt, of_nodes, []), whole.as_error(), faults)


def _class_fault(node_id: str, node: dict, classes: dict[str, type]) -> Fault | None:
    class_type = node.get("class_type")
    if not isinstance(class_type, str):
        # A page leaves the class of a node out that it does not know itself, and keeps its title.
        if title := saved_title(node):
            return Fault("invalid_prompt", f"{title!r} is no node that is known here; {_ELSEWHERE}", node_id)
        return Fault("invalid_prompt", "has no class_type; export the graph again", node_id)
    if class_type not in classes:
        close = difflib.get_close_matches(class_type, classes, 1, _CLOSE)
        hint = f"did you mean {close[0]}?" if close else ""
        advice = hint if hint and class_type.startswith("UnCLIP") else "; ".join(filter(None, (_ELSEWHERE, hint)))
        return Fault("invalid_prompt", f"unknown node class {class_type!r}; {advice}", node_id)
    if not isinstance(node.get("inputs"), dict):
        return Fault("invalid_prompt", "has no inputs; export the graph again", node_id)
    return None


def _needed(origins: dict[str, list[str]], targets: Iterable[str]) -> set[str]:
    """The targets and every existing node they need."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found and node_id in origins:
            found.add(node_id)
            waiting += origins[node_id]
    return found


def _users_of(origins: dict[str, list[str]]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for node_id, needed in origins.items():
        for origin in needed:
            users.setdefault(origin, []).append(node_id)
    return users


def _in_or_after_cycle(origins: dict[str, list[str]], wanted: set[str]) -> set[str]:
    """Those of `wanted` that can never have all their inputs."""
    users = _users_of(origins)
    missing = {n: sum(origin in wanted for origin in origins[n]) for n in wanted}
    ready = [n for n, count in missing.items() if not count]
    while ready:
        node_id = ready.pop()
        del missing[node_id]
        for user in users.get(node_id, ()):
            if user in missing:
                missing[user] -= 1
                if not missing[user]:
                    ready.append(user)
    return set(missing)


def _cycle_faults(prompt: Prompt, circular: set[str]) -> Iterable[Fault]:
    left = {n: None for n in prompt if n in circular}  # in the prompt's order, so that each run names the same
    for _ in range(_MAX_CYCLES):
        cycle = find_cycle(prompt, left.keys()) if left else None
        if cycle is None:
            return
        for node_id in cycle:
            del left[node_id]
        path = " -> ".join([*cycle, cycle[0]] if len(cycle) < 20 else [*cycle[:9], "...", *cycle[-9:], cycle[0]])
        origin = cycle[-1]
        name = next(name for name, link in links_of(prompt[cycle[0]]).items() if link[0] == origin)
        advice = f"the graph runs in a circle: {path}; remove one of these links"
        yield Fault("exception_during_inner_validation", advice, cycle[0], name, {"linked_node": [origin, 0]})


def _users(origins: dict[str, list[str]], sources: set[str]) -> set[str]:
    """The sources and every node that needs one of them."""
    if not sources:
        return set()
    users, found, waiting = _users_of(origins), set(sources), list(sources)
    while waiting:
        for user in users.get(waiting.pop(), ()):
            if user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _by_node(prompt: Prompt, faults: list[Fault], bad_outputs: list[str]) -> dict[str, dict[str, Any]]:
    errors: dict[str, dict[str, Any]] = {}
    for fault in faults:
        class_type = prompt[fault.node_id].get("class_type")
        entry = errors.setdefault(fault.node_id, {"errors": [], "dependent_outputs": [], "class_type": class_type})
        entry["errors"].append(fault.as_error())
    for output in bad_outputs[:_MAX_DEPENDENT]:
        for node_id in errors.keys() & ancestors(prompt, [output]):
            errors[node_id]["dependent_outputs"].append(output)
    return errors


def _listed(faults: list[Fault]) -> str:
    lines = [f"node {fault.node_id}, {fault.as_error()['details']}" for fault in faults]
    return "\n".join(lines[:20] + [f"and {len(lines) - 20} more"] * (len(lines) > 20))


def _problem(fault: Fault, prompt: Prompt, classes: dict[str, type]) -> Problem:
    if not fault.node_id:
        return Problem(fault.kind, fault.advice)
    node = prompt[fault.node_id]
    typed = isinstance(node.get("class_type"), str)
    name = node_name(fault.node_id, node, classes) if typed else f"node {fault.node_id}"
    return Problem(fault.kind, fault.advice, name, fault.input)
