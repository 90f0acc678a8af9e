"""Runs graphs one after another in one process; what does not change between them is not computed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from ...nodes.host import Host, Interrupted, use_host
from ..checks.async_calls import AsyncCalls
from ..checks.validation import Validation, output_nodes, validate
from ..document.graph import Prompt
from ..document.schema import NodeClasses
from .cache import OutputCache
from .executor import Run, running_node
from .outcome import Event, NodeFailure, Outcome


class _ListenerFailed(BaseException):
    """`on_event` raised `error`. Not an Exception, so that no node is blamed for it."""

    def __init__(self, error: Exception):
        self.error = error


class Session:
    """Keeps the node instances, the outputs and the host between runs. Not for two threads at once.

    `cache_limit`: None keeps the outputs of the last prompt, as the editor does; n > 0 keeps those and the n outputs
    of earlier prompts that were used last; 0 keeps nothing and drops an output as soon as its last user ran. `cache`
    replaces it by a cache of another kind.
    """

    def __init__(
        self,
        host: Host,
        classes: dict[str, type],
        *,
        cache_limit: int | None = None,
        cache: OutputCache | None = None,
    ):
        self.host = host
        self.classes = classes
        self._cache = OutputCache(cache_limit) if cache is None else cache
        self._instances: dict[tuple[str, str], Any] = {}
        self._async_calls = AsyncCalls()

    def validate(self, prompt: Prompt, outputs: Collection[str] | None = None) -> Validation:
        """Everything that is wrong with a prompt, and its constants brought to their types. Loads no torch.

        `outputs` limits the check to these output nodes.
        """
        with use_host(self.host):
            return validate(prompt, NodeClasses(self.classes), outputs)

    def run(
        self,
        prompt: Prompt,
        *,
        extra_pnginfo: dict[str, Any] | None = None,
        outputs: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Outcome:
        """Run what `outputs` need (None: every output node): `Validation.prompt` and `Validation.good_outputs`.

        `extra_pnginfo` goes into saved pictures beside the prompt. `on_event` gets each event at once. A failing node
        ends the run, and the outcome has its error. An interrupt (Ctrl-C, the host's `Interrupted`) is raised again,
        and so is what `on_event` raises.
        """
        import torch

        began = time.monotonic()
        tell = on_event or (lambda event: None)

        def emit(event: Event) -> None:
            try:
                tell(event)
            except Exception as error:
                raise _ListenerFailed(error) from error

        def on_report(kind: str, data: dict[str, Any]) -> None:
            emit(Event(kind, running_node.get(), data))

        wanted = [n for n in output_nodes(prompt, self.classes) if outputs is None or n in outputs]
        self._forget_instances(lambda key: key[0] in prompt and prompt[key[0]]["class_type"] == key[1])
        run = Run(
            prompt,
            self.classes,
            self.host,
            cache=self._cache,
            instances=self._instances,
            async_calls=self._async_calls,
            extra_pnginfo=extra_pnginfo,
            on_event=emit,
        )
        error = None
        tell(Event("start"))
        try:
            with use_host(self.host, on_report if on_event else None), torch.inference_mode():
                run.run(wanted)
        except NodeFailure as failure:
            error = failure
            tell(Event("error", failure.node_id, {"failure": failure}))
        except (Interrupted, KeyboardInterrupt):
            tell(Event("interrupted", run.current))
            raise
        except _ListenerFailed as failed:
            raise failed.error from failed.error.__cause__
        finally:
            self._async_calls.close()
            self._cache.end()
            known = run.known
            self._forget_instances(lambda key: key[0] in known)
        tell(Event("done", data={"seconds": time.monotonic() - began}))
        return Outcome(run.shown, error, run.executed, run.cached)

    def clear(self) -> None:
        """Forget all outputs and node instances, and the models among them."""
        self._cache.clear()
        self._instances.clear()

    def _forget_instances(self, keep: Callable[[tuple[str, str]], bool]) -> None:
        for key in [key for key in self._instances if not keep(key)]:
            del self._instances[key]
