"""Saved graphs (*.json) and what runs them without an editor. No module here imports torch at module level.

From Python: `from comfyui_unclip.workflows import load, run`; see `api.py`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load", "run"]


def __getattr__(name: str) -> Any:
    """`load` and `run`, found when asked for: the subcommands of `unclip` need not wait for them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)
