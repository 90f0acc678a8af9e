"""Upsamplers' inputs that went through the decoder: made once, aligned with what they should have been."""

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import find
from comfyui_unclip.unclip_core.checkpoints.header import read_header, read_stage
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import passing
from comfyui_unclip.unclip_core.training import plan as plans
from comfyui_unclip.unclip_core.training.loop import LoopOptions, Stopped
from comfyui_unclip.unclip_core.training.passing import check_through, open_through, pass_data, pass_through
from comfyui_unclip.unclip_core.training.plan import make_plan
from comfyui_unclip.unclip_core.training.recipes import STORYBOOK_RECIPES
from comfyui_unclip.unclip_core.training.sources.opening import open_data
from comfyui_unclip.unclip_core.training.start import RunOptions, start
from comfyui_unclip.unclip_core.training.task_upsampler import UpsamplerTask
from comfyui_unclip.unclip_core.types import Embedding, PictureStart, model_to_image

pytestmark = pytest.mark.filterwarnings("ignore")  # the tiny CLIP knows few words

RECIPE = dataclasses.replace(STORYBOOK_RECIPES["upsampler_256"], passed=40, passed_steps=2, passed_share=1.0, seed=3)


@pytest.fixture
def through(tiny_models):
    """The stack `tiny`, as --through opens it."""
    return open_through([str(tiny_models / "tiny")])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Seventy pictures of noise, 1024 px, of which a window a pixel off is another one; every second has a caption."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(small).resize((1024, 1024), Image.NEAREST).save(folder / f"{i:02}.png")
        if i % 2:
            (folder / f"{i:02}.txt").write_text("a red star")
    return open_data(str(folder), tmp_path_factory.mktemp("cache"), scenes=0, seed=0)


def passed(entry, configs, data, cache, stage="upsampler_256", recipe=RECIPE, **options):
    return pass_data(entry, getattr(configs, stage), data, range(len(data)), recipe, cache, **options)


def pieces(made):
    return [np.load(path) for path in sorted(made.folder.glob("*.npy"))]


def test_the_decoder_gets_the_picture_at_the_level_its_embedding_and_its_caption(tiny_models, story):
    stack = load_stack(find("tiny", [tiny_models]), "fp32")
    image = model_to_image(story.pictures([0, 1]))
    embed, text = stack.clip.encode_image(image), stack.clip.encode_text(["a red star"] * 2)
    made = pass_through(stack.decoder, image, embed, text, level=0.25, seed=5, steps=2)
    start = PictureStart(image, strength=0.25)
    assert torch.equal(
        made, stack.decoder.sample(embed, text, noise=start, seed=5, steps=2, sampler="ddim", guidance_scale=1.0)
    )
    others = [
        pass_through(stack.decoder, image, embed, None, seed=5, steps=2),
        pass_through(stack.decoder, image, Embedding(-embed.vector, embed.clip_id), text, seed=5, steps=2),
        pass_through(stack.decoder, image, embed, text, level=0.5, seed=5, steps=2),
    ]
    assert all(not torch.equal(made, other) for other in others)


