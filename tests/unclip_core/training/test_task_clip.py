"""Training CLIP: which pictures share a batch, how they are moved, which tower learns."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import ClipVisionConfig
from comfyui_unclip.unclip_core.storybook.facts import FACTS, UNSAID
from comfyui_unclip.unclip_core.training.data import StorybookData, Unrelated
from comfyui_unclip.unclip_core.training.depthwise import DepthwiseConv2d, faster_on_cpu
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.training.task_clip import ClipTask, embed_captions, facts_loss, shifted

RECIPE = Recipe(steps=2, batch=4, lr=1e-3)


def test_siblings_put_pictures_that_only_details_tell_apart_into_a_batch(story_clip_config, story):
    task = ClipTask(story_clip_config, story, dataclasses.replace(RECIPE, siblings=3))
    rows = task.with_siblings([5, 9, 40, 2, 7, 11, 12, 1], random.Random(0))
    assert len(rows) == 8 and [rows[0], rows[3], rows[6]] == [5, 9, 40]
    for leader in (0, 3, 6):
        assert len({story.scenes[row].triples()[0] for row in rows[leader : leader + 3]}) == 1
    batch = task.batch([5, 9, 40, 2], random.Random(0), torch.Generator())
    fits = batch["fits"]
    assert batch["pictures"].shape == (4, 3, 64, 64) and batch["ids"].shape == (4, 32)
    assert fits.shape == (4, 4) and fits.diagonal().all()
    plain = ClipTask(story_clip_config, story, RECIPE)
    assert plain.with_siblings([5, 9], random.Random(0)) == [5, 9]


def test_cousins_share_all_but_the_object(story_clip_config, story):
    task = ClipTask(story_clip_config, story, dataclasses.replace(RECIPE, siblings=16, cousins=1.0))
    row = max(range(len(story)), key=lambda row: len(story.alike(row, cousins=True)))
    triples = [story.scenes[each].triples()[0] for each in task.with_siblings([row] * 16, random.Random(0))]
    assert len({triple[1:] for triple in triples}) == 1
    assert len({triple[0] for triple in triples}) > 1


def test_shifts_move_pictures_and_mirror_their_edges():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).contiguous()
    assert shifted(ramp, 0, random.Random(0)) is ramp
    moved = shifted(ramp.repeat(200, 1, 1, 1), 3, random.Random(0))[:, 0, 0]
    assert set((moved[:, 30] - 30).tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert moved[moved[:, 30] == 27][0, :5].tolist() == [3.0, 2.0, 1.0, 0.0, 1.0]


def test_a_kept_text_tower_does_not_move(story_clip_config, story, tmp_path):
    recipe = Recipe(steps=2, batch=8, lr=1e-2, warmup=1, weight_decay=0.1, ema=0.0, train_text=False)
    task = ClipTask(story_clip_config, story, recipe)
    before = {name: value.clone() for name, value in task.build().state_dict().items()}
    list(train(task, recipe, tmp_path, len(story)))
    _, _, after = load_stage(tmp_path / "clip.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name].to(value.dtype))}
    assert moved and all(name.startswith("visual.") for name in moved)


def test_a_clip_learns_its_pairs(story_clip_config, story, tmp_path):
    recipe = Recipe(steps=40, batch=32, lr=3e-3, warmup=5, ema=0.9)
    task = ClipTask(story_clip_config, story, recipe)
    losses = [p.loss for p in train(task, recipe, tmp_path, len(story), options=LoopOptions(log_every=1))]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_exchanges_come_whole_into_a_batch(story_clip_config, tmp_path):
    data = StorybookData(tmp_path, 96, seed=1, swaps=True)
    task = ClipTask(story_clip_config, data, dataclasses.replace(RECIPE, siblings=6))
    pair = next(row for row in range(96) if len(data.swaps(row)) == 3 and len(data.scenes[row].things) == 2)
    rows = task.with_siblings([pair] * 6, random.Random(0))
    assert rows[:4] == [pair, *data.swaps(pair)] and len(rows) == 6
    assert {len(data.scenes[row].things) for row in rows} == {2}
    cousins = dataclasses.replace(RECIPE, siblings=60, cousins=1.0)
    near = [
        data.scenes[row]
        for row in ClipTask(story_clip_config, data, cousins).with_siblings([pair] * 60, random.Random(0))
    ]
    assert len({(scene.background, frozenset(t.colour for t in scene.things)) for scene in near}) == 1
    sets = [{(thing.kind, data.scenes[row].background) for thing in data.scenes[row].things} for row in rows[:4]]
    assert sets.count(sets[0]) == 4


def test_a_caption_that_fits_another_picture_is_no_negative_of_it(story_clip_config, story):
    task = ClipTask(story_clip_config, story, RECIPE)
    network = task.build()
    batch = task.batch([1, 2, 3], random.Random(0), torch.Generator())
    pictures, ids = batch["pictures"], batch["ids"]
    twice, same = torch.cat([pictures, pictures[:1]]), torch.cat([ids, ids[:1]])  # the first pair, there twice
    alone = torch.eye(4, dtype=torch.bool)
    known = alone.clone()
    known[0, 3] = known[3, 0] = True
    with torch.no_grad():
        plain, told = (
            float(task.loss(network, {"pictures": twice, "ids": same, "fits": fits})[0]) for fits in (alone, known)
        )
        # Without the other copy, rows 0 and 3 have the three captions' loss; rows 1 and 2 have it with row 0 twice.
        image, text = (F.normalize(x, dim=-1) for x in (network.encode_image(twice), network.encode_text(same)))
        logits = network.logit_scale.exp() * image @ text.T
        expected = 0.0
        for scores in (logits, logits.T):
            for row, seen in ((0, [0, 1, 2]), (1, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (3, [3, 1, 2])):
                expected += float(scores[row, seen].logsumexp(0) - scores[row, row]) / 8
    assert told < plain and abs(told - expected) < 1e-4


def test_depthwise_gradients_are_the_librarys(story_clip_config):
    for side, pixels in ((7, 16), (7, 2), (3, 5)):
        torch.manual_seed(side + pixels)
        plain = torch.nn.Conv2d(6, 6, side, padding=side // 2, groups=6)
        faster = torch.nn.Conv2d(6, 6, side, padding=side // 2, groups=6)
        faster.load_state_dict(plain.state_dict())
        faster_on_cpu(faster)
        assert type(faster) is DepthwiseConv2d
        x, grad = torch.randn(4, 6, pixels, pixels + 1), torch.randn(4, 6, pixels, pixels + 1)
        found = []
        for module in (plain, faster):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            y.backward(grad)
            found.append((y, leaf.grad, module.weight.grad, module.bias.grad))
        for ours, theirs in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    dense = torch.nn.Sequential(torch.nn.Conv2d(6, 6, 3, padding=1), torch.nn.Conv2d(6, 6, 3, 2, 1, groups=6))
    faster_on_cpu(dense)
    assert not any(isinstance(module, DepthwiseConv2d) for module in dense.modules())


def test_stages_of_a_trunk_keep_their_weights_and_captions_are_cut_without_loss(story_clip_config, story, tmp_path):
    config = dataclasses.replace(story_clip_config, vision=ClipVisionConfig(trunk="convnext_atto", head="map"))
    recipe = Recipe(steps=2, batch=8, lr=1e-2, warmup=1, ema=0.0, trunk_stages=3)
    task = ClipTask(config, story, recipe)
    network = task.build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ids = task.batch(list(range(8)), random.Random(0), torch.Generator())["ids"]
    with torch.no_grad():
        torch.testing.assert_close(embed_captions(network, ids), network.encode_text(ids))
    list(train(task, recipe, tmp_path, len(story), options=LoopOptions(dtype="fp32")))
    _, _, after = load_stage(tmp_path / "clip.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name].to(value.dtype))}
    kept = ("visual.trunk.stem.", "visual.trunk.stages.0.", "visual.trunk.stages.1.", "visual.trunk.stages.2.")
    assert not [name for name in moved if name.startswith(kept)]
    assert {"visual.trunk.head.fc.weight", "visual.trunk.stages.3.blocks.0.conv_dw.weight", "text_projection"} <= moved
    with pytest.raises(ValueError, match="has no trunk of stages"):
        ClipTask(story_clip_config, story, recipe).build()


def test_facts_are_read_off_both_embeddings_and_the_reader_stays_behind(story_clip_config, tmp_path):
    data = StorybookData(tmp_path / "data", 96, seed=1, swaps=True)
    recipe = Recipe(steps=60, batch=48, lr=3e-3, warmup=5, ema=0.9, readout=1.0, siblings=4, cousins=0.5)
    task, options = ClipTask(story_clip_config, data, recipe), LoopOptions(dtype="fp32", log_every=1)
    seen = [progress.numbers for progress in train(task, recipe, tmp_path, 96, options=options)]
    assert seen[-1]["text"] > seen[0]["text"] and 0 <= seen[-1]["image"] <= 1
    _, config, state = load_stage(tmp_path / "clip.safetensors")
    assert config == story_clip_config and not [name for name in state if "readout" in name]

    class Files(Unrelated):
        def captions(self, rows, rng):
            return ["a red star"] * len(rows)

        def pictures(self, rows, side):
            return torch.zeros(len(rows), 3, side, side)

    with pytest.raises(ValueError, match="without facts to read"):
        ClipTask(story_clip_config, Files(), recipe).batch([0, 1], random.Random(0), torch.Generator())


def test_a_reader_that_knows_all_is_right_and_asks_nothing_of_what_is_unsaid():
    sizes = [len(classes) for classes in FACTS.values()]
    known = torch.tensor([[1, 2, 3, 4, 1, 0, 5], [0, 0, UNSAID, UNSAID, UNSAID, 2, UNSAID]])
    starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
    answers = torch.zeros(2, sum(sizes)).scatter(1, starts + known.clamp(min=0), 30.0)
    loss, right = facts_loss(answers, known)
    assert right == 1.0 and loss < 0.01
    wrong = known.clone()
    wrong[0, 0] = 7
    assert facts_loss(answers, wrong)[1] == 0.5


def test_cut_into_micro_batches_it_learns_from_all_pairs_of_a_step(story_clip_config, story, tmp_path):
    """The negatives are the whole step's, however little is computed at once."""
    made = {}
    for micro in (0, 16, 4):
        recipe = Recipe(steps=3, batch=16, lr=1e-2, warmup=1, micro_batch=micro, adam_eps=1e-3)
        options = LoopOptions(dtype="fp32", log_every=1)
        task = ClipTask(story_clip_config, story, recipe)
        seen = list(train(task, recipe, tmp_path / str(micro), 64, options=options))
        network = torch.load(tmp_path / str(micro) / "checkpoint.pt", weights_only=True)["network"]
        made[micro] = ([progress.loss for progress in seen], network)
    for micro in (16, 4):
        torch.testing.assert_close(made[micro][0], made[0][0], rtol=1e-5, atol=1e-5)
        for name, value in made[0][1].items():
            torch.testing.assert_close(made[micro][1][name], value, rtol=0, atol=1e-5)


