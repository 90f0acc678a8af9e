"""Guidance within an interval: one forward outside it, two inside; and until its edge the path of either."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.embeddings import slerp_noises
from comfyui_unclip.unclip_core.types import PictureStart

SAMPLERS = ["ddpm", "ddim", "dpmpp_2m", "unipc"]


def states(decoder, *given, **options):
    """x_t after every step."""
    found = []
    steps = decoder.sample_steps(*given, **{"seed": 1, "guidance_scale": 3.0, "steps": 8, **options})
    while True:
        try:
            found.append(next(steps).x_t)
        except StopIteration:
            return found


def rows_of(decoder):
    return [rows for rows, _ in decoder.network.read().calls]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_before_the_interval_it_is_the_unguided_path_and_from_its_start_it_leaves_it(tiny, sampler, learned):
    decoder = tiny.decoder(learned_variance=learned)
    given, options = (tiny.embed(2), tiny.text(2)), {"sampler": sampler}
    guided, unguided = states(decoder, *given, **options), states(decoder, *given, guidance_scale=1.0, **options)
    late = states(decoder.with_guidance_interval(0.45, 1.0), *given, **options)
    early = states(decoder.with_guidance_interval(0.0, 0.45), *given, **options)
    # The shares of 8 steps are k / 7, those of the multistep samplers k / 8: four lie before 0.45.
    for step in range(8):
        assert torch.allclose(late[step], unguided[step], atol=1e-5) == (step < 4), step
        assert torch.allclose(early[step], guided[step], atol=1e-5) == (step < 4), step


def test_only_steps_within_cost_two_forwards(tiny):
    decoder = tiny.decoder()
    calls = decoder.network.on_device().calls
    decoder.with_guidance_interval(0.25, 0.6).sample(tiny.embed(3), tiny.text(), sampler="ddim", steps=9)
    assert [rows for rows, _ in calls] == [3, 3, 6, 6, 6, 3, 3, 3, 3]  # shares k / 8, ends included


def test_all_of_the_schedule_is_no_interval_and_another_takes_the_place_of_the_first(tiny):
    decoder = tiny.decoder()
    assert decoder.with_guidance_interval(0.0, 1.0).interval is None
    assert decoder.with_guidance_interval(0.2, 0.4).with_guidance_interval(0, 1).interval is None
    narrow = decoder.with_guidance_interval(0.2, 0.4)
    assert narrow.network is decoder.network and decoder.interval is None and narrow.interval.start == 0.2


def test_it_works_with_a_hint_with_negatives_and_in_chunks(tiny, limit_rows):
    """What stands behind x_t's channels is halved too."""
    decoder = tiny.latent_decoder("hint").with_depth_hint(torch.rand(3, 64, 64, 3))
    options = {"negative_embed": tiny.embed(seed=8), "sampler": "ddim", "steps": 6, "guidance_scale": 3.0}
    whole = decoder.with_guidance_interval(0.3, 0.7).sample(tiny.embed(3), **options)
    assert (whole - decoder.sample(tiny.embed(3), **options)).abs().max() > 1e-3
    limit_rows(1)
    assert torch.allclose(whole, decoder.with_guidance_interval(0.3, 0.7).sample(tiny.embed(3), **options), atol=1e-4)


def test_a_run_that_begins_at_a_picture_keeps_the_shares_of_the_whole_schedule(tiny):
    """At strength 0.4 the run begins at share 0.6."""
    decoder, start = tiny.decoder(), PictureStart(torch.rand(1, 16, 16, 3), strength=0.4)
    calls = decoder.network.on_device().calls
    decoder.with_guidance_interval(0.0, 0.8).sample(tiny.embed(), noise=start, sampler="ddim", steps=5)
    assert [rows for rows, _ in calls] == [2, 2, 2, 1, 1]  # shares 0.6, 0.7, 0.8, 0.9, 1


def test_it_says_where_it_has_no_effect(tiny):
    said, decoder = [], tiny.decoder()
    decoder.with_guidance_interval(0.1, 0.5).sample(tiny.embed(), guidance_scale=1.0, warn=said.append)
    decoder.with_guidance_interval(0.1, 0.15).sample(tiny.embed(), steps=4, warn=said.append)
    assert "at guidance_scale 1 Guidance Interval has no effect" in said[0]
    assert "none of the 4 steps lies within the guidance interval 0.1 to 0.15" in said[1] and len(said) == 2
    plain, empty = (
        each.sample(tiny.embed(), steps=4, seed=1, guidance_scale=scale, warn=said.append)
        for each, scale in ((decoder, 1.0), (decoder.with_guidance_interval(0.1, 0.15), 2.0))
    )
    assert torch.equal(plain, empty)
    narrow = decoder.with_guidance_interval(0.1, 0.15)
    narrow.sample(tiny.embed(), steps=4, negative_embed=tiny.embed(seed=8), warn=said.append)
    assert len(said) == 4 and said[2:] == [said[1]] * 2  # and nothing of guidance_scale 1


@pytest.mark.parametrize(
    ("start", "end"), [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0), ("0", 1.0), (True, 1.0)]
)
def test_bad_ends_are_refused(tiny, start, end):
    with pytest.raises(ValueError, match=r"Guidance Interval: (start|end) .*0 \(noise\)"):
        tiny.decoder().with_guidance_interval(start, end)


def test_an_inversion_under_guidance_keeps_to_it_and_remembers_it(tiny):
    decoder, image, embed = tiny.decoder().with_guidance_interval(0.2, 0.6), torch.rand(1, 16, 16, 3), tiny.embed()
    said = []
    noise = decoder.invert(image, embed, steps=12, guidance_scale=1.5, refine=8)
    assert noise.inversion.guidance_interval == (0.2, 0.6)
    back = decoder.sample(embed, noise=noise, warn=said.append)
    assert not said and (back - image).abs().max() < 0.02
    other = tiny.decoder().with_guidance_interval(0.2, 0.9)
    other.sample(embed, noise=noise, warn=said.append)
    assert "inverted with guidance from 0.2 to 0.6, but is decoded with guidance from 0.2 to 0.9" in said[-1]
    tiny.decoder().sample(embed, noise=noise, warn=said.append)
    assert "is decoded with guidance everywhere" in said[-1] and len(said) == 2
    everywhere = tiny.decoder().invert(image, embed, steps=12, guidance_scale=1.5)
    with pytest.raises(ValueError, match=r"guidance from 0\.2 to 0\.6, noise_b with guidance everywhere"):
        slerp_noises(noise, everywhere)


def test_without_guidance_an_inversion_has_none_to_remember(tiny):
    said, decoder = [], tiny.decoder().with_guidance_interval(0.2, 0.6)
    noise = decoder.invert(torch.rand(1, 16, 16, 3), tiny.embed(), warn=said.append)
    assert noise.inversion.guidance_interval is None
    assert replace(noise.inversion, residual=0.0) == replace(
        tiny.decoder().invert(torch.rand(1, 16, 16, 3), tiny.embed()).inversion, residual=0.0
    )
    tiny.decoder().sample(tiny.embed(), noise=noise, warn=said.append)
    assert not said
