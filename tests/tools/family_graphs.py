"""Draws the graphs of the family (Kandinsky, Stable unCLIP), and that of a subject, from what is declared below.

    python tests/tools/family_graphs.py          # workflows/*.json, those that are declared here; prints what changed

Sockets, widgets and defaults come from the node classes: where a node gets an input, run this again. Nodes stand in
columns, a group each; layout.py gives them their places. The note's text stays as it is in the file; whatever else is
changed there by hand is lost.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layout import least_height, tidy, written

from comfyui_unclip.workflows.document.schema import InputSpec, node_classes, node_schema

ROOT = Path(__file__).parents[2]
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
CAPTION_COLOURS = {"color": "#232", "bgcolor": "#353"}
WIDE = {"UnCLIPImageGrid": 640, "UnCLIPSaveAnimation": 640, "SaveImage": 640}
# Pixels below the widgets that a picture takes after a run.
PICTURES = {"UnCLIPSaveAnimation": 410, "SaveImage": 440, "PreviewImage": 320}


@dataclass(frozen=True)
class Node:
    """A node by its title. inputs: widgets by value, sockets by "title.OUTPUT". control: of its seed."""

    title: str
    kind: str
    inputs: dict[str, Any] = field(default_factory=dict)
    control: str = "fixed"


Columns = tuple[tuple[str, tuple[Node, ...]], ...]  # (title, nodes) from left to right


def node(title: str, kind: str, control: str = "fixed", **inputs: Any) -> Node:
    """A node of ours by its class's name less "UnCLIP", or one of the editor's."""
    return Node(title, f"UnCLIP{kind}" if f"UnCLIP{kind}" in CLASSES else kind, inputs, control)


def draw(name: str, columns: Columns, note: str) -> dict:
    """The saved form."""
    nodes: list[dict] = [_note(note)]
    groups, links = [], []
    made: dict[str, tuple[dict, Node]] = {}
    for index, (title, column) in enumerate(columns, 1):
        for row, entry in enumerate(column):
            drawn = _draw_node(len(nodes) + 1, entry, (1000 * index, row))
            made[entry.title] = (drawn, entry)
            nodes.append(drawn)
        bounding = [1000 * index, 0, 0, len(column)]
        groups.append({"id": index, "title": f"{index} · {title}", "bounding": bounding, "flags": {}})
    kinds = {entry["type"]: entry for entry in nodes}
    if "UnCLIPSaveAnimation" in kinds and "SaveImage" in kinds:
        kinds["SaveImage"]["flags"] = {"collapsed": True}  # the animation shows the same frames
    for drawn, entry in made.values():
        for place, socket in enumerate(drawn["inputs"]):
            given = entry.inputs.get(socket["name"])
            if given is None:
                continue
            origin, _, output = given.rpartition(".")
            source = made[origin][0]
            slot = next(slot for slot, found in enumerate(source["outputs"]) if found["name"] == output)
            kind = source["outputs"][slot]["type"]
            links.append([len(links) + 1, source["id"], slot, drawn["id"], place, kind])
            socket["link"] = links[-1][0]
            source["outputs"][slot]["links"] = [*(source["outputs"][slot]["links"] or []), links[-1][0]]
    graph = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"comfyui-unclip/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }
    return tidy(graph)


def _note(text: str) -> dict:
    return {
        "id": 1,
        "type": "MarkdownNote",
        "pos": [0, 0],
        "size": [0, 0],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "title": "Start here",
        "widgets_values": [text],
        **NOTE_COLOURS,
    }


def _draw_node(number: int, entry: Node, place: tuple[int, int]) -> dict:
    kind, specs = entry.kind, _specs(entry.kind)
    if unknown := set(entry.inputs) - specs.keys():
        raise ValueError(f"{entry.title}: {kind} has no input {', '.join(sorted(unknown))}")
    sockets = [spec for spec in specs.values() if not spec.is_widget]
    widgets = [spec for spec in specs.values() if spec.is_widget]
    outputs, core = _outputs(kind), kind in CORE or not kind.startswith("UnCLIP")
    found: dict[str, Any] = {
        "id": number,
        "type": kind,
        "pos": list(place),
        "size": [WIDE.get(kind, 0), 0],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [
            {"name": spec.name, "type": spec.type, "link": None} | ({} if spec.required else {"shape": 7})
            for spec in sockets
        ],
        "outputs": [{"name": name, "type": type_name, "links": None} for name, type_name in outputs],
        "properties": ({"cnr_id": "comfy-core"} if core else {}) | {"Node name for S&R": kind},
        "title": entry.title,
    }
    values: list[Any] = []
    for spec in widgets:
        values.append(entry.inputs.get(spec.name, spec.default))
        values += [entry.control] * spec.extra_widgets
    if values:
        found["widgets_values"] = values
    found["size"][1] = least_height(found) + PICTURES.get(kind, 0)
    return found | (CAPTION_COLOURS if kind in ("UnCLIPTextEncode", "CLIPTextEncode") else {})


def _specs(kind: str) -> dict[str, InputSpec]:
    if kind in CORE:
        return {spec.name: spec for spec in CORE[kind][0]}
    return node_schema(CLASSES[kind]).inputs


def _outputs(kind: str) -> list[tuple[str, str]]:
    if kind in CORE:
        return [(name, name) for name in CORE[kind][1]]
    made = CLASSES[kind]
    names = getattr(made, "RETURN_NAMES", made.RETURN_TYPES)
    return list(zip(names, made.RETURN_TYPES, strict=True))


def _core(*inputs: tuple, outputs: tuple[str, ...] = ()) -> tuple[tuple[InputSpec, ...], tuple[str, ...]]:
    """A node of the editor's that we do not have. inputs: (name, type, default, options)."""
    specs = []
    for name, kind, *rest in inputs:
        options = {**({"default": rest[0]} if rest else {}), **(rest[1] if len(rest) > 1 else {})}
        specs.append(InputSpec(name, kind, True, options))
    return tuple(specs), outputs


