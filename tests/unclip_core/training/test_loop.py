"""The loop that all stages share, on a toy task: resume, refusals, what is kept when something goes wrong."""

import dataclasses
import importlib.util
import io
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.training import loop
from comfyui_unclip.unclip_core.training.loop import LoopOptions, Stopped, learning_rate, train
from comfyui_unclip.unclip_core.training.recipes import Recipe

RECIPE = Recipe(steps=8, batch=4, lr=0.05, warmup=2, ema=0.9, pictures=10)


class Toy:
    """Fits y = 3 x with a dropout layer, so that every kind of randomness is in play."""

    stage = "toy"

    def __init__(self, broken_at=None, inf_at=None):
        self.broken_at, self.inf_at, self.losses = broken_at, inf_at, 0
        self.batches, self.sheets, self.exports = [], [], []

    def build(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batch(self, rows, rng, generator):
        self.batches.append((rows, rng.random()))
        x = torch.tensor(rows, dtype=torch.float32)[:, None] / 10
        return {"x": x + 0.1 * torch.randn(x.shape, generator=generator)}

    def loss(self, network, batch):
        self.losses += 1
        loss = (network(batch["x"]) - 3 * batch["x"]).square().mean()
        if self.losses == self.broken_at:
            loss = loss * math.nan
        if self.losses == self.inf_at:  # a finite loss with an infinite gradient
            loss = loss + (network[0].weight.sum() - network[0].weight.sum().detach()).abs().sqrt()
        return loss, {"mean": loss.detach()}

    def sheet(self, network, path):
        assert not network.training
        self.sheets.append((path.name, weights(network)))

    def export(self, network, path, recipe):
        self.exports.append((path.name, weights(network), recipe))


class Exact(Toy):
    """Without randomness: its batch does not depend on how it is cut."""

    def build(self):
        torch.manual_seed(0)
        return nn.Linear(1, 3)

    def batch(self, rows, rng, generator):
        return {"x": torch.tensor(rows, dtype=torch.float32)[:, None] / 10}


class Validated(Toy):
    """Also says how far it is off on rows that it does not learn from."""

    def validate(self, network, rows, path):
        self.sheets.append((path.name, rows))
        x = torch.tensor(rows, dtype=torch.float32)[:, None] / 10
        return {"error": (network(x) - 3 * x).abs().mean()}


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def run(
    folder, task=None, recipe=RECIPE, stop_after=None, rows=10, init=None, identity=None, stop=lambda: False, **options
):
    """Train, or kill the run after a step; returns what was logged."""
    options = LoopOptions(**{"log_every": 1, "save_every": 2, "sheet_every": 4, "dtype": "fp32", **options})
    seen = []
    steps = train(task or Toy(), recipe, folder, rows, init=init, identity=identity, options=options, stop=stop)
    for progress in steps:
        seen.append(progress)
        if progress.step == stop_after:
            steps.close()
    return seen


def saved(folder, name="checkpoint.pt"):
    return torch.load(folder / name, weights_only=True)


def assert_same_run(first, second, close=False):
    one, two = saved(first), saved(second)
    same = (lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-6)) if close else torch.equal
    for part in ("network", "ema"):
        assert one[part].keys() == two[part].keys()
        assert all(same(value, two[part][name]) for name, value in one[part].items())
    for name, state in one["optimiser"]["state"].items():
        assert all(same(value, two["optimiser"]["state"][name][key]) for key, value in state.items())
    assert one["step"] == two["step"]


@pytest.mark.parametrize("kill", [2, 3, 5])
@pytest.mark.parametrize("micro", [0, 2])
def test_a_killed_run_goes_on_exactly_as_if_nothing_had_happened(tmp_path, kill, micro):
    whole, resumed = Toy(), Toy()
    recipe = dataclasses.replace(RECIPE, micro_batch=micro)
    run(tmp_path / "whole", whole, recipe)
    run(tmp_path / "killed", Toy(), recipe, stop_after=kill)
    first = saved(tmp_path / "killed")["step"] if (tmp_path / "killed" / "checkpoint.pt").exists() else 0
    assert first == (kill - 1) // 2 * 2  # the generator dies at the logging of a step, before that step's checkpoint
    run(tmp_path / "killed", resumed, recipe)
    assert resumed.batches == whole.batches[first * (2 if micro else 1) :]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    final, again = whole.exports[-1], resumed.exports[-1]
    assert final[0] == again[0] == "toy.safetensors"
    assert all(torch.equal(value, again[1][name]) for name, value in final[1].items())
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in logs]
    assert losses[0] == losses[1]  # no step is logged twice


