"""Which handles a graph uses and whether a model has them: read from the graph, through patch nodes too."""

from dataclasses import replace
from pathlib import Path

import pytest

from comfyui_unclip.unclip_core.checkpoints.catalog import StackEntry, read_stack
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2
from comfyui_unclip.workflows.checks.stacks import Use, reasons, shipped_graphs, uses
from comfyui_unclip.workflows.document.reading import Workflow
from comfyui_unclip.workflows.document.schema import NodeClasses, node_classes


@pytest.fixture
def classes():
    return NodeClasses(node_classes())


def graph(**nodes):
    """A graph in API form: name=(class, {input: constant or link}); a loader "load" is in it."""
    nodes = {"load": ("UnCLIPLoader", {"model_name": "x", "dtype": "auto"}), **nodes}
    return {
        name: {"class_type": kind, "inputs": inputs, "_meta": {"title": name}} for name, (kind, inputs) in nodes.items()
    }


GUIDED = {
    "guided": ("UnCLIPCLIPGuidance", {"decoder": ["load", 2], "clip": ["load", 0], "scale": 1.0}),
    "again": ("UnCLIPCLIPGuidance", {"decoder": ["guided", 0], "clip": ["load", 0], "scale": 1.0}),
    "paint": ("UnCLIPDecoderSample", {"decoder": ["again", 0], "seed": 0}),
    "unused": ("UnCLIPDiffusionPrior", {"prior": ["load", 1]}),
    "save": ("SaveImage", {"images": ["paint", 0], "filename_prefix": "x"}),
}


def test_handles_are_followed_through_patches_and_only_as_far_as_an_output_needs_them(classes):
    assert uses(graph(**GUIDED), classes) == [
        Use("CLIP Guidance", "decoder"),
        Use("CLIP Guidance", "clip", ("image",)),
        Use("CLIP Guidance", "decoder"),
        Use("CLIP Guidance", "clip", ("image",)),
        Use("Decoder Sample", "decoder"),
    ]


def entry_with(tiny_models, **changes):
    """The tiny stack with some stages' configs changed; None takes a stage away."""
    entry = read_stack(tiny_models / "tiny")
    stages = dict(entry.stages)
    for stage, config in changes.items():
        stages[stage] = config and replace(stages[stage], config=config)
    return StackEntry("other", entry.folder, {name: found for name, found in stages.items() if found})


def test_a_missing_tower_is_a_reason_and_says_where(tiny_models, classes):
    workflow = Workflow(Path("x.json"), graph(**GUIDED), is_ui=False)
    config = read_stack(tiny_models / "tiny").stages["clip"].config
    assert reasons(workflow, entry_with(tiny_models), classes) == []
    blind = entry_with(tiny_models, clip=replace(config, towers=("text",)))
    assert reasons(workflow, blind, classes) == ["its CLIP has no image tower (CLIP Guidance)"]


def test_a_latent_decoder_needs_no_upsamplers_but_is_fed_what_it_reads(tiny_models, classes):
    graphs = shipped_graphs()
    decoder = KANDINSKY_2_2.decoder
    absent = {"upsampler_256": None, "upsampler_1024": None}
    pixels = reasons(graphs["text_to_image"], entry_with(tiny_models, **absent), classes)
    assert pixels == ["no upsampler_256 (Upsample 256)", "no upsampler_1024 (Upsample 1024)"]
    assert reasons(graphs["text_to_image"], entry_with(tiny_models, decoder=decoder, **absent), classes) == []
    for kind, channels, wants in (("inpaint", 9, "a mask"), ("hint", 8, "a depth picture")):
        config = replace(decoder, extra_input=kind, unet=replace(decoder.unet, in_channels=channels))
        entry = entry_with(tiny_models, decoder=config, **absent)
        assert reasons(graphs["text_to_image"], entry, classes) == [
            f"its decoder wants {wants}, which the graph does not have"
        ]
        assert bool(reasons(graphs["inpaint"], entry, classes)) == (kind == "hint")


def test_nodes_of_comfyui_are_a_reason(tiny_models, classes):
    prompt = graph(far=("CheckpointLoaderSimple", {"ckpt_name": "x"}), **GUIDED)
    found = reasons(Workflow(Path("x.json"), prompt, is_ui=False), entry_with(tiny_models), classes)
    assert found == ["needs ComfyUI, for CheckpointLoaderSimple"]
