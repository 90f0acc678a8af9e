"""What is wrong with one node's inputs: missing, badly linked, of another type, out of range, refused by the node.

Brings constants to their declared types on the way, as the editor's server does: int() cuts, any text but the empty one
is true.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from ..document.graph import Prompt, is_link, node_name
from ..document.schema import WIDGET_TYPES, InputSpec, NodeClasses, types_fit
from .async_calls import AsyncCalls
from .faults import Fault

_CONVERT = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_NEVER_JSON = ("IMAGE", "MASK", "LATENT", "NOISE", "CONDITIONING")
_LONGEST_LIST = 20  # of a combo's values in an error


def node_faults(node_id: str, prompt: Prompt, classes: NodeClasses, loop: AsyncCalls) -> list[Fault]:
    """Every fault of one node of a known class. Its constants are changed in `prompt` itself."""
    node = prompt[node_id]
    node_class, inputs = classes[node["class_type"]], node["inputs"]
    try:
        schema = classes.schema(node["class_type"])
    except Exception as error:  # a node pack's own code
        return [Fault("exception_during_validation", f"its INPUT_TYPES failed: {_text(error)}", node_id)]
    own_check = _own_check_names(node_class, inputs) if hasattr(node_class, "VALIDATE_INPUTS") else ()
    found: list[Fault] = []
    for spec in schema.inputs.values():
        if spec.name not in inputs:
            problem = ("required_input_missing", _missing(spec)) if spec.required else None
        elif isinstance(inputs[spec.name], list):
            typed = "input_types" not in own_check
            problem = _link_problem(inputs[spec.name], spec, prompt, classes, typed)
        else:
            problem = _constant_problem(inputs, spec, bounded=spec.name not in own_check)
        if problem:
            found.append(Fault(*problem, node_id, spec.name, _info(spec, inputs)))
    for name, value in inputs.items():  # a link that is not declared is followed all the same
        if name not in schema.inputs and is_link(value) and value[0] not in prompt:
            found.append(Fault("bad_linked_input", _not_there(value[0]), node_id, name, {"received_value": value}))
    if own_check:
        found += _own_faults(node_id, prompt, classes, own_check, loop, bool(found))
    return found


def _missing(spec: InputSpec) -> str:
    if spec.is_widget:
        return f"has no value; it takes {spec.range_text()}"
    return f"is not linked, and nothing else gives it a value; link a {spec.type} to it"


def _not_there(origin_id: str) -> str:
    return f"is linked to node {origin_id}, which is not in the graph; link it again"


def _info(spec: InputSpec, inputs: dict[str, Any]) -> dict[str, Any]:
    """The editor's extra_info, without lists of thousands of files."""
    info: dict[str, Any] = {}
    if spec.choices is None or len(spec.choices) <= _LONGEST_LIST:
        options = {name: value for name, value in spec.options.items() if name != "options"}
        info["input_config"] = [list(spec.choices) if spec.choices is not None else spec.type, options]
    if spec.name in inputs:
        value = inputs[spec.name]
        info["linked_node" if is_link(value) else "received_value"] = value
    return info


def _link_problem(
    link: list, spec: InputSpec, prompt: Prompt, classes: dict[str, type], typed: bool
) -> tuple[str, str] | None:
    if not is_link(link):
        return "bad_linked_input", f'{_show(link)} is neither a value nor a link ["<node id>", <output>]; link it again'
    origin_id, slot = link
    origin = prompt.get(origin_id)
    if origin is None:
        return "bad_linked_input", _not_there(origin_id)
    if origin.get("class_type") not in classes:
        return None  # reported as an unknown class
    types = classes[origin["class_type"]].RETURN_TYPES
    if not 0 <= slot < len(types):
        name = node_name(origin_id, origin, classes)
        return "bad_linked_input", f"is linked to output {slot} of {name}, which has {len(types)}; link it again"
    given = "COMBO" if isinstance(types[slot], list | tuple) else str(types[slot])
    if typed and given != spec.type and not types_fit(given, spec.type):
        name = node_name(origin_id, origin, classes)
        return "return_type_mismatch", f"wants {spec.type}, but {name} gives {given}; link a {spec.type} output to it"
    # Two outputs of one type: the input names the one that it is made for.
    wanted, outputs = spec.options.get("from_output"), getattr(classes[origin["class_type"]], "RETURN_NAMES", None)
    if wanted and wanted in (outputs or ()) and slot < len(outputs) and outputs[slot] != wanted:
        name = node_name(origin_id, origin, classes)
        return "return_type_mismatch", f"is linked to {outputs[slot]} of {name}; link its {wanted}"
    return None


