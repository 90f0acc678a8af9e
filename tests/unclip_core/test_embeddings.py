"""Slerp, text difference, blends, similarity, ranks: geometry at norm 1 and 10, batches, refusals."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.embeddings import (
    antipodes,
    blend_embeddings,
    draw_x_T,
    join_embeddings,
    join_noises,
    join_texts,
    pick_rows,
    rank_by_text,
    similarity,
    slerp,
    slerp_embeddings,
    slerp_noises,
    text_as_embedding,
    text_diff,
)
from comfyui_unclip.unclip_core.types import Embedding, GivenNoise, Inversion, PictureStart, RandomNoise, TextEncoding

both_norms = pytest.mark.parametrize("norm", [1.0, 10.0])


def vectors(rows, dim=24, seed=0, norm=1.0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1) * norm


def text(rows, seed=0, norm=1.0, clip_id="c"):
    embed = vectors(rows, seed=seed, norm=norm)
    ones = torch.ones(rows, 2)
    return TextEncoding(
        ones[..., None], embed, ones.bool(), ones.long(), clip_id, tuple(f"caption {i}" for i in range(rows))
    )


@both_norms
def test_the_direction_turns_evenly_and_the_norm_stays(norm):
    a, b = vectors(3, norm=norm), vectors(3, seed=1, norm=norm)
    whole = torch.acos(F.cosine_similarity(a, b))
    for share in (0.0, 0.2, 0.5, 1.0):
        mixed = slerp(a, b, share)
        assert torch.allclose(mixed.norm(dim=1), torch.full((3,), norm), rtol=1e-5)
        assert torch.allclose(torch.acos(F.cosine_similarity(a, mixed).clamp(-1, 1)), share * whole, atol=1e-3)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5 * norm) and torch.allclose(
        slerp(a, b, 1.0), b, atol=1e-5 * norm
    )


def test_the_midpoint_that_element_wise_angles_get_wrong():
    """Two unit vectors at cosine 0.86: the common community slerp gives a midpoint of norm 1.37."""
    a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.86, math.sqrt(1 - 0.86**2), 0.0]])
    assert slerp(a, b, 0.5).norm().item() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(slerp(a, b, 0.5), F.normalize(a + b, dim=1), atol=1e-6)


def test_one_angle_over_all_dimensions_of_a_sample():
    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    mixed = slerp(a, b, torch.tensor([0.3, 0.7]))
    assert torch.allclose(mixed[0].flatten(), slerp(a[:1].flatten(1), b[:1].flatten(1), 0.3)[0], atol=1e-6)
    assert torch.allclose(mixed[1].flatten(), slerp(a[1:].flatten(1), b[1:].flatten(1), 0.7)[0], atol=1e-6)
    assert mixed.std().item() == pytest.approx(1.0, abs=0.1)  # a straight mix of noises would lose a quarter


def test_unequal_norms_change_evenly():
    mixed = slerp(vectors(1), vectors(1, seed=1, norm=3.0), 0.25)
    assert mixed.norm().item() == pytest.approx(1.5, rel=1e-5)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3])
@both_norms
def test_tiny_angles_are_exact(norm, gap):
    a = vectors(1, norm=norm).double()
    b = a + gap * norm * vectors(1, seed=1).double()
    expected = a + 0.3 * (b - a)
    mixed = slerp(a.float(), b.float(), 0.3)
    assert torch.isfinite(mixed).all() and torch.allclose(mixed.double(), expected, atol=2e-6 * norm)


def test_half_precision_inputs_are_computed_in_float32():
    a, b = vectors(2).half(), vectors(2, seed=1).half()
    mixed = slerp(a, b, 0.5)
    assert mixed.dtype == torch.float32 and torch.allclose(mixed, slerp(a.float(), b.float(), 0.5))


@both_norms
def test_antipodes_warn_and_give_a_way_of_full_length(norm):
    a = Embedding(vectors(2, norm=norm), "c")
    b = Embedding(torch.cat([a.vector[:1] * 2, -a.vector[1:]]), "c")
    assert antipodes(a.vector, b.vector).tolist() == [False, True]
    with pytest.warns(UserWarning, match="Slerp: item 1 goes between opposite directions"):
        mixed = slerp_embeddings(a, b, frames=5).vector[5:]
    assert torch.allclose(mixed.norm(dim=1), torch.full((5,), norm), rtol=1e-5)
    cosines = F.cosine_similarity(mixed, a.vector[1:])
    assert torch.allclose(cosines, torch.cos(torch.linspace(0, math.pi, 5)), atol=1e-3)


def test_frames_make_a_batch_row_by_row():
    a, b = Embedding(vectors(2), "c"), Embedding(vectors(1, seed=1), "c", "text")
    mixed = slerp_embeddings(a, b, 0.25, 0.75, 3)
    assert len(mixed) == 6 and mixed.clip_id == "c" and mixed.modality == "image"
    for row in range(2):
        for frame, share in enumerate((0.25, 0.5, 0.75)):
            expected = slerp(a.vector[row : row + 1], b.vector, share)[0]
            assert torch.allclose(mixed.vector[row * 3 + frame], expected, atol=1e-6)
    assert torch.allclose(slerp_embeddings(a, b, 0.4, 0.9, 1).vector[1], slerp(a.vector[1:], b.vector, 0.4)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "Slerp: frames must be a whole number from 1 to 1000, got 0"),
        ({"frames": 10_000}, "from 1 to 1000, got 10000"),
        ({"frames": 2.5}, "got 2.5"),
        ({"start": -0.1}, "Slerp: start must be a number from 0 to 1, got -0.1"),
        ({"end": float("nan")}, "Slerp: end must be a number from 0 to 1, got nan"),
    ],
)
def test_bad_paths_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        slerp_embeddings(Embedding(vectors(1), "c"), Embedding(vectors(1, seed=1), "c"), **options)


def test_embeddings_of_two_clips_do_not_mix():
    with pytest.raises(ValueError, match="embed_a is 24-d from one, but embed_b 24-d from two; encode both with"):
        slerp_embeddings(Embedding(vectors(1), "one"), Embedding(vectors(1), "two"))
    with pytest.raises(ValueError, match="Text Diff: this model was trained on one"):
        text_diff(Embedding(vectors(1), "one"), text(1), text(1, seed=2), frames=2)
    with pytest.raises(ValueError, match="similarity"):
        similarity(Embedding(vectors(1), "one"), text(1))
    with pytest.raises(ValueError, match=r"batch sizes do not match \(embed_a 3, embed_b 2\); embed_b must be 1 or 3"):
        slerp_embeddings(Embedding(vectors(3), "c"), Embedding(vectors(2), "c"))


@both_norms
@pytest.mark.parametrize("text_norm", [1.0, 10.0])
def test_text_diff_turns_toward_the_difference_of_normalised_texts(norm, text_norm):
    embed = Embedding(vectors(1, norm=norm), "c")
    before, after = text(1, seed=1, norm=text_norm), text(1, seed=2, norm=text_norm * 2)
    z_d = F.normalize(vectors(1, seed=2) - vectors(1, seed=1), dim=1)
    turned = text_diff(embed, before, after, 0.0, 0.5, 3).vector
    assert torch.allclose(turned[0], embed.vector[0], atol=1e-5 * norm)
    assert torch.allclose(turned.norm(dim=1), torch.full((3,), norm), rtol=1e-5)
    whole = torch.acos(F.cosine_similarity(embed.vector, z_d))
    reached = torch.acos(F.cosine_similarity(turned, z_d))
    assert torch.allclose(reached, whole * torch.tensor([1.0, 0.75, 0.5]), atol=1e-3)
    alone = text_diff(embed, None, after, 1.0, 1.0, 1).vector
    assert F.cosine_similarity(alone, after.embed).item() == pytest.approx(1.0, abs=1e-5)


def test_text_diff_of_equal_texts_is_refused_with_the_caption():
    with pytest.raises(ValueError, match=r"text_from and text_to are the same to c \('caption 0'\)"):
        text_diff(Embedding(vectors(1), "c"), text(1, norm=2.0), text(1))
    with pytest.raises(ValueError, match=r"Text Diff: end_theta must be a number from 0 to 1, got 1.5"):
        text_diff(Embedding(vectors(1), "c"), text(1), text(1, seed=2), 0.0, 1.5)


def test_similarity_is_the_cosine_whatever_the_norm():
    a, b = Embedding(vectors(3, norm=10.0), "c"), text(1, seed=1)
    assert torch.allclose(similarity(a, b), (vectors(3) * b.embed).sum(1), atol=1e-6)
    assert torch.allclose(similarity(a, a), torch.ones(3))
    assert text_as_embedding(b).modality == "text" and text_as_embedding(b).vector is b.embed


INVERSION = Inversion((900, 0), "d", 1.0, "e", "t", 0.25)


def noise(seed, inversion=None, side=64):
    return GivenNoise(torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed)), inversion)


def test_mixed_noise_keeps_its_spread_and_the_ends_and_the_inversion():
    a, b = noise(0, INVERSION), noise(1)
    mixed = slerp_noises(a, b, frames=3)
    assert torch.allclose(mixed.x_T[0], a.x_T[0], atol=1e-5) and torch.allclose(mixed.x_T[2], b.x_T[0], atol=1e-5)
    assert mixed.x_T[1].std().item() == pytest.approx(1.0, abs=0.02)
    assert mixed.inversion == INVERSION and slerp_noises(b, b).inversion is None
    other = Inversion((900, 0), "d", 1.0, "f", "t", 0.5)
    both = slerp_noises(a, noise(1, other)).inversion
    assert (both.timesteps, both.embed_hash, both.text_hash, both.residual) == ((900, 0), "e+f", "t", 0.5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Inversion((900, 5, 0), "d", 1.0, "", ""),
            "noise_a was inverted with 2 steps, noise_b with 3 steps; invert both",
        ),
        (
            Inversion((900, 0), "x", 1.0, "", ""),
            "decoder_id d, noise_b with decoder_id x; invert both with one decoder",
        ),
        (Inversion((900, 0), "d", 2.0, "", ""), "guidance_scale 1.0, noise_b with guidance_scale 2.0"),
    ],
)
def test_inversions_that_do_not_go_together_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        slerp_noises(noise(0, INVERSION), noise(1, other))


def test_noise_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"noise_a is \(64, 64\) pixels and noise_b \(16, 16\)"):
        slerp_noises(noise(0), noise(1, side=16))


def test_random_noise_is_the_decoders_own_on_any_grid():
    for shape in ((3, 64, 64), (4, 12, 20)):
        drawn = draw_x_T(RandomNoise(2**64 - 1, 3), shape)
        assert torch.equal(drawn, ItemNoise(2**64 - 1, 3, "decoder").draw(shape))
        shared = draw_x_T(RandomNoise(7, 3, shared=True), shape)
        assert torch.equal(shared, draw_x_T(RandomNoise(7), shape).expand(3, -1, -1, -1))


def test_mixed_random_noises_stay_a_recipe_and_are_mixed_on_the_decoders_grid():
    a, b = RandomNoise(5, 2), RandomNoise(9)
    mixed = slerp_noises(a, b, 0.25, 0.75, frames=3)
    for shape in ((3, 64, 64), (4, 12, 20)):
        one, two = draw_x_T(a, shape), draw_x_T(b, shape)
        expected = [slerp(one[row : row + 1], two, share) for row in range(2) for share in (0.25, 0.5, 0.75)]
        assert torch.allclose(draw_x_T(mixed, shape), torch.cat(expected), atol=1e-6)
    again = slerp_noises(mixed, RandomNoise(11), frames=2)
    assert len(again) == 12
    assert torch.allclose(draw_x_T(again, (3, 8, 8))[::2], draw_x_T(mixed, (3, 8, 8)), atol=1e-6)


def test_a_random_noise_takes_the_size_and_the_inversion_of_a_given_one():
    given = noise(0, INVERSION, side=20)
    for a, b in ((given, RandomNoise(3, 2)), (RandomNoise(3, 2), given)):
        mixed = slerp_noises(a, b, frames=3)
        assert mixed.x_T.shape == (6, 3, 20, 20) and mixed.inversion == INVERSION
        ends = (given.x_T[0], draw_x_T(RandomNoise(4), (3, 20, 20))[0])
        assert torch.allclose(mixed.x_T[3], ends[a is not given], atol=1e-5)
        assert torch.allclose(mixed.x_T[5], ends[a is given], atol=1e-5)


def test_a_picture_to_start_from_has_no_start_noise_to_mix():
    with pytest.raises(ValueError, match=r"Slerp Noise: noise_b is a PictureStart, which has no x_T of its own"):
        slerp_noises(RandomNoise(1), PictureStart(torch.zeros(1, 8, 8, 3)))


def test_a_blend_is_the_mean_of_directions_and_the_mean_of_norms():
    """At right angles the directions' mean is known: (3, 1) / sqrt(10) for weights 3 to 1."""
    right, up = Embedding(torch.tensor([[2.0, 0.0]]), "c"), Embedding(torch.tensor([[0.0, 6.0]]), "c", "text")
    blended = blend_embeddings([right, up], [3.0, 1.0])
    expected = torch.tensor([[3.0, 1.0]]) / math.sqrt(10) * (0.75 * 2 + 0.25 * 6)
    assert torch.allclose(blended.vector, expected) and blended.modality == "image"
    assert torch.allclose(blend_embeddings([right, up], [0.3, 0.1]).vector, expected)  # their ratio counts
    away = blend_embeddings([right, up], [3.0, -1.0]).vector
    assert torch.allclose(away, expected * torch.tensor([1.0, -1.0]))
    rows = Embedding(torch.cat([right.vector, up.vector]), "c")
    assert torch.allclose(blend_embeddings([rows], [3.0, 1.0]).vector, expected)  # the rows of one batch into one
    assert torch.allclose(blend_embeddings([right]).vector, right.vector)
    assert blend_embeddings([up]).modality == "text"


