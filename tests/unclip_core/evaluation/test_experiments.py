"""Every experiment on the stack `tiny`, at a size that takes a second: it runs, and its tables are whole."""

import dataclasses
import math
import re
import sys

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import context as contexts
from comfyui_unclip.unclip_core.evaluation.experiments import EXPERIMENTS
from comfyui_unclip.unclip_core.evaluation.results import Check, Store
from comfyui_unclip.unclip_core.evaluation.statistics import share

SMALL = {
    "judges": {"scenes": 3, "samples": 3, "steps": 2},
    "reconstruction": {"scenes": 2, "photographs": 1, "steps": 3},
    "variations": {"scenes": 2, "seeds": 2, "steps": 2, "guidances": (1.0, 2.0), "tuning": 2},
    "interpolation": {"pairs": 2, "frames": 3, "steps": 2, "refine": 1},
    "text_diff": {"edits": 2, "steps": 2, "tuning": 2, "thetas": (0.3, 0.5), "guidances": (1.0,)},
    "inpainting": {"scenes": 4, "steps": 2, "guidances": (1.0, 2.0), "tuning": 2},
    "pca": {"scenes": 2, "counts": (2, 24, 192), "steps": 2, "guidances": (1.0,), "tuning": 2},
    "prior_importance": {
        "samples": 4,
        "seeds": 2,
        "steps": 2,
        "guidances": (1.0, 2.0),
        "tuning": 4,
        "repeats": 3,
    },
    "priors": {"captions": 4, "seeds": 2, "decoded": 2, "steps": 2, "repeats": 3},
    "analytic": {"captions": 4, "seeds": 2, "steps": (2, 3), "repeats": 3},
    "guidance": {"scenes": 2, "samples": 2, "steps": 2, "guidances": (1.0, 2.0)},
    "binding": {"scenes": 3, "steps": 2},
    "spelling": {"scenes": 3, "steps": 2},
    "typographic": {"scenes": 3, "seeds": 2, "steps": 2},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_and_fills_its_tables(name, make_context):
    experiment = EXPERIMENTS[name]
    ticks = []
    context = make_context(tick=lambda *tick: ticks.append(tick))
    result = experiment.run(context, dataclasses.replace(experiment.full, **SMALL[name]))
    assert result.tables and ticks
    for table in result.tables:
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
        assert all(isinstance(cell, str) and "nan" not in cell for row in table.rows for cell in row)
    for check in result.checks:
        numbers = dataclasses.astuple(check.measured)[:3]
        assert all(map(math.isfinite, numbers)) and numbers[1] <= numbers[0] + 1e-9 and numbers[0] <= numbers[2] + 1e-9
    shown = [cell for rows in (check.row() for check in result.checks) for cell in rows]
    shown += [cell for table in result.tables for row in table.rows for cell in row]
    assert not [cell for cell in shown if re.search(r"\((\S+) to \1\)", cell)], "an interval of no width"
    for figure in result.figures:
        assert figure.image.ndim == 4 and len(figure.image) == 1 and figure.caption
        assert figure.image.std() > 0.01, "an empty picture"
    assert len({figure.name for figure in result.figures}) == len(result.figures)
    assert result.paper and result.notes and (result.figures or name == "judges")


# What grows when more is asked of an experiment, and by how much.
COUNTS = {
    "judges": {"samples": 5, "scenes": 4},
    "reconstruction": {"photographs": 2},
    "variations": {"scenes": 3},
    "interpolation": {"pairs": 3},
    "text_diff": {"edits": 3},
    "inpainting": {"scenes": 6},
    "pca": {"scenes": 3},
    "prior_importance": {"samples": 6},
    "priors": {"captions": 6, "decoded": 3},
    "analytic": {"captions": 6},
    "guidance": {"scenes": 3},
    "binding": {"scenes": 4},
    "spelling": {"scenes": 4},
    "typographic": {"scenes": 4},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_killed_experiment_goes_on_and_a_larger_count_adds(name, make_context, tmp_path, monkeypatch):
    """Chunks of one, and how many of them are made: none twice, and for a larger count only those that are new."""
    monkeypatch.setattr(contexts, "CHUNK", 1)
    made, limit, kept = [], [10**9], Store.tensors

    def counted(store, kind, key, make, **options):
        def count():
            if len(made) == limit[0]:
                raise KeyboardInterrupt
            made.append((kind, key))
            return make()

        return kept(store, kind, key, count, **options)

    monkeypatch.setattr(Store, "tensors", counted)
    experiment, shared = EXPERIMENTS[name], make_context()
    small = dataclasses.replace(experiment.full, **SMALL[name])

    def run(folder, settings):
        context = make_context(folder)
        context.judge, context.reader = shared.judge, shared.reader
        if experiment.siblings:
            context._siblings = {1: shared.siblings()}
        made.clear()
        try:
            return experiment.run(context, settings), set(made)
        finally:
            assert len(made) == len(set(made))

    fresh, needed = run(tmp_path / "fresh", small)
    assert len(needed) > 2
    limit[0] = len(needed) // 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", small)
    before, limit[0] = set(made), 10**9
    again, added = run(tmp_path / "killed", small)
    assert before | added == needed and not before & added
    if name not in ("priors", "analytic"):  # whose tables show seconds
        assert again.tables == fresh.tables
    larger = dataclasses.replace(small, **COUNTS[name])
    _, whole = run(tmp_path / "larger", larger)
    _, added = run(tmp_path / "fresh", larger)
    assert added == whole - needed and added and len(whole & needed) >= len(needed) // 2


def test_every_experiment_of_the_register_is_tested_and_quick_is_smaller():
    assert set(SMALL) == set(COUNTS) == set(EXPERIMENTS)
    for experiment in EXPERIMENTS.values():
        full, quick = dataclasses.asdict(experiment.full), dataclasses.asdict(experiment.quick)
        sizes = [name for name, value in full.items() if isinstance(value, int) and name != "refine"]
        assert all(quick[name] <= full[name] for name in sizes)
        assert any(quick[name] < full[name] for name in sizes)


def test_figures_names_are_unique_over_the_whole_report(make_context):
    """They share a folder."""
    names = []
    for name in ("pca", "variations", "interpolation"):
        experiment = EXPERIMENTS[name]
        result = experiment.run(make_context(), dataclasses.replace(experiment.full, **SMALL[name]))
        names += [figure.name for figure in result.figures]
    assert len(names) == len(set(names)) == 5


def test_samples_of_a_patched_decoder_are_their_own(make_context, tmp_path):
    context = make_context(tmp_path)
    embed = context.imagine(["a red star"])[0]
    options = {"steps": 4, "guidance_scale": 8.0}
    plain = context.decode(embed, context.encode(["a red star"]), **options)
    for patched in (context.decoder.with_guidance_interval(0.0, 0.4), context.decoder.with_step_cache(2, 1)):
        made = context.decode(embed, context.encode(["a red star"]), decoder=patched, **options)
        assert not torch.equal(made, plain), patched
    guided = context.decoder.with_clip_guidance(context.clip, 1.0)
    with pytest.raises(ValueError, match="without CLIP guidance"):
        context.decode(embed, context.encode(["a red star"]), decoder=guided, **options)


def test_a_stack_without_an_autoregressive_prior_or_a_table_is_told_so(make_context, monkeypatch):
    context = make_context()
    context.entry.stages.pop("ar_prior")
    result = EXPERIMENTS["priors"].run(context, EXPERIMENTS["priors"].full)
    assert "no autoregressive prior" in result.notes[0] and not result.tables

    def missing():
        raise ValueError("model 'tiny' has no table; fit one")

    prior = dataclasses.replace(context.prior, noise_powers=missing)
    context.stack = dataclasses.replace(context.stack, prior=prior)
    monkeypatch.setattr(context.clip, "pca", missing)
    for name in ("analytic", "pca"):
        (note,) = EXPERIMENTS[name].run(context, EXPERIMENTS[name].full).notes
        assert note.startswith("Not run: ") and note.endswith("model 'tiny' has no table; fit one.")


@pytest.mark.parametrize("name", ["binding", "spelling"])
def test_a_broken_decoder_agrees_with_no_limit_of_the_paper(name, make_context):
    """It paints no pair and no word, as §7 says of the paper's: but no single object either."""
    experiment = EXPERIMENTS[name]
    result = experiment.run(make_context(), dataclasses.replace(experiment.full, scenes=4, steps=2))
    ceiling, *_ = result.checks
    assert ceiling.verdict == "missed" and ceiling.measured.value < 0.3
    (told,) = result.paper
    assert told.startswith("Says nothing about §7") and "one object" in told


@pytest.mark.parametrize("name", ["binding", "spelling"])
def test_a_decoder_that_paints_one_object_speaks_about_the_limits(name):
    module = sys.modules[EXPERIMENTS[name].run.__module__]
    able, unsure, unable = (Check("one", share([True] * right + [False] * (100 - right)), 0.7) for right in (95, 72, 9))
    hears = [able] if name == "spelling" else []  # the full stack, whose words are counted

    def verdict(ways, ceiling):
        return module._verdict(ways, ceiling, *hears)

    ways = {"caption alone": 0.0, "full stack": 0.1, "the true picture's z_i": 0.1, "renders": 0.96}
    few = {way: share([value], 100) for way, value in ways.items()}
    assert verdict(few, able).startswith("Agrees with §7")
    assert verdict(few, unsure).startswith("Says nothing about §7")
    if hears:  # a prior that hears no caption spells no word either
        assert module._verdict(few, able, unable).startswith("Says nothing about §7: the full stack")
    assert verdict({way: share([value], 6) for way, value in ways.items()}, able).startswith("Undecided on §7")
    assert verdict(dict.fromkeys(ways, share([0.9], 100)), able).startswith("Contradicts §7")


def test_seeds_give_the_same_numbers_again(make_context):
    experiment = EXPERIMENTS["guidance"]
    settings = dataclasses.replace(experiment.full, **SMALL["guidance"])
    first, second = (experiment.run(make_context(), settings) for _ in range(2))
    assert first.tables == second.tables and torch.equal(first.figures[1].image, second.figures[1].image)
