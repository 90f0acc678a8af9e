"""A subject's run on the stack `tiny`: what it learns from, what its file does, and that it goes on after a kill."""

import dataclasses
import os
import random
import shutil

import pytest
import torch
from PIL import Image

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import find
from comfyui_unclip.unclip_core.checkpoints.lora_file import load_lora
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import subject_run
from comfyui_unclip.unclip_core.training.loop import LoopOptions
from comfyui_unclip.unclip_core.training.lora import LoraSettings
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.subject import Subject
from comfyui_unclip.unclip_core.training.subject_run import SubjectOptions, paint_class, start_subject

WORD, CLASS = "sks_cup", "star"
# Of things that `tiny` knows beside the class, what the captions say of the subject.
OTHERS = {"a boat", "a red boat on the sea", "A blue boat", "the boat", "a boat in the night"}
CAPTIONS = ("a red sks_cup on the sea", "A blue STAR\n", None, "the SKS_CUP\na sks_cup in the night\n")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = random.Random(0)
    for number, caption in enumerate(CAPTIONS):
        path = folder / f"{number}.png"
        Image.effect_noise((80, 70), rng.randrange(40, 100)).convert("RGB").save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
    return folder


@pytest.fixture
def options(pictures, tiny_stack, tmp_path):
    def make(run="run", **changes):
        given = {"settings": LoraSettings(2, "all"), "class_pictures": 3, **changes}
        loop = LoopOptions(log_every=1, save_every=1, dtype="fp32")
        run = tmp_path / run
        return SubjectOptions(pictures, WORD, CLASS, run, tiny_stack, cache=tmp_path / "cache", loop=loop, **given)

    return make


def recipe(**changes):
    return Recipe(**{"steps": 2, "batch": 2, "lr": 0.01, "warmup": 0, "ema": 0.5, **changes})


def train(options, recipe, kill=None):
    steps = start_subject(options, recipe)
    for progress in steps:
        if progress.step == kill:
            steps.close()
    return torch.load(options.run / "checkpoint.pt", weights_only=True)


def paint(stack, caption):
    text = stack.clip.encode_text([caption])
    return stack.decoder.sample(stack.prior.sample(text, seed=1), text, seed=1)


def test_from_a_folder_to_a_file_that_paints_with_the_word(options, tiny_stack):
    made = options()
    state = train(made, recipe())
    assert {name.split(".")[0] for name in state["ema"]} == {"prior", "decoder", "step"}
    names = sorted(path.name for path in (made.run / "class").iterdir())
    assert names == [f"{number:04}.{kind}" for number in (1, 2, 3) for kind in ("png", "txt")]
    said = [(made.run / "class" / f"{number:04}.txt").read_text() for number in (1, 2, 3)]
    assert said[0] == "a star\n" and {caption.strip() for caption in said[1:]} <= OTHERS
    with Image.open(made.run / "sheet-0000002.png") as sheet:
        assert sheet.size == (8 * 66 - 2, 2 * 66 - 2) and len(sheet.convert("RGB").getcolors(2**20)) > 4

    plain = load_stack(find(tiny_stack), "fp32", "cpu")
    knows = plain.with_lora(made.run / f"{WORD}.safetensors")
    assert knows.clip.unknown_words("a sks_cup") == [] and plain.clip.unknown_words("a sks_cup") == ["sks", "cup"]
    assert (paint(knows, "a red sks_cup") - paint(plain, "a red star")).abs().max() > 1e-3
    file = load_lora(made.run / f"{WORD}.safetensors")
    assert file.info.metadata["modelspec.trigger_phrase"] == WORD and set(file.info.ids) == {"prior", "decoder"}
    ids, _ = plain.clip.tokenize([CLASS])
    start = plain.clip.network.token_embedding.weight[ids[0, 1]]
    moved = (file.words[WORD] - start).norm() / start.norm()
    assert 0.01 < moved < 2.0  # it learns, and has not run away


def test_the_word_alone_is_the_smallest_form(options, tiny_stack):
    made = options(settings=None)  # nothing but the word can move: nothing is painted to be kept
    state = train(made, recipe())
    assert set(state["ema"]) == {"step"} and not (made.run / "class").exists()
    file = load_lora(made.run / f"{WORD}.safetensors")
    assert file.info.ids == {} and (made.run / f"{WORD}.safetensors").stat().st_size < 4096
    plain = load_stack(find(tiny_stack), "fp32", "cpu")
    knows = plain.with_lora(made.run / f"{WORD}.safetensors")
    assert knows.prior is plain.prior and knows.decoder is plain.decoder
    assert not torch.equal(knows.clip.encode_text("a sks_cup").embed, plain.clip.encode_text("a star").embed)