@both_norms
def test_an_even_blend_is_the_middle_of_the_way_row_by_row(norm):
    a, b = Embedding(vectors(3, norm=norm), "c"), Embedding(vectors(1, seed=1, norm=2 * norm), "c")
    middle = slerp_embeddings(a, b, 0.5, 0.5, 1).vector
    assert torch.allclose(blend_embeddings([a, b]).vector, middle, atol=1e-5 * norm)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weight for 2 embeddings; give one for each, or none"),
        ([0.0, 0.0], "all weights are 0, so that nothing is left"),
        ([1.0, math.inf], "a weight must be a number, such as 0.5, got inf"),
        ([1.0, -1.0], "the weighted embeddings cancel out in row 1, so that no direction is left"),
    ],
)
def test_weights_that_leave_nothing_to_blend_are_refused(weights, message):
    a, b = vectors(2), vectors(2, seed=1)
    b[1] = a[1]
    with pytest.raises(ValueError, match=f"Embedding Blend: {message}"):
        blend_embeddings([Embedding(a, "c"), Embedding(b, "c")], weights)


def test_what_is_joined_is_picked_again_row_by_row():
    embeds = [Embedding(vectors(rows, seed=rows), "c", noise_level=rows) for rows in (2, 1, 3)]
    with pytest.warns(UserWarning, match="Embedding Batch: the embeddings have noise of the levels 2, 1, 3"):
        joined = join_embeddings(embeds)
    assert len(joined) == 6 and joined.noise_level == 3
    assert torch.equal(pick_rows("x", "embedding", joined, 2).vector, embeds[1].vector)
    assert torch.equal(pick_rows("x", "embedding", joined, 3, 0).vector, embeds[2].vector)
    assert torch.equal(pick_rows("x", "embedding", joined, 0, 2).vector, embeds[0].vector)

    painted = [text_as_embedding(text(2)), text_as_embedding(text(1, seed=1))]
    assert join_embeddings(painted).captions == ("caption 0", "caption 1", "caption 0")
    assert join_embeddings([*painted, replace(embeds[0], noise_level=0)]).captions == ()  # not of all is it known
    assert slerp_embeddings(*painted).captions == text_diff(painted[1], None, text(1)).captions == ()

    short, long = text(2), text(1, seed=1)
    wider = torch.ones(1, 5)
    long = replace(long, tokens=wider[..., None], mask=wider.bool(), ids=wider.long(), captions=("long",))
    texts = join_texts([short, long, short])
    assert texts.captions == ("caption 0", "caption 1", "long", "caption 0", "caption 1")
    assert texts.tokens.shape == (5, 5, 1) and texts.mask.sum(1).tolist() == [2, 2, 5, 2, 2]
    assert texts.mask.dtype == torch.bool and texts.ids.dtype == torch.int64
    assert torch.equal(pick_rows("x", "caption", texts, 2).embed, long.embed)