CLASSES = node_classes()
# What ComfyUI alone has: as it declares them.
CORE = {
    "unCLIPCheckpointLoader": _core(
        ("ckpt_name", "COMBO", "sd21-unclip-l.ckpt"), outputs=("MODEL", "CLIP", "VAE", "CLIP_VISION")
    ),
    "CLIPTextEncode": _core(("text", "STRING", "", {"multiline": True}), ("clip", "CLIP"), outputs=("CONDITIONING",)),
    "unCLIPConditioning": _core(
        ("conditioning", "CONDITIONING"),
        ("clip_vision_output", "CLIP_VISION_OUTPUT"),
        ("strength", "FLOAT", 1),
        ("noise_augmentation", "FLOAT", 0),
        outputs=("CONDITIONING",),
    ),
    "EmptyLatentImage": _core(
        ("width", "INT", 512), ("height", "INT", 512), ("batch_size", "INT", 1), outputs=("LATENT",)
    ),
    "KSampler": _core(
        ("model", "MODEL"),
        ("seed", "INT", 0, {"control_after_generate": True}),
        ("steps", "INT", 20),
        ("cfg", "FLOAT", 8),
        ("sampler_name", "COMBO", "euler"),
        ("scheduler", "COMBO", "normal"),
        ("positive", "CONDITIONING"),
        ("negative", "CONDITIONING"),
        ("latent_image", "LATENT"),
        ("denoise", "FLOAT", 1),
        outputs=("LATENT",),
    ),
    "VAEDecode": _core(("samples", "LATENT"), ("vae", "VAE"), outputs=("IMAGE",)),
}


def _model(name: str) -> Node:
    return node("model", "Loader", model_name=name)


