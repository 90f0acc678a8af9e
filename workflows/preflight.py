"""Everything that is wrong with an API prompt, found before any work starts. Loads no torch.

The rules are the editor's server's: only what an output node needs is checked, but every node's class must exist.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from typing import Any

from .graph import Problem, Prompt, ancestors, find_cycle, is_link, links_of, node_name
from .schema import InputSpec, input_specs, types_fit


def check(prompt: Prompt, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The prompt with its constants brought to their declared types, and every problem of it."""
    prompt = copy.deepcopy(prompt)
    problems = [problem for node_id, node in prompt.items() if (problem := _class_problem(node_id, node, classes))]
    known = {node_id: node for node_id, node in prompt.items() if _has_class(node, classes)}
    outputs = output_nodes(prompt, classes)
    if not outputs:
        message = "the graph has no output node, so nothing would be made; add Save Image"
        return prompt, [*problems, Problem("prompt_no_outputs", message)]
    wanted = ancestors(prompt, outputs)
    for node_id in (n for n in prompt if n in wanted and n in known):
        problems += _node_problems(node_id, prompt, classes)
    if cycle := find_cycle(prompt, wanted):
        path = " -> ".join([*cycle, cycle[0]])
        message = f"the graph runs in a circle: {path}; remove one of these links"
        problems.append(Problem("cycle", message, node_name(cycle[0], prompt[cycle[0]], classes)))
    return prompt, problems


def output_nodes(prompt: Prompt, classes: dict[str, type]) -> list[str]:
    """Ids of the nodes that make something a person sees."""
    return [n for n, node in prompt.items() if getattr(classes.get(node.get("class_type")), "OUTPUT_NODE", False)]


def _has_class(node: dict, classes: dict[str, type]) -> bool:
    return node.get("class_type") in classes and isinstance(node.get("inputs"), dict)


def _class_problem(node_id: str, node: dict, classes: dict[str, type]) -> Problem | None:
    class_type = node.get("class_type")
    if not isinstance(class_type, str):
        return Problem("invalid_prompt", "has no class_type; export the graph again", f"node {node_id}")
    if class_type not in classes:
        close = difflib.get_close_matches(class_type, classes, 1)
        hint = (
            f"did you mean {close[0]}?"
            if close
            else "the headless runner has the unCLIP nodes and the editor's own I/O"
        )
        return Problem(
            "invalid_prompt", f"unknown node class {class_type!r}; {hint}", node_name(node_id, node, classes)
        )
    if not isinstance(node.get("inputs"), dict):
        return Problem("invalid_prompt", "has no inputs; export the graph again", node_name(node_id, node, classes))
    return None


def _node_problems(node_id: str, prompt: Prompt, classes: dict[str, type]) -> list[Problem]:
    node = prompt[node_id]
    node_class = classes[node["class_type"]]
    own_check = _own_check_names(node_class, node["inputs"])
    problems = []
    for spec in input_specs(node_class).values():
        value = node["inputs"].get(spec.name)
        if spec.name not in node["inputs"]:
            found = ("required_input_missing", _missing(spec)) if spec.required else None
        elif is_link(value):
            found = None if "input_types" in own_check else _link_problem(value, spec, prompt, classes)
        else:
            found = _constant_problem(node["inputs"], spec, bounded=spec.name not in own_check)
        if found:
            problems.append(Problem(found[0], found[1], node_name(node_id, node, classes), spec.name))
    # The node's own check may rely on types, so it speaks only once they are right.
    if own_check and not problems:
        problems += _own_problems(node_id, prompt, classes, own_check)
    return problems


def _missing(spec: InputSpec) -> str:
    if spec.is_widget:
        return f"has no value; it takes {spec.range_text()}"
    return f"is not linked, and nothing else gives it a value; link a {spec.type} to it"


