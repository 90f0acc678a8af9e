"""Names, order and texts of the nodes. The table is a promise to every saved graph: append to it, never change it."""

import json
import re

import pytest

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, decoder, prior
from comfyui_unclip.unclip_core.diffusion.samplers import SAMPLERS
from comfyui_unclip.workflows.document.schema import node_schema
from comfyui_unclip.workflows.document.widgets import widgets_of

FROZEN = {
    "UnCLIPLoader": (
        "model_name dtype",
        "UNCLIP_CLIP UNCLIP_PRIOR UNCLIP_DECODER UNCLIP_UPSAMPLER UNCLIP_UPSAMPLER UNCLIP_AR_PRIOR",
    ),
    "UnCLIPTextEncode": ("clip text", "UNCLIP_TEXT"),
    "UnCLIPDiffusionPrior": (
        "prior text steps guidance_scale candidates count sampler seed negative_text",
        "UNCLIP_EMBED",
    ),
    "UnCLIPDecoderSample": (
        "decoder steps guidance_scale eta sampler seed noise_per_item embed text noise "
        "image mask clip strength clip_scale crop count",
        "IMAGE",
    ),
    "UnCLIPImageEncode": ("clip image crop", "UNCLIP_EMBED"),
    "UnCLIPTextAsEmbedding": ("text", "UNCLIP_EMBED"),
    "UnCLIPDDIMInvert": ("decoder image steps guidance_scale refine crop embed text", "UNCLIP_NOISE"),
    "UnCLIPRandomNoise": ("seed count shared", "UNCLIP_NOISE"),
    "UnCLIPSlerp": ("embed_a embed_b start end frames", "UNCLIP_EMBED"),
    "UnCLIPSlerpNoise": ("noise_a noise_b start end frames", "UNCLIP_NOISE"),
    "UnCLIPTextDiff": ("embed text_from text_to start_theta end_theta frames", "UNCLIP_EMBED"),
    "UnCLIPAutoregressivePrior": (
        "ar_prior text guidance_scale temperature dot_percentile candidates count seed negative_text",
        "UNCLIP_EMBED",
    ),
    "UnCLIPPCAProject": ("clip embed component_counts", "UNCLIP_EMBED"),
    "UnCLIPUpsample256": ("upsampler image steps seed crop", "IMAGE"),
    "UnCLIPUpsample1024": ("upsampler image steps seed crop", "IMAGE"),
    "UnCLIPImageGrid": (
        "image columns row_labels column_labels gap cell_height "
        + " ".join(f"image_{number}" for number in range(2, 9)),
        "IMAGE",
    ),
    "UnCLIPSaveAnimation": ("images filename_prefix fps format back_and_forth", ""),
    "UnCLIPSaveEmbedding": ("embed filename_prefix", ""),
    "UnCLIPLoadEmbedding": ("embedding", "UNCLIP_EMBED"),
    "UnCLIPToClipVision": ("embed row", "CLIP_VISION_OUTPUT"),
    "UnCLIPFromClipVision": ("clip clip_vision_output", "UNCLIP_EMBED"),
    "UnCLIPExamplePicture": ("name", "IMAGE MASK"),
    "UnCLIPZeroShot": ("clip image labels", "STRING IMAGE"),
}
WIDGETS = {
    "UnCLIPDiffusionPrior": {"steps": 0, "guidance_scale": 1, "candidates": 2, "count": 3, "sampler": 4, "seed": 5},
    "UnCLIPDecoderSample": {
        "steps": 0,
        "guidance_scale": 1,
        "eta": 2,
        "sampler": 3,
        "seed": 4,
        "noise_per_item": 6,
        "strength": 7,
        "clip_scale": 8,
        "crop": 9,
        "count": 10,
    },
    "UnCLIPDDIMInvert": {"steps": 0, "guidance_scale": 1, "refine": 2, "crop": 3},
    "UnCLIPRandomNoise": {"seed": 0, "count": 2, "shared": 3},
    "UnCLIPSlerp": {"start": 0, "end": 1, "frames": 2},
    "UnCLIPSlerpNoise": {"start": 0, "end": 1, "frames": 2},
    "UnCLIPTextDiff": {"start_theta": 0, "end_theta": 1, "frames": 2},
    "UnCLIPUpsample256": {"steps": 0, "seed": 1, "crop": 3},
}
every_node = pytest.mark.parametrize("name", list(NODE_CLASS_MAPPINGS))


def test_no_node_is_missing_from_the_promise():
    assert set(FROZEN) == set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS)


