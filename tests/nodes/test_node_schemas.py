"""Names, order and texts of the nodes. With release 1.0.0 the table is a promise to every saved graph."""

import inspect
import json
import re

import pytest

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, decoder, prior
from comfyui_unclip.nodes.inputs import FAMILY, further_inputs
from comfyui_unclip.unclip_core.diffusion.samplers import SAMPLERS
from comfyui_unclip.workflows.document.schema import node_schema


def further(name):
    return " ".join(f"{name}_{number}?" for number in range(2, 9))


# Class id -> sockets and widgets in the order that saved graphs count them, widgets with a *, optional ones with a ?,
# and what comes out.
GOLDEN = {
    "UnCLIPLoader": (
        "model_name* dtype* compile*?",
        "UNCLIP_CLIP UNCLIP_PRIOR UNCLIP_DECODER UNCLIP_UPSAMPLER UNCLIP_UPSAMPLER UNCLIP_AR_PRIOR",
    ),
    "UnCLIPApplyLoRA": ("lora_name* strength* clip? prior? decoder?", "UNCLIP_CLIP UNCLIP_PRIOR UNCLIP_DECODER"),
    "UnCLIPTextEncode": ("clip text* one_per_line*", "UNCLIP_TEXT"),
    "UnCLIPImageEncode": ("clip image crop*", "UNCLIP_EMBED"),
    "UnCLIPTextAsEmbedding": ("text", "UNCLIP_EMBED"),
    "UnCLIPDiffusionPrior": (
        "prior text steps* guidance_scale* candidates* count* sampler* seed* negative_text? start_embed? strength*?",
        "UNCLIP_EMBED",
    ),
    "UnCLIPAutoregressivePrior": (
        "ar_prior text guidance_scale* temperature* dot_percentile* candidates* count* seed* negative_text?",
        "UNCLIP_EMBED",
    ),
    "UnCLIPDDIMInvert": (
        "decoder image steps* guidance_scale* refine* crop* embed? text? width*? height*?",
        "UNCLIP_NOISE",
    ),
    "UnCLIPRandomNoise": ("seed* count* shared*", "UNCLIP_NOISE"),
    "UnCLIPSlerpNoise": ("noise_a noise_b start* end* frames*", "UNCLIP_NOISE"),
    "UnCLIPStartFromPicture": ("image strength* crop* mask? noise?", "UNCLIP_NOISE"),
    "UnCLIPSlerpEmbedding": ("embed_a embed_b start* end* frames*", "UNCLIP_EMBED"),
    "UnCLIPTextDiff": ("embed text_from text_to start_theta* end_theta* frames*", "UNCLIP_EMBED"),
    "UnCLIPEmbeddingBlend": ("embed weights* " + further("embed"), "UNCLIP_EMBED"),
    "UnCLIPEmbeddingBatch": ("embed " + further("embed"), "UNCLIP_EMBED"),
    "UnCLIPEmbeddingFromBatch": ("embed index* length*", "UNCLIP_EMBED"),
    "UnCLIPTextBatch": ("text " + further("text"), "UNCLIP_TEXT"),
    "UnCLIPTextFromBatch": ("text index* length*", "UNCLIP_TEXT"),
    "UnCLIPNoiseBatch": ("noise " + further("noise"), "UNCLIP_NOISE"),
    "UnCLIPNoiseFromBatch": ("noise index* length*", "UNCLIP_NOISE"),
    "UnCLIPRankByCLIP": ("text keep* embed? image? clip?", "UNCLIP_EMBED IMAGE STRING"),
    "UnCLIPNoiseEmbedding": ("decoder embed noise_level* seed*", "UNCLIP_EMBED"),
    "UnCLIPPCAProject": ("clip embed component_counts*", "UNCLIP_EMBED"),
    "UnCLIPCLIPGuidance": ("decoder clip scale*", "UNCLIP_DECODER"),
    "UnCLIPGuidanceInterval": ("decoder start* end*", "UNCLIP_DECODER"),
    "UnCLIPStepCache": ("interval* depth* decoder? upsampler?", "UNCLIP_DECODER UNCLIP_UPSAMPLER"),
    "UnCLIPDepthHint": ("decoder hint crop*", "UNCLIP_DECODER"),
    "UnCLIPDecoderSample": (
        "decoder steps* guidance_scale* eta* sampler* seed* noise_per_item* count* "
        "embed? text? noise? negative_embed? negative_text? width*? height*?",
        "IMAGE",
    ),
    "UnCLIPUpsample256": ("upsampler image steps* seed* crop*", "IMAGE"),
    "UnCLIPUpsample1024": ("upsampler image steps* seed* crop*", "IMAGE"),
    "UnCLIPImageGrid": (
        "image columns* row_labels* column_labels* gap* cell_height* " + further("image"),
        "IMAGE",
    ),
    "UnCLIPSaveAnimation": ("images filename_prefix* fps* format* back_and_forth*", ""),
    "UnCLIPSaveEmbedding": ("embed filename_prefix*", ""),
    "UnCLIPLoadEmbedding": ("embedding*", "UNCLIP_EMBED"),
    "UnCLIPToClipVision": ("embed row*", "CLIP_VISION_OUTPUT"),
    "UnCLIPFromClipVision": ("clip clip_vision_output", "UNCLIP_EMBED"),
    "UnCLIPExamplePicture": ("name*", "IMAGE MASK"),
    "UnCLIPZeroShot": ("clip image labels*", "STRING IMAGE"),
}
# Titles that the editor has already, or may give to a node of its own one day.
SHARED_TITLES = {
    "UnCLIPApplyLoRA",
    "UnCLIPTextEncode",
    "UnCLIPImageEncode",
    "UnCLIPDiffusionPrior",
    "UnCLIPRandomNoise",
    "UnCLIPSlerpEmbedding",
    "UnCLIPTextDiff",
    "UnCLIPImageGrid",
    "UnCLIPSaveAnimation",
    "UnCLIPSaveEmbedding",
    "UnCLIPLoadEmbedding",
}
every_node = pytest.mark.parametrize("name", list(NODE_CLASS_MAPPINGS))


