"""From a file to a Workflow: JSON text, or a picture with a graph in its metadata.

Any file at all gives a Workflow or a WorkflowError, in bounded time and memory, and the parts of a Workflow have the
types that the rest of the code relies on.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .blueprints import completed
from .graph import Problem, WorkflowError
from .pictures import text_in_png, text_in_webp

MAX_BYTES = 16 * 2**20  # of JSON; the largest of the editor's own templates has 0.4 MB
MAX_PARTS = 2_000_000  # lists and objects
MAX_DEPTH = 100
MAX_NODES = 100_000  # in all; the largest graphs that people share have some hundreds

SHIPPED = Path(__file__).resolve().parents[1]  # the folder of the graphs that come with the pack
BLUEPRINTS = SHIPPED.parent / "subgraphs"  # and that of the boxes for other graphs

_PNG = b"\x89PNG\r\n\x1a\n"
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.S
)


@dataclass
class Workflow:
    """A loaded file. `data` is the parsed JSON, in the editor's saved form (`is_ui`) or the API form."""

    path: Path
    data: dict[str, Any]
    is_ui: bool

    def copy(self) -> Workflow:
        """An independent copy, to set values on."""
        return Workflow(self.path, copy.deepcopy(self.data), self.is_ui)


def load_workflow(path: str | Path) -> Workflow:
    """Read a workflow file: JSON of either form, or a PNG or WebP with a graph in it; or a shipped graph or blueprint
    by its bare name, such as "text_to_image", where there is no file of that name. A blueprint gets nodes at its ends
    that load and save (`blueprints.completed`).

    Raises WorkflowError, in one line, for whatever is not a workflow.
    """
    given = str(path)
    path = _found(given)
    try:
        data = read_document(path)
    except FileNotFoundError:
        raise _file_error(path, f"no such file; check the path{_suggestion(given)}") from None
    except OSError as error:
        raise _file_error(path, f"cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise _file_error(path, str(error)) from None
    if _is_saved_graph(data):
        for part in _malformed(data):
            shown = json.dumps(part)[:80]
            raise _file_error(path, f"has a malformed node or link: {shown}; export it again from the editor")
        _check_size(path, data["nodes"])
        return Workflow(path, completed(data), is_ui=True)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if _is_api_prompt(data):
        _check_size(path, data)
        return Workflow(path, data, is_ui=False)
    raise _file_error(path, "is JSON but not a workflow: no list of nodes, no API prompt; export it from the editor")


def shipped_names() -> list[str]:
    """The graphs that come with the pack, by name."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def _suggestion(given: str) -> str:
    """What a name that is no file's may have meant."""
    boxes = sorted(path.stem for path in BLUEPRINTS.glob("*.json"))
    names = {name.lower(): name for name in (*shipped_names(), *boxes)}
    path = Path(given)
    if not _is_name(given) or path.suffix:
        name = names.get(path.name.removesuffix(".json").lower())
        return f"; the one that comes with the pack goes by its name alone, {name!r}" if name else ""
    close = difflib.get_close_matches(path.stem.lower(), names, 1)
    listed = ", ".join([*shipped_names(), *(f'"{name}"' for name in boxes)])
    meant = f"; did you mean {names[close[0]]!r}?" if close else ";"
    return f"{meant} graphs that come with the pack: {listed}"


def _is_name(given: str) -> bool:
    """A name rather than a path, which ./text_to_image is."""
    return Path(given).name == given


def _found(given: str) -> Path:
    """The file that a path, or the name of a shipped graph or blueprint means. A folder of that name, as of a run's
    pictures, is none."""
    path = Path(given)
    if path.is_file() or not _is_name(given):
        return path
    named = (SHIPPED / f"{given}.json", BLUEPRINTS / f"{given}.json")
    return next((file for file in named if file.is_file()), path)


def _check_size(path: Path, nodes: Sized) -> None:
    if len(nodes) > MAX_NODES:
        raise _file_error(path, f"has {len(nodes):,} nodes, more than {MAX_NODES:,}; split the graph")


def _file_error(path: Path, message: str) -> WorkflowError:
    return WorkflowError([Problem("invalid_prompt", f"{path}: {message}")])


def read_document(path: Path) -> Any:
    """The parsed JSON of a file, or of the graph inside a PNG or a WebP. Raises OSError, and ValueError saying what is
    wrong."""
    with path.open("rb") as file:
        start = file.read(12)
        if start.startswith(_PNG):
            file.seek(len(_PNG))
            text = text_in_png(file, MAX_BYTES)
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            text = text_in_webp(file, MAX_BYTES)
        else:
            content = start + file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"is larger than {MAX_BYTES >> 20} MB, as no workflow is; check the path")
            text = _decode(content)
    return parse(text)