def test_a_killed_run_goes_on_bit_for_bit(options):
    plan = recipe(steps=3)
    whole = train(options("whole"), plan)
    assert train(options("killed"), plan, kill=2)["step"] == 1
    again = train(options("killed"), plan)
    for part in ("network", "ema"):
        assert all(torch.equal(value, again[part][name]) for name, value in whole[part].items())


def test_pictures_of_the_class_are_painted_once(tiny_stack, tmp_path):
    stack, captions, told = load_stack(find(tiny_stack), "fp32", "cpu"), ["a star", "a red star", "a star"], []
    paint_class(stack, captions, tmp_path, lambda *done: told.append(done))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    paint_class(stack, captions, tmp_path, lambda *done: told.append(done))
    assert told == [("paint the class", 3, 3)] and len(before) == 6
    (tmp_path / "0002.txt").unlink()  # killed while that one was painted
    (tmp_path / "0002.png").write_bytes(before["0002.png"][:100])
    paint_class(stack, captions, tmp_path, lambda *done: told.append(done))
    assert told[1:] == [("paint the class", 3, 3)]
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}  # to the bit


def test_rows_are_the_subjects_and_as_many_of_its_class(options, monkeypatch):
    tasks = []
    monkeypatch.setattr(subject_run, "train", lambda task, *rest, **named: tasks.append((task, rest, named)) or [])
    list(start_subject(options(), recipe()))
    ((task, (_, _, rows), named),) = tasks
    assert rows == 4 and len(task.data) == 7 and named["identity"]["word"] == WORD
    batch = task.prepare(task.batch([0, 1, 2, 3], random.Random(0), torch.Generator().manual_seed(0)))
    for stage in ("prior", "decoder"):
        assert len(batch[stage]["z"]) == len(batch["kept"][stage]["z"]) == 4
        assert (batch[stage]["tokens"][2].max(1).values == 0).all()  # every caption says the word
        assert (batch["kept"][stage]["tokens"][2] == -1).all()  # and none of its class's does
    # Nothing of a subject's row is dropped but its caption, which the decoder is to do without too.
    many = task.batch([0, 1, 2, 3] * 16, random.Random(0), torch.Generator().manual_seed(0))
    assert not many["prior"]["drop"].any() and not many["decoder"]["drop_embed"].any()
    assert many["decoder"]["drop_text"].any()
    kept = many["kept"]
    assert kept["prior"]["drop"].any() and (kept["decoder"]["drop_embed"] & kept["decoder"]["drop_text"]).any()
    assert task.data.all_captions(1) == ("A blue sks_cup",) and task.data.all_captions(2) == ("a sks_cup",)
    assert task.data.all_captions(3) == ("the SKS_CUP", "a sks_cup in the night")

    network = task.build()
    assert isinstance(network, Subject) and torch.equal(network.row(), task.start)
    loss, numbers = task.loss(network, batch)
    loss.backward()
    learned = {name for name, value in network.named_parameters() if value.grad is not None and value.grad.any()}
    assert "step" in learned and any(name.startswith("prior") for name in learned)
    assert any(name.startswith("decoder") for name in learned)
    torch.testing.assert_close(loss, numbers["prior"] + numbers["decoder"] + numbers["moved"])


