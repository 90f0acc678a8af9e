"""Every experiment on the stack `tiny`, at a size that takes a second: it runs, and its tables are whole."""

import dataclasses
import math
import re

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation.experiments import EXPERIMENTS

SMALL = {
    "judges": {"scenes": 6},
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
    if name != "judges":
        assert result.paper and result.notes and result.figures


def test_every_experiment_of_the_register_is_tested_and_quick_is_smaller():
    assert set(SMALL) == set(EXPERIMENTS)
    for experiment in EXPERIMENTS.values():
        full, quick = dataclasses.asdict(experiment.full), dataclasses.asdict(experiment.quick)
        sizes = [name for name, value in full.items() if isinstance(value, int) and name != "refine"]
        assert all(quick[name] <= full[name] for name in sizes)
        assert any(quick[name] < full[name] for name in sizes)


def test_figures_names_are_unique_over_the_whole_report(make_context):
    """They share a folder."""
    names = []
    for name in ("pca", "variations", "guidance"):
        experiment = EXPERIMENTS[name]
        result = experiment.run(make_context(), dataclasses.replace(experiment.full, **SMALL[name]))
        names += [figure.name for figure in result.figures]
    assert len(names) == len(set(names)) == 6


def test_a_stack_without_an_autoregressive_prior_or_a_table_is_told_so(make_context, monkeypatch):
    context = make_context()
    context.entry.stages.pop("ar_prior")
    result = EXPERIMENTS["priors"].run(context, EXPERIMENTS["priors"].full)
    assert "no autoregressive prior" in result.notes[0] and not result.tables

    def missing():
        raise ValueError("model 'tiny' has no table; fit one")

    prior = dataclasses.replace(context.prior, noise_powers=missing)
    context.stack = dataclasses.replace(context.stack, prior=prior)
    result = EXPERIMENTS["analytic"].run(context, EXPERIMENTS["analytic"].full)
    assert result.notes == ["Not run: model 'tiny' has no table; fit one."]


def test_seeds_give_the_same_numbers_again(make_context):
    experiment = EXPERIMENTS["guidance"]
    settings = dataclasses.replace(experiment.full, **SMALL["guidance"])
    first, second = (experiment.run(make_context(), settings) for _ in range(2))
    assert first.tables == second.tables and torch.equal(first.figures[1].image, second.figures[1].image)
