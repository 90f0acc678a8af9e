"""The run folder and the report: what was computed is kept, what changed is computed again."""

import dataclasses
import re
import sys

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import enlarging, pixels, probes, reproduction, sources, synthesis
from comfyui_unclip.unclip_core.evaluation.experiments import EXPERIMENTS
from comfyui_unclip.unclip_core.evaluation.experiments.common import Experiment
from comfyui_unclip.unclip_core.evaluation.reproduction import chosen, run_all, write_report
from comfyui_unclip.unclip_core.evaluation.results import (
    Check,
    Figure,
    Result,
    Store,
    Table,
    digest,
    packed,
    unpacked,
)
from comfyui_unclip.unclip_core.evaluation.siblings import Spent
from comfyui_unclip.unclip_core.evaluation.statistics import Measured
from comfyui_unclip.unclip_core.evaluation.storybook import real_pictures
from comfyui_unclip.unclip_core.storybook.shards import make_scenes
from comfyui_unclip.unclip_core.training.loop import Progress
from comfyui_unclip.unclip_core.types import Embedding


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int = 3


def result():
    return Result(
        checks=[
            Check("kept", Measured(0.9, 0.8, 0.95), 0.85),
            Check("control", Measured(0.5, 0.4, 0.6), 0.3, below=True),
        ],
        tables=[Table("A table", ["a", "b"], [["one | two", "2"]])],
        figures=[Figure("grid", "A grid.", torch.rand(1, 8, 12, 3))],
        paper=["Agrees with §0."],
        notes=["A note."],
    )


@pytest.fixture
def counted():
    """An experiment that counts how often it is run; `fails` makes it fail."""
    calls = []

    def run(context, settings):
        calls.append(settings.size)
        if calls.count(settings.size) < run.fails:
            raise KeyboardInterrupt
        return result()

    run.fails = 0
    experiment = Experiment("counted", "Counting", "§0: one, two", Settings(), Settings(1), run)
    return experiment, calls


def test_a_target_is_reached_or_missed_by_the_whole_interval():
    kept, control = result().checks
    assert kept.row() == ["kept", "90% (80% to 95%)", "≥ 85%", "undecided"]
    assert control.row()[2:] == ["≤ 30%", "**missed**"]
    assert Check("psnr", Measured(40.0, 39.0, 41.0), 40.0, "dB").row()[1:3] == ["40 dB (39 to 41)", "≥ 40 dB"]
    around = Measured(0.5, 0.4, 0.6)
    verdicts = {
        target: [Check("", around, target, below=below).verdict for below in (False, True)]
        for target in (0.3, 0.45, 0.55, 0.7)
    }
    assert verdicts == {
        0.3: ["reached", "missed"],
        0.45: ["undecided"] * 2,
        0.55: ["undecided"] * 2,
        0.7: ["missed", "reached"],
    }
    largest = Check("error", Measured(0.0, 0.0, 0.0, "the largest of 16", exact=True), 1.0, "", below=True)
    assert largest.row() == ["error", "0 (the largest of 16)", "≤ 1", "reached"]


