"""Scores against pictures whose score is known."""

import dataclasses
import math

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import report, storybook
from comfyui_unclip.unclip_core.evaluation.judge import HEADS, Judge
from comfyui_unclip.unclip_core.evaluation.storybook import (
    SampleSettings,
    attribute_scores,
    captions_of,
    decode_captions,
    pair_scores,
    psnr,
    real_pictures,
    retrieval_score,
    upsampler_scores,
)
from comfyui_unclip.unclip_core.storybook.scenes import held_out
from comfyui_unclip.unclip_core.storybook.shards import make_scenes
from comfyui_unclip.unclip_core.types import Embedding


class Oracle(Judge):
    """Says what it was told, picture after picture."""

    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)

    def forward(self, x):
        rows = [self.answers.pop(0) for _ in range(len(x))]
        picks = {name: [(*classes, "none").index(row[name]) for row in rows] for name, classes in HEADS.items()}
        return {name: torch.eye(len(HEADS[name]) + 1)[index] for name, index in picks.items()}


def truth(scene, index=0):
    thing = scene.things[index]
    return {"object": thing.kind, "colour": thing.colour, "background": scene.background}


def test_attributes_count_one_by_one_and_all_together():
    scenes = make_scenes(4, 1, kind="one")
    answers = [truth(scene) for scene in scenes]
    pictures = torch.zeros(4, 64, 64, 3)
    assert attribute_scores(Oracle(answers), pictures, scenes) == dict.fromkeys([*HEADS, "all"], 1.0)
    answers[0] = {**answers[0], "object": "none"}
    answers[1] = {**answers[1], "colour": "none", "object": "none"}
    scores = attribute_scores(Oracle(answers), pictures, scenes)
    assert scores == {"object": 0.5, "colour": 0.75, "background": 1.0, "all": 0.5}


def test_pairs_are_bound_only_when_each_half_has_its_own_object_and_colour():
    scenes = [s for s in make_scenes(40, 2, kind="two") if len({*s.triples()}) == 2][:2]
    answers = []
    for scene, order in zip(scenes, ((0, 1), (1, 0)), strict=True):
        answers += [truth(scene, order[0]), truth(scene, order[1]), truth(scene)]
    scores = pair_scores(Oracle(answers), torch.zeros(2, 64, 64, 3), scenes)
    assert scores["background"] == 1.0 and scores["bound"] == 0.5
    assert min(scores["objects"], scores["colours"]) == 0.5


def test_psnr_is_the_closed_form():
    a = torch.full((2, 8, 8, 3), 0.5)
    b = torch.stack([a[0] + 0.1, a[1] + 0.01])
    assert psnr(a, b) == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert psnr(a, a) == pytest.approx(100.0)


def test_captions_are_full_and_scenes_held_out():
    scenes = make_scenes(20, storybook.SCENE_SEED, "heldout", "one")
    assert all(set(scene.triples()) <= held_out() for scene in scenes)
    captions = captions_of(scenes)
    assert captions == captions_of(scenes) and len(set(captions)) > 10
    assert all(character < "\u4e00" for character in "".join(captions))
    assert any(character >= "\u4e00" for character in captions_of(scenes, "zh")[0])
    pictures = real_pictures(scenes)
    assert pictures.shape == (20, 64, 64, 3) and pictures.min() >= 0 and pictures.max() <= 1


def test_samples_do_not_depend_on_how_they_are_batched(handles):
    captions = ["a red star", "a blue boat", "a red boat on the sea"]
    ticks = []

    def decode(batch):
        settings = SampleSettings({"steps": 2, "candidates": 1}, {"steps": 2, "guidance_scale": 1.5}, batch)
        stages = (getattr(handles, stage) for stage in ("clip", "prior", "decoder"))
        return decode_captions(*stages, captions, settings, 7, lambda *tick: ticks.append(tick))

    whole = decode(3)
    assert whole.shape == (3, 64, 64, 3) and ticks == [("samples", 3, 3)]
    torch.testing.assert_close(decode(2), whole, atol=1e-4, rtol=0)
    assert ticks[1:] == [("samples", 2, 3), ("samples", 3, 3)]
    assert (whole[0] - whole[1]).abs().max() > 0.01


def test_upsamplers_are_compared_with_bicubic(handles):
    ticks = []
    scores = upsampler_scores(handles.upsampler_256, 2, lambda *tick: ticks.append(tick))
    assert ticks == [("upsample 256", 1, 2), ("upsample 256", 2, 2)]
    assert 15 < scores["bicubic"] < 40 and math.isfinite(scores["ours"])
    assert scores["gain"] == pytest.approx(scores["ours"] - scores["bicubic"])
    assert scores["gain_low"] < scores["gain"] < 0 and scores["gain"] < scores["gain_high"]  # random weights


class Perfect:
    """Embeds a picture by its index among those given, a caption by the index of its first picture that fits."""

    def __init__(self, right):
        self.right = right

    def encode_image(self, pictures):
        return Embedding(torch.eye(len(pictures)), "perfect")

    def encode_text(self, captions):
        rows = torch.eye(len(captions))
        return dataclasses.make_dataclass("Text", ["embed"])(rows if self.right else rows.roll(1, 0))


def test_retrieval_is_the_share_of_pictures_with_what_the_caption_says(handles):
    assert retrieval_score(Perfect(True), 64) == 1.0
    assert retrieval_score(Perfect(False), 64) < 0.2
    share = retrieval_score(handles.clip, 32)
    assert 0.0 <= share < 0.6 and share * 32 == round(share * 32)


def test_the_report_has_every_score(handles, monkeypatch):
    monkeypatch.setattr(storybook, "retrieval_score", lambda clip: 0.5)
    settings = SampleSettings({"steps": 2, "candidates": 1}, {"steps": 2, "guidance_scale": 1.0}, 2)
    torch.manual_seed(0)
    scores, sheet = report.score_stack(handles, Judge().eval(), settings, 3, 2, 0, 0, lambda *tick: None)
    assert set(scores) == {"samples", "ceiling", "count", "pairs", "pair_count", "pairs_ceiling", "retrieval"}
    assert sheet.size == (3 * 66 - 2, 64)
    lines = report.table(scores).splitlines()
    assert len(lines) == 2 + 4 + 4 + 1 and all(line.count("|") == 6 for line in lines)
    assert "| CLIP retrieval, 256 held-out pairs | 50.0% (43.9% to 56.1%) |  | 90% | missed |" in lines
    gain = {"ours": 30.0, "bicubic": 27.5, "renders": 9, "gain": 2.5, "gain_low": 1.9, "gain_high": 3.1}
    row = "| upsampler 256, 9 renders | 30.00 dB, +2.50 (1.90 to 3.10) over bicubic |  | +2 dB | undecided |"
    assert row in report.table({**scores, "upsampler_256": gain})
    assert "+2 dB | reached |" in report.table({**scores, "upsampler_256": {**gain, "gain_low": 2.1}})
