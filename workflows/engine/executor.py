"""Runs one checked prompt: what its outputs need, each node once, origins before users.

A node waits for its links, is ready, and is done once its outputs are in the cache. Before that it can go back to
waiting: for a lazy input that it asks for, for its asynchronous calls, for the graph that it expands into.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from ...nodes.host import Host
from ..checks.async_calls import AsyncCalls, is_pending
from ..document.graph import Prompt, ancestors, is_link, links_of, node_name
from ..document.schema import with_schemas
from .cache import Entry, Keys, OutputCache
from .calls import Arguments, CallResult, Values, call_each, is_blocker, merged_outputs, merged_ui, read_result
from .dynamic_graph import DynamicGraph
from .outcome import Event, NodeFailure
from .ready_queue import ReadyQueue

# Whatever a node raises is its failure and ends the run; Ctrl-C and Cancel are none of these.
_NODE_ERRORS = (Exception, SystemExit, asyncio.CancelledError)
running_node: contextvars.ContextVar[str | None] = contextvars.ContextVar("unclip_running_node", default=None)


class Run:
    """The state of one run. `cache`, `instances` and `async_calls` are the session's and outlive it."""

    def __init__(
        self,
        prompt: Prompt,
        classes: dict[str, type],
        host: Host,
        *,
        cache: OutputCache,
        instances: dict[tuple[str, str], Any],
        async_calls: AsyncCalls,
        extra_pnginfo: dict[str, Any] | None,
        on_event: Callable[[Event], None],
    ):
        self.executed: list[str] = []
        self.cached: list[str] = []
        self.shown: dict[str, dict[str, list]] = {}
        self.current: str | None = None  # the node that runs
        self._prompt = prompt
        # With what was read of them before: a run needs the names and marks of inputs, which do not change as lists do.
        self._classes = with_schemas(classes)
        self._host = host
        self._cache = cache
        self._instances = instances
        self._async = async_calls
        self._on_event = on_event
        self._graph = DynamicGraph(prompt)
        self._nodes = self._graph.nodes
        self._changes: dict[str, Any] = {}  # node -> what its IS_CHANGED returned
        self._keys = Keys(self._graph.nodes, self._classes, self._is_changed)
        self._arguments = Arguments(self._graph, self._classes, self._outputs_of, extra_pnginfo)
        self._queue = ReadyQueue(self._is_early)
        self._started: set[str] = set()
        self._resume: dict[str, Callable[[str], None]] = {}  # what a node does when it is ready again: not `_start`
        self._pending: dict[str, list] = {}  # node -> its calls, some of them unfinished tasks
        self._known_origins: dict[str, set[str]] = {}
        self._drops = cache.limit == 0
        self._open_uses: Counter[str] = Counter()  # key -> users that are not done; counted if outputs are dropped

    @property
    def known(self) -> set[str]:
        """The ids of all nodes, those that expansions added too."""
        return self._graph.all_node_ids()

    def _prompt_keys(self) -> dict[str, str]:
        """The content keys of the prompt's nodes."""
        return {node_id: self._keys[node_id] for node_id in self._prompt}

    def _keys_without(self, classes: Collection[str]) -> dict[str, str]:
        def changed(node_id: str) -> Any:
            return False if self._nodes[node_id]["class_type"] in classes else self._is_changed(node_id)

        others = Keys(self._nodes, self._classes, changed)
        return {key: others[node_id] for node_id, key in self._prompt_keys().items()}

    def run(self, outputs: Iterable[str]) -> None:
        """Make the outputs. Raises NodeFailure for the first node that fails."""
        outputs, keys = list(outputs), self._prompt_keys()
        self._cache.begin(keys.values(), self._prompt, self._keys_without)
        self._on_event(Event("cached", data={"nodes": [n for n, key in keys.items() if key in self._cache]}))
        if self._drops:
            for node_id in ancestors(self._prompt, outputs):
                self._open_uses.update(keys[origin] for origin in self._origins(node_id) if origin in keys)
        for node_id in outputs:
            self._demand([node_id])
        while self._queue:
            self._host.check_interrupt()
            node_id = self.current = self._next()
            token = running_node.set(node_id)
            try:
                self._resume.pop(node_id, self._start)(node_id)
            except _NODE_ERRORS as error:
                if isinstance(error, NodeFailure):
                    raise
                raise self._failure(node_id, str(error) or type(error).__name__) from error
            finally:
                running_node.reset(token)

    # --- What comes next -----------------------------------------------------------------------------------------

    def _demand(self, wanted: list[str]) -> None:
        """Queue nodes and all that they need. What the cache has is done at once."""
        stack = list(wanted)
        while stack:
            node_id = stack.pop()
            if node_id in self._queue:
                continue
            if self._keys[node_id] in self._cache:
                self._finish_cached(node_id)
                continue
            node = self._nodes[node_id]
            lazy = self._classes.schema(node["class_type"]).is_lazy
            links = [value for name, value in node["inputs"].items() if is_link(value) and not lazy(name)]
            stack += reversed(self._wait(node_id, [origin for origin, _ in links]))

    def _wait(self, node_id: str, origins: Iterable[str]) -> list[str]:
        """Let a node wait for origins. Returns those that are not queued yet, for `_demand`."""
        origins = list(dict.fromkeys(origins))
        for origin in origins:
            if origin not in self._nodes:
                raise self._failure(node_id, f"needs node {origin}, which is not in the graph; link it again")
            if origin not in self._queue:
                if self._keys[origin] in self._cache:
                    self._finish_cached(origin)
            elif self._drops and origin in self._queue.done and self._keys[origin] not in self._cache:
                self._queue.done.discard(origin)  # an expansion needs again what was dropped
                self._open_uses.update(self._keys[needed] for needed in self._origins(origin))
        self._queue.wait(node_id, origins)
        return [origin for origin in origins if origin not in self._queue]

    def _is_early(self, node_id: str) -> bool:
        node_class = self._class(node_id)
        work = getattr(node_class, getattr(node_class, "FUNCTION", ""), None)
        return bool(getattr(node_class, "OUTPUT_NODE", False)) or inspect.iscoroutinefunction(work)

    def _next(self) -> str:
        """A ready node; waits for asynchronous calls when there is none. Raises NodeFailure when none can come."""
        if self._pending:
            self._async.turn()
        while True:
            for node_id in [n for n, calls in self._pending.items() if not any(map(is_pending, calls))]:
                self._resume[node_id] = partial(self._collect, self._pending.pop(node_id))
                self._queue.wait(node_id, ())
            if (node_id := self._queue.next()) is not None:
                return node_id
            if not self._pending:
                raise self._circle()
            self._async.wait(call for calls in self._pending.values() for call in calls)
            self._host.check_interrupt()

    def _circle(self) -> NodeFailure:
        """The failure when nodes wait for each other. It names one of an expansion: validation saw the others."""
        cycle = self._queue.cycle()
        blamed = next((n for n in cycle if self._graph.is_added(n)), cycle[0])
        return self._failure(blamed, f"the graph runs in a circle: {' -> '.join([*cycle, cycle[0]])}")

    def _finish_cached(self, node_id: str) -> None:
        self.cached.append(node_id)
        if ui := self._cache[self._keys[node_id]].ui:
            self._show(node_id, ui)
        self._finish(node_id)

    def _finish(self, node_id: str) -> None:
        self._queue.finish(node_id)
        if self._drops:
            self._close_uses(self._origins(node_id))

    def _close_uses(self, origins: Iterable[str]) -> None:
        for key in (self._keys[origin] for origin in origins):
            self._open_uses[key] -= 1
            if self._open_uses[key] <= 0:
                self._cache.drop(key)

    # --- One node's work -----------------------------------------------------------------------------------------

    def _start(self, node_id: str) -> None:
        if self._keys[node_id] in self._cache:  # an equal node ran meanwhile
            self._finish_cached(node_id)
            return
        if node_id not in self._started:
            self._started.add(node_id)
            self._on_event(Event("executing", node_id, {"display": self._graph.get_display_node_id(node_id)}))
        node_class = self._class(node_id)
        values, missing = self._arguments.full(node_id)
        try:
            instance = self._instance(node_id)
            if hasattr(instance, "check_lazy_status") and (wanted := self._lazy(node_id, instance, values, missing)):
                self._resume[node_id] = self._start
                self._demand(self._wait(node_id, wanted))
                return
            calls = call_each(
                instance,
                node_class.FUNCTION,
                values,
                prepare=self._host.check_interrupt,
                blocked=lambda blocker: self._blocked(node_id, blocker),
                start=self._async.start,
            )
            if any(map(is_pending, calls)):
                self._pending[node_id] = calls
            else:
                self._take_results(node_id, calls)
        except _NODE_ERRORS as error:
            raise self._failure(node_id, str(error) or type(error).__name__, values) from error

    def _collect(self, calls: list, node_id: str) -> None:
        """Go on after asynchronous calls."""
        self._take_results(node_id, [self._async.result(call) for call in calls])

    def _lazy(self, node_id: str, instance: Any, values: Values, missing: set[str]) -> list[str]:
        """The origins of the inputs that the node asks for and does not have. Raises ValueError for one not linked."""
        answers = self._async.resolve(call_each(instance, "check_lazy_status", values))
        asked = dict.fromkeys(name for names in answers if isinstance(names, list) for name in names)
        inputs = self._nodes[node_id]["inputs"]
        origins = []
        for name in asked:
            if isinstance(name, str) and (name not in values or name in missing):
                if not is_link(inputs.get(name)):
                    raise ValueError(f"asks for its input {name!r}, which is not linked; link it")
                origins.append(inputs[name][0])
        if all(self._outputs_of(origin) is not None for origin in origins):
            return []  # linked to an output that the origin does not give: the node gets None
        return origins

    def _take_results(self, node_id: str, returned: list[Any]) -> None:
        node_class = self._class(node_id)
        answers = [read_result(value, len(node_class.RETURN_TYPES)) for value in returned]
        if ui := merged_ui(answers):
            self._show(node_id, ui)
        if any(answer.expand is not None for answer in answers):
            self._expand(node_id, answers, ui)
        else:
            self._store(node_id, [answer.result for answer in answers], ui)

    def _store(self, node_id: str, results: list[tuple | None], ui: dict[str, list]) -> None:
        outputs = merged_outputs([result for result in results if result is not None], self._class(node_id))
        self._cache.put(self._keys[node_id], Entry(outputs, ui, self._graph.is_added(node_id)))
        self.executed.append(node_id)
        self._finish(node_id)

    def _expand(self, node_id: str, answers: list[CallResult], ui: dict[str, list]) -> None:
        """Run the graphs that the calls returned; what their results are linked to becomes the node's own."""
        graphs = [answer for answer in answers if answer.expand is not None]
        for graph in graphs:
            unknown = sorted({node["class_type"] for node in graph.expand.values()} - self._classes.keys())
            if unknown:
                raise ValueError(f"expands into a node of the unknown class {unknown[0]!r}; load its pack with --nodes")
            self._graph.add(graph.expand, node_id)
        added = [inner for graph in graphs for inner in graph.expand]
        linked = [value[0] for graph in graphs for value in graph.result or () if is_link(value)]
        if self._drops:
            uses = [*linked, *(origin for inner in added for origin in self._origins(inner))]
            self._open_uses.update(self._keys[origin] for origin in uses)

        def resolve(node_id: str) -> None:
            results = [self._resolved(answer) if answer.expand is not None else answer.result for answer in answers]
            self._store(node_id, results, ui)
            if self._drops:
                self._close_uses(linked)

        self._resume[node_id] = resolve
        shown = [inner for inner in added if getattr(self._class(inner), "OUTPUT_NODE", False)]
        self._demand(self._wait(node_id, linked))
        self._demand(shown)

    def _resolved(self, answer: CallResult) -> tuple:
        items: list = []
        for value in answer.result or ():
            items += self._outputs_of(value[0])[value[1]] if is_link(value) else [value]
        return tuple(items)

    def _blocked(self, node_id: str, blocker: Any) -> Any:
        """The result of a call that a blocker stops. Its message is reported once; what comes after stops silently."""
        if blocker.message is None:
            return blocker
        self._on_event(Event("blocked", node_id, {"message": str(blocker.message)}))
        return type(blocker)(None)

    def _is_changed(self, node_id: str) -> Any:
        """What IS_CHANGED returns, called once a run; False without one. What it raises counts as a change."""
        if node_id not in self._changes:
            self._changes[node_id] = self._call_is_changed(node_id)
        return self._changes[node_id]

    def _call_is_changed(self, node_id: str) -> Any:
        node, node_class = self._nodes[node_id], self._class(node_id)
        if not hasattr(node_class, "IS_CHANGED"):
            return False
        try:
            answers = self._async.resolve(call_each(node_class, "IS_CHANGED", self._arguments.constants(node_id)))
        except _NODE_ERRORS as error:
            self._host.warn(f"{node_name(node_id, node, self._classes)}: its IS_CHANGED failed, so it runs: {error}")
            return float("nan")
        return [None if is_blocker(answer) else answer for answer in answers]

    def _outputs_of(self, node_id: str) -> list[list] | None:
        key = self._keys[node_id]
        return self._cache[key].outputs if node_id in self._queue.done and key in self._cache else None

    def _origins(self, node_id: str) -> set[str]:
        if node_id not in self._known_origins:
            self._known_origins[node_id] = {origin for origin, _ in links_of(self._nodes[node_id]).values()}
        return self._known_origins[node_id]

    def _instance(self, node_id: str) -> Any:
        key = (node_id, self._nodes[node_id]["class_type"])
        if key not in self._instances:
            self._instances[key] = self._class(node_id)()
        return self._instances[key]

    def _class(self, node_id: str) -> type:
        return self._classes[self._nodes[node_id]["class_type"]]

    def _show(self, node_id: str, ui: dict[str, list]) -> None:
        self.shown[node_id] = ui
        self._on_event(Event("executed", node_id, {"display": self._graph.get_display_node_id(node_id), "ui": ui}))

    def _failure(self, node_id: str, message: str, values: Values | None = None) -> NodeFailure:
        real_id = self._graph.get_real_node_id(node_id)
        node = self._prompt[real_id]
        inputs = {name: [_reportable(item) for item in items] for name, items in (values or {}).items()}
        named = node_name(real_id, node, self._classes)
        return NodeFailure(f"{named}: {message}", real_id, node["class_type"], inputs, list(self.executed))


def _reportable(value: Any) -> Any:
    """A value for an error report: plain ones as they are, tensors by their shape, others as short text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        shape = getattr(value, "shape", None)
        text = f"{type(value).__name__} {tuple(shape)}" if shape is not None else str(value)
    except Exception:  # str() of a value may raise, as that of a missing stage's handle does
        text = type(value).__name__
    return text if len(text) <= 200 else text[:197] + "..."