@every_node
def test_inputs_and_outputs_keep_their_names_and_order(name):
    inputs, outputs = FROZEN[name]
    assert list(node_schema(NODE_CLASS_MAPPINGS[name]).inputs) == inputs.split()
    assert list(NODE_CLASS_MAPPINGS[name].RETURN_TYPES) == outputs.split()


@pytest.mark.parametrize("name", list(WIDGETS))
def test_widgets_keep_their_places_in_saved_graphs(name):
    widgets = widgets_of(node_schema(NODE_CLASS_MAPPINGS[name]).inputs, [])
    assert {widget.spec.name: widget.place for widget in widgets} == WIDGETS[name]


@every_node
def test_everything_has_a_title_and_a_tooltip(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert node.TITLE.endswith(" (unCLIP)") and NODE_DISPLAY_NAME_MAPPINGS[name] == node.TITLE
    assert len(node.DESCRIPTION) > 40 and node.CATEGORY == "unCLIP"
    assert all(spec.options["tooltip"].endswith(".") for spec in node_schema(node).inputs.values())
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)


@every_node
def test_numbers_that_stand_for_something_else_are_explained(name):
    explained = ("steps", "guidance_scale", "temperature", "eta", "clip_scale", "refine", "columns", "cell_height")
    for spec in node_schema(NODE_CLASS_MAPPINGS[name]).inputs.values():
        tooltip = f" {spec.options['tooltip']}"
        assert " -1: " in tooltip or spec.options.get("min") != -1, spec.name
        assert " 0: " in tooltip or spec.name not in explained, spec.name


@every_node
def test_the_function_takes_exactly_the_declared_inputs(name):
    import inspect

    node = NODE_CLASS_MAPPINGS[name]
    parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
    declared = node_schema(node).inputs
    hidden = node_schema(node).hidden
    assert set(parameters) - {"self"} == set(declared) | set(hidden)
    assert all(parameters[name].default is None for name in hidden)
    # An optional input that is not linked is not passed.
    assert all((parameters[n].default is None) != spec.required for n, spec in declared.items())


@pytest.mark.parametrize("module", [prior, decoder])
def test_offered_samplers_exist(module):
    assert set(module.SAMPLERS) <= set(SAMPLERS)


@every_node
@pytest.mark.parametrize("language", ["en", "zh"])
def test_translations_cover_every_name_and_tooltip(repository, name, language):
    entry = json.loads((repository / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))[name]
    node = NODE_CLASS_MAPPINGS[name]
    specs = node_schema(node).inputs
    assert list(entry["inputs"]) == list(specs) and len(entry["outputs"]) == len(node.RETURN_TYPES)
    texts = [entry["display_name"], entry["description"]]
    texts += [text for part in ("inputs", "outputs") for item in entry[part].values() for text in item.values()]
    assert all(texts)
    # The editor's message format gives these a meaning of their own.
    assert not [text for text in texts if re.search(r"[{}|@]", text)]
    if language == "en":
        assert entry["display_name"] == node.TITLE and entry["description"] == node.DESCRIPTION
        assert [item["tooltip"] for item in entry["inputs"].values()] == [s.options["tooltip"] for s in specs.values()]
        assert tuple(item["name"] for item in entry["outputs"].values()) == node.RETURN_NAMES
    else:
        assert all(re.search(r"[\u4e00-\u9fff]", item["tooltip"]) for item in entry["inputs"].values())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_translation_is_left_over(repository, language):
    entries = json.loads((repository / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(entries) == set(NODE_CLASS_MAPPINGS)
    for name, entry in entries.items():
        assert set(entry) == {"display_name", "description", "inputs", "outputs"}
        assert list(entry["outputs"]) == [str(place) for place in range(len(NODE_CLASS_MAPPINGS[name].RETURN_TYPES))]
        assert all(set(item) == {"name", "tooltip"} for part in ("inputs", "outputs") for item in entry[part].values())
        if language == "en":
            shown = [item["tooltip"] for item in entry["outputs"].values()]
            assert shown == list(NODE_CLASS_MAPPINGS[name].OUTPUT_TOOLTIPS)


def test_socket_types_are_translated(repository):
    types = {t for node in NODE_CLASS_MAPPINGS.values() for t in node.RETURN_TYPES if t.startswith("UNCLIP_")}
    for language in ("en", "zh"):
        main = json.loads((repository / "locales" / language / "main.json").read_text(encoding="utf-8"))
        assert types == set(main["dataTypes"]) and set(main["nodeCategories"]) == {"unCLIP"}