def test_joined_noises_are_the_decoders_own_draws_of_each():
    joined = join_noises([RandomNoise(5, 2), slerp_noises(RandomNoise(1), RandomNoise(2), frames=2), RandomNoise(9)])
    for shape in ((3, 8, 8), (4, 12, 20)):  # a recipe, whatever the decoder's grid
        drawn = draw_x_T(joined, shape)
        assert torch.equal(drawn[:2], ItemNoise(5, 2, "decoder").draw(shape)) and len(drawn) == len(joined) == 5
        assert torch.equal(drawn[4:], ItemNoise(9, 1, "decoder").draw(shape))
        assert torch.equal(draw_x_T(pick_rows("x", "noise", joined, 4), shape), drawn[4:])
    given = noise(0, INVERSION, side=20)
    with_given = join_noises([RandomNoise(3), given, joined])
    assert with_given.x_T.shape == (7, 3, 20, 20) and with_given.inversion == INVERSION
    assert torch.equal(with_given.x_T[1:2], given.x_T)
    assert torch.equal(with_given.x_T[2:], draw_x_T(joined, (3, 20, 20)))
    with pytest.raises(
        ValueError, match="Noise Batch: noise_2 was inverted with decoder_id d, noise_4 with decoder_id x"
    ):
        other = Inversion((900, 0), "x", 1.0, "", "")
        join_noises([RandomNoise(3), given, noise(2, side=20), noise(1, other, side=20)])
    with pytest.raises(ValueError, match=r"noise is \(20, 20\) pixels and noise_3 \(64, 64\); make all for the same"):
        join_noises([given, RandomNoise(3), noise(0)])
    with pytest.raises(ValueError, match="Noise Batch: noise_2 is a PictureStart"):
        join_noises([given, PictureStart(torch.zeros(1, 8, 8, 3))])


