"""One thing that is wrong with a graph (Fault), for the editor's page and for a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..document.graph import Problem, Prompt, node_name

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


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `advice` says what, with the value, and the fix."""

    kind: str
    advice: str
    node_id: str = ""
    input: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    repeated: bool = False  # the same as the fault before it, for another input of the same check

    def as_error(self) -> dict[str, Any]:
        """In the editor's shape."""
        named = {"input_name": self.input} if self.input else {}
        details = f"{self.input}: {self.advice}" if self.input else self.advice
        return {"type": self.kind, "message": _SHORT[self.kind], "details": details, "extra_info": named | self.info}

    def as_problem(self, prompt: Prompt, classes: dict[str, type]) -> Problem:
        """As a line for a person."""
        if not self.node_id:
            return Problem(self.kind, self.advice)
        node = prompt[self.node_id]
        typed = isinstance(node.get("class_type"), str)
        name = node_name(self.node_id, node, classes) if typed else f"node {self.node_id}"
        return Problem(self.kind, self.advice, name, self.input)
