"""`unclip train` from published members of the family, small and random, on a folder of pictures: weights, config and
recipe are their own, what does not learn stays, and a LoRA is of all of them."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import find, read_stack
from comfyui_unclip.unclip_core.checkpoints.convert import convert
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import task_decoder
from comfyui_unclip.unclip_core.training.initial import open_initial
from comfyui_unclip.unclip_core.types import Embedding
from comfyui_unclip.workflows.cli import run

PAINTERS = (
    ("karlo-v1-alpha", 1.2e-5, (0.1, 0.3)),
    ("kandinsky-2-2", 1.2e-5, (0.1, 0.5)),
    ("kandinsky-2-1", 1.2e-5, (0.1, 0.5)),
    ("stable-diffusion-2-1-unclip", 1e-5, (0.25, 0.1)),
)
PREDICTIONS = {
    "karlo-v1-alpha": "eps",
    "kandinsky-2-2": "eps",
    "kandinsky-2-1": "eps",
    "stable-diffusion-2-1-unclip": "v",
}


@pytest.fixture
def place(members, tmp_path, monkeypatch):
    """A working folder with `photos`, eight captioned pictures, where the members are installed."""
    monkeypatch.setenv("UNCLIP_MODELS", str(members))
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    for name, value in (("SHEET_STEPS", 1), ("SHEET_ROWS", 4), ("LATENT_ROWS", 2), ("LINE", 2)):
        monkeypatch.setattr(task_decoder, name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.new("RGB", (90, 80), (30 * i, 255 - 30 * i, 90)).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text("a quiet colour")
    return tmp_path


def train(stage, model, *more, steps=2):
    given = ("--init", f"{model}:{stage}", "--data", "photos", "--run", "run", "--device", "cpu", "--fp32")
    return run(["train", stage, *given, "--steps", str(steps), "--batch", "2", *more])


def stack_with(model, stage, folder):
    """The model's stack as files of ours, the run's stage in the place of its own."""
    target = folder / "stack"
    list(convert(find(model), target))
    for path in folder.glob(f"run/{stage}.*"):
        shutil.copy(path, target)
    return load_stack(read_stack(target), "fp32", "cpu")


def sample(stack, stage):
    """Two steps of a stage."""
    text = stack.clip.read_captions("a quiet colour")
    if stage == "prior":
        return stack.prior.sample(text, seed=0, steps=2, candidates=1).vector
    config = stack.decoder.config
    z = torch.randn(1, config.clip_dim, generator=torch.Generator().manual_seed(0))
    return stack.decoder.sample(Embedding(z, config.clip_id), None if config.text == "none" else text, seed=0, steps=2)


def logged(folder):
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def check_run(place, model, stage, rate, capsys):
    """The run is finite, of the model's own kind, and what it wrote samples. Returns (before, after, recipe)."""
    assert f"wrote run/{stage}.safetensors" in capsys.readouterr().out
    numbers, config = logged(place), json.loads((place / "run" / "config.json").read_text())
    assert numbers["loss"] > 0 and numbers["loss"] < 1e3 and numbers["grad_norm"] > 0
    assert config["preset"] == model and config["recipe"]["lr"] == pytest.approx(rate)
    initial = open_initial(f"{model}:{stage}", stage)
    _, found, after = load_stage(place / "run" / f"{stage}.safetensors")
    own_id = getattr(initial.config, f"{stage}_id")
    assert found == dataclasses.replace(initial.config, **{f"{stage}_id": f"{own_id}+"})  # schedule and prediction too
    before = initial.read()
    assert before.keys() == after.keys()
    made = sample(stack_with(model, stage, place), stage)
    assert made.isfinite().all() and made.std() > 0
    return before, after, config["recipe"]


@pytest.mark.parametrize(("model", "rate", "drops"), PAINTERS)
def test_a_published_decoder_is_trained_on(model, rate, drops, place, capsys):
    assert train("decoder", model) == 0
    before, after, recipe = check_run(place, model, "decoder", rate, capsys)
    assert (recipe["embed_drop"], recipe["text_drop"]) == drops
    config = find(model).stages["decoder"].config
    assert config.schedule.prediction == PREDICTIONS[model]
    learns = "network." if config.autoencoder else ""
    # Two steps at their rate move nothing far: that these are its weights. The autoencoder and text encoder stay.
    for name, value in before.items():
        torch.testing.assert_close(after[name].float(), value.float(), rtol=1e-2, atol=1e-3)
        if not name.startswith(learns):
            assert torch.equal(after[name], value.to(after[name].dtype)), name
    with Image.open(place / "run" / "sheet-0000002.png") as sheet:  # pictures, not latents
        side = config.unet.image_size * (config.autoencoder.factor if config.autoencoder else 1)
        assert sheet.width == 2 * (side + 2) - 2


@pytest.mark.parametrize(("model", "drop"), [("karlo-v1-alpha", 0.2), ("kandinsky-2-2", 0.1)])
def test_a_published_prior_is_trained_on(model, drop, place, capsys):
    assert train("prior", model) == 0
    before, after, recipe = check_run(place, model, "prior", 1.1e-5, capsys)
    assert recipe["prior_drop"] == drop
    for name in ("mean", "std"):  # those of the pictures that it was made with, not of these eight
        assert torch.equal(after[name], before[name])


