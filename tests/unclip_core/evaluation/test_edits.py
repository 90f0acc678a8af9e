"""What experiments ask for and how they count it, against answers that are known."""

import dataclasses

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import statistics
from comfyui_unclip.unclip_core.evaluation.experiments import (
    analytic,
    guidance,
    interpolation,
    pca,
    prior_importance,
    priors,
    text_diff,
    typographic,
    variations,
)
from comfyui_unclip.unclip_core.evaluation.experiments.common import choose, result_scenes, right, truth, tuning_scenes
from comfyui_unclip.unclip_core.evaluation.experiments.edits import KINDS, edits_of
from comfyui_unclip.unclip_core.evaluation.experiments.guidance import _real
from comfyui_unclip.unclip_core.evaluation.experiments.inpainting import box_mask, repaint, requests
from comfyui_unclip.unclip_core.evaluation.experiments.reconstruction import photograph_like
from comfyui_unclip.unclip_core.evaluation.experiments.typographic import attacked
from comfyui_unclip.unclip_core.evaluation.judge import HEADS
from comfyui_unclip.unclip_core.evaluation.reader import truth_of
from comfyui_unclip.unclip_core.evaluation.results import Check
from comfyui_unclip.unclip_core.evaluation.statistics import Measured
from comfyui_unclip.unclip_core.evaluation.storybook import real_pictures
from comfyui_unclip.unclip_core.storybook.captions import vocabulary
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.storybook.scenes import held_out


@pytest.mark.parametrize("kind", KINDS)
def test_edits_name_one_change_of_a_held_out_scene(kind):
    edits = edits_of(kind, 6, result_scenes)
    assert len(edits) == 6 and edits == edits_of(kind, 6, result_scenes)
    words = set(vocabulary())
    for edit in edits:
        assert set(edit.scene.triples()) <= held_out() and edit.before != edit.after and edit.attribute == kind
        for caption in (edit.before, edit.after):
            assert set(caption.replace('"', " ").split()) <= words, caption
        now = truth_of(edit.scene)
        assert not edit.changed(now) and edit.others_stay(now) and not edit.done(now)
        wanted = {**now, kind: edit.wanted}
        assert edit.done(wanted)
        for other in {"object", "colour", "background"} - {kind}:
            assert not edit.done({**wanted, other: "none"})
    assert not {edit.scene for edit in edits_of(kind, 6, tuning_scenes)} & {edit.scene for edit in edits}


