"""What node classes declare: inputs with their types, ranges and defaults, as every other room asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def node_classes() -> dict[str, type]:
    """Every node class a headless run knows, by id: the pack's, and the editor's own few."""
    from ...nodes import NODE_CLASS_MAPPINGS
    from ...nodes.builtin import BUILTIN_CLASS_MAPPINGS

    return {**BUILTIN_CLASS_MAPPINGS, **NODE_CLASS_MAPPINGS}


@dataclass(frozen=True)
class InputSpec:
    """One declared input. `choices` is a combo's list, else None."""

    name: str
    type: str  # "INT", "COMBO", a socket type, or a union "A,B"
    required: bool
    options: dict[str, Any] = field(default_factory=dict)
    choices: tuple | None = None

    @property
    def is_widget(self) -> bool:
        """True when the editor shows a widget for it, False for a bare socket."""
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def default(self) -> Any:
        """What the editor puts into a fresh widget."""
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMBO":
            return self.choices[0] if self.choices else None
        return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(self.type)

    @property
    def extra_widgets(self) -> int:
        """How many unnamed widgets the editor puts after this one: they take places in `widgets_values`."""
        control = self.options.get("control_after_generate")
        if self.type == "INT" and control is None:
            return int(self.name in ("seed", "noise_seed"))
        return {"INT": 1, "FLOAT": 1, "COMBO": 2}.get(self.type, 0) if control else 0

    def range_text(self) -> str:
        """The allowed values in words: `0 to 1000`, `fp32, bf16` or the type."""
        if self.choices is not None:
            return ", ".join(map(str, self.choices)) or "nothing is installed"
        low, high = self.options.get("min"), self.options.get("max")
        if low is not None and high is not None:
            return f"{low} to {high}"
        if low is not None or high is not None:
            return f"at least {low}" if high is None else f"at most {high}"
        return {"INT": "a whole number", "FLOAT": "a number", "STRING": "text", "BOOLEAN": "true or false"}.get(
            self.type, self.type
        )


@dataclass(frozen=True)
class NodeSchema:
    """What one class declares, from one call of INPUT_TYPES, which may be slow: it scans folders in some nodes."""

    inputs: dict[str, InputSpec]  # required before optional, in the order that the editor counts them
    hidden: dict[str, Any]  # name -> PROMPT, DYNPROMPT, EXTRA_PNGINFO, UNIQUE_ID ...

    def declares(self, name: str) -> bool:
        """Whether a constant of that name reaches the node."""
        return name in self.inputs or name in self.hidden

    def is_lazy(self, name: str) -> bool:
        """Whether the node decides while it runs if it needs the input."""
        return name in self.inputs and bool(self.inputs[name].options.get("lazy"))

    def is_raw(self, name: str) -> bool:
        """Whether the node gets the link itself rather than what comes over it."""
        return name in self.inputs and bool(self.inputs[name].options.get("rawLink"))


class NodeClasses(dict[str, type]):
    """Node classes by id, each with its declaration, for which INPUT_TYPES is called once in the life of this object.

    What a class declares may change (lists of files do), so a check, a run or a command makes a set of its own and
    hands it on; `NodeClasses(classes)` forgets what was read before.
    """

    def __init__(self, classes: Mapping[str, type]):
        super().__init__(classes)
        self._schemas: dict[str, NodeSchema] = {}

    def schema(self, class_type: str) -> NodeSchema:
        """What a class declares. Raises KeyError for an unknown class, and whatever its INPUT_TYPES raises."""
        if class_type not in self._schemas:
            self._schemas[class_type] = node_schema(self[class_type])
        return self._schemas[class_type]


def with_schemas(classes: Mapping[str, type]) -> NodeClasses:
    """The classes as NodeClasses: themselves when they are that already, so that what was read of them is kept."""
    return classes if isinstance(classes, NodeClasses) else NodeClasses(classes)


def node_schema(node_class: type) -> NodeSchema:
    """Read a class's declaration."""
    declared = node_class.INPUT_TYPES()
    inputs = {
        name: read_spec(name, entry, kind == "required")
        for kind in ("required", "optional")
        for name, entry in (declared.get(kind) or {}).items()
    }
    return NodeSchema(inputs, dict(declared.get("hidden") or {}))


def read_spec(name: str, entry: tuple, required: bool) -> InputSpec:
    """One declaration, `(type, options)`."""
    kind, options = entry[0], dict(entry[1] or {}) if len(entry) > 1 else {}
    if isinstance(kind, list | tuple):
        return InputSpec(name, "COMBO", required, options, tuple(kind))
    if kind == "COMBO":
        # Without options the list comes from a server at the time of drawing, so nothing is known about it.
        return InputSpec(name, "COMBO", required, options, tuple(options["options"]) if "options" in options else None)
    return InputSpec(name, str(kind), required, options)


def display_title(class_type: str, classes: dict[str, type]) -> str:
    """The title of a node that was not renamed."""
    return getattr(classes.get(class_type), "TITLE", class_type)


def types_fit(given: str, wanted: str) -> bool:
    """Whether an output of type `given` may go into an input of type `wanted`; both may be unions, "*" fits all."""
    if "*" in (given, wanted):
        return True
    return bool({part.strip() for part in given.split(",")} & {part.strip() for part in wanted.split(",")})