def test_results_come_back_from_the_folder_as_they_were(tmp_path):
    store, kept = Store(tmp_path), result()
    assert store.load("x", "1") is None
    store.save("x", "1", kept)
    found = store.load("x", "1")
    bare = dataclasses.replace(kept, figures=[dataclasses.replace(kept.figures[0], image=None)])
    assert found == bare and store.picture("x", "1", found.figures[0]).stat().st_size > 0
    assert store.load("x", "2") is None
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_a_result_half_written_is_no_result(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr("comfyui_unclip.unclip_core.evaluation.results.save_png", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.save("x", "1", result())
    assert store.load("x", "1") is None


def test_pictures_are_kept_as_they_are_shown_and_keys_know_values():
    eight = torch.arange(256).float().view(1, 16, 16, 1) / 255
    assert torch.equal(unpacked(packed(eight)), eight)
    picture = torch.rand(1, 4, 4, 3)
    assert (unpacked(packed(picture)) - picture).abs().max() < 1e-5
    one = {"embed": Embedding(torch.ones(1, 3), "c"), "seed": 1}
    assert digest(one) == digest({"seed": 1, "embed": Embedding(torch.ones(1, 3), "c")})
    others = [{**one, "seed": 2}, {**one, "embed": Embedding(torch.tensor([[1.0, 1.0, 1.0 + 1e-6]]), "c")}]
    others += [{**one, "embed": Embedding(torch.ones(3, 1), "c")}, {**one, "embed": Embedding(torch.ones(1, 3), "d")}]
    assert len({digest(one), *map(digest, others)}) == 5


def test_tensors_are_made_once(tmp_path):
    store, made = Store(tmp_path), []

    def make():
        made.append(1)
        return {"x": torch.arange(6.0).view(2, 3).T}

    first, second = store.tensors("a", "1", make), store.tensors("a", "1", make)
    assert len(made) == 1 and torch.equal(first["x"], second["x"]) and first["x"].shape == (3, 2)
    store.tensors("a", "2", make)
    assert len(made) == 2


def test_what_is_finished_is_not_run_again_and_a_killed_run_goes_on(make_context, tmp_path, counted):
    experiment, calls = counted
    other = dataclasses.replace(experiment, name="other")
    context = make_context(tmp_path)
    experiment.run.fails = 2
    with pytest.raises(KeyboardInterrupt):
        list(run_all(context, [experiment], False))
    assert calls == [3]
    done = list(run_all(context, [experiment, other], False))
    assert [finished.cached for finished in done] == [False, False] and calls == [3, 3, 3]
    again = list(run_all(make_context(tmp_path), [experiment, other], False))
    assert [finished.cached for finished in again] == [True, True] and len(calls) == 3
    assert again[0].result.checks == done[0].result.checks and again[0].result.seconds == done[0].result.seconds > 0
    assert again[0].result.processor == done[0].result.processor >= 0


def test_other_settings_weights_or_budgets_are_other_results(make_context, tmp_path, counted, monkeypatch):
    experiment, calls = counted
    context = make_context(tmp_path)
    list(run_all(context, [experiment], False))
    list(run_all(context, [experiment], True))
    assert calls == [3, 1]
    budget = dataclasses.replace(context.budget, judge=dataclasses.replace(context.budget.judge, steps=3))
    list(run_all(make_context(tmp_path, budget=budget), [experiment], False))
    assert calls == [3, 1, 3]
    raised = dataclasses.replace(context.budget, siblings=dataclasses.replace(context.budget.siblings, minutes=9.0))
    list(run_all(make_context(tmp_path, budget=raised), [experiment], False))  # which it does not ask for
    assert calls == [3, 1, 3]
    changed = make_context(tmp_path)
    changed.__dict__["weights"] = "other"
    list(run_all(changed, [experiment], False))
    assert calls == [3, 1, 3, 3]
    monkeypatch.setattr(reproduction.sources, "judging", lambda module: "edited")
    list(run_all(make_context(tmp_path), [experiment], False))
    assert len(calls) == 5


def test_weights_are_known_by_their_bytes(make_context, story_models, tmp_path):
    first, second = make_context(), make_context()
    assert first.weights == second.weights and len(first.weights) == 16
    assert digest(1, "a") == digest(1, "a") != digest("a", 1)
    parts = [("clip", "decoder"), ("clip", "prior"), ("clip", "ar_prior"), tuple(first.entry.stages)]
    assert len({first.weights_of(*stages) for stages in parts}) == 4
    painting = first.weights_of("clip", "decoder")
    table = story_models / "tiny" / "tiny.pca.safetensors"
    kept = table.read_bytes()
    try:
        table.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert make_context().weights != first.weights
        assert make_context().weights_of("clip", "decoder") == painting, "no table is used in painting"
    finally:
        table.write_bytes(kept)


def test_the_report_is_a_page_of_findings_and_one_of_all_numbers(make_context, tmp_path, counted):
    experiment, _ = counted
    shown = dataclasses.replace(experiment, name="shown", title="Limits: it, shown", shown=("grid",))
    context = make_context(tmp_path / "run")
    finished = list(run_all(context, [experiment, shown], True))
    path = tmp_path / "docs" / "report.md"
    path.parent.mkdir()
    write_report(context, finished, path)
    page, details = (each.read_text(encoding="utf-8") for each in (path, path.parent / "report" / "details.md"))
    for text in (page, details):
        assert "`unclip reproduce --quick`" in text and "**Quick run**" in text and context.weights in text
    assert "| [Counting](report/details.md#counting) | §0: one, two | Agrees with §0. |" in page
    assert "(report/details.md#limits-it-shown)" in page and "## Limits: it, shown" in details
    assert "Targets: 0 reached, 2 undecided, 2 missed" in page and "A note." not in page
    assert "| Counting | kept | 90% (80% to 95%) | ≥ 85% | undecided |" in details
    assert "| one \\| two | 2 |" in details and "A note." in details and "](../report.md)" in details
    assert re.findall(r"!\[.*?\]\((.*?)\)", page) == ["report/grid.png"]
    assert re.findall(r"!\[.*?\]\((.*?)\)", details) == ["grid.png", "grid.png"]
    assert (path.parent / "report" / "grid.png").is_file()
    assert re.search(r"\| Counting \| \d+\.\d \|\n", details.split("## Processor time")[1])
    write_report(context, list(run_all(context, [experiment], False)), path)
    assert "Quick run" not in path.read_text(encoding="utf-8")


def test_results_know_the_code_that_they_are_found_by_and_samples_the_code_that_makes_them():
    def used(module):
        """Files that a result of this experiment, or a number of this measure, would notice a change of."""
        read = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources.inspect, "getsource", lambda module: read.append(module.__name__) or "")
            sources.judging(module)
        return {each.rpartition(".")[2] for each in read}

    shared = {"common", "statistics", "judge", "storybook", "draw", "scenes", "captions", "results"}
    text_diff, guidance = (used(sys.modules[EXPERIMENTS[name].run.__module__]) for name in ("text_diff", "guidance"))
    assert text_diff >= shared | {"text_diff", "edits", "reader", "drawing"} and "pca" not in text_diff
    assert guidance >= shared | {"guidance", "prior_importance"} and "edits" not in guidance
    assert used(enlarging) >= {"pixels", "likeness", "resizing", "passing", "losses", "draw"}
    assert used(pixels) == {"pixels", "losses"} and used(probes) >= {"storybook", "captions", "scenes", "draw"}
    assert used(synthesis) >= {"synthesis", "draw", "shapes"}
    assert sources.sampling() == sources.sampling() and len(sources.sampling()) == 12


def test_a_sampler_that_was_changed_makes_other_samples(tmp_path, monkeypatch):
    core = tmp_path / "unclip_core"
    for room in (*sources.SAMPLING, "evaluation"):
        (core / room).parent.mkdir(exist_ok=True)
        if room.endswith(".py"):
            (core / room).write_text("")
        else:
            (core / room / "layers").mkdir(parents=True)
            (core / room / "layers" / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(sources, "__file__", str(core / "evaluation" / "sources.py"))
    found = [sources.sampling.__wrapped__()]
    for changed in ("evaluation/layers/one.py", "diffusion/layers/one.py", "embeddings.py"):
        (core / changed).write_text("x = 2\n")
        found.append(sources.sampling.__wrapped__())
    assert found[0] == found[1] and len(set(found)) == 3


def test_samples_of_other_code_are_used_and_named(make_context, tmp_path, counted):
    """Hours of work are not thrown away for a comment, but the report does not pass them off as the present code's."""
    experiment, _ = counted

    def run(context, settings):
        context.store.tensors("chunk", f"{settings.size}", lambda: {"x": torch.zeros(1)})
        return result()

    sampled = dataclasses.replace(experiment, name="sampled", title="Sampled", run=run)
    before = make_context(tmp_path)
    before.store.code = "before"
    before.store.tensors("chunk", "3", lambda: {"x": torch.ones(1)})
    scene = real_pictures(make_scenes(1, 1, "train", "one"))
    before.fits(scene)
    context = make_context(tmp_path)
    context.fits(scene)  # which no sampler has a part in
    assert not context.store.by_others
    finished = list(run_all(context, [sampled, experiment], False))
    assert finished[0].result.codes == ["before"] and finished[1].result.codes == []
    for done in (finished, list(run_all(make_context(tmp_path), [sampled, experiment], False))):  # kept ones as well
        write_report(context, done, tmp_path / "report.md")
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert "**Samples of another version**" in text and "in: Sampled; another `--run`" in text
    write_report(context, list(run_all(context, [sampled], True)), tmp_path / "report.md")
    assert "another version" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_processor_time_is_of_all_runs_and_leaves_training_out(make_context, tmp_path, monkeypatch):
    """A clock that only the experiment moves: its own work, samples of an earlier run, and training."""
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])

    def sample():
        clock[0] += 5.0
        return {"x": torch.zeros(1)}

    def run(context, settings):
        context.store.tensors("chunk", "first", sample)
        if run.killed:
            raise KeyboardInterrupt
        for _ in range(2):  # asked for again, they take nothing again
            context.store.tensors("chunk", "first", sample)
            context.store.tensors("chunk", "second", sample)
        clock[0] += 1.0
        on_progress = context._training("judge", tmp_path / "judge")
        clock[0] += 100.0
        on_progress(Progress(1, 1, 0.0, 1.0, {}))
        return result()

    experiment = Experiment("timed", "Timed", "§0", Settings(), Settings(), run)
    run.killed = True
    with pytest.raises(KeyboardInterrupt):
        list(run_all(make_context(tmp_path), [experiment], False))
    run.killed = False
    (done,) = run_all(make_context(tmp_path), [experiment], False)
    assert done.result.processor == pytest.approx(11.0)
    assert Spent(tmp_path / "judge").seconds == pytest.approx(100.0)


def test_single_experiments_of_a_quick_run_can_be_full(make_context, tmp_path, counted):
    experiment, calls = counted
    other = dataclasses.replace(experiment, name="other", title="Other")
    context = make_context(tmp_path)
    finished = list(run_all(context, [experiment, other], True, ["other"]))
    assert calls == [1, 3] and [done.quick for done in finished] == [True, False]
    write_report(context, finished, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "`unclip reproduce --quick --full other`" in text and "were given to: Other; the judge" in text


def test_experiments_are_chosen_by_name_in_the_reports_order():
    assert chosen([]) == list(EXPERIMENTS.values())
    assert [experiment.name for experiment in chosen(["pca", "variations"])] == ["variations", "pca"]
    with pytest.raises(ValueError, match=r"experiment 'dreams' is unknown; choose of judges, reconstruction"):
        chosen(["dreams"])
