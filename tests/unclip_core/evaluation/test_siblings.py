"""Decoders alike in all but what they are told: they begin with one trunk, and grow by the same rounds."""

import dataclasses
import random

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation.siblings import KINDS, MEASURED, SiblingTask, Spent, is_input, on_trunk
from comfyui_unclip.unclip_core.models.build import painting_network

ENOUGH = 0.7


@pytest.fixture
def nursery(make_context, tmp_path):
    """Rounds of a step, three at most, in a folder of its own."""
    context = make_context()
    nursery = context._nursery
    plan = nursery.upbringing
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, steps=3), minutes=10.0, enough=ENOUGH)
    data = context.data(plan.recipe)
    return dataclasses.replace(nursery, folder=tmp_path / "siblings", upbringing=plan, data=lambda: data)


def weights_of(nursery, kind, seed=1):
    return nursery.grown(kind, seed, 3).network.read().state_dict()


def scores(*values):
    """Measures that give these, one after another, and the decoders that were measured."""
    left, seen = list(values), []

    def measure(decoder):
        seen.append(decoder.config.decoder_id)
        return left.pop(0)

    return measure, seen


def test_a_condition_comes_in_through_its_inputs_alone(nursery):
    """With those at zero, nothing of it reaches the picture; each of the two ways by itself lets something through."""
    torch.manual_seed(0)
    network = painting_network(nursery.config).eval()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    x_t, t = torch.randn(2, 3, *[nursery.config.unet.image_size] * 2), torch.tensor([400, 400])
    text = nursery.clip.encode_text(["a red star", "a blue boat"])  # of one length, which masks tell
    embed = torch.randn(2, nursery.config.clip_dim)

    @torch.no_grad()
    def difference(order):
        rows = [network.condition(embed[o], text.tokens[o], text.mask[o], text.embed[o], text.ids[o]) for o in order]
        first, second = (network(x_t, t, row) for row in rows)
        return float((first - second).abs().max())

    swapped = ([0, 1], [1, 0])
    assert difference(swapped) > 1e-3
    for name, value in network.named_parameters():
        if is_input(name):
            torch.nn.init.zeros_(value)
    assert difference(swapped) == 0.0


def test_siblings_begin_with_the_trunk_and_inputs_of_their_seeds_own(nursery):
    trunk, data = nursery.trunk(), nursery.data()
    embeddings = nursery.embeddings(data)
    starts = {}
    for seed in (1, 1, 2):
        for kind in KINDS:
            recipe = dataclasses.replace(nursery.upbringing.recipe, seed=seed)
            task = SiblingTask(kind, nursery.config, data, nursery.clip, embeddings, recipe)
            starts.setdefault((kind, seed), []).append(on_trunk(task.build().state_dict(), trunk))
    first, again = starts["image", 1]
    other, (later,) = starts["caption", 1][0], starts["image", 2]
    changed = {name for name in first if not torch.equal(first[name], later[name])}
    assert changed and all(map(is_input, changed))
    for name, value in first.items():
        assert torch.equal(value, again[name]) and torch.equal(value, other[name])
        if not is_input(name):
            assert torch.equal(value, trunk[name].float())
    assert not any(first[name].any() for name in first if name.startswith("embed_to_time."))
    with pytest.raises(ValueError, match="sibling 'song' is unknown; choose one of caption, text, image"):
        SiblingTask("song", nursery.config, data, nursery.clip, embeddings, nursery.upbringing.recipe)


def test_each_is_told_what_its_name_says(nursery):
    data = nursery.data()
    embeddings = nursery.embeddings(data)
    batches = {}
    for kind in KINDS:
        task = SiblingTask(kind, nursery.config, data, nursery.clip, embeddings, nursery.upbringing.recipe)
        rows = list(range(64))
        batches[kind] = task.prepare(task.batch(rows, random.Random(0), torch.Generator().manual_seed(0)))
    assert torch.equal(batches["image"]["z"], embeddings[:64])
    assert torch.equal(batches["text"]["z"], batches["text"]["text"].embed)
    dropped = {kind: float(batch["drop_embed"].float().mean()) for kind, batch in batches.items()}
    assert dropped["caption"] == 1.0 and dropped["text"] == dropped["image"] < 0.3
    silent = {kind: float(batch["drop_text"].float().mean()) for kind, batch in batches.items()}
    assert silent["caption"] < 0.4 < silent["image"] == silent["text"]


def test_rounds_end_when_captions_are_painted_well_enough_and_all_get_the_same_steps(nursery):
    measure, seen = scores(0.1, 0.8)
    grown = nursery.raised(1, measure)
    assert [(each.steps, each.right) for each in grown.rounds] == [(1, 0.1), (2, 0.8)] and grown.steps == 2
    assert all("/caption-1-" in name for name in seen) and len(set(seen)) == 2
    assert [grown.decoders[kind].config.decoder_id.rsplit("/", 1)[1] for kind in KINDS] == [f"{k}-1-2" for k in KINDS]
    assert all(minutes > 0 for minutes in grown.minutes.values())
    kept, unasked = scores()
    assert nursery.raised(1, kept).rounds == grown.rounds and not unasked
    other = nursery.raised(2, scores(0.3)[0], grown.steps)
    assert other.steps == 2 and [each.right for each in other.rounds] == [0.3]


def test_more_time_goes_on_where_less_had_ended_and_gives_the_same_weights(nursery):
    """Rounds of a step, killed between training and measuring, and with their time used up, against one of three."""
    with pytest.raises(IndexError):  # the measure fails, as if the run was killed
        nursery.raised(1, scores(0.1)[0])
    little = dataclasses.replace(nursery, upbringing=dataclasses.replace(nursery.upbringing, minutes=1e-6))
    short = little.raised(1, scores(0.2)[0])
    assert short.steps == 2  # the round that was under way is measured, and no other begun
    assert little.raised(1, scores()[0]).steps == 2
    whole = nursery.raised(1, scores(0.3)[0])
    assert [each.right for each in whole.rounds] == [0.1, 0.2, 0.3] and whole.steps == 3
    plan = dataclasses.replace(nursery.upbringing, round=3)
    at_once = dataclasses.replace(nursery, folder=nursery.folder.with_name("at_once"), upbringing=plan)
    at_once.raised(1, scores(0.9)[0])
    for kind in KINDS:
        one, other = weights_of(nursery, kind), weights_of(at_once, kind)
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    with pytest.raises(ValueError, match=r"trained for 3 steps, but 2 are asked for; remove that folder"):
        nursery.grown("text", 1, 2)


def test_measuring_a_sibling_is_no_training_and_is_not_lost(nursery, monkeypatch):
    nursery.grown("caption", 1, 1)
    trained, clock = Spent(nursery.place("caption", 1)).seconds, [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])

    def measure(decoder):
        clock[0] += 7.0
        return 0.9

    spent = []
    dataclasses.replace(nursery, on_spent=spent.append)._measured(1, 1, measure)
    assert spent == [7.0]
    assert Spent(nursery.place("caption", 1)).seconds == trained
    assert Spent(nursery.place("caption", 1) / MEASURED).seconds == 7.0


def test_processor_time_adds_up_over_runs(tmp_path, monkeypatch):
    clock = [10.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    first = Spent(tmp_path / "run")
    clock[0] += 2.0
    first.note()
    clock[0] += 1.0
    first.note()
    second = Spent(tmp_path / "run")
    clock[0] += 4.0
    second.note()
    assert Spent(tmp_path / "run").seconds == 7.0