def test_words_are_added_and_removed_and_any_word_is_one():
    edits = edits_of("word", 4, result_scenes)
    assert [edit.wanted == "none" for edit in edits] == [False, True, False, True]
    added = edits[0]
    assert added.changed({"word": "ipod"}) and not added.changed({"word": "none"})
    with pytest.raises(ValueError, match="kind 'mood' is unknown"):
        edits_of("mood", 2, result_scenes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_control_asks_for_something_else_of_its_kind(kind):
    edits, pool = (edits_of(kind, count, result_scenes) for count in (6, 6 + text_diff.SPARE))
    assert pool[:6] == edits
    others = text_diff.others_of(edits, pool)
    assert len(others) == 6 and all(other.attribute == kind for other in others)
    assert all(other.wanted != edit.wanted for other, edit in zip(others, edits, strict=True))
    assert text_diff.others_of(edits[:1], edits[:1]) == edits[:1]  # nothing else there is


def test_paths_count_ends_and_switches(oracle):
    pair = interpolation.unlike_pairs(1)[0]
    a, b = truth(pair[0]), truth(pair[1])
    assert all(a[head] != b[head] for head in HEADS)
    none = dict.fromkeys(HEADS, "none")
    context = dataclasses.make_dataclass("Judging", ["judge"])(oracle([a, {**a, "colour": "none"}, b, none, b]))
    scores = interpolation.PathScores.of(context, [pair], torch.zeros(5, 64, 64, 3), 5)
    assert scores.one_of_ends == pytest.approx([0.8, 0.6, 0.8])  # object, colour, background
    assert scores.one_switch == [False, False, False]  # through "none" and back
    assert scores.inner == [pytest.approx(5 / 9)]
    context.judge.answers = [a, a, b]
    assert interpolation.PathScores.of(context, [pair], torch.zeros(3, 64, 64, 3), 3).one_switch == [True] * 3


def test_pairs_of_an_interpolation_are_unlike_and_used_once():
    pairs = interpolation.unlike_pairs(8)
    assert len({id(scene) for pair in pairs for scene in pair}) == 16
    assert all(truth(x)[head] != truth(y)[head] for x, y in pairs for head in HEADS)


def test_distances_of_variations():
    pictures = torch.zeros(2, 4, 4, 3)
    made = torch.stack([pictures[0] + 0.1, pictures[0] + 0.3, pictures[1] + 0.5, pictures[1] + 0.5])
    assert variations._to_input(made, pictures, 2) == pytest.approx([0.2, 0.5])
    assert variations._between(made, 2) == pytest.approx([0.2, 0.0])
    assert variations._between(pictures, 2) == [0.0, 0.0]
    ratio = statistics.ratio_of([0.4, 0.8], [0.1, 0.2])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((4.0, 4.0, 4.0))
    rough = statistics.ratio_of([0.4, 0.8], [0.2, 0.1])
    assert rough.value == pytest.approx(4.0) and rough.low < 4.0 < rough.high


def test_masks_cover_the_object_and_requests_ask_for_something_else():
    scenes = result_scenes(12)
    for scene in scenes:
        bare = dataclasses.replace(scene, things=())
        changed = torch.from_numpy((render(scene, 64) != render(bare, 64)).any(-1))
        mask = box_mask(scene)
        assert changed.sum() > 0 and not (changed & (mask == 0)).any() and mask.mean() < 0.95
    asked = requests(scenes)
    assert [request.attribute for request in asked[:4]] == ["object", "colour", "object", "colour"]
    for request in asked:
        now = truth(request.scene)
        assert request.wanted[request.attribute] != now[request.attribute]
        assert {**request.wanted, request.attribute: now[request.attribute]} == now
        assert request.wanted["object"] in request.caption


def test_what_is_outside_the_mask_stays(make_context):
    asked = requests(result_scenes(3))
    made, masks = repaint(make_context(), asked, 2.0, 2)
    pictures = real_pictures([request.scene for request in asked])
    assert (made - pictures).abs().amax(-1)[masks == 0].max() < 1 / 255
    assert (made - pictures).abs().amax(-1)[masks == 1].mean() > 0.05


def test_photograph_like_pictures_have_the_spectrum_of_photographs():
    pictures = photograph_like(6)
    assert pictures.shape == (6, 64, 64, 3) and pictures.min() >= 0.0 and pictures.max() <= 1.0
    power = torch.fft.rfft(pictures.mean(-1), dim=2).abs().square().mean((0, 1))
    assert power[2] > 3 * power[8] and power[8] > 2 * power[24] > 0  # along one axis 1/f^2 is 1/f
    assert torch.equal(photograph_like(2), pictures[:2])


def test_lettered_attacks_never_name_their_own_object():
    scenes = attacked(10)
    assert len(scenes) == 10 and all(scene.word not in (None, scene.things[0].kind) for scene in scenes)


def test_renders_to_compare_diversity_with_are_of_the_same_things():
    scenes = result_scenes(3)
    pictures = _real(scenes, 2)
    assert pictures.shape == (6, 64, 64, 3) and (pictures[0] - pictures[1]).abs().mean() > 0.01


def test_right_counts_attributes_one_by_one_and_together(oracle):
    scenes = result_scenes(2)
    answers = [truth(scenes[0]), {**truth(scenes[1]), "colour": "none"}]
    found = right(oracle(answers), torch.zeros(2, 64, 64, 3), scenes)
    assert found == {
        "object": [True, True],
        "colour": [True, False],
        "background": [True, True],
        "all": [True, False],
    }


def test_the_first_of_the_best_settings_is_chosen():
    best, table = choose((1.0, 2.0, 3.0), {1.0: 0.2, 2.0: 0.7, 3.0: 0.7}.get, "guidance", 5)
    assert best == 2.0 and [row[2] for row in table.rows] == ["", "chosen", ""] and "5 training" in table.title


def test_a_sentence_says_what_its_intervals_leave_open():
    further = Check("further", Measured(0.01, 0.005, 0.02), 0.0, "")
    kept = [Check("kept", Measured(0.9, low, high), 0.85) for low, high in ((0.86, 0.95), (0.7, 0.97), (0.5, 0.8))]
    said = [variations._verdict([check, further])[0] for check in kept]
    assert [sentence.split()[0] for sentence in said] == ["Agrees", "Agrees", "Only"]
    assert ["undecided" in sentence for sentence in said] == [False, True, False] and "less often" in said[2]
    unclear = Check("further", Measured(0.01, -0.01, 0.03), 0.0, "")
    assert variations._verdict([kept[0], unclear])[0].startswith("Undecided on §3.1")
    random, leads = Measured(0.05, 0.0, 0.15), [Measured(0.75, low, 0.8) for low in (0.7, 0.6, -0.05)]
    edited = [Check("edited", Measured(0.8, low, 0.9), 0.7) for low in (0.75, 0.6, 0.1)]
    said = [text_diff._verdict(check, random, lead) for check, lead in zip(edited, leads, strict=True)]
    assert [sentence.split()[0] for sentence in said] == ["Agrees", "Agrees", "Undecided"]
    assert ["undecided by the interval" in sentence for sentence in said[:2]] == [False, True]
    nothing = Check("edited", Measured(0.0, 0.0, 0.03), 0.7)
    assert text_diff._verdict(nothing, nothing.measured, Measured(0.0, -0.01, 0.01)).startswith("Undecided")
    assert text_diff._verdict(nothing, random, Measured(-0.05, -0.1, -0.01)).startswith("Contradicts §3.3")


def test_a_path_that_stays_at_one_end_or_at_the_pixels_agrees_with_nothing():
    def checks(ends=(45.0, 45.0), along=0.95, lead=0.6):
        ends = [Check(name, Measured(dB, dB - 1, dB + 1), 30.0, "dB") for name, dB in zip("ab", ends, strict=True)]
        along = [
            Check("of an end", Measured(along, along - 0.1, 1.0), 0.8),
            Check("switch", Measured(0.9, 0.8, 1), 0.7),
        ]
        return [*ends, *along, Check("lead", Measured(lead, lead - 0.1, lead + 0.1), 0.0)]

    assert interpolation._verdict(checks())[0].startswith("Agrees with §3.2")
    stuck = interpolation._verdict(checks(ends=(45.0, 9.0)))[0]
    assert stuck.startswith("Only partly agrees") and "9.0 dB" in stuck and "less than aimed at: b" in stuck
    assert interpolation._verdict(checks(lead=0.05))[0].startswith("Undecided on §3.2")
    assert interpolation._verdict(checks(lead=-0.2))[0].startswith("Only partly agrees")


def test_components_agree_with_the_paper_only_where_what_there_is_comes_first():
    able, unable = (Check("all", Measured(value, value - 0.05, value + 0.05), 0.7) for value in (0.9, 0.2))
    half = {"object": 3, "colour": 8, "background": 12, pca.FORM: 20}

    def verdict(*leads, ceiling=able, **found):
        ahead = dict(zip(HEADS, (Measured(each, each - 0.1, each + 0.1) for each in leads), strict=True))
        return pca._verdict({**half, **found}, ahead, ceiling)

    assert verdict(0.5, 0.4, 0.3).startswith("Agrees with Fig. 7") and "undecided" not in verdict(0.5, 0.4, 0.3)
    unclear = verdict(0.5, 0.4, 0.05)
    assert unclear.startswith("Agrees") and "Of the background it is undecided" in unclear
    assert verdict(0.5, -0.4, -0.3).startswith("Only partly agrees with Fig. 7: the object before its")
    assert verdict(-0.5, 0.4, 0.05).startswith("Contradicts Fig. 7") and verdict(0.05, 0.4, 0.4).startswith("Undecided")
    assert verdict(0.5, 0.4, 0.3, object=None).startswith("Undecided on Fig. 7")
    assert verdict(0.5, 0.4, 0.3, ceiling=unable).startswith("Says nothing about Fig. 7")
    # Two scenes of four counts: the one has all of its accuracy from the second on, the other half of it.
    early, late = [False, True, True, True] * 2, [False, False, False, True, False, False, True, True]
    assert pca.lead(early, late, 4, 0.0).value == pytest.approx(0.75 - 0.375)
    assert pca.lead(early, early, 4, 0.0).value == 0.0
    assert pca.lead([True, True] * 2, [False, True] * 2, 2, 0.5).value == pytest.approx(0.5)
    assert pca.lead([True, False, False, True], [False, True] * 2, 2, 0.5).value == pytest.approx(-0.5)  # all guessed
    scene = result_scenes(1)[0]
    thing = scene.things[0]
    assert pca.near((thing.x + 0.04, thing.y, thing.width - 0.04), scene)
    assert not pca.near((thing.x, thing.y, thing.width + 0.06), scene)


def test_alike_is_undecided_and_a_broken_prior_compares_with_none():
    cosine, distance = Measured(0.9, 0.8, 1.0), Measured(10.0, 5.0, 15.0)
    numbers = dict.fromkeys(("diffusion", "autoregressive"), priors.Scores(cosine, cosine, distance, 0.1))
    able, unable = (Check(f"right {value}", Measured(value, value - 0.05, value + 0.05), 0.7) for value in (0.9, 0.2))

    def apart(value):
        return Measured(value, value - 1, value + 1)

    def verdict(by, works=(able, able)):
        return priors._verdict(numbers, apart(by), list(works))

    assert verdict(-2).startswith("Agrees with Table 2") and verdict(2).startswith("Contradicts Table 2")
    assert verdict(0.5).startswith("Undecided on Table 2")
    assert verdict(-2, (able, unable)).startswith("Says nothing about Table 2")

    def by_steps(*leads):
        return analytic._verdict(dict(zip((8, 32, 64), map(apart, leads), strict=True)))

    assert by_steps(2, 2, 0).startswith("Agrees with Bao et al.: the analytic variance is nearer at 8 and 32 steps")
    assert by_steps(0, 0, -2).startswith("Contradicts Bao et al. here: the plain variance is nearer at 64 steps")
    assert "nearer at 8 steps, the plain one at 64" in by_steps(2, 0, -2)
    assert by_steps(0, 0.5, -0.5).startswith("Undecided: neither variance is nearer at any")


def test_only_variations_that_keep_the_object_resist_the_word():
    fooled = Check("fooled", Measured(0.8, 0.7, 0.9), 0.5)
    flipped = dict.fromkeys(typographic.LABELS, fooled.measured)

    def verdict(kept, turned, gate=fooled):
        held = Check("kept", Measured(kept, kept - 0.1, kept + 0.1), typographic.KEPT)
        return typographic._verdict(gate, flipped, held, Measured(turned, turned - 0.05, turned + 0.05))

    assert verdict(0.9, 0.05).startswith("Agrees with Fig. 6")
    assert verdict(0.2, 0.05).startswith("Says nothing about Fig. 6")
    assert verdict(0.1, 0.8).startswith("Contradicts Fig. 6")
    assert verdict(0.55, 0.5).startswith("Undecided on Fig. 6")
    assert verdict(0.9, 0.05, Check("fooled", Measured(0.1, 0.0, 0.2), 0.5)).startswith("Differs from Fig. 6")


def test_verdicts_say_contradiction_and_doubt_plainly():
    full, text, zero = prior_importance.ORDER
    distances = {name: Measured(value, value - 9, value + 9) for name, value in ((full, 10), (text, 20), (zero, 15))}
    apart = {(full, text): Measured(-10, -11, -9), (text, zero): Measured(5, 4, 6)}  # paired: narrower than each alone
    trained, raw = ([Check("right", Measured(value, value - 0.05, value + 0.05), 0.7)] for value in (0.8, 0.1))
    said = prior_importance._verdict(distances, apart, trained)
    assert [sentence.split()[0] for sentence in said] == ["Agrees", "Contradicts"] and "-10 (-11 to -9)" in said[0]
    wide = {pair: Measured(each.value, -20.0, 20.0) for pair, each in apart.items()}
    assert all(each.startswith("Undecided") for each in prior_importance._verdict(distances, wide, trained))
    said = prior_importance._verdict(distances, apart, raw)
    assert all(sentence.startswith("Undecided") and "right in 10% at best" in sentence for sentence in said)
    assert prior_importance._verdict(distances, apart, trained + raw) == said, "one trained too little is enough"
    settings = guidance.Settings(guidances=(1.0, 4.0))
    stack, alone = guidance.STACK, guidance.CAPTION
    spreads = {(stack, 1.0): [4.0, 5.0], (stack, 4.0): [3.6, 4.5], (alone, 1.0): [4.0, 5.0], (alone, 4.0): [2.0, 2.5]}
    assert guidance._verdict(spreads, trained, settings).startswith("Agrees with §5.3")
    swapped = {(stack if name == alone else alone, scale): value for (name, scale), value in spreads.items()}
    assert guidance._verdict(swapped, trained, settings).startswith("Contradicts §5.3")
    assert "right in 10% at best" in guidance._verdict(spreads, trained + raw, settings)