def declared(node):
    """A node's inputs in the table's words."""
    marks = (
        (spec.name, "*" if spec.is_widget else "", "" if spec.required else "?")
        for spec in node_schema(node).inputs.values()
    )
    return " ".join("".join(parts) for parts in marks)


def test_ids_inputs_and_outputs_are_those_of_the_table():
    found = {name: (declared(node), " ".join(node.RETURN_TYPES)) for name, node in NODE_CLASS_MAPPINGS.items()}
    assert found == GOLDEN


@every_node
def test_everything_is_said_in_words(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert NODE_DISPLAY_NAME_MAPPINGS[name] == node.TITLE
    assert node.TITLE.removesuffix(" (unCLIP)") + (" (unCLIP)" if name in SHARED_TITLES else "") == node.TITLE
    assert len(node.DESCRIPTION) > 40 and (node.CATEGORY + "/").startswith("unCLIP/")
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
    for spec in node_schema(node).inputs.values():
        tooltip = f" {spec.options['tooltip']}"
        assert tooltip.strip(), spec.name
        # A value that stands for something else than itself says what for.
        assert " -1: " in tooltip or spec.options.get("min") != -1, spec.name
        explained = ("steps", "guidance_scale", "temperature", "eta", "scale", "refine", "columns", "cell_height")
        assert " 0: " in tooltip or spec.name not in explained, spec.name


@every_node
def test_a_search_for_the_family_or_the_use_finds_the_node(name):
    words = NODE_CLASS_MAPPINGS[name].SEARCH_ALIASES
    assert set(words) > set(FAMILY) and len(words) == len(set(words))


def test_a_search_for_unclip_finds_the_loader_first():
    """The editor's search puts ids that begin with the word first, the shortest of them before the others."""
    assert min(NODE_CLASS_MAPPINGS, key=len) == "UnCLIPLoader"
    assert sum(len(name) == len("UnCLIPLoader") for name in NODE_CLASS_MAPPINGS) == 1


def test_a_search_for_what_people_want_to_do_finds_a_node():
    words = {word for node in NODE_CLASS_MAPPINGS.values() for word in node.SEARCH_ALIASES}
    assert words > {"text to image", "variation", "interpolate", "img2img", "inpaint", "upscale", "dall-e", "dalle"}


@every_node
def test_the_function_takes_exactly_the_declared_inputs(name):
    node = NODE_CLASS_MAPPINGS[name]
    parameters = dict(inspect.signature(getattr(node, node.FUNCTION)).parameters)
    inputs, hidden = dict(node_schema(node).inputs), node_schema(node).hidden
    if parameters.pop("further", None):  # any number of one kind: NAME_2 to NAME_8
        first = next(name for name in parameters if f"{name}_2" in inputs)
        assert not any(inputs.pop(name).required for name in further_inputs("", first, ""))
    assert set(parameters) - {"self"} == set(inputs) | set(hidden)
    assert all(parameters[name].default is None for name in hidden)
    # An optional input that is not linked is not passed.
    assert all((parameters[n].default is None) != spec.required for n, spec in inputs.items())


@pytest.mark.parametrize("module", [prior, decoder])
def test_offered_samplers_exist(module):
    assert set(module.SAMPLERS) <= set(SAMPLERS)


def test_every_wire_of_the_pack_has_a_name_in_both_languages_and_a_colour_of_its_own(repository):
    types = {t for node in NODE_CLASS_MAPPINGS.values() for t in node.RETURN_TYPES if t.startswith("UNCLIP_")}
    for language in ("en", "zh"):
        assert set(read(repository, language, "main")["dataTypes"]) == types
    script = (repository / "web" / "js" / "wire_colours.js").read_text(encoding="utf-8")
    colours = dict(re.findall(r'(UNCLIP_\w+): "(#[0-9a-f]{6})"', script))
    assert set(colours) == types and len(set(colours.values())) == len(types)


def test_the_chinese_words_cover_every_name_and_tooltip_and_no_more(repository):
    """The English ones are written from the classes: tests/tools/node_texts.py."""
    words = read(repository, "zh", "nodeDefs")
    assert list(words) == list(NODE_CLASS_MAPPINGS)
    for name, entry in words.items():
        node = NODE_CLASS_MAPPINGS[name]
        assert set(entry) == {"display_name", "description", "inputs", "outputs"}
        assert list(entry["inputs"]) == list(node_schema(node).inputs), name
        assert list(entry["outputs"]) == [str(place) for place in range(len(node.RETURN_TYPES))], name
        assert entry["display_name"].endswith("（unCLIP）") == (name in SHARED_TITLES)
        items = [*entry["inputs"].values(), *entry["outputs"].values()]
        assert all(item["name"] and re.search(r"[\u4e00-\u9fff]", item["tooltip"]) for item in items), name
    parts = {part for node in NODE_CLASS_MAPPINGS.values() for part in node.CATEGORY.split("/")}
    assert set(read(repository, "zh", "main")["nodeCategories"]) == parts


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_has_a_letter_that_the_editors_message_format_reads(repository, language):
    path = repository / "locales" / language / "nodeDefs.json"
    texts = re.findall(r'"(?:display_name|description|name|tooltip)": "(.*)"', path.read_text(encoding="utf-8"))
    assert len(texts) > 200 and not [text for text in texts if re.search(r"[{}|@]", text)]


def read(repository, language, name):
    return json.loads((repository / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))
