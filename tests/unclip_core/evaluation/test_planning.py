"""What a run will cost: the plan counts the very calls that the run then makes."""

import dataclasses

import pytest

from comfyui_unclip.unclip_core.evaluation.experiments import EXPERIMENTS
from comfyui_unclip.unclip_core.evaluation.planning import Planning, plan, training
from comfyui_unclip.unclip_core.evaluation.reproduction import run_all
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork

SMALL = {
    "guidance": {"scenes": 2, "samples": 2, "steps": 3, "guidances": (1.0, 2.0)},
    # One guidance: which of several wins is not known to a plan, and they differ in cost.
    "text_diff": {"edits": 2, "steps": 2, "tuning": 2, "thetas": (0.3, 0.5), "guidances": (2.0,)},
    "inpainting": {"scenes": 2, "steps": 2, "guidances": (2.0,), "tuning": 2},
}


def planned(context):
    """A context that counts, over the same stack and folders."""
    found = Planning(context.entry, context.stack, context.run, context.cache, context.budget)
    found.measured = lambda: {"decoder": 1.0, "prior": 0.0, "ar_prior": 0.0, "fit": 0.0}
    return found


@pytest.mark.parametrize("name", SMALL)
def test_the_decoder_runs_as_often_as_was_planned(name, make_context, tmp_path, monkeypatch):
    experiment = EXPERIMENTS[name]
    experiment = dataclasses.replace(experiment, full=dataclasses.replace(experiment.full, **SMALL[name]))
    shared, context = make_context(), make_context(tmp_path)
    context.judge, context.reader = shared.judge, shared.reader
    if experiment.siblings:
        context._siblings = {1: shared.siblings()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (part,) = plan(planned(context), [experiment], False)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, "a plan writes nothing"
    rows, forward = [], DecoderNetwork.forward
    monkeypatch.setattr(
        DecoderNetwork, "forward", lambda self, x, *a, **k: rows.append(len(x)) or forward(self, x, *a, **k)
    )
    list(run_all(context, [experiment], False))
    assert sum(rows) == part.calls["decoder"] > 0
    assert part.calls["decoder"] <= part.seconds < part.calls["decoder"] + 60
    (again,) = plan(planned(context), [experiment], False)
    assert not again.calls and again.seconds < 1.0, "what is there already costs nothing"


def test_rates_are_measured_on_the_networks_themselves(make_context):
    rates = Planning(
        *(getattr(make_context(), name) for name in ("entry", "stack", "run", "cache", "budget"))
    ).measured()
    assert set(rates) == {"decoder", "prior", "ar_prior", "fit"} and all(0 < value < 10 for value in rates.values())


def test_what_is_trained_by_the_way_is_named(make_context, tmp_path):
    context = make_context(tmp_path)
    budget = dataclasses.replace(context.budget, siblings=dataclasses.replace(context.budget.siblings, seeds=2))
    found = training(planned(make_context(tmp_path, budget=budget)))
    assert list(found)[:2] == ["judge", "reader"] and "2 steps of 8" in found["judge"]
    assert len(found) == 2 + 2 * 3 and "decoder told of image, seed 2" in found
