"""The host of a session's run passes everything on to the host that it stands before."""

import inspect

import pytest

from comfyui_unclip.nodes.host import Host, LocalHost
from comfyui_unclip.workflows.engine.listening import ListeningHost

# `drive` is a template of `report` and `check_interrupt`, which the listener must hear.
ASKED = sorted(name for name, method in vars(Host).items() if inspect.isfunction(method) and name != "drive")


@pytest.mark.parametrize("name", ASKED)
def test_the_listener_asks_the_runs_own_host(name):
    given = tuple("x" for _ in inspect.signature(getattr(LocalHost(), name)).parameters)
    asked, inner = [], LocalHost()
    setattr(inner, name, lambda *given: asked.append(given) or "its answer")
    answer = getattr(ListeningHost(inner, lambda event: None), name)(*given)
    assert len(asked) == 1 and asked[0] == given, f"ListeningHost does not pass {name} on"
    assert name in ("report", "warn", "check_interrupt") or answer == "its answer"