GRAPHS: dict[str, Columns] = {
    "text_to_image_kandinsky": (
        (
            "Model and caption",
            (
                _model("kandinsky-2-2"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a portrait of an old fisherman, oil painting"),
            ),
        ),
        (
            "Imagine an embedding",
            (node("prior", "DiffusionPrior", "randomize", prior="model.PRIOR", text="prompt.TEXT", candidates=1),),
        ),
        (
            "Paint",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    "randomize",
                    decoder="model.DECODER",
                    embed="prior.EMBED",
                ),
            ),
        ),
        ("Save", (node("save", "SaveImage", images="decoder.IMAGE", filename_prefix="kandinsky"),)),
    ),
    "variations_kandinsky": (
        (
            "Model and picture",
            (_model("kandinsky-2-2"), node("picture", "ExamplePicture", name="red apple in the snow")),
        ),
        (
            "What CLIP sees",
            (node("what CLIP sees (z_i)", "ImageEncode", clip="model.CLIP", image="picture.IMAGE"),),
        ),
        (
            "Paint",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    "randomize",
                    decoder="model.DECODER",
                    embed="what CLIP sees (z_i).EMBED",
                    count=2,
                ),
            ),
        ),
        (
            "Look",
            (
                node("grid", "ImageGrid", image="decoder.IMAGE"),
                node("save", "SaveImage", images="grid.IMAGE", filename_prefix="kandinsky/variations"),
            ),
        ),
    ),
    "interpolate_kandinsky": (
        (
            "A picture and a caption",
            (
                _model("kandinsky-2-2"),
                node("picture", "ExamplePicture", name="red apple in the snow"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a cat on a sunny window sill"),
            ),
        ),
        (
            "Both as embeddings",
            (
                node("what CLIP sees (z_i)", "ImageEncode", clip="model.CLIP", image="picture.IMAGE"),
                node("prior", "DiffusionPrior", prior="model.PRIOR", text="prompt.TEXT", candidates=1),
                node(
                    "between the embeddings",
                    "SlerpEmbedding",
                    embed_a="what CLIP sees (z_i).EMBED",
                    embed_b="prior.EMBED",
                    frames=5,
                ),
            ),
        ),
        (
            "Paint from one noise",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    decoder="model.DECODER",
                    embed="between the embeddings.EMBED",
                    noise_per_item=False,
                ),
            ),
        ),
        (
            "Look",
            (
                node("grid", "ImageGrid", image="decoder.IMAGE", columns=5),
                node("save", "SaveImage", images="grid.IMAGE", filename_prefix="kandinsky/interpolation"),
                node("animation", "SaveAnimation", images="decoder.IMAGE", filename_prefix="kandinsky/interpolation"),
            ),
        ),
    ),
    "text_diff_kandinsky": (
        (
            "A picture and two captions",
            (
                _model("kandinsky-2-2"),
                node("picture", "ExamplePicture", name="red apple in the snow"),
                node("what it is", "TextEncode", clip="model.CLIP", text="a red apple in the snow"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a blue apple in the snow"),
            ),
        ),
        (
            "Take it apart, turn the embedding",
            (
                node("what CLIP sees (z_i)", "ImageEncode", clip="model.CLIP", image="picture.IMAGE"),
                node(
                    "all the rest (x_T)",
                    "DDIMInvert",
                    decoder="model.DECODER",
                    image="picture.IMAGE",
                    embed="what CLIP sees (z_i).EMBED",
                ),
                node(
                    "turn toward the difference",
                    "TextDiff",
                    embed="what CLIP sees (z_i).EMBED",
                    text_from="what it is.TEXT",
                    text_to="prompt.TEXT",
                    end_theta=0.5,
                    frames=3,
                ),
            ),
        ),
        (
            "Paint with the rest kept",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    decoder="model.DECODER",
                    embed="turn toward the difference.EMBED",
                    noise="all the rest (x_T).NOISE",
                    guidance_scale=1.0,
                    sampler="ddim",
                ),
            ),
        ),
        (
            "Look",
            (
                node("grid", "ImageGrid", image="decoder.IMAGE", columns=3, column_labels="theta 0\n0.25\n0.5"),
                node("save", "SaveImage", images="grid.IMAGE", filename_prefix="kandinsky/text_diff"),
            ),
        ),
    ),
    "inpaint_kandinsky": (
        (
            "A picture and a caption",
            (
                _model("kandinsky-2-2-inpaint"),
                node("picture", "ExamplePicture", name="red apple in the snow"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a blue ceramic bowl in the snow"),
            ),
        ),
        (
            "What to paint, and where",
            (
                node("prior", "DiffusionPrior", prior="model.PRIOR", text="prompt.TEXT", candidates=1),
                node("start", "StartFromPicture", image="picture.IMAGE", mask="picture.MASK"),
            ),
        ),
        (
            "Repaint what is white in the mask",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    "randomize",
                    decoder="model.DECODER",
                    embed="prior.EMBED",
                    noise="start.NOISE",
                ),
            ),
        ),
        (
            "Before and after",
            (
                node("grid", "ImageGrid", image="picture.IMAGE", image_2="decoder.IMAGE", cell_height=512),
                node("before and after", "PreviewImage", images="grid.IMAGE"),
                node("save", "SaveImage", images="decoder.IMAGE", filename_prefix="kandinsky/inpaint"),
            ),
        ),
    ),
    "depth_kandinsky": (
        (
            "Model, depth and caption",
            (
                _model("kandinsky-2-2-controlnet-depth"),
                node("depth map", "ExamplePicture", name="red apple in the snow"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a robot in a forest, 4k photo"),
            ),
        ),
        (
            "What to paint, and where",
            (
                node("prior", "DiffusionPrior", "randomize", prior="model.PRIOR", text="prompt.TEXT", candidates=1),
                node("follow the depth", "DepthHint", decoder="model.DECODER", hint="depth map.IMAGE"),
            ),
        ),
        (
            "Paint",
            (node("decoder", "DecoderSample", "randomize", decoder="follow the depth.DECODER", embed="prior.EMBED"),),
        ),
        ("Save", (node("save", "SaveImage", images="decoder.IMAGE", filename_prefix="kandinsky/depth"),)),
    ),
    "text_to_image_sd_unclip": (
        (
            "Model and caption",
            (
                _model("stable-diffusion-2-1-unclip-small"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a portrait of an old fisherman, photograph"),
            ),
        ),
        (
            "Imagine an embedding",
            (
                node("prior", "DiffusionPrior", "randomize", prior="model.PRIOR", text="prompt.TEXT", candidates=1),
                node("noise", "NoiseEmbedding", decoder="model.DECODER", embed="prior.EMBED", noise_level=0),
            ),
        ),
        (
            "Paint",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    "randomize",
                    decoder="model.DECODER",
                    embed="noise.EMBED",
                    text="prompt.TEXT",
                ),
            ),
        ),
        ("Save", (node("save", "SaveImage", images="decoder.IMAGE", filename_prefix="sd_unclip"),)),
    ),
    "subject": (
        (
            "Model and what it learned",
            (
                _model("storybook"),
                node(
                    "subject",
                    "ApplyLoRA",
                    lora_name="sks_snail.safetensors",
                    clip="model.CLIP",
                    prior="model.PRIOR",
                    decoder="model.DECODER",
                ),
            ),
        ),
        (
            "Caption with the new word, and its embedding",
            (
                node("prompt", "TextEncode", clip="subject.CLIP", text="a purple sks_snail on a night sky"),
                node("prior", "DiffusionPrior", "randomize", prior="subject.PRIOR", text="prompt.TEXT"),
            ),
        ),
        (
            "Paint",
            (
                node(
                    "decoder",
                    "DecoderSample",
                    "randomize",
                    decoder="subject.DECODER",
                    embed="prior.EMBED",
                    text="prompt.TEXT",
                ),
            ),
        ),
        (
            "Enlarge and save",
            (
                node("upsample256", "Upsample256", upsampler="model.UPSAMPLER 256", image="decoder.IMAGE"),
                node("upsample1024", "Upsample1024", upsampler="model.UPSAMPLER 1024", image="upsample256.IMAGE"),
                node("save", "SaveImage", images="upsample1024.IMAGE", filename_prefix="subject"),
            ),
        ),
    ),
    "prior_into_sd_unclip_comfyui": (
        (
            "Models and captions",
            (
                _model("karlo-v1-alpha"),
                node("prompt", "TextEncode", clip="model.CLIP", text="a portrait of an old fisherman"),
                node("SD 2.1 unCLIP", "unCLIPCheckpointLoader"),
                node(
                    "caption for SD",
                    "CLIPTextEncode",
                    clip="SD 2.1 unCLIP.CLIP",
                    text="a portrait of an old fisherman",
                ),
                node("negative", "CLIPTextEncode", clip="SD 2.1 unCLIP.CLIP", text=""),
            ),
        ),
        (
            "Our prior's embedding for ComfyUI",
            (
                node("prior", "DiffusionPrior", "randomize", prior="model.PRIOR", text="prompt.TEXT", candidates=1),
                node("for ComfyUI", "ToClipVision", embed="prior.EMBED"),
                node(
                    "unCLIPConditioning",
                    "unCLIPConditioning",
                    conditioning="caption for SD.CONDITIONING",
                    clip_vision_output="for ComfyUI.CLIP VISION OUTPUT",
                ),
            ),
        ),
        (
            "Paint",
            (
                node("size", "EmptyLatentImage", width=768, height=768),
                node(
                    "sampler",
                    "KSampler",
                    "randomize",
                    model="SD 2.1 unCLIP.MODEL",
                    positive="unCLIPConditioning.CONDITIONING",
                    negative="negative.CONDITIONING",
                    latent_image="size.LATENT",
                ),
                node("VAE Decode", "VAEDecode", samples="sampler.LATENT", vae="SD 2.1 unCLIP.VAE"),
            ),
        ),
        ("Save", (node("save", "SaveImage", images="VAE Decode.IMAGE", filename_prefix="prior_into_sd"),)),
    ),
}


def main() -> None:
    for name, columns in GRAPHS.items():
        path = ROOT / "workflows" / f"{name}.json"
        saved = path.read_text(encoding="utf-8") if path.is_file() else ""
        notes = (
            [entry["widgets_values"][0] for entry in json.loads(saved)["nodes"] if entry["id"] == 1] if saved else []
        )
        text = written(draw(name, columns, *notes or [f"## {name}\n"]))
        if text != saved:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