def test_the_factor_of_the_cosines_can_leave_its_cap(story_clip_config, story):
    """Bounded in the loss, its gradient would be 0 there for good."""
    task = ClipTask(story_clip_config, story, RECIPE)
    network = task.build()
    with torch.no_grad():
        network.logit_scale.fill_(math.log(300.0))
    task.after_step(network)
    assert network.logit_scale.item() == pytest.approx(math.log(100.0))
    task.loss(network, task.batch(list(range(8)), random.Random(0), torch.Generator()))[0].backward()
    assert network.logit_scale.grad.abs() > 0


def test_byte_pairs_are_a_vocabulary_too(story_clip_config, story, tmp_path):
    text = dataclasses.replace(story_clip_config.text, vocabulary_size=49408)
    config = dataclasses.replace(story_clip_config, vocabulary=(), context_length=77, text=text)
    list(train(ClipTask(config, story, RECIPE), RECIPE, tmp_path, 64, options=LoopOptions(dtype="fp32")))
    _, found, state = load_stage(tmp_path / "clip.safetensors")
    clip = Clip(found, state)
    one, two = clip.encode_text(["an astronaut", "an axolotl"]).embed
    assert clip.unknown_words("an axolotl") == [] and not torch.equal(one, two)


def test_groups_of_words_are_filled_up_with_other_words(story_clip_config, tmp_path):
    data = StorybookData(tmp_path, 96, seed=1, swaps=True)
    task = ClipTask(story_clip_config, data, dataclasses.replace(RECIPE, siblings=8, lettered=1.0))
    groups = task.with_siblings(list(range(32)), random.Random(0))
    for group in (groups[at : at + 8] for at in range(0, 32, 8)):
        assert sum(data.scenes[row].word is None for row in group) <= 1  # the group's own picture without a word
    mostly = dataclasses.replace(RECIPE, siblings=8, lettered=0.5)
    some = ClipTask(story_clip_config, data, mostly).with_siblings(list(range(96)), random.Random(0))
    assert 20 < sum(data.scenes[row].word is not None for row in some) < 70
    data._lettered = []
    with pytest.raises(ValueError, match=r"Recipe\.lettered: none of these pictures"):
        ClipTask(story_clip_config, data, mostly).with_siblings(list(range(8)), random.Random(0))