def test_a_finished_run_is_exported_again_without_training(tmp_path):
    run(tmp_path)
    task = Toy()
    assert run(tmp_path, task) == [] and task.batches == [] and len(task.exports) == 1


def test_progress_log_sheets_and_export(tmp_path):
    task = Toy()
    seen = run(tmp_path, task, log_every=3, identity={"data": "these"})
    assert [progress.step for progress in seen] == [3, 6, 8] and all(p.steps == 8 for p in seen)
    assert all(math.isfinite(p.loss) and p.pictures_per_second > 0 for p in seen)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["mean"]) for line in lines] == [
        (p.step, p.loss, p.numbers["mean"]) for p in seen
    ]
    assert all(line["lr"] > 0 and line["grad_norm"] > 0 and 0 <= line["data_share"] <= 1 for line in lines)
    assert [name for name, _ in task.sheets] == ["sheet-0000004.png", "sheet-0000008.png"]
    average = saved(tmp_path)["ema"]
    for _, shown in (task.sheets[-1], task.exports[0][:2]):
        assert all(torch.equal(value, average[name]) for name, value in shown.items())
    assert not torch.equal(average["0.weight"], saved(tmp_path)["network"]["0.weight"])
    assert task.exports[0][2]["recipe"] == dataclasses.asdict(RECIPE)
    made_of = json.loads((tmp_path / "finished.json").read_text())
    assert made_of == json.loads((tmp_path / "config.json").read_text()) == json.loads(saved(tmp_path)["made_of"])
    assert made_of["data"] == "these" and made_of["recipe"]["lr"] == 0.05 and made_of["dtype"] == "fp32"


def test_the_loss_falls(tmp_path):
    losses = [p.loss for p in run(tmp_path, recipe=dataclasses.replace(RECIPE, steps=150))]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_accumulated_micro_batches_are_the_whole_batch(tmp_path):
    for micro in (0, 1, 2):
        run(tmp_path / str(micro), Exact(), dataclasses.replace(RECIPE, micro_batch=micro))
    for micro in (1, 2):
        assert_same_run(tmp_path / "0", tmp_path / str(micro), close=True)
    with pytest.raises(ValueError, match="micro_batch 3 must divide batch 4"):
        run(tmp_path / "3", recipe=dataclasses.replace(RECIPE, micro_batch=3))


def test_slow_steps_are_told_between_logged_ones_and_not_logged(tmp_path):
    told = [p.step for p in train(Toy(), RECIPE, tmp_path, 8, options=LoopOptions(log_every=100, tell_seconds=0.0))]
    assert told == list(range(1, RECIPE.steps + 1))
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["step"] == told[-1]


def test_batches_made_ahead_by_workers_are_the_same(tmp_path):
    run(tmp_path / "here", Toy())
    run(tmp_path / "ahead", Toy(), workers=2)
    assert_same_run(tmp_path / "here", tmp_path / "ahead")


def test_compiled_it_learns_the_same(tmp_path):
    steps = dataclasses.replace(RECIPE, steps=3)
    run(tmp_path / "plain", Exact(), steps)
    run(tmp_path / "compiled", Exact(), steps, compile=True)
    assert_same_run(tmp_path / "plain", tmp_path / "compiled", close=True)


def test_another_recipe_other_data_or_another_clip_in_the_same_folder_is_refused(tmp_path):
    given = {"data": "a", "config": {"width": 3, "depth": 1}}
    run(tmp_path, stop_after=3, identity=given)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"started otherwise \(batch 4 -> 5, ema 0.9 -> 0.8\); resume it"):
        run(tmp_path, recipe=dataclasses.replace(RECIPE, ema=0.8, batch=5), identity=given)
    with pytest.raises(ValueError, match=r"\(rows 10 -> 12\)"):
        run(tmp_path, rows=12, identity=given)
    with pytest.raises(ValueError, match=r"\(data a -> b, config.width 3 -> 4\)"):
        run(tmp_path, identity={"data": "b", "config": {"width": 4, "depth": 1}})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    run(tmp_path, identity=given)


