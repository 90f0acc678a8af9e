"""`unclip evaluate storybook`'s measurements on the stack `tiny`, and its table against numbers known beforehand."""

import dataclasses
import json
from operator import eq

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import report, storybook
from comfyui_unclip.unclip_core.evaluation.report import LEDGER, PARTS, Plan, Row, Side, aimed, cold, opened, table
from comfyui_unclip.unclip_core.evaluation.statistics import Measured, share
from comfyui_unclip.unclip_core.evaluation.storybook import SampleSettings, real_pictures
from comfyui_unclip.unclip_core.stages import Decoder, Prior
from comfyui_unclip.unclip_core.storybook.scenes import held_out

SETTINGS = SampleSettings({"steps": 2, "candidates": 1}, {"steps": 2, "guidance_scale": 1.0})
PLAN = Plan(count=3, renders=2, asked=20, fitted=200)


@pytest.fixture
def side(make_context, tmp_path):
    return Side(make_context(tmp_path / "run"), SETTINGS, PLAN)


class Painter(Side):
    """A stack that paints `share` of its pictures as asked, and the others as the next scene's."""

    right = 1.0

    def samples(self, kind, language="en", count=None):
        pictures = real_pictures(self.plan.scenes(kind, count))
        wrong = round((1 - self.right) * len(pictures))
        return torch.cat([pictures[:wrong].roll(1, 0), pictures[wrong:]]) if wrong else pictures


def painter(context, right, count=16):
    found = Painter(context, SETTINGS, dataclasses.replace(PLAN, count=count))
    found.right = right
    return found


def test_every_part_runs_and_what_was_made_is_not_made_again(side, make_context, tmp_path, monkeypatch):
    old = Side(make_context(tmp_path / "run"), dataclasses.replace(SETTINGS, decoder={"steps": 1}), PLAN)
    rows = {name: part(side, old) for name, part in PARTS.items()}
    text = table([row for found in rows.values() for row in found])
    assert "nan" not in text and all(line.count("|") == 6 for line in text.splitlines())
    for name in ("chinese", "two", "words", "upsamplers", "lattice", "gates"):
        assert any(row.check for row in rows[name]), name
    assert len([row for row in rows["one"] if "before" in row.name]) == 1

    def again(*_, **__):
        raise AssertionError("made again")

    kept = Side(make_context(tmp_path / "run"), SETTINGS, PLAN)
    monkeypatch.setattr(Decoder, "sample_steps", again)
    monkeypatch.setattr(Prior, "sample", again)
    monkeypatch.setattr(Side, "enlarged", again)
    for name in ("one", "two", "upsamplers", "lattice"):
        assert table(PARTS[name](kept, None)) == table(PARTS[name](side, None))


@pytest.mark.parametrize("code", ["sampling", "judging"])
def test_numbers_of_samples_that_are_not_kept_are_made_anew_by_changed_code(side, monkeypatch, code):
    parts = {"upsamplers": "upsampled", "lattice": "lattice", "gates": "gates"}
    files = {}
    for version in ("present", "present", "other"):
        if version == "other":
            monkeypatch.setattr(report.sources, code, lambda *_: "other")
        again = Side(side.context, SETTINGS, PLAN)
        for part, name in parts.items():
            PARTS[part](again, None)
            files.setdefault(name, []).append(len(list((side.context.run / "made").glob(f"{name}-*"))))
    assert files == {"upsampled": [2, 2, 4], "lattice": [1, 1, 2], "gates": [1, 1, 2]}


def test_samples_are_kept_in_parts_that_more_captions_go_on_from(side, monkeypatch):
    monkeypatch.setattr(report, "CHUNK", 2)
    side.plan = dataclasses.replace(PLAN, count=4)
    four = side.samples("two")
    files = set((side.context.run / "made").glob("decoded-*"))
    side.plan = dataclasses.replace(PLAN, count=6)
    six = side.samples("two")
    assert torch.equal(six[:4], four) and len(set((side.context.run / "made").glob("decoded-*")) - files) == 1
    assert not torch.equal(six[0], six[1])
    side.plan = dataclasses.replace(PLAN, count=4, seed=2)
    assert not torch.equal(side.samples("two"), four)


def test_splits_are_held_out_and_apart():
    scenes = {split: Plan(split, count=40).scenes("one") for split in ("validation", "test")}
    for found in scenes.values():
        assert all(set(scene.triples()) <= held_out() for scene in found)
    assert not set(scenes["test"]) & set(scenes["validation"])
    assert Plan(count=8).scenes("two") == Plan(count=20).scenes("two")[:8]
    assert report.SPLITS["test"] == storybook.SCENE_SEED
    with pytest.raises(ValueError, match="split 'train' is unknown; choose validation or test"):
        Plan("train").scenes("one")


def test_the_test_split_is_counted_when_it_is_opened(tmp_path):
    plan = Plan("test")
    assert opened(tmp_path, "a", plan) == (1, 1)
    assert opened(tmp_path, "a", plan) == (1, 1)  # the same taken up again
    assert opened(tmp_path, "a", dataclasses.replace(plan, seed=1)) == (2, 2)
    assert opened(tmp_path, "b", plan) == (3, 1)
    assert len(json.loads((tmp_path / LEDGER).read_text())) == 3
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]