def test_what_is_no_embedding_or_text_is_named():
    embed, caption = Embedding(vectors(2), "c"), text(1)
    for run, said in (
        (lambda: join_embeddings([embed, caption]), "Embedding Batch: embed_2 must be an Embedding, got TextEncoding"),
        (lambda: join_texts([caption, embed]), "Text Batch: text_2 must be a TextEncoding, got Embedding; link CLIP"),
        (lambda: blend_embeddings([torch.zeros(1, 4)]), "Embedding Blend: embed must be an Embedding, got Tensor"),
        (lambda: slerp_embeddings(embed, caption), "Slerp: embed_b must be an Embedding, got TextEncoding"),
        (lambda: text_diff(caption, None, caption), "Text Diff: embed must be an Embedding, got TextEncoding"),
        (lambda: text_diff(embed, None, embed), "Text Diff: text_to must be a TextEncoding, got Embedding"),
        (lambda: rank_by_text(embed, embed), "Rank by CLIP: text must be a TextEncoding, got Embedding"),
        (lambda: text_as_embedding(embed), "Text As Embedding: text must be a TextEncoding, got Embedding"),
    ):
        with pytest.raises(ValueError) as caught:
            run()
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize("join", [lambda parts: join_embeddings(parts), lambda parts: blend_embeddings(parts)])
def test_two_clips_are_not_joined(join):
    with pytest.raises(ValueError, match="embed is 24-d from one, but embed_3 24-d from two; encode all with the CLIP"):
        join([Embedding(vectors(1), "one"), Embedding(vectors(1), "one"), Embedding(vectors(1), "two")])
    with pytest.raises(ValueError, match="Text Batch: text is 24-d from one, but text_2 24-d from two; encode both"):
        join_texts([text(1, clip_id="one"), text(1, clip_id="two")])


