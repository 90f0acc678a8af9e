"""Every stage trains two steps, exports a file that the stages sample from, and resumes exactly."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.checkpoints.header import read_header
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.config import STAGES
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import plan as plans
from comfyui_unclip.unclip_core.training import start as starting
from comfyui_unclip.unclip_core.training.initial import open_initial
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train
from comfyui_unclip.unclip_core.training.plan import make_plan
from comfyui_unclip.unclip_core.training.recipes import STORYBOOK_RECIPES
from comfyui_unclip.unclip_core.training.start import RunOptions, start
from comfyui_unclip.unclip_core.training.task_clip import ClipTask
from comfyui_unclip.unclip_core.training.validation import fixed_batch
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
def tiny_preset(tiny_configs, monkeypatch):
    """The stack `tiny` as a preset, with the storybook's recipes."""
    monkeypatch.setitem(plans.TRAINABLE, "tiny", tiny_configs)
    monkeypatch.setitem(plans.RECIPES, "tiny", plans.RECIPES["storybook"])


@pytest.fixture
def options(story, story_folder, tiny_models, tiny_preset, tmp_path):
    """Options for training a stage of the stack `tiny`."""

    def make(stage, **changes):
        given = {"clip": str(tiny_models / "tiny" / "clip.safetensors"), **changes}
        return RunOptions(stage, tmp_path / stage, cache=story_folder.parent, loop=LoopOptions(dtype="fp32"), **given)

    return make


SMALL = {"steps": 2, "batch": 4, "pictures": 64}


def plan(stage, preset="tiny", init=None, **changes):
    initial = open_initial(str(init), stage) if init else None
    return make_plan(preset, stages=[stage], initial=initial, changes={**SMALL, **changes})


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
    progress = list(start(options(stage), plan(stage)))
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


def test_a_decoders_sheet_has_no_lattice_as_its_samples_have_none(tiny_configs, tiny_clip, story, randomise):
    recipe = dataclasses.replace(STORYBOOK_RECIPES["decoder"], **SMALL)
    vectors = torch.nn.functional.normalize(torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    task = starting.EMBEDDING_TASKS["decoder"](tiny_configs.decoder, story, tiny_clip, vectors, recipe)
    torch.manual_seed(0)
    with torch.no_grad():
        painted = task.paint(randomise(task.build()), fixed_batch(task, [0, 1], torch.device("cpu")))
    side = tiny_configs.decoder.unet.patch_size
    places = painted.unflatten(2, (-1, side)).unflatten(4, (-1, side)).mean((2, 4))  # (B, C, side, side)
    apart = (places - places.mean((2, 3), keepdim=True)).abs()
    assert painted.std() > 0.1 and apart.median() < 0.1  # some are so large that no noise explains them


@pytest.mark.parametrize("stage", ["clip", "decoder", "prior", "ar_prior"])
def test_a_killed_stage_resumes_bit_for_bit(stage, tiny_configs, tiny_clip, story_clip_config, story, tmp_path):
    recipe = dataclasses.replace(STORYBOOK_RECIPES[stage], **{**SMALL, "steps": 5})
    vectors = torch.nn.functional.normalize(torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), dim=-1)

    def trained(folder, kill=None):
        if stage == "clip":
            task = ClipTask(story_clip_config, story, recipe)
        else:
            made = starting.EMBEDDING_TASKS[stage]
            task = made(getattr(tiny_configs, stage), story, tiny_clip, vectors, recipe)
        task.validate = lambda network, rows, path: {}  # twenty sampling steps that say nothing here
        quick = LoopOptions(log_every=1, save_every=2, dtype="fp32")
        steps = train(task, recipe, folder, len(story), options=quick)
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
    list(start(options("decoder"), plan("decoder", init=weights, lr=1e-12, steps=1, weight_decay=0.0)))
    _, _, before = load_stage(weights)
    after = torch.load(options("decoder").run / "checkpoint.pt", weights_only=True)["network"]
    assert all(torch.allclose(value, after[name]) for name, value in before.items())


def test_the_file_says_what_it_was_made_of(options, tiny_clip):
    list(start(options("prior"), plan("prior", steps=1)))
    said = read_header(options("prior").run / "prior.safetensors")[0]
    assert json.loads(said["recipe"])["batch"] == 4 and said["preset"] == "tiny"
    assert said["data"].startswith("storybook-64-1-") and said["clip"].startswith(f"{tiny_clip.clip_id} ")


def test_another_clip_is_refused_when_a_run_is_taken_up(options, tiny_models, tmp_path):
    list(start(options("prior"), plan("prior", steps=1)))
    _, config, state = load_stage(tiny_models / "tiny" / "clip.safetensors")
    other = tmp_path / "clip.safetensors"
    save_stage(other, {name: value + 1e-3 for name, value in state.items()}, "clip", config)
    with pytest.raises(ValueError, match=r"started otherwise \(clip tiny-1 \w+ -> tiny-1 \w+\)"):
        list(start(options("prior", clip=str(other)), plan("prior")))


