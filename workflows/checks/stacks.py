"""Whether a model can run a graph: which handles of Load unCLIP the graph's nodes use, and what they need of them.

Read from the graph and from what its node classes declare: the loader's output says which stage a node uses, an input's
option `needs` what of it. Of CLIP: its "text" or "image" tower, "captions", a text tower or a decoder that reads
captions itself, or "pca", a fitted basis. Of a decoder: "hint", that it takes a depth picture, or "noise_level", that
it is told how noisy an embedding is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ...unclip_core.checkpoints import catalog
from ...unclip_core.config import STAGES, UPSAMPLERS
from ..document.conversion import to_api
from ..document.graph import Prompt, ancestors, links_of
from ..document.reading import SHIPPED, Workflow, load_workflow, shipped_names
from ..document.schema import NodeClasses, display_title
from .validation import output_nodes

LOADER = "UnCLIPLoader"
_HANDLES = {"UNCLIP_CLIP", "UNCLIP_PRIOR", "UNCLIP_DECODER", "UNCLIP_UPSAMPLER", "UNCLIP_AR_PRIOR"}
_MASKED = ("MASK", "UNCLIP_NOISE")  # what a node takes and gives that says what is to be repainted


@dataclass(frozen=True)
class Use:
    """A node that uses a stage of a loaded model. title: its class's."""

    title: str
    stage: str
    needs: tuple[str, ...] = ()


@cache
def shipped_graphs() -> dict[str, Workflow]:
    """The graphs that come with the pack, by name."""
    return {name: load_workflow(SHIPPED / f"{name}.json") for name in shipped_names()}


def reasons(
    workflow: Workflow, entry: catalog.StackEntry, classes: NodeClasses, folders: Iterable[str | os.PathLike] = ()
) -> list[str]:
    """Why `entry` cannot run a graph, a line for each reason; an empty list if it can."""
    prompt, problems = to_api(workflow, classes)
    if problems:
        return [str(problem) for problem in problems]
    if foreign := sorted({node["class_type"] for node in prompt.values()} - set(classes)):
        return [f"needs ComfyUI, for {', '.join(foreign)}"]
    wanted = uses(prompt, classes)
    found: dict[str, list[str]] = {}
    for use in wanted:
        for lack in _lacks(entry, use, folders):
            found.setdefault(lack, []).append(use.title)
    lines = [f"{lack} ({', '.join(dict.fromkeys(titles))})" for lack, titles in found.items()]
    return lines + _unfed(prompt, classes, wanted, entry)


def uses(prompt: Prompt, classes: NodeClasses) -> list[Use]:
    """The uses of every loader's handles by what the graph's outputs need, those through patch nodes included."""
    found = []
    for node_id in sorted(ancestors(prompt, output_nodes(prompt, classes)), key=list(prompt).index):
        node = prompt[node_id]
        for name, link in links_of(node).items():
            spec = classes.schema(node["class_type"]).inputs.get(name)
            slot = _loader_output(prompt, classes, link)
            if spec is not None and slot is not None:
                found.append(
                    Use(display_title(node["class_type"], classes), STAGES[slot], tuple(spec.options.get("needs", ())))
                )
    return found


def _loader_output(prompt: Prompt, classes: NodeClasses, link: tuple[str, int]) -> int | None:
    """The loader's output from which a handle comes, straight or through nodes that take and give one of its type; of
    an encoded caption, from which its CLIP comes."""
    seen = set()
    while link[0] in prompt and link not in seen:
        seen.add(link)
        node = prompt[link[0]]
        if node["class_type"] == LOADER:
            return link[1]
        kinds = classes[node["class_type"]].RETURN_TYPES
        kind = kinds[link[1]] if link[1] < len(kinds) else None
        wanted = "UNCLIP_CLIP" if kind == "UNCLIP_TEXT" else kind if kind in _HANDLES else None
        inputs = classes.schema(node["class_type"]).inputs
        found = [origin for name, origin in links_of(node).items() if name in inputs and inputs[name].type == wanted]
        if not found:
            return None
        link = found[0]
    return None


def _lacks(entry: catalog.StackEntry, use: Use, folders: Iterable[str | os.PathLike]) -> list[str]:
    """What `use` wants that the model does not have."""
    stage = entry.stages.get(use.stage)
    decoder = entry.stages.get("decoder")
    if stage is None:
        if use.stage in UPSAMPLERS and decoder is not None and decoder.config.autoencoder is not None:
            return []  # it paints at full size: its upsamplers pass pictures through
        return [f"no {use.stage}"]
    lacks = []
    for need in use.needs:
        reads = decoder is not None and decoder.config.text == "own_clip"
        if need == "captions" and "text" not in stage.config.towers and not reads:
            lacks.append("its CLIP has no text tower")
        elif need in ("text", "image") and need not in stage.config.towers:
            lacks.append(f"its CLIP has no {need} tower")
        elif need == "pca" and catalog.find_table(entry, catalog.PCA, folders) is None:
            lacks.append(f"no PCA basis; `{catalog.TABLE_COMMANDS[catalog.PCA]} {entry.name} --data FOLDER` fits one")
        elif need == "hint" and stage.config.extra_input != "hint":
            lacks.append("its decoder takes no depth picture")
        elif need == "noise_level" and stage.config.embed_noise is None:
            lacks.append("its decoder is told no noise level")
    return lacks


def _unfed(prompt: Prompt, classes: NodeClasses, wanted: list[Use], entry: catalog.StackEntry) -> list[str]:
    """What the model's decoder wants to be fed that the graph does not feed it."""
    if "decoder" not in entry.stages or not any(use.stage == "decoder" for use in wanted):
        return []
    extra = entry.stages["decoder"].config.extra_input
    if extra == "hint" and not any("hint" in use.needs for use in wanted):
        return ["its decoder wants a depth picture, which the graph does not have"]
    if extra == "inpaint" and not any(_masks(node, classes) for node in prompt.values()):
        return ["its decoder wants a mask, which the graph does not have"]
    return []


def _masks(node: dict, classes: NodeClasses) -> bool:
    mask, noise = _MASKED
    inputs = classes.schema(node["class_type"]).inputs
    linked = any(name in inputs and inputs[name].type == mask for name in links_of(node))
    return linked and noise in classes[node["class_type"]].RETURN_TYPES