def test_more_steps_and_another_rate_go_on_from_where_the_run_was(tmp_path):
    run(tmp_path, recipe=dataclasses.replace(RECIPE, steps=4))
    seen = run(tmp_path, recipe=dataclasses.replace(RECIPE, lr=0.01))
    assert [progress.step for progress in seen] == [5, 6, 7, 8]
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(rates[4:]) <= 0.01 < max(rates[:4])


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    run(tmp_path)
    exported = (tmp_path / "finished.json").read_bytes()
    with pytest.raises(ValueError, match="step 8 is done already, which is more than --steps 5"):
        run(tmp_path, recipe=dataclasses.replace(RECIPE, steps=5))
    assert (tmp_path / "finished.json").read_bytes() == exported


def test_a_checkpoint_older_than_a_field_of_the_recipe_is_still_taken_up(tmp_path):
    run(tmp_path, stop_after=3)
    state = saved(tmp_path)
    made_of = json.loads(state["made_of"])
    del made_of["recipe"]["timesteps"], made_of["recipe"]["betas"]
    torch.save({**state, "made_of": json.dumps(made_of)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"\(timesteps uniform -> logit_normal\)"):
        run(tmp_path, recipe=dataclasses.replace(RECIPE, timesteps="logit_normal"))
    assert run(tmp_path)[0].step == 3


@pytest.mark.parametrize("every", [{"log_every": 1}, {"log_every": 100, "save_every": 3}])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path, every):
    with pytest.raises(FloatingPointError, match=r"train toy: at step 3 \(fp32\) the loss is nan .* lower lr 0.05"):
        run(tmp_path, Toy(broken_at=3), **every)
    if (tmp_path / "checkpoint.pt").exists():
        assert all(value.isfinite().all() for value in saved(tmp_path)["network"].values())


def test_an_infinite_gradient_of_a_finite_loss_stops_the_run_before_it_reaches_a_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step 4 .* the gradient's norm (inf|nan), first in 0.weight"):
        run(tmp_path, Toy(inf_at=4), save_every=1)
    assert saved(tmp_path)["step"] == 3
    for part in ("network", "ema"):
        assert all(value.isfinite().all() for value in saved(tmp_path)[part].values())
    assert run(tmp_path)[-1].step == 8  # with a mended loss it goes on


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


def test_two_checkpoints_are_kept_and_the_older_one_stands_in_for_a_damaged_one(tmp_path, caplog):
    run(tmp_path, stop_after=7)
    assert (saved(tmp_path)["step"], saved(tmp_path, "checkpoint.previous.pt")["step"]) == (6, 4)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    assert run(tmp_path)[0].step == 5
    assert "checkpoint.pt cannot be read (damaged" in caplog.text and "going on from" in caplog.text
    run(tmp_path / "whole")
    assert_same_run(tmp_path, tmp_path / "whole")
    (tmp_path / "checkpoint.previous.pt").unlink()
    numbers = saved(tmp_path)["network"]["0.weight"].numpy().tobytes()
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged, reason in (
        (whole.replace(b"uniform", b"unigorm"), r"cannot be read \(damaged"),
        (whole.replace(numbers, bytes(len(numbers))), r"cannot be read \(damaged in its record"),
        (b"", r"cannot be read \(not a PyTorch file \(0 bytes"),
        (b"<!DOCTYPE html>", r"cannot be read \(not a PyTorch file"),
        (torch_file([1, 2]), "is no checkpoint of a training"),
        (torch_file({"step": "x"}), r"is no checkpoint of a training \(it has no step\)"),
        (torch_file({"step": os.getcwd}), r"cannot be read \(holds code \((nt|posix)\.getcwd\)"),
    ):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"checkpoint\.pt {reason}.*; remove the folder, or name another"
        ) as caught:
            run(tmp_path)
        assert str(caught.value).isprintable()


