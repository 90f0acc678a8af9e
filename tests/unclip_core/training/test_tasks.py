"""Every stage trains two steps, exports a file that the stages sample from, and resumes exactly."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.checkpoints.native import load_stage
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import start as starting
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train
from comfyui_unclip.unclip_core.training.start import STAGES, RunOptions, recipe_for, start
from comfyui_unclip.unclip_core.training.task_clip import ClipTask
from comfyui_unclip.unclip_core.types import Embedding

SHEETS = {
    "clip": (384, 384),
    "prior": (384, 384),
    "decoder": (8 * 66 - 2, 8 * 66 - 2),
    "upsampler_256": (6 * 66 - 2, 3 * 66 - 2),
    "upsampler_1024": (6 * 130 - 2, 3 * 130 - 2),
    "ar_prior": (384, 384),
}


@pytest.fixture
def options(story, story_folder, tiny_models, tiny_configs, tmp_path, monkeypatch):
    """Options for training a stage of the stack `tiny`."""
    monkeypatch.setitem(starting.PRESETS, "tiny", tiny_configs)

    def make(stage, **changes):
        given = {"run": tmp_path / stage, "clip": tiny_models / "tiny" / "clip.safetensors", **changes}
        return RunOptions(stage, "tiny", cache=story_folder.parent, **given)

    return make


def recipe(stage, **changes):
    return recipe_for("storybook", stage, **{"steps": 2, "batch": 4, "pictures": 64, **changes})


def sample(stage, handle, clip):
    if stage == "clip":
        return handle.encode_text(["a red star"]).embed
    text = clip.encode_text(["a red star", "a blue boat"])
    if stage in ("prior", "ar_prior"):
        return handle.sample(text, seed=1).vector
    if stage == "decoder":
        return handle.sample(Embedding(text.embed, clip.clip_id), text, seed=1)
    return handle.sample(torch.rand(1, 64, 64, 3), seed=1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_and_its_file_is_a_stage_that_samples(stage, options, tiny_configs, tiny_clip):
    progress = list(start(options(stage), recipe(stage)))
    folder = options(stage).run
    assert progress[-1].step == 2 and progress[-1].loss > 0
    with Image.open(folder / "sheet-0000002.png") as sheet:
        assert sheet.size == SHEETS[stage] and len(sheet.convert("RGB").getcolors(2**20)) > 4
    found, config, state = load_stage(folder / f"{stage}.safetensors")
    assert found == stage and config == getattr(tiny_configs, stage)
    matrices = {name: value.dtype for name, value in state.items() if value.ndim > 1}
    assert {dtype for name, dtype in matrices.items() if not name.startswith("quantiser.")} == {torch.bfloat16}
    entry = read_stack(folder)
    assert list(entry.stages) == [stage] and not entry.problems
    made = sample(stage, getattr(load_stack(entry, "fp32"), stage), tiny_clip)
    sizes = {"clip": (1, 24), "prior": (2, 24), "ar_prior": (2, 24), "decoder": (2, 64, 64, 3)}
    large = int(stage.rpartition("_")[2]) if "upsampler" in stage else 0
    assert made.shape == sizes.get(stage, (1, large, large, 3)) and made.isfinite().all()


@pytest.mark.parametrize("stage", ["clip", "decoder", "prior", "ar_prior"])
def test_a_killed_stage_resumes_bit_for_bit(stage, tiny_configs, tiny_clip, story_clip_config, story, tmp_path):
    plan = recipe(stage, steps=5)
    vectors = torch.nn.functional.normalize(torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), dim=-1)

    def trained(folder, kill=None):
        if stage == "clip":
            task = ClipTask(story_clip_config, story, plan)
        else:
            made = starting.EMBEDDING_TASKS[stage]
            task = made(getattr(tiny_configs, stage), story, tiny_clip, vectors, plan)
        task.validate = lambda network, rows, path: {}  # twenty sampling steps that say nothing here
        quick = LoopOptions(log_every=1, save_every=2, dtype="fp32")
        steps = train(task, plan, folder, len(story), options=quick)
        for progress in steps:
            if progress.step == kill:
                steps.close()
        return torch.load(folder / "checkpoint.pt", weights_only=True)

    whole = trained(tmp_path / "whole")
    assert trained(tmp_path / "killed", kill=4)["step"] == 2
    again = trained(tmp_path / "killed")
    for part in ("network", "ema"):
        assert all(torch.equal(value, again[part][name]) for name, value in whole[part].items())
    shipped = [load_stage(tmp_path / run / f"{stage}.safetensors")[2] for run in ("whole", "killed")]
    assert all(torch.equal(value, shipped[1][name]) for name, value in shipped[0].items())


def test_training_continues_from_exported_weights(options, tiny_models):
    weights = tiny_models / "tiny" / "decoder.safetensors"
    still = dataclasses.replace(recipe("decoder"), lr=1e-12, steps=1, weight_decay=0.0)
    list(start(options("decoder", init=weights, bf16=False), still))
    _, _, before = load_stage(weights)
    after = torch.load(options("decoder").run / "checkpoint.pt", weights_only=True)["network"]
    assert all(torch.allclose(value, after[name]) for name, value in before.items())


def test_what_cannot_be_trained_is_refused_before_any_work(options, tiny_models, tiny_configs, tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "open_data", None)  # nothing is drawn
    plan = recipe("decoder")
    tiny = tiny_models / "tiny"
    with pytest.raises(ValueError, match="stage 'painter' is unknown; choose one of clip, prior, decoder"):
        start(options("painter"), plan)
    with pytest.raises(ValueError, match="--preset 'nope' is unknown; choose one of paper, karlo"):
        start(dataclasses.replace(options("decoder"), preset="nope"), plan)
    with pytest.raises(ValueError, match=r"the last step of its upsampler_256 is a second network's, .* --init"):
        start(dataclasses.replace(options("upsampler_256"), preset="karlo-v1-alpha"), plan)
    with pytest.raises(ValueError, match="preset karlo-v1-alpha has no upsampler_1024"):
        start(dataclasses.replace(options("upsampler_1024"), preset="karlo-v1-alpha"), plan)
    with pytest.raises(ValueError, match=r"--init .*prior.safetensors holds a prior, not a decoder"):
        start(options("decoder", init=tiny / "prior.safetensors"), plan)
    with pytest.raises(ValueError, match=r"--clip .*holds clip tiny-1; this preset needs the CLIP storybook-2"):
        start(dataclasses.replace(options("prior"), preset="storybook"), plan)
    with pytest.raises(ValueError, match=r"--clip .*decoder.safetensors holds decoder"):
        start(options("prior", clip=tiny / "decoder.safetensors"), plan)
    with pytest.raises(ValueError, match="nowhere"):
        start(options("decoder", init=tmp_path / "nowhere.safetensors"), plan)
    with pytest.raises(ValueError, match="stage 'judge' is unknown"):
        recipe_for("storybook", "judge")
    assert not Path(options("decoder").run).exists()


def test_a_clip_of_open_clips_is_not_trained_here(options, monkeypatch):
    monkeypatch.setattr(starting, "open_data", lambda *given, **options: None)
    with pytest.raises(ValueError, match="CLIP ViT-L-14/openai is loaded, not trained here"):
        start(dataclasses.replace(options("clip"), preset="karlo-v1-alpha"), recipe("clip"))


def test_recipes_take_changes_and_the_vocabulary_is_filled_in():
    assert recipe_for("storybook", "prior", steps=7, lr=None).steps == 7
    assert recipe_for("storybook", "prior", lr=None) == recipe_for("storybook", "prior")
    clip = starting.preset_stack("storybook").clip
    assert len(clip.vocabulary) > 100 and "star" in clip.vocabulary and "night sky" in clip.knows
