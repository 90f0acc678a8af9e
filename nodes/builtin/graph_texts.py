"""What a saved picture carries so that the editor, and `unclip run`, find the graph that made it."""

import json
from typing import Any

from ..host import current_host


def graph_texts(prompt: dict | None, extra_pnginfo: dict[str, Any] | None) -> dict[str, str]:
    """JSON by name: "prompt", then what the page sent with it, its "workflow" first of all. Empty where the host keeps
    no graphs."""
    if not current_host().keeps_graphs():
        return {}
    given = ({} if prompt is None else {"prompt": prompt}) | (extra_pnginfo or {})
    return {name: json.dumps(value) for name, value in given.items()}