def test_the_fitter_knows_right_pictures_from_swapped_ones(make_context, tmp_path):
    """Whatever a trained judge says, the untrained one counts the pictures that show what was asked."""
    context = make_context(tmp_path)
    able, swapped = painter(context, 1.0, 10), painter(context, 0.0, 10)
    scenes = able.plan.scenes("one")
    alike = sum(map(eq, map(report.truth, scenes), map(report.truth, scenes[-1:] + scenes[:-1])))
    assert sum(report._fitted(able, able.samples("one"), scenes)) >= 9
    assert sum(report._fitted(swapped, swapped.samples("one"), scenes)) <= alike < 2
    scenes = able.plan.scenes("two")
    assert sum(report._pairs_fitted(able, able.samples("two"), scenes)) >= 9
    assert sum(report._pairs_fitted(swapped, swapped.samples("two"), scenes)) == 0


def test_two_objects_are_reached_by_pictures_that_show_them(make_context, tmp_path):
    context = make_context(tmp_path)
    rows = {row.name.rpartition(" ")[2]: row for row in report.two_objects(painter(context, 1.0), None)}
    assert rows["fitter"].check.verdict == "reached" and rows["fitter"].beside.startswith("renders: ")
    rows = report.two_objects(painter(context, 0.0), painter(context, 1.0))
    fitter = [row for row in rows if "fitter" in row.name]
    assert fitter[0].check.verdict == "missed" and fitter[1].measured.high < -0.5  # paired with the stack before


def test_upsamplers_are_measured_against_the_render(side):
    """Bicubic enlargement itself gains nothing, halos by what bicubic has, and the truth gains most."""
    side.enlarged = lambda pictures, size, seed: storybook.bicubic(pictures, size)
    found = side.upsampled
    assert len(found["clean 256 gain"]) == 2
    for name in ("clean 256 gain", "passed 256 gain", "clean 1024 gain"):
        assert found[name] == pytest.approx([0.0, 0.0], abs=1e-4)
    assert found["halo 256"] == pytest.approx(found["bicubic halo 256"])
    # By way of 256 px it is a little softer than at once.
    assert max(map(abs, found["passed 1024 gain"])) < 0.5
    assert 20 < min(found["clean 256"]) < max(found["clean 256"]) < 45
    rows = {row.name: row for row in report.upsamplers(side, side)}
    assert rows["halo at 256 px, over that of the stack before"].measured.value == pytest.approx(1.0)
    over = "64 to 256 px, renders passed through the decoder, over bicubic"
    assert [row.check.verdict for row in report.upsamplers(side, None) if row.name == over] == ["undecided", "missed"]
    # Two renders that gain the very same say nothing of the others; the mean alone is below its target all the same.


def test_renders_are_passed_through_the_decoder_at_a_quarter_of_the_noise(side, monkeypatch):
    seen = []
    sample = Decoder.sample

    def watched(self, embed, text=None, **options):
        seen.append(options["noise"].strength)
        return sample(self, embed, text, **options)

    monkeypatch.setattr(Decoder, "sample", watched)
    side.enlarged = lambda pictures, size, seed: storybook.bicubic(pictures, size)
    assert "passed 256 gain" in side.upsampled and seen == [0.25, 0.25]


def test_rows_say_value_target_and_verdict():
    rows = [
        aimed("a", share([True] * 9 + [False]), 0.5, beside="renders: 1"),
        aimed("b", Measured(1.0, 0.8, 1.4), 0.5, "x", below=True),
        Row("c", Measured(3.0, 2.0, 4.0), "s"),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| a | 90% (60% to 98%) | renders: 1 | ≥ 50% | reached |"
    assert lines[3] == "| b | 1 x (0.8 to 1.4) |  | ≤ 0.5 x | **missed** |"
    assert lines[4] == "| c | 3 s (2 to 4) |  |  |  |"


def test_cold_runs_compare_with_the_stack_before():
    alone = cold([2.0, 2.1, 1.9], None)
    assert len(alone) == 1 and alone[0].check is None and alone[0].measured.value == pytest.approx(2.0)
    same = cold([2.0, 2.1, 1.9], [2.0, 2.1, 1.9])[1]
    assert same.measured.value == pytest.approx(1.0)
    slow = cold([4.0, 4.1, 3.9], [2.0, 2.1, 1.9])[1]
    assert slow.check.verdict == "missed"


def test_what_another_version_made_is_told_of(side, make_context, tmp_path):
    old = Side(make_context(tmp_path / "run"), SETTINGS, PLAN)
    old.context.store.code = "before"
    old.samples("one")
    assert report.of_other_code([old]) == ""
    side.samples("one")
    assert "made by another version" in report.of_other_code([old, side])


def test_the_headline_says_how_often_the_test_split_was_opened(side):
    text = report.headline(PLAN, side.context, None, None)
    assert "The test split was not opened" in text and side.context.weights in text
    text = report.headline(dataclasses.replace(PLAN, split="test"), side.context, "old", (3, 1))
    assert "opened 3 times so far, 1 with these weights" in text and "against `old`" in text
    kept = report.as_json(PLAN, side.context, [aimed("a", share([True, False]), 0.5)], (3, 1))
    assert json.loads(json.dumps(kept))["rows"][0]["verdict"] == "undecided"
