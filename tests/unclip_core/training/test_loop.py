"""The loop that all stages share, on a toy task: order of rows, learning rate, resume, refusals."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.training.loop import learning_rate, rows_of_step, step_seed, train
from comfyui_unclip.unclip_core.training.recipes import Recipe

RECIPE = Recipe(steps=8, batch=4, lr=0.05, warmup=2, ema=0.9, pictures=10)


class Toy:
    """Fits y = 3 x with a dropout layer, so that every kind of randomness is in play."""

    stage = "toy"

    def __init__(self, broken_at=None):
        self.broken_at, self.batches, self.sheets, self.exports = broken_at, [], [], []

    def build(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batch(self, rows, rng, generator):
        self.batches.append((rows, rng.random()))
        x = torch.tensor(rows, dtype=torch.float32)[:, None] / 10
        return {"x": x + 0.1 * torch.randn(x.shape, generator=generator)}

    def loss(self, network, batch):
        loss = (network(batch["x"]) - 3 * batch["x"]).square().mean()
        if len(self.batches) == self.broken_at:
            loss = loss * math.nan
        return loss, {"mean": round(float(loss), 3)}

    def sheet(self, network, path):
        assert not network.training
        self.sheets.append((path.name, weights(network)))

    def export(self, network, path, recipe):
        self.exports.append((path.name, weights(network), recipe))


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def run(folder, task=None, recipe=RECIPE, stop_after=None, **options):
    """Train, or kill the run after a step; returns what was logged."""
    options = {"rows": 10, "log_every": 1, "save_every": 2, "sheet_every": 4, "bf16": False, **options}
    seen = []
    steps = train(task or Toy(), recipe, folder, options.pop("rows"), **options)
    for progress in steps:
        seen.append(progress)
        if progress.step == stop_after:
            steps.close()
    return seen


def saved(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_run(first, second):
    one, two = saved(first), saved(second)
    for part in ("network", "ema"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items())
    for name, state in one["optimiser"]["state"].items():
        assert all(torch.equal(value, two["optimiser"]["state"][name][key]) for key, value in state.items())
    assert one["step"] == two["step"]


@pytest.mark.parametrize("kill", [2, 3, 5])
def test_a_killed_run_goes_on_exactly_as_if_nothing_had_happened(tmp_path, kill):
    whole, resumed = Toy(), Toy()
    run(tmp_path / "whole", whole)
    run(tmp_path / "killed", Toy(), stop_after=kill)
    first = saved(tmp_path / "killed")["step"] if (tmp_path / "killed" / "checkpoint.pt").exists() else 0
    assert first == (kill - 1) // 2 * 2  # the generator dies at the logging of a step, before that step's checkpoint
    run(tmp_path / "killed", resumed)
    assert resumed.batches == whole.batches[first:]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    final, again = whole.exports[-1], resumed.exports[-1]
    assert final[0] == again[0] == "toy.safetensors"
    assert all(torch.equal(value, again[1][name]) for name, value in final[1].items())


def test_a_finished_run_is_exported_again_without_training(tmp_path):
    run(tmp_path)
    task = Toy()
    assert run(tmp_path, task) == [] and task.batches == [] and len(task.exports) == 1


def test_progress_log_sheets_and_export(tmp_path):
    task = Toy()
    seen = run(tmp_path, task, log_every=3)
    assert [progress.step for progress in seen] == [3, 6, 8] and all(p.steps == 8 for p in seen)
    assert all(math.isfinite(p.loss) and p.pictures_per_second > 0 for p in seen)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["mean"]) for line in lines] == [
        (p.step, p.loss, p.numbers["mean"]) for p in seen
    ]
    assert [name for name, _ in task.sheets] == ["sheet-0000004.png", "sheet-0000008.png"]
    average = saved(tmp_path)["ema"]
    for _, shown in (task.sheets[-1], task.exports[0][:2]):
        assert all(torch.equal(value, average[name]) for name, value in shown.items())
    assert not torch.equal(average["0.weight"], saved(tmp_path)["network"]["0.weight"])
    assert task.exports[0][2] == dataclasses.asdict(RECIPE)


def test_the_loss_falls(tmp_path):
    losses = [p.loss for p in run(tmp_path, recipe=dataclasses.replace(RECIPE, steps=150))]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_another_recipe_or_other_data_in_the_same_folder_is_refused(tmp_path):
    run(tmp_path, stop_after=3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"started with another recipe \(batch 4 -> 5, lr 0.05 -> 0.1\); resume it"):
        run(tmp_path, recipe=dataclasses.replace(RECIPE, lr=0.1, batch=5))
    with pytest.raises(ValueError, match=r"\(rows 10 -> 12\)"):
        run(tmp_path, rows=12)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_older_than_a_field_of_the_recipe_is_still_taken_up(tmp_path):
    run(tmp_path, stop_after=3)
    state = saved(tmp_path)
    recipe = json.loads(state["recipe"])
    del recipe["timesteps"], recipe["betas"], state["rows"]
    torch.save({**state, "recipe": json.dumps(recipe)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"\(timesteps uniform -> logit_normal\)"):
        run(tmp_path, recipe=dataclasses.replace(RECIPE, timesteps="logit_normal"))
    assert run(tmp_path)[0].step == 3


@pytest.mark.parametrize("every", [{"log_every": 1}, {"log_every": 100, "save_every": 3}])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path, every):
    with pytest.raises(FloatingPointError, match=r"train toy: loss is nan at step 3; lower lr 0.05"):
        run(tmp_path, Toy(broken_at=3), **every)
    if (tmp_path / "checkpoint.pt").exists():
        assert all(value.isfinite().all() for value in saved(tmp_path)["network"].values())


def test_initial_weights_start_a_new_run_but_not_a_resumed_one(tmp_path):
    start = {name: torch.full_like(value, 0.5) for name, value in Toy().build().state_dict().items()}
    frozen = dataclasses.replace(RECIPE, lr=1e-12, steps=1)
    run(tmp_path / "new", recipe=frozen, init={name: value.to(torch.bfloat16) for name, value in start.items()})
    assert all(torch.allclose(value, start[name]) for name, value in saved(tmp_path / "new")["network"].items())
    run(tmp_path / "old", stop_after=5)
    run(tmp_path / "old", init=start)
    run(tmp_path / "whole")
    assert_same_run(tmp_path / "old", tmp_path / "whole")
    with pytest.raises(ValueError, match=r"initial weights.*missing: 2.bias; unexpected: other"):
        run(tmp_path / "bad", init={**{k: v for k, v in start.items() if k != "2.bias"}, "other": torch.zeros(1)})


def test_a_kill_while_saving_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, stop_after=3)
    write = torch.save

    def killed(state, path):
        write(state, path)
        path.write_bytes(path.read_bytes()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert saved(tmp_path)["step"] == 2
    run(tmp_path)
    run(tmp_path / "whole")
    assert_same_run(tmp_path, tmp_path / "whole")


def test_every_row_is_seen_once_an_epoch_in_a_new_order():
    rows = [row for step in range(15) for row in rows_of_step(step, 4, 10, seed=3)]  # six epochs of ten
    epochs = [rows[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert rows_of_step(7, 4, 10, 3) == rows[28:32] != rows_of_step(7, 4, 10, 4)
    assert sorted(rows_of_step(0, 25, 10, 3)) == sorted([*range(10), *range(10), *rows_of_step(0, 25, 10, 3)[20:]])


def test_seeds_differ_in_everything_named():
    seeds = {step_seed(s, step, what, rank) for s in (0, 1) for step in (0, 1) for what in "ab" for rank in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)


def test_the_rate_warms_up_and_decays_to_a_tenth():
    recipe = Recipe(steps=110, batch=1, lr=1.0, warmup=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(recipe, 60) == pytest.approx(0.55)
    assert learning_rate(recipe, 110) == pytest.approx(0.1)
    rates = [learning_rate(recipe, step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(dataclasses.replace(recipe, decay=False), 100) == 1.0
    assert learning_rate(dataclasses.replace(recipe, warmup=0), 0) == 1.0


def test_only_matrices_decay_and_gradients_are_clipped(tmp_path):
    class Pull(Toy):
        def loss(self, network, batch):
            return sum(p.sum() for p in network.parameters()) * 0.0, {}

    run(tmp_path, Pull(), dataclasses.replace(RECIPE, lr=0.1, warmup=0, weight_decay=0.5, steps=1))
    before, after = Toy().build().state_dict(), saved(tmp_path)["network"]
    for name, value in before.items():
        torch.testing.assert_close(after[name], value * (0.95 if value.ndim > 1 else 1.0))