@pytest.mark.parametrize(
    ("index", "length", "message"),
    [
        (3, 1, r"there is no idea 3; the batch has 3, numbered 0 to 2\. Lower index"),
        (1, 3, "from idea 1 on there are 2, not 3; lower length, or set it to 0"),
        (-1, 1, "index must be a whole number from 0 up, got -1"),
        (0, 1.5, "length must be a whole number from 0 up, got 1.5"),
    ],
)
def test_rows_that_are_not_there_are_refused(index, length, message):
    with pytest.raises(ValueError, match=f"Pick: {message}"):
        pick_rows("Pick", "idea", Embedding(vectors(3), "c"), index, length)


def test_ranks_are_by_the_cosine_to_one_caption():
    caption = text(1)
    angles = torch.tensor([1.2, 0.1, 2.0, 0.1])
    across = F.normalize(vectors(1, seed=1) - (vectors(1, seed=1) * caption.embed).sum() * caption.embed, dim=1)
    norms = torch.tensor([[9.0], [1.0], [3.0], [2.0]])
    embed = Embedding((angles.cos()[:, None] * caption.embed + angles.sin()[:, None] * across) * norms, "c")
    order, scores = rank_by_text(embed, caption)
    assert sorted(order[:2]) == [1, 3] and order[2:] == [0, 2]
    assert torch.allclose(scores, angles.cos()[order], atol=1e-5)
    assert len(rank_by_text(embed, caption, 2)[0]) == len(rank_by_text(embed, caption, 2)[1]) == 2
    same = Embedding(embed.vector[[0, 1, 1, 1]], "c")
    assert rank_by_text(same, caption)[0] == [1, 2, 3, 0]  # equal ones in their order
    with pytest.raises(ValueError, match=r"keep must be a whole number from 0 \(all\) to the 4 there are, got 5"):
        rank_by_text(embed, caption, 5)
    with pytest.raises(ValueError, match="Rank by CLIP: this model was trained on"):
        rank_by_text(embed, text(1, clip_id="other"))


def test_of_several_captions_each_ranks_what_was_made_of_it():
    captions, embed = text(3), Embedding(vectors(12, seed=5), "c")
    order, scores = rank_by_text(embed, captions, 2)
    alone = [rank_by_text(embed.take(slice(4 * row, 4 * row + 4)), captions.take([row]), 2) for row in range(3)]
    assert order == [4 * row + place for row, (own, _) in enumerate(alone) for place in own]
    assert torch.allclose(scores, torch.cat([own for _, own in alone]))
    assert sorted(rank_by_text(embed, captions)[0][4:8]) == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="12 rows do not divide among the 5 captions of text; link as many of each"):
        rank_by_text(embed, text(5))
    with pytest.raises(ValueError, match="to the 4 there are of each caption, got 5"):
        rank_by_text(embed, captions, 5)