@pytest.mark.parametrize("crop_fraction", [2, 4])
def test_a_low_crop_lies_under_its_high_one(through, tiny_configs, noisy, tmp_path, crop_fraction):
    """Hardly any noise, so that the decoder changes next to nothing: what is left is the picture made small."""
    recipe = dataclasses.replace(RECIPE, passed_level=1e-3, passed_steps=1, crop_fraction=crop_fraction)
    made = passed(through, tiny_configs, noisy, tmp_path, recipe=recipe)
    task = UpsamplerTask("upsampler_256", tiny_configs.upsampler_256, noisy, recipe, made)
    batch = task.batch(list(range(12)), random.Random(0), torch.Generator().manual_seed(0))
    true = F.avg_pool2d(batch["x_0"], 4)
    assert batch["low"].shape == true.shape == (12, 3, 64 // crop_fraction, 64 // crop_fraction)
    assert (batch["low"] - true).abs().mean() < 0.2 * true.std()
    assert (batch["low"].roll(1, 3) - true).abs().mean() > true.std()


def test_windows_of_the_second_upsampler_are_of_what_the_first_one_makes(through, tiny_configs, story, tmp_path):
    small = passed(through, tiny_configs, story, tmp_path)
    large = passed(through, tiny_configs, story, tmp_path, "upsampler_1024")
    assert (small.side, large.side) == (64, 256) and small.rows == large.rows
    assert len(list(small.folder.glob("*.npy"))) == 2  # found, and not made again
    first = load_stack(through, "auto").upsampler_256
    whole = first.sample(model_to_image(small.windows([0, 1], torch.zeros(2, 2, dtype=torch.int64), 64)), seed=3)
    cut = model_to_image(large.windows([0, 1], torch.tensor([[8, 100], [40, 0]]), 32))
    assert (cut[0] - whole[0, 100:132, 8:40]).abs().max() < 0.02 and (cut[1] - whole[1, :32, 40:72]).abs().max() < 0.02


def test_the_pass_is_made_once_and_taken_up_after_a_stop(through, tiny_configs, story, tmp_path, monkeypatch):
    whole = passed(through, tiny_configs, story, tmp_path / "whole")
    told, asked = [], []

    def stop():
        asked.append(True)
        if len(asked) == 2:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        passed(through, tiny_configs, story, tmp_path, stop=stop)
    again = passed(through, tiny_configs, story, tmp_path, progress=lambda *said: told.append(said))
    assert told == [("pass pictures through the decoder", 46, 46)]  # only the second piece
    assert again.key == whole.key
    assert all(np.array_equal(*pair) for pair in zip(pieces(again), pieces(whole), strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(passing, "_denoised", None)  # nothing is made again, nor for fewer
        passed(through, tiny_configs, story, tmp_path)
        passed(through, tiny_configs, story, tmp_path, recipe=dataclasses.replace(RECIPE, passed=8))


def test_other_weights_data_or_settings_are_another_pass(through, tiny_configs, tiny_models, story, noisy, tmp_path):
    def key(entry=through, data=story, **changes):
        return passed(entry, tiny_configs, data, tmp_path, recipe=dataclasses.replace(RECIPE, passed=1, **changes)).key

    found = [key(), key(data=noisy), key(passed_level=0.5), key(passed_steps=3), key(passed_guidance=3.0), key(seed=4)]
    for stage in ("decoder", "clip"):
        _, config, state = load_stage(tiny_models / "tiny" / f"{stage}.safetensors")
        save_stage(tmp_path / f"{stage}.safetensors", {k: v * 1.1 for k, v in state.items()}, stage, config)
        found.append(key(open_through([str(tiny_models / "tiny"), str(tmp_path / f"{stage}.safetensors")])))
    assert len(set(found)) == len(found)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((tiny_models / "tiny" / "decoder.safetensors").read_bytes())
    assert key(open_through([str(tiny_models / "tiny"), str(moved)])) == found[0]


def test_rows_held_out_are_for_the_sheet_alone(through, tiny_configs, tmp_path, story_of_many):
    recipe = dataclasses.replace(RECIPE, passed=60, validation=0.1)
    made = passed(through, tiny_configs, story_of_many, tmp_path, recipe=recipe)
    learnt, held = passing.held_out(range(120), 0.1, recipe.seed)
    assert set(made.rows[: made.shown]) <= set(held) and set(made.rows[made.shown :]) <= set(learnt)
    assert len(made.rows) == 6 + 60 and {made.place(row) for row in range(120)} == set(range(6, 66))


@pytest.fixture(scope="module")
def story_of_many(tmp_path_factory):
    """120 rendered scenes: enough for some to be held out."""
    return open_data("storybook:", tmp_path_factory.mktemp("many"), scenes=120, seed=1)


def test_the_network_is_told_of_clean_and_passed_inputs_what_it_is_told_when_it_samples(
    through, tiny_configs, story, tmp_path
):
    made = passed(through, tiny_configs, story, tmp_path)
    recipe = dataclasses.replace(RECIPE, passed_share=0.4, clean_share=0.5)
    config = tiny_configs.upsampler_256
    task = UpsamplerTask("upsampler_256", config, story, recipe, made)
    batch = task.batch([row % 64 for row in range(300)], random.Random(0), torch.Generator().manual_seed(0))
    close = (batch["low"] - F.avg_pool2d(batch["x_0"], 4)).abs().mean((1, 2, 3)) < 1e-6
    known = batch["level"] == config.sampling_level
    assert 0.2 < close.float().mean() < 0.4 and known[close].all()  # half of what does not pass
    assert 0.6 < known.float().mean() < 0.8


def test_halos_are_weighed_in_the_colours_that_the_network_predicts(tiny_configs, story):
    config = tiny_configs.upsampler_256
    task, weighing = (
        UpsamplerTask("upsampler_256", config, story, dataclasses.replace(RECIPE, halo_weight=weight))
        for weight in (0, 2)
    )
    batch = task.prepare(task.batch(list(range(4)), random.Random(0), torch.Generator().manual_seed(0)))

    def bright(x_t, *_):
        """Pictures brighter by 0.3 than the true ones, as the schedule has them predicted."""
        schedule, t, x_0 = task.schedule, batch["t"], batch["x_0"] + 0.3
        signal = schedule.alphas_cumprod[t][:, None, None, None]
        return schedule.target(x_0, ((x_t - signal.sqrt() * x_0) / (1 - signal).sqrt()).float(), t)

    plain, none = task.loss(bright, batch)
    loss, shown = weighing.loss(bright, batch)
    white = (batch["x_0"] + 0.3 - batch["x_0"].amax((2, 3), keepdim=True)).clamp(min=0).mean()
    assert not none and float(white) < float(shown["halo"]) < 0.3
    assert float(loss - plain) == pytest.approx(2 * float(shown["halo"]), rel=1e-4)


@pytest.mark.parametrize("stage", ["upsampler_256", "upsampler_1024"])
def test_a_run_says_what_its_inputs_went_through(stage, tiny_configs, tiny_models, story_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(plans.TRAINABLE, "tiny", tiny_configs)
    monkeypatch.setitem(plans.RECIPES, "tiny", plans.RECIPES["storybook"])
    plan = make_plan("tiny", stages=[stage], changes={"steps": 2, "batch": 4, "pictures": 64, "passed": 8})
    through = tuple(str(tiny_models / "tiny" / f"{part}.safetensors") for part in ("clip", "decoder", "upsampler_256"))
    options = RunOptions(
        stage, tmp_path / "run", cache=story_folder.parent, loop=LoopOptions(dtype="fp32"), through=through
    )
    assert [progress.step for progress in start(options, plan)] == [2]
    key = read_header(tmp_path / "run" / f"{stage}.safetensors")[0]["through"]
    assert list((story_folder.parent / "passed").glob(f"*-{key}"))
    side = 66 if stage == "upsampler_256" else 130
    with Image.open(tmp_path / "run" / "sheet-0000002.png") as sheet:
        assert sheet.size == (6 * side - 2, 6 * side - 2)
    with pytest.raises(ValueError, match=f"started otherwise .*through {key} -> None"):
        list(start(dataclasses.replace(options, through=()), plan))
    with pytest.raises(ValueError, match="--through makes inputs of upsamplers, not of the decoder"):
        start(dataclasses.replace(options, stage="decoder"), plan)


def test_stages_that_do_not_fit_are_named(through, tiny_configs, tiny_models, tiny_latent_models, tmp_path):
    def changed(stage, **changes):
        found = dataclasses.replace(read_stage(tiny_models / "tiny" / f"{stage}.safetensors"))
        config = dataclasses.replace(found.config, **changes)
        return dataclasses.replace(through, stages={**through.stages, stage: dataclasses.replace(found, config=config)})

    def without(stage):
        return dataclasses.replace(through, stages={k: v for k, v in through.stages.items() if k != stage})

    low, high = tiny_configs.upsampler_256, tiny_configs.upsampler_1024
    seven = dataclasses.replace(tiny_configs.decoder.unet, in_channels=7)
    refused = [
        (without("decoder"), low, r"has no decoder \(it has clip, prior,"),
        (without("clip"), low, "has no clip"),
        (changed("clip", clip_id="other"), low, r"reads tiny-1 \(24-d\), but the CLIP is other \(24-d\); give the"),
        (changed("clip", towers=("text",)), low, "the CLIP tiny-1 has no image tower"),
        (changed("decoder", extra_input="inpaint", unet=seven), low, "its extra_input is inpaint"),
        (open_through([str(tiny_latent_models / "tiny-latent")]), low, "paints latents at full size"),
        (through, dataclasses.replace(low, low_size=32), "256 px is 8 times 32 px"),
        (
            through,
            dataclasses.replace(low, low_size=128),
            "its upsampler_256 enlarges 64 to 256 px, and this .* 128 px",
        ),
        (without("upsampler_256"), high, r"makes pictures of 64 px, but this upsampler enlarges those of 256 px"),
    ]
    for entry, config, message in refused:
        with pytest.raises(ValueError, match=message):
            check_through(entry, config)
    with pytest.raises(ValueError, match=r"--through .*: no stage in this folder; give a model"):
        open_through([str(tmp_path)])
    with pytest.raises(ValueError, match="no model 'nothing'"):
        open_through(["nothing"])
