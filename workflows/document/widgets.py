"""Which value of `widgets_values` belongs to which widget of a saved node: the list carries no names."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from .schema import WIDGET_TYPES, InputSpec, read_spec

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
# What the editor draws as a widget; all else is a bare socket.
EDITOR_WIDGETS = frozenset(WIDGET_TYPES).union(
    (DYNAMIC_COMBO, "COLOR", "MARKDOWN", "TEXTAREA", "CHART", "GALLERIA", "IMAGECOMPARE", "AUDIO_RECORD", "AUDIO_UI"),
    ("LOAD_3D", "LOAD_3D_ANIMATION", "PREVIEW_3D", "WEBCAM"),
)


@dataclass(frozen=True)
class Widget:
    """One widget of a saved node. `place` is its index in `widgets_values`."""

    spec: InputSpec
    place: int
    value: Any


def widgets_of(specs: dict[str, InputSpec], saved: Any) -> list[Widget]:
    """The widgets of a node with the values in `saved`, a list or a dict; what is missing there has its fresh value.

    A dynamic combo's choice brings inputs of its own, named `combo.input`, whose widgets follow it.
    """
    named = saved if isinstance(saved, dict) else None
    values = without_sockets(specs, saved) if isinstance(saved, list) else []
    found: list[Widget] = []
    waiting, place = deque(specs.values()), 0
    while waiting:
        spec = waiting.popleft()
        if not is_editor_widget(spec):
            continue
        if named is not None:
            value = named.get(spec.name, spec.default)
        else:
            value = values[place] if place < len(values) else _fresh(spec)
        found.append(Widget(spec, place, value))
        place += 1 + spec.extra_widgets
        if spec.type == DYNAMIC_COMBO:
            waiting.extendleft(reversed(_chosen(spec, value)))
    return found


def read_widgets(specs: dict[str, InputSpec], saved: Any) -> dict[str, Any]:
    """The value of each widget by name."""
    return {widget.spec.name: widget.value for widget in widgets_of(specs, saved)}


def with_widget(specs: dict[str, InputSpec], saved: Any, name: str, value: Any) -> list | dict:
    """`widgets_values` as `saved` with one widget changed; a list that is too short is filled as the editor does."""
    if isinstance(saved, dict):
        return {**saved, name: value}
    widgets = widgets_of(specs, saved)
    place = next(widget.place for widget in widgets if widget.spec.name == name)
    values = list(without_sockets(specs, saved or []))
    if len(values) <= place:
        fresh = [entry for w in widgets for entry in (w.value, *("fixed", "")[: w.spec.extra_widgets])]
        values += fresh[len(values) :]
    values[place] = value
    return values


def is_editor_widget(spec: InputSpec) -> bool:
    """True when the editor gives the input a place in `widgets_values`."""
    return spec.options.get("widgetType", spec.type) in EDITOR_WIDGETS and not spec.options.get("forceInput")


def without_sockets(specs: dict[str, InputSpec], values: list) -> list:
    """The values of a file older than frontend 1.16 without the places that inputs with `forceInput` had there.

    Such a file is known by its length alone, and the places are counted as the editor counts them.
    """
    counted = [s for s in specs.values() if is_editor_widget(s) or s.options.get("forceInput")]
    if not any(spec.options.get("forceInput") for spec in counted):
        return values
    controlled = [s.options.get("control_after_generate") or s.name in ("seed", "noise_seed") for s in counted]
    if len(counted) + sum(map(bool, controlled)) != len(values):
        return values
    forced = {place for place, spec in enumerate(counted) if spec.options.get("forceInput")}
    return [value for place, value in enumerate(values) if place not in forced]


def _options(spec: InputSpec) -> list[dict]:
    options = spec.options.get("options")
    return [option for option in options if isinstance(option, dict)] if isinstance(options, list | tuple) else []


def _fresh(spec: InputSpec) -> Any:
    if spec.type == DYNAMIC_COMBO:
        return next((option.get("key") for option in _options(spec)), None)
    return spec.default


def _chosen(spec: InputSpec, value: Any) -> list[InputSpec]:
    """The inputs that the chosen option of a dynamic combo adds."""
    inputs = next((option.get("inputs") or {} for option in _options(spec) if option.get("key") == value), {})
    return [
        read_spec(f"{spec.name}.{name}", entry, kind == "required")
        for kind in ("required", "optional")
        for name, entry in (inputs.get(kind) or {}).items()
    ]