def test_a_checkpoint_that_the_system_does_not_give_out_is_not_called_damaged(tmp_path, monkeypatch, caplog):
    run(tmp_path, stop_after=7)

    def load(*_, **__):
        return torch.empty(1 << 60)  # of which the allocator says what it says where a checkpoint is too large

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", load)
        with pytest.raises(MemoryError, match=r"checkpoint\.pt: no memory to read it \(.* [kM]B\); close programs"):
            run(tmp_path)
    (tmp_path / "checkpoint.pt").rename(tmp_path / "away.pt")
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be read \(.+\); check its permissions and its disk"):
        run(tmp_path)
    assert not caplog.records  # the older one did not stand in
    (tmp_path / "checkpoint.pt").rmdir()
    (tmp_path / "away.pt").rename(tmp_path / "checkpoint.pt")
    assert run(tmp_path)[0].step == 7


def torch_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_kill_while_saving_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, stop_after=3)
    write = torch.save

    def killed(state, file):
        write(state, file)
        file.truncate(100)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert saved(tmp_path)["step"] == 2 and not list(tmp_path.glob(".unclip-*"))
    run(tmp_path)
    run(tmp_path / "whole")
    assert_same_run(tmp_path, tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no limit of file sizes")
def test_a_full_disk_keeps_the_last_good_checkpoint_and_is_said(tmp_path):
    import resource

    class Wide(Toy):
        def build(self):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(1, 30_000), nn.Linear(30_000, 1))

        def loss(self, network, batch):
            if self.losses == 2 and limited:  # from here on no file may be longer than the last whole checkpoint's half
                resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
            return super().loss(network, batch)

    before, limited = resource.getrlimit(resource.RLIMIT_FSIZE), True
    try:
        with pytest.raises(OSError, match=r"step 4: .*checkpoint.pt cannot be written .* kept\)$") as full:
            run(tmp_path, Wide())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        limited = False
    said = str(full.value)  # the file, its disk, what is free and what it takes: three times the weights and more
    assert (
        str(tmp_path / "checkpoint.pt") in said
        and "the disk of /" in said
        and " free and the file needs 1.4 MB" in said
    )
    assert saved(tmp_path)["step"] == 2 and not list(tmp_path.glob(".unclip-*"))
    assert run(tmp_path, Wide())[-1].step == 8


def test_a_run_that_is_asked_to_stop_saves_first(tmp_path):
    seen = []
    with pytest.raises(Stopped, match="stopped at step 3, which is saved; the same command goes on"):
        run(tmp_path, stop=lambda: seen.append(0) or len(seen) == 3)
    assert saved(tmp_path)["step"] == 3
    run(tmp_path)
    run(tmp_path / "whole")
    assert_same_run(tmp_path, tmp_path / "whole")


def test_a_stop_that_ends_the_workers_too_saves_what_was_done(tmp_path):
    """A batch system tells all processes of a job to end at once."""
    told = tmp_path / "told"

    class Killed(Toy):
        def batch(self, rows, rng, generator):
            if torch.utils.data.get_worker_info() is not None and self.batches[3:]:
                told.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(rows, rng, generator)

    recipe = dataclasses.replace(RECIPE, steps=40)
    with pytest.raises((RuntimeError, ConnectionError, EOFError)):
        run(tmp_path / "crash", Killed(), recipe, workers=1, save_every=100)

    told.unlink()
    with pytest.raises(Stopped, match=r"stopped at step \d+, which is saved"):
        run(tmp_path / "job", Killed(), recipe, workers=1, save_every=100, stop=told.exists)
    assert saved(tmp_path / "job")["step"] >= 1


def test_a_worker_that_dies_interrupts_no_step(tmp_path):
    """PyTorch would raise in the midst of whatever is done just then."""
    deaths = []

    class Slow(Toy):
        def after_step(self, network):
            if len(deaths) < 1:
                for child in multiprocessing.active_children():
                    child.kill()
                    child.join()
                    deaths.append(child)
                time.sleep(0.1)
                deaths.append("and the step went on")

    with pytest.raises((RuntimeError, ConnectionError, EOFError)):
        run(tmp_path, Slow(), workers=1, save_every=1)
    assert deaths[-1] == "and the step went on" and saved(tmp_path)["step"] >= 1


def test_a_checkpoint_is_written_every_so_many_minutes(tmp_path):
    run(tmp_path, save_every=1000, save_minutes=0.0, stop_after=4)
    assert saved(tmp_path)["step"] == 3


