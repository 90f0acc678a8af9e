"""Runs graphs one after another in one process; what does not change between them is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from .executor import execute
from .graph import Prompt
from .outcome import Event, Outcome
from .validation import Validation, validate

if TYPE_CHECKING:
    from ..nodes.host import Host


class Session:
    """Keeps the node instances, the outputs and the host between runs. Not for two threads at once.

    `cache_limit`: None keeps the outputs of the last prompt, as the editor does; n > 0 keeps those and the n outputs
    of earlier prompts that were used last; 0 keeps nothing and drops an output as soon as its last user ran.
    """

    def __init__(self, host: Host, classes: dict[str, type], *, cache_limit: int | None = None):
        self.host = host
        self.classes = classes
        self.cache_limit = cache_limit

    def validate(self, prompt: Prompt, outputs: Collection[str] | None = None) -> Validation:
        """Everything that is wrong with a prompt, and its constants brought to their types. Loads no torch.

        `outputs` limits the check to these output nodes.
        """
        return validate(prompt, self.classes, outputs)

    def run(
        self,
        prompt: Prompt,
        *,
        extra_pnginfo: dict[str, Any] | None = None,
        outputs: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Outcome:
        """Run what `outputs` need (None: every output node): `Validation.prompt` and `Validation.good_outputs`.

        `extra_pnginfo` goes into saved pictures beside the prompt. `on_event` hears each event at once. A failing node
        ends the run, its outcome says so. An interrupt (Ctrl-C, the host's) is raised again.
        """
        heard: dict[str, dict] = {}
        tell = on_event or (lambda event: None)

        def announce(node_id: str, ui: dict[str, list]) -> None:
            heard[node_id] = ui
            tell(Event("executed", node_id, {"display": node_id, "ui": ui}))

        execute(prompt, self.classes, self.host, extra_pnginfo, announce)
        return Outcome(heard, None, list(heard), [])