def test_an_ar_prior_keeps_as_many_components_as_the_data_needs(options, tiny_configs, tmp_path):
    for stage, given in (("few", 3), ("auto", None)):
        file = tmp_path / f"{stage}.toml"
        file.write_text("[ar_prior]\ncomponents = 3\n" if given else "[ar_prior]\nwidth = 16\n")
        made = make_plan("tiny", config=file, stages=["ar_prior"], changes={**SMALL, "steps": 1})
        smaller = dataclasses.replace(made.stack.ar_prior, components=3)
        made = dataclasses.replace(made, stack=dataclasses.replace(made.stack, ar_prior=smaller))
        run = dataclasses.replace(options("ar_prior"), run=tmp_path / stage)
        if given:
            with pytest.raises(ValueError, match=r"3 components keep .* keep at least 99%"):
                list(start(run, made))
        else:
            list(start(run, made))
            kept = load_stage(tmp_path / stage / "ar_prior.safetensors")[1]
            assert 3 < kept.components <= 24 and kept.context_length >= kept.components + 1


def test_blocks_computed_twice_learn_the_same(options, tmp_path):
    """Same weights to the bit, in less memory."""
    kept = {}
    for save_memory in (False, True):
        loop = LoopOptions(dtype="fp32", save_memory=save_memory)
        run = dataclasses.replace(options("decoder"), run=tmp_path / str(save_memory), loop=loop)
        sizes = []

        def pack(value, sizes=sizes):
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            list(start(run, plan("decoder")))
        kept[save_memory] = sum(sizes)
    one, two = (
        torch.load(tmp_path / str(each) / "checkpoint.pt", weights_only=True)["network"] for each in (False, True)
    )
    assert one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
    assert kept[True] < 0.7 * kept[False]


def test_what_cannot_be_trained_is_refused_before_any_work(options, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "open_data", None)  # nothing is drawn
    tiny = tiny_models / "tiny"
    with pytest.raises(ValueError, match="stage 'painter' is unknown; choose one of clip, prior, decoder"):
        start(options("painter"), plan("decoder"))
    with pytest.raises(ValueError, match=r"the last step of this upsampler is a second network's"):
        start(options("upsampler_256"), plan("upsampler_256", "karlo-v1-alpha"))
    with pytest.raises(ValueError, match="preset karlo-v1-alpha has no upsampler_1024"):
        start(options("upsampler_1024"), plan("upsampler_1024", "karlo-v1-alpha"))
    with pytest.raises(ValueError, match="CLIP ViT-L-14/openai is loaded, not trained here"):
        start(options("clip"), plan("clip", "karlo-v1-alpha"))
    with pytest.raises(ValueError, match=r"preset storybook speaks the CLIP storybook-3, but --clip .* is tiny-1"):
        start(options("prior"), plan("prior", "storybook"))
    with pytest.raises(ValueError, match=r"--clip .*decoder.safetensors holds a decoder; give a CLIP"):
        start(options("prior", clip=str(tiny / "decoder.safetensors")), plan("prior"))
    assert not Path(options("decoder").run).exists()


def test_workers_find_the_pictures_in_the_size_that_a_stage_learns_from(options, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(70):  # so many that processes share the work of making them small
        Image.new("RGB", (256, 256), (3 * i, 0, 0)).save(folder / f"{i:02}.png")
    given = options("upsampler_256", data=str(folder), clip=None)
    given = dataclasses.replace(given, cache=tmp_path, loop=LoopOptions(dtype="fp32", workers=1, log_every=1))
    assert [progress.step for progress in start(given, plan("upsampler_256"))] == [1, 2]


def test_a_clip_learns_from_pictures_of_its_own_size(story_clip_config, story):
    vision = dataclasses.replace(story_clip_config.vision, image_size=96)
    task = ClipTask(dataclasses.replace(story_clip_config, vision=vision), story, STORYBOOK_RECIPES["clip"])
    batch = task.batch([0, 1, 2, 3], random.Random(0), torch.Generator())
    assert batch["pictures"].shape == (4, 3, 96, 96)


def test_what_is_left_out_of_the_data_is_said(options, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (256 if i < 4 else 64,) * 2, (40 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("a red star")
    (folder / "cut.png").write_bytes(b"")
    notes = []
    for stage in ("upsampler_256", "prior"):
        given = dataclasses.replace(options(stage, data=str(folder)), cache=tmp_path, note=notes.append)
        start(given, plan(stage))
    said = "data: 6 rows, 1 skipped (cut.png: empty file); `unclip data` lists all"
    assert notes[:2] == [
        said,
        "upsampler_256 learns from 4 of 6 rows; the others have fewer than 256 px on the short side",
    ]
    assert notes[2:4] == [said, "prior learns from 1 of 6 rows; the others have no caption"]
    assert notes[4].startswith("memory: ") and len(notes) == 5


@pytest.mark.parametrize("kept", [{"recipe": {"train_text": False}}, {"recipe": {"trunk_stages": 1}}, {"lora": {}}])
def test_a_run_that_keeps_weights_is_no_beginning_before_its_end(kept, tmp_path):
    made_of = json.dumps({"stage": "clip", **kept})
    state = {"step": 1, "network": {}, "ema": {}, "optimiser": {}, "made_of": made_of}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="not the weights that this one keeps; let the run come to its end"):
        open_initial(str(tmp_path), "clip")
