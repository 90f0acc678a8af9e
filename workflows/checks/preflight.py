"""Everything that is wrong with an API prompt, as lines for a person, before any work starts. Loads no torch."""

from __future__ import annotations

from ..document.graph import Problem, Prompt
from .validation import validate


def check(prompt: Prompt, classes: dict[str, type]) -> tuple[Prompt, list[Problem]]:
    """The prompt with its constants brought to their declared types, and every problem of it."""
    validation = validate(prompt, classes)
    return validation.prompt, validation.problems(classes)