def test_at_a_rate_that_shows_the_network_learns_alone(place):
    assert train("decoder", "kandinsky-2-2", "--lr", "1e-2", "--set", "embed_drop=0.5", "--set", "warmup=0") == 0
    before, after = (open_initial(where, "decoder").read() for where in ("kandinsky-2-2:decoder", "run"))
    moved = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name].to(after[name].dtype))}
    assert moved == {"network"}
    checkpoint = torch.load(place / "run" / "checkpoint.pt", weights_only=True)
    names = {*checkpoint["network"], *checkpoint["ema"]}
    assert names == {name.removeprefix("network.") for name in before if name.startswith("network.")}


@pytest.mark.parametrize(
    ("stage", "model", "said"),
    [
        (
            "decoder",
            "kandinsky-2-2-inpaint",
            r"is shown more than noise (its extra_input is inpaint), which is not tra",
        ),
        ("decoder", "kandinsky-2-2-controlnet-depth", "is shown more than noise (its extra_input is hint)"),
        ("prior", "eclipse-karlo", "this prior answers in one pass, which is not trained here"),
        ("upsampler-256", "karlo-v1-alpha", "the last step of this upsampler is a second network's, which is not tra"),
        ("prior", "stable-diffusion-2-1-unclip", "has no prior; it has clip, decoder"),
    ],
)
def test_what_is_not_trained_here_is_said_in_one_line(stage, model, said, place, capsys):
    stage_name = stage.replace("-", "_")
    assert run(["train", stage, "--init", f"{model}:{stage_name}", "--data", "photos"]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"error: --init {model}:{stage_name}") and said in error
    assert not (place / "runs").exists()


def test_a_latent_decoder_is_not_begun_anew_nor_from_an_unfinished_run(place, capsys):
    given = ["train", "decoder", "--data", "photos", "--fp32", "--batch", "2", "--steps", "1"]
    assert train("decoder", "kandinsky-2-2", "--save-minutes", "0", steps=1) == 0
    (place / "run" / "decoder.safetensors").unlink()  # as if it had been killed
    capsys.readouterr()
    assert run([*given, "--init", "run", "--clip", "kandinsky-2-2"]) == 2
    assert "whose autoencoder is not trained here; begin with weights that have it" in capsys.readouterr().err


def test_a_clip_without_an_image_tower_is_completed_by_another_model_or_refused(
    place, members, tmp_path, monkeypatch, capsys
):
    """Karlo's own folder has none; another model's speaks the same embeddings."""
    shutil.copytree(members / "karlo-v1-alpha", tmp_path / "alone" / "karlo-v1-alpha")
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "alone"))
    assert train("prior", "karlo-v1-alpha") == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "has no image tower, without which no data can be read; install a model that speaks it" in error


@pytest.mark.parametrize(
    ("stage", "model"),
    [
        ("prior", "karlo-v1-alpha"),
        ("decoder", "karlo-v1-alpha"),
        ("prior", "kandinsky-2-2"),
        ("decoder", "kandinsky-2-2"),
        ("decoder", "kandinsky-2-1"),
        ("decoder", "stable-diffusion-2-1-unclip"),
    ],
)
def test_a_lora_of_a_published_stage_is_a_file_and_a_node(stage, model, place, monkeypatch, capsys):
    more = ("--lora", "3", "--lr", "0.05", "--set", "warmup=0", "--set", "ema=0.0")
    assert train(stage, model, *more) == 0
    said = capsys.readouterr()
    assert f"wrote run/{stage}-lora.safetensors, for Apply LoRA" in said.out and "memory: about 0." in said.err
    path = place / "models" / "loras" / "mine.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(place / "run" / f"{stage}-lora.safetensors", path)
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    entry = find(model)
    own_id = getattr(entry.stages[stage].config, f"{stage}_id")
    assert json.loads(metadata["stages"]) == {stage: own_id} and json.loads(metadata["ranks"]) == {stage: 3}
    assert all(name.startswith(f"{stage}.") and name.endswith((".down", ".up")) for name in names) and names
    assert path.stat().st_size < 0.2 * sum(x.stat().st_size for x in entry.stages[stage].files)
    # In both precisions a processor computes in, and with it what it packs its weights into.
    monkeypatch.setenv("UNCLIP_MODELS", f"{place / 'models'}:{find(model).folder.parent}")
    for dtype in ("fp32", "bf16"):
        stack = load_stack(entry, dtype, "cpu")
        plain = sample(stack, stage)
        off, on = (applied(stack, stage, strength) for strength in (0.0, 1.0))
        assert getattr(off, stage) is getattr(stack, stage)
        changed = sample(on, stage)
        assert (changed - plain).abs().max() > 1e-3
        for again in (stack, off):
            assert torch.equal(sample(again, stage), plain), dtype
        assert torch.equal(sample(on, stage), changed)
    if stage == "decoder":
        inverted = [invert(each.decoder) for each in (on, off)]
        ((record,), ()) = (noise.inversion.loras for noise in inverted)
        assert (record.name, record.strength) == ("mine", 1.0)
        assert (inverted[0].x_T - inverted[1].x_T).abs().max() > 1e-3


def invert(decoder):
    """DDIM Invert in two steps."""
    config = decoder.config
    side = config.unet.image_size * (config.autoencoder.factor if config.autoencoder else 1)
    picture = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(1))
    return decoder.invert(picture, Embedding(torch.ones(1, config.clip_dim), config.clip_id), steps=2)


def applied(stack, stage, strength):
    """The stack with the LoRA that was trained, by the node."""
    node = NODE_CLASS_MAPPINGS["UnCLIPApplyLoRA"]()
    _, prior, decoder = node.apply(lora_name="mine.safetensors", strength=strength, **{stage: getattr(stack, stage)})
    return dataclasses.replace(stack, **{stage: {"prior": prior, "decoder": decoder}[stage]})