HOLD = """
import sys
from pathlib import Path
from comfyui_unclip.unclip_core.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_folder_is_trained_in_by_one_process(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {other.pid} on .* is training there"):
            run(tmp_path)
        other.kill()  # leaves no lock behind
        other.wait()
        assert run(tmp_path)[-1].step == 8
    finally:
        other.kill()
        other.communicate()


def test_a_share_of_the_rows_is_held_out_for_validation(tmp_path):
    task = Validated()
    run(tmp_path / "many", task, rows=400)
    trained = {row for rows, _ in task.batches for row in rows}
    held = task.sheets[0][1]
    assert len(held) == 8 and not trained & set(held) and task.sheets[1][1] == held
    lines = [json.loads(line) for line in (tmp_path / "many" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_error" in line] == [4, 8]
    few = Validated()
    run(tmp_path / "few", few, rows=20)
    assert few.sheets[0][1] == list(range(20)) and "training_error" in (tmp_path / "few" / "metrics.jsonl").read_text()


def test_rows_may_be_chosen(tmp_path):
    task = Toy()
    run(tmp_path, task, rows=[3, 5, 8])
    assert {row for rows, _ in task.batches for row in rows} == {3, 5, 8}


def test_the_dtype_is_measured_once_and_kept(tmp_path, monkeypatch):
    times = {"fp32": 1.0, "bf16": 0.5}
    monkeypatch.setattr(loop, "measure", lambda device, work: work() is not None and times)
    run(tmp_path, dtype="auto", stop_after=3)
    assert saved(tmp_path)["dtype"] == "bf16"
    times["fp32"] = 0.1
    run(tmp_path, dtype="auto")
    assert saved(tmp_path)["dtype"] == "bf16"  # a run keeps to what it began with
    with pytest.raises(ValueError, match="fp16: training on cpu knows fp32 and bf16"):
        run(tmp_path / "other", dtype="fp16")


def test_measuring_changes_nothing(tmp_path):
    """The real measurement, whatever it finds."""
    run(tmp_path / "measured", dtype="auto")
    run(tmp_path / "told", dtype=saved(tmp_path / "measured")["dtype"])
    assert_same_run(tmp_path / "measured", tmp_path / "told")


def test_the_numbers_go_to_tensorboard_where_it_is_installed(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ValueError, match=r"needs TensorBoard; `pip install 'unclip\[train\]'`"):
            run(tmp_path, tensorboard=True)
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, pytest.approx(event.value)) for event in events] == [(p.step, p.loss) for p in seen]


def test_the_rate_warms_up_and_decays_to_a_tenth():
    recipe = Recipe(steps=110, batch=1, lr=1.0, warmup=10)
    assert [learning_rate(recipe, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(recipe, 60) == pytest.approx(0.55)
    assert learning_rate(recipe, 110) == pytest.approx(0.1)
    rates = [learning_rate(recipe, step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    part = dataclasses.replace(recipe, steps=60, decay_steps=110)
    assert [learning_rate(part, step) for step in range(60)] == [learning_rate(recipe, step) for step in range(60)]
    assert learning_rate(dataclasses.replace(recipe, decay=False), 100) == 1.0
    assert learning_rate(dataclasses.replace(recipe, warmup=0), 0) == 1.0


def test_only_matrices_decay(tmp_path):
    class Pull(Toy):
        def loss(self, network, batch):
            return sum(p.sum() for p in network.parameters()) * 0.0, {}

    run(tmp_path, Pull(), dataclasses.replace(RECIPE, lr=0.1, warmup=0, weight_decay=0.5, steps=1))
    before, after = Toy().build().state_dict(), saved(tmp_path)["network"]
    for name, value in before.items():
        torch.testing.assert_close(after[name], value * (0.95 if value.ndim > 1 else 1.0))


def test_gradients_are_clipped(tmp_path):
    """To far less than Adam's epsilon, so that they move nothing."""
    run(tmp_path, recipe=dataclasses.replace(RECIPE, grad_clip=1e-14, weight_decay=0.0))
    before, after = Toy().build().state_dict(), saved(tmp_path)["network"]
    assert all(torch.allclose(after[name], value, atol=1e-5) for name, value in before.items())
