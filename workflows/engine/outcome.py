"""What a run reports: events while it works (Event), and its end (Outcome, NodeFailure). Plain data; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run, in the order it happened.

    kind         node            data
    start        -               -
    cached       -               nodes: ids whose outputs an earlier run left
    executing    the node's id   display: the node of the saved graph that it belongs to
    progress     the node's id   value, max, label, step (the sampler's StepState; `preview_picture(step)` shows it)
    warning      the node's id   messages: what the node found; none: what it said in an earlier run is taken back
    executed     the node's id   display, ui: what the node shows
    blocked      the node's id   message: why an ExecutionBlocker stopped it; the run goes on
    error        the node's id   failure: NodeFailure; the run ends
    interrupted  the node's id   -; the interrupt is raised again
    done         -               seconds; comes last unless the run was interrupted, after an error too
    """

    kind: str
    node: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


class NodeFailure(RuntimeError):
    """A node failed. The message names it in one line; `__cause__` is what it raised."""

    def __init__(self, message: str, node_id: str, class_type: str, inputs: dict[str, list], executed: list[str]):
        super().__init__(message)
        self.node_id = node_id  # of the saved graph, also when a node made by an expansion failed
        self.class_type = class_type
        self.inputs = inputs  # what the node was called with, values that JSON cannot hold as text
        self.executed = executed  # ids of the nodes that ran before


@dataclass(frozen=True)
class Outcome:
    """The end of a run. When a node failed, `outputs` still holds what was shown before."""

    outputs: dict[str, dict[str, list]]  # the ui results by node id, those of cached nodes included
    error: NodeFailure | None
    executed: list[str]  # ids in the order they ran
    cached: list[str]  # ids of needed nodes that did not have to run