def parse(text: str) -> Any:
    """JSON as Python's own, within limits of size and depth. NaN and infinities stay, for the checks of values."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES >> 20} MB, as no workflow is; check the path")
    if text.count("[") + text.count("{") > MAX_PARTS:
        raise ValueError(f"holds more than {MAX_PARTS:,} lists and objects; split the graph")
    if "\\ud" in text.lower():  # half a character has no place in any output
        text = _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not valid JSON at {where}: {error.msg}; export it again from the editor") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise ValueError("holds a number of thousands of digits; export it again from the editor") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(data)
    return data


def _too_deep() -> str:
    return f"is nested more than {MAX_DEPTH} deep; export it again from the editor"


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        parts = [part for part in level if isinstance(part, dict | list)]
        if not parts:
            return
        level = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
    raise ValueError(_too_deep())


def _decode(content: bytes) -> str:
    """Text of any Unicode encoding, with or without a mark: Windows tools write UTF-16."""
    try:
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise ValueError("is not text; give a workflow saved as JSON, or a PNG or WebP with a graph in it") from None


# --- The shape of a document --------------------------------------------------------------------------------------


def _is_saved_graph(data: Any) -> bool:
    """True for the editor's saved form, however broken inside."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def _malformed(data: dict) -> Iterator[Any]:
    """The parts of a saved graph that are not what the editor writes."""
    definitions = data.get("definitions") or {}
    subgraphs = (definitions.get("subgraphs") or []) if isinstance(definitions, dict) else None
    if not isinstance(subgraphs, list):
        yield definitions
        return
    yield from (graph for graph in subgraphs if not _is_subgraph(graph))
    for graph in (data, *filter(_is_subgraph, subgraphs)):
        links = graph.get("links") or []
        yield from (part for part in graph["nodes"] if not _is_node(part))
        yield from (part for part in links if not _is_link(part)) if isinstance(links, list) else [links]


def _is_api_prompt(data: Any) -> bool:
    """True for the API form."""
    return isinstance(data, dict) and bool(data) and all(map(_is_api_node, data.values()))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_subgraph(graph: Any) -> bool:
    if not (isinstance(graph, dict) and _is_id(graph.get("id")) and isinstance(graph.get("nodes"), list)):
        return False
    inputs = graph.get("inputs") or []
    return isinstance(inputs, list) and all(isinstance(entry, dict) for entry in inputs)


def _is_node(node: Any) -> bool:
    if not (isinstance(node, dict) and _is_id(node.get("id")) and isinstance(node.get("type"), str)):
        return False
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    if not (isinstance(inputs, list) and isinstance(outputs, list)):
        return False
    titled = isinstance(node.get("title") or "", str) and isinstance(node.get("widgets_values") or [], list | dict)
    return titled and all(map(_is_socket, inputs)) and all(map(_is_socket, outputs))


def _is_socket(entry: Any) -> bool:
    if not (isinstance(entry, dict) and isinstance(entry.get("name"), str) and "type" in entry):
        return False
    widget, links = entry.get("widget") or {}, entry.get("links") or []
    named = isinstance(widget, dict) and isinstance(widget.get("name", ""), str)
    ids = [entry.get("link"), *links] if isinstance(links, list) else [links]
    return named and all(link is None or _is_id(link) for link in ids)


def _is_link(link: Any) -> bool:
    if isinstance(link, dict):
        fields = [link.get("id"), link.get("origin_id"), link.get("origin_slot")]
    elif isinstance(link, list) and len(link) >= 5:
        fields = link[:3]
    else:
        return link is None
    return all(map(_is_id, fields)) and isinstance(fields[2], int) and fields[2] >= 0


def _is_api_node(node: Any) -> bool:
    if not (isinstance(node, dict) and isinstance(node.get("class_type", ""), str)):
        return False
    meta = node.get("_meta") or {}
    return not isinstance(meta, dict) or isinstance(meta.get("title") or "", str)