def _link_problem(link: list, spec: InputSpec, prompt: Prompt, classes: dict[str, type]) -> tuple[str, str] | None:
    origin_id, slot = link
    origin = prompt.get(origin_id)
    if origin is None:
        return "bad_linked_input", f"is linked to node {origin_id}, which is not in the graph; link it again"
    if origin.get("class_type") not in classes:
        return None  # reported as an unknown class
    name = node_name(origin_id, origin, classes)
    types = classes[origin["class_type"]].RETURN_TYPES
    if not 0 <= slot < len(types):
        return (
            "bad_linked_input",
            f"is linked to output {slot} of {name}, which has {len(types)}; link it again",
        )
    given = "COMBO" if isinstance(types[slot], list | tuple) else str(types[slot])
    if not types_fit(given, spec.type):
        return "return_type_mismatch", f"wants {spec.type}, but {name} gives {given}; link a {spec.type} output to it"
    return None


def _constant_problem(inputs: dict[str, Any], spec: InputSpec, bounded: bool) -> tuple[str, str] | None:
    """Bring one constant to its type, in place, and check its range or list."""
    value = inputs[spec.name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[spec.name] = value["__value__"]
    if spec.type not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
        return "invalid_input_type", f"wants a link of type {spec.type}, got {_show(value)}; link it to a node"
    convert = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(spec.type)
    try:
        value = inputs[spec.name] = convert(value) if convert else value
    except (ValueError, TypeError, OverflowError):
        return "invalid_input_type", f"{_show(value)} is not of type {spec.type}; it takes {spec.range_text()}"
    if not bounded:
        return None
    if spec.type in ("INT", "FLOAT"):
        low, high = spec.options.get("min", -math.inf), spec.options.get("max", math.inf)
        if value < low:
            return "value_smaller_than_min", f"{value} is below the minimum {low}; it takes {spec.range_text()}"
        if value > high or value != value:
            return "value_bigger_than_max", f"{value} is above the maximum {high}; it takes {spec.range_text()}"
    if spec.type == "COMBO" and value not in (spec.choices or ()):
        # Windows saves paths with the other separator; accept what differs in that alone.
        same = [
            c
            for c in spec.choices or ()
            if isinstance(value, str) and str(c).replace("\\", "/") == value.replace("\\", "/")
        ]
        if not same:
            return "value_not_in_list", f"{_show(value)} is not available; choose one of {spec.range_text()}"
        inputs[spec.name] = same[0]
    return None


def _own_check_names(node_class: type, inputs: dict[str, Any]) -> set[str]:
    """Inputs that the class checks itself in VALIDATE_INPUTS: naming one switches off its range or list check."""
    method = getattr(node_class, "VALIDATE_INPUTS", None)
    if method is None:
        return set()
    parameters = inspect.signature(method).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names | set(inputs) if any(p.kind == p.VAR_KEYWORD for p in parameters) else names


def _own_problems(node_id: str, prompt: Prompt, classes: dict[str, type], names: set[str]) -> list[Problem]:
    node = prompt[node_id]
    node_class = classes[node["class_type"]]
    constants = {name: value for name, value in node["inputs"].items() if name in names and not is_link(value)}
    if "input_types" in names:
        links = links_of(node)
        origins = {name: classes.get(prompt.get(origin, {}).get("class_type")) for name, (origin, _) in links.items()}
        constants["input_types"] = {
            name: origins[name].RETURN_TYPES[slot] for name, (_, slot) in links.items() if origins[name] is not None
        }
    try:
        answer = node_class.VALIDATE_INPUTS(**constants)
    except Exception as error:  # a node's own code: whatever it raises is an answer to the user
        kind, answer = "exception_during_validation", str(error) or type(error).__name__
    else:
        kind = "custom_validation_failed"
    if answer is True:
        return []
    message = answer if isinstance(answer, str) else "was refused by the node"
    checked = next((name for name in constants if name != "input_types"), "")
    return [Problem(kind, message, node_name(node_id, node, classes), checked)]


def _slashes(value: Any) -> Any:
    return value.replace("\\", "/") if isinstance(value, str) else value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