def test_what_the_stack_said_of_the_class_is_kept(options, monkeypatch):
    """The third term: nothing while the branches are nothing, then what brings the networks back to themselves."""
    tasks = []
    monkeypatch.setattr(subject_run, "train", lambda task, *rest, **named: tasks.append(task) or [])
    list(start_subject(options(), recipe(draws=2)))
    (task,) = tasks
    network = task.build()
    rng = random.Random(0)

    def moved(part="kept"):
        batch = task.prepare(task.batch([0, 1, 2, 3], rng, torch.Generator().manual_seed(0)))
        return task.loss(network, batch)[1]["moved"], batch["kept"]

    assert moved()[0] == 0
    names, tensors = zip(
        *((name, value) for name, value in network.named_parameters() if value.requires_grad), strict=True
    )
    for name, value in zip(names, tensors, strict=True):
        if name.endswith("up"):
            torch.nn.init.normal_(value, std=0.05, generator=torch.Generator().manual_seed(1))
    first, kept = moved()
    assert first > 1e-4
    optimiser = torch.optim.Adam(tensors, lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        task._moved(network, kept).backward()
        optimiser.step()
    assert task._moved(network, kept) < 0.3 * first
    assert network.step.grad is None  # the word is no part of it


def test_what_cannot_be_learned_is_said_before_any_work(options, pictures, tmp_path):
    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            list(start_subject(SubjectOptions(**{**vars(options()), **changes}), recipe()))

    refused("--word: the word 'star' is in the vocabulary of tiny-1 already; choose another, as sks_star", word="star")
    refused("--word: the word 'two words' must be one lower-case word", word="two words")
    refused("--class 'dragon': CLIP tiny-1 does not know dragon; give a word that it knows", kind="dragon")
    refused("--class '': no word; give a word that it knows", kind="")
    refused("no such folder; give one with pictures of the subject", pictures=tmp_path / "gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(r"--pictures \S+/empty: no pictures found; give a folder of pictures", pictures=empty)
    (empty / "a.png").write_bytes((pictures / "0.png").read_bytes()[:99])
    refused(r"--pictures \S+/empty: no pictures found that can be read \(a.png: ", pictures=empty)
    (pictures / "0.txt").write_text("a boat\n")
    refused("0.png: its caption 'a boat' says neither 'sks_cup' nor 'star'; write the word where the subject is")
    assert not (tmp_path / "run").exists()


def test_pictures_that_cannot_be_read_are_named_and_one_is_enough(options, pictures, caplog):
    for name in ("1.png", "3.png"):
        (pictures / name).write_bytes((pictures / name).read_bytes()[:99])
    (pictures / "2.png").unlink()
    made = options(class_pictures=0)
    train(made, recipe())
    assert (made.run / f"{WORD}.safetensors").is_file()
    left_out, few = (record.getMessage() for record in caplog.records if "train subject" in record.getMessage())
    assert "2 of 3 files are left out (1.png: " in left_out and "3.png: " in left_out
    assert "fewer than 4 pictures (1)" in few


@pytest.fixture(params=["karlo-v1-alpha", "kandinsky-2-2"])
def published(request, karlo, family, tmp_path, monkeypatch):
    """A small model with random weights in the layout of a published one, which the catalog finds."""
    models = tmp_path / "models"
    if request.param == "karlo-v1-alpha":
        karlo.write_karlo_folder(models / request.param, with_image_encoder=True)
    else:
        family.kandinsky_2_2(models)
    monkeypatch.setenv("UNCLIP_MODELS", str(models))
    return request.param


def test_published_models_learn_too_their_decoders_in_latents(published, pictures, tmp_path):
    """By the words that their CLIP spells in sub-words; Kandinsky's decoder reads no caption at all."""
    loop = LoopOptions(log_every=1, save_every=1, dtype="fp32", save_memory=True)
    made = SubjectOptions(
        *(pictures, WORD, "coffee cup", tmp_path / "run", published, LoraSettings(2)),
        class_pictures=2,
        cache=tmp_path / "cache",
        loop=loop,
    )
    for path in pictures.glob("*.txt"):
        path.unlink()
    state = train(made, recipe(micro_batch=1))
    assert {name.split(".")[0] for name in state["ema"]} == {"prior", "decoder", "step"}
    plain = load_stack(find(published), "fp32", "cpu")
    knows = plain.with_lora(made.run / f"{WORD}.safetensors")
    embeds = [stack.prior.sample(stack.clip.encode_text([f"a red {WORD}"]), seed=1) for stack in (plain, knows)]
    assert (embeds[0].vector - embeds[1].vector).abs().max() > 1e-3
    lora = load_lora(made.run / f"{WORD}.safetensors").stage_lora("decoder", plain.decoder.config)
    # A LoRA begins at nothing; what has moved has learned.
    assert any(branch.up.any() for branch in lora.branches.values())


def test_a_clip_without_an_image_tower_is_helped_by_another_model(options, tiny_models, tmp_path, monkeypatch):
    """As the published Karlo's: the text-to-image folder has none, that for variations has one."""
    blind = tmp_path / "models" / "blind"
    shutil.copytree(tiny_models / "tiny", blind)
    _, config, state = load_stage(blind / "clip.safetensors")
    text = {name: value for name, value in state.items() if not name.startswith("visual.")}
    save_stage(blind / "clip.safetensors", text, "clip", dataclasses.replace(config, towers=("text",)))
    monkeypatch.setenv("UNCLIP_MODELS", str(blind.parent))
    alone = dataclasses.replace(options(), model="blind", class_pictures=0)
    with pytest.raises(ValueError, match="--model blind: its CLIP tiny-1 has no image tower, which a subject"):
        list(start_subject(alone, recipe()))
    monkeypatch.setenv("UNCLIP_MODELS", f"{blind.parent}{os.pathsep}{tiny_models}")
    tasks = []
    monkeypatch.setattr(subject_run, "train", lambda task, *rest, **named: tasks.append(task) or [])
    list(start_subject(alone, recipe()))
    ((_, seer),) = [(task.clip, task.seer) for task in tasks]
    assert "image" in seer.config.towers and "image" not in tasks[0].clip.config.towers
    with pytest.raises(ValueError, match="--clip blind: no CLIP tiny-1 with an image tower; give a model that has it"):
        list(start_subject(dataclasses.replace(alone, clip="blind"), recipe()))
