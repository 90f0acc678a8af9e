"""Everything that is wrong with an API prompt, found before any work starts. Loads no torch.

The rules and the kinds of errors are the editor's server's: only what an output node needs is checked, but every node's
class must exist, and an output that is wrong does not stop the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..document.conversion import to_api
from ..document.graph import Problem, Prompt, ancestors, links_of, origins_among, saved_title, topological_order
from ..document.reading import Workflow
from ..document.schema import with_schemas
from .async_calls import AsyncCalls
from .faults import Fault
from .input_checks import node_faults
from .unknown_nodes import why_unknown

_MAX_CYCLES = 3  # named one by one; a graph with more has one cause
_MAX_DEPENDENT = 100  # outputs for which the nodes that spoil them are listed


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
        return [fault.as_problem(self.prompt, classes) for fault in self.faults if not fault.repeated]


def output_nodes(prompt: Prompt, classes: dict[str, type]) -> list[str]:
    """Ids of the nodes that make something a person sees."""
    return [n for n, node in prompt.items() if getattr(classes.get(node.get("class_type")), "OUTPUT_NODE", False)]


def validate(prompt: Prompt, classes: dict[str, type], outputs: Collection[str] | None = None) -> Validation:
    """Check what `outputs` (None: every output node) need. The given prompt is left alone.

    Every call looks anew at what classes declare and at files, unless `classes` is a NodeClasses.
    """
    if not isinstance(prompt, dict) or not all(isinstance(node, dict) for node in prompt.values()):
        return _refused({}, [Fault("invalid_prompt", "the prompt is not a table of nodes; export the graph again")])
    classes = with_schemas(classes)
    prompt = {node_id: _copy(node) for node_id, node in prompt.items()}
    faults = [fault for node_id, node in prompt.items() if (fault := _class_fault(node_id, node, classes))]
    unknown = {fault.node_id for fault in faults}
    chosen = [n for n in output_nodes(prompt, classes) if outputs is None or n in outputs]
    if not chosen:
        advice = "the graph has no output node, so nothing would be made; add Save Image"
        return _refused(prompt, [*faults, Fault("prompt_no_outputs", advice)])
    origins = origins_among(prompt, ancestors(prompt, chosen))
    loop = AsyncCalls()
    try:
        for node_id in origins:
            if node_id not in unknown:
                faults += node_faults(node_id, prompt, classes, loop)
    finally:
        loop.close()
    order, cycle = topological_order(origins)
    circular = origins.keys() - set(order)
    faults += _cycle_faults(prompt, circular, cycle)
    if unknown:
        return _refused(prompt, faults)
    bad = {fault.node_id for fault in faults} | circular
    for node_id in order:
        if not bad.isdisjoint(origins[node_id]):
            bad.add(node_id)
    good = [n for n in chosen if n not in bad]
    errors = _by_node(prompt, faults, [n for n in chosen if n in bad])
    error = None if good else Fault("prompt_outputs_failed_validation", _listed(faults)).as_error()
    return Validation(prompt, good, errors, error, faults)


def to_checked_prompt(workflow: Workflow, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The API form of a workflow, constants brought to the declared types of their inputs, and every problem of it."""
    classes = with_schemas(classes)
    prompt, problems = to_api(workflow, classes)
    validation = validate(prompt, classes)
    return validation.prompt, problems + validation.problems(classes)


def _copy(node: dict) -> dict:
    """The node with inputs of its own. A class that is no text is none: a list cannot even be looked up."""
    kind, inputs = node.get("class_type"), node.get("inputs")
    copy = node if kind is None or isinstance(kind, str) else {**node, "class_type": None}
    return {**copy, "inputs": dict(inputs)} if isinstance(inputs, dict) else copy


def _refused(prompt: Prompt, faults: list[Fault]) -> Validation:
    """Nothing runs: because of the first fault without a node, else of the first of all."""
    whole = next((fault for fault in faults if fault.kind == "invalid_prompt"), faults[-1])
    of_nodes = [fault for fault in faults if fault.node_id]
    return Validation(prompt, [], _by_node(prompt, of_nodes, []), whole.as_error(), faults)


def _class_fault(node_id: str, node: dict, classes: dict[str, type]) -> Fault | None:
    class_type = node.get("class_type")
    # A page leaves the class of a node out that it does not know itself, and keeps its title.
    if class_type is None and not saved_title(node):
        return Fault("invalid_prompt", "has no class_type; export the graph again", node_id)
    if class_type not in classes:
        return Fault("invalid_prompt", why_unknown(node, classes), node_id)
    if not isinstance(node.get("inputs"), dict):
        return Fault("invalid_prompt", "has no inputs; export the graph again", node_id)
    return None


def _cycle_faults(prompt: Prompt, circular: Collection[str], cycle: list[str]) -> Iterable[Fault]:
    """A fault for `cycle`, and for others among the nodes that cycles block."""
    left = set(circular)
    for _ in range(_MAX_CYCLES):
        if not cycle:
            return
        path = " -> ".join([*cycle, cycle[0]] if len(cycle) < 20 else [*cycle[:9], "...", *cycle[-9:], cycle[0]])
        origin = cycle[-1]
        name = next(name for name, link in links_of(prompt[cycle[0]]).items() if link[0] == origin)
        advice = f"the graph runs in a circle: {path}; remove one of these links"
        yield Fault("exception_during_inner_validation", advice, cycle[0], name, {"linked_node": [origin, 0]})
        left -= set(cycle)
        _, cycle = topological_order(origins_among(prompt, left))


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