def _constant_problem(inputs: dict[str, Any], spec: InputSpec, bounded: bool) -> tuple[str, str] | None:
    """Bring one constant to its type, in place, and check its range or list."""
    value = inputs[spec.name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[spec.name] = value["__value__"]
    if spec.type in _NEVER_JSON or spec.type.startswith("UNCLIP_"):
        if value is None and not spec.required:
            return None
        return "invalid_input_type", f"wants a link of type {spec.type}, got {_show(value)}; link it to a node"
    convert = _CONVERT.get(spec.type)
    try:
        value = inputs[spec.name] = convert(value) if convert else value
    except (ValueError, TypeError, OverflowError):
        return "invalid_input_type", f"{_show(value)} is not of type {spec.type}; it takes {spec.range_text()}"
    if not bounded or spec.type not in WIDGET_TYPES:
        return None
    if spec.type in ("INT", "FLOAT"):
        low, high = spec.options.get("min", -math.inf), spec.options.get("max", math.inf)
        if value < low:
            return "value_smaller_than_min", f"{value} is below the minimum {low}; it takes {spec.range_text()}"
        if value > high or value != value:
            return "value_bigger_than_max", f"{value} is above the maximum {high}; it takes {spec.range_text()}"
    if spec.choices is not None and value not in spec.choices:
        # Windows saves paths with the other separator; accept what differs in that alone.
        same = [c for c in spec.choices if isinstance(value, str) and _slashes(c) == _slashes(value)]
        if not same:
            return "value_not_in_list", f"{_show(value)} is not available; choose one of {spec.range_text()}"
        inputs[spec.name] = same[0]
    return None


def _own_check_names(node_class: type, inputs: dict[str, Any]) -> set[str]:
    """Inputs that the class checks itself in VALIDATE_INPUTS: naming one switches off its range or list check."""
    parameters = inspect.signature(node_class.VALIDATE_INPUTS).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names | set(inputs) if any(p.kind == p.VAR_KEYWORD for p in parameters) else names


def _own_faults(
    node_id: str, prompt: Prompt, classes: NodeClasses, names: set[str], loop: AsyncCalls, already_wrong: bool
) -> list[Fault]:
    """What VALIDATE_INPUTS finds, a fault for each input it names."""
    node = prompt[node_id]
    node_class, schema = classes[node["class_type"]], classes.schema(node["class_type"])
    given: dict[str, Any] = {}
    for name, value in node["inputs"].items():
        if name in names and (is_link(value) or schema.declares(name)):
            given[name] = None if is_link(value) else value
    hidden = {"UNIQUE_ID": node_id, "PROMPT": {}, "EXTRA_PNGINFO": None, "DYNPROMPT": None}
    given |= {name: hidden[kind] for name, kind in schema.hidden.items() if kind in hidden and name in names}
    if "input_types" in names:
        given["input_types"] = _linked_types(node, schema.inputs, prompt, classes)
    if getattr(node_class, "INPUT_IS_LIST", False):
        given = {name: [value] for name, value in given.items()}
    try:
        (answer,) = loop.resolve([node_class.VALIDATE_INPUTS(**given)])
    except Exception as error:  # a node's own code: whatever it raises is an answer to the user
        if already_wrong:  # most likely because of what is wrong
            return []
        checked = next((name for name in given if name in node["inputs"]), "")
        info = {"exception_type": _kind(error)}
        return [Fault("exception_during_validation", _text(error), node_id, checked, info)]
    if answer is True or not given:
        return []
    advice = "was refused by the node" if answer is False else str(answer)
    linked = [name for name in given if is_link(node["inputs"].get(name))]
    blamed = sorted(given, key=lambda name: (name in linked, name not in node["inputs"]))  # constants first
    return [
        Fault("custom_validation_failed", advice, node_id, "" if name == "input_types" else name, {}, number > 0)
        for number, name in enumerate(blamed)
    ]


def _linked_types(node: dict, declared: dict[str, InputSpec], prompt: Prompt, classes: dict[str, type]) -> dict:
    types = {}
    for name in declared:
        value = node["inputs"].get(name)
        origin_class = classes.get(prompt.get(value[0], {}).get("class_type")) if is_link(value) else None
        if origin_class is not None and 0 <= value[1] < len(origin_class.RETURN_TYPES):
            types[name] = origin_class.RETURN_TYPES[value[1]]
    return types


def _slashes(value: Any) -> str:
    return str(value).replace("\\", "/")


def _kind(error: BaseException) -> str:
    module = type(error).__module__
    return type(error).__qualname__ if module == "builtins" else f"{module}.{type(error).__qualname__}"


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
