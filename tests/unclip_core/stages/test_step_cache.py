"""Step Cache: which steps run whole, what it refuses, and that inversion does without it."""

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, read_stack
from comfyui_unclip.unclip_core.pictures.likeness import psnr
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import PassThrough

OPTIONS = {"steps": 7, "seed": 1, "sampler": "ddim"}


def inner_runs(stage):
    """Grows by a number of rows whenever the middle of the stage's U-Net runs."""
    found = []
    stage.network.on_device().unet.mid_out.register_forward_hook(lambda module, args, out: found.append(len(out)))
    return found


@pytest.mark.parametrize("interval", [2, 3, 10])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "unipc"])
def test_every_so_many_th_step_is_whole_for_each_chunk_anew(tiny, limit_rows, sampler, interval):
    decoder = tiny.decoder(learned_variance=sampler == "ddpm")
    runs, calls = inner_runs(decoder), decoder.network.on_device().calls
    limit_rows(2)
    decoder.with_step_cache(interval).sample(tiny.embed(4), **OPTIONS | {"sampler": sampler, "guidance_scale": 2.0})
    assert len(calls) == 14 and {rows for rows, _ in calls} == {4}
    assert runs == [4] * (2 * len(range(0, 7, interval)))


def test_where_rows_become_more_the_step_is_whole(tiny):
    """Guidance begins at the third step, with rows of which nothing is kept, and ends again."""
    decoder = tiny.decoder()
    runs = inner_runs(decoder)
    cached = decoder.with_guidance_interval(0.3, 0.7).with_step_cache(100)
    cached.sample(tiny.embed(3), **OPTIONS | {"guidance_scale": 2.0})
    assert runs == [3, 6]
    assert torch.equal(
        cached.sample(tiny.embed(3), **OPTIONS),
        decoder.with_step_cache(100).with_guidance_interval(0.3, 0.7).sample(tiny.embed(3), **OPTIONS),
    )


def test_it_is_another_handle_of_the_same_weights_and_the_split_changes_nothing(tiny, limit_rows):
    decoder = tiny.decoder()
    plain = decoder.sample(tiny.embed(3), **OPTIONS)
    cached = decoder.with_step_cache(3, 2)
    assert cached.network is decoder.network and decoder.cache is None
    pictures = cached.sample(tiny.embed(3), **OPTIONS)
    assert (pictures - plain).abs().max() > 1e-3
    assert torch.equal(decoder.sample(tiny.embed(3), **OPTIONS), plain)
    assert torch.equal(cached.with_step_cache(1).sample(tiny.embed(3), **OPTIONS), plain)
    assert not torch.equal(decoder.with_step_cache(3, 1).sample(tiny.embed(3), **OPTIONS), pictures)
    assert not torch.equal(decoder.with_step_cache(2, 2).sample(tiny.embed(3), **OPTIONS), pictures)
    limit_rows(1)
    assert torch.allclose(cached.sample(tiny.embed(3), **OPTIONS), pictures, atol=1e-5)


@pytest.mark.parametrize("final", [False, True])
def test_an_upsampler_has_one_too(tiny, final):
    upsampler, image = tiny.upsampler(final_network=final), torch.rand(2, 8, 8, 3)
    runs = inner_runs(upsampler)
    plain = upsampler.sample(image, steps=5)
    before = len(runs)
    found = upsampler.with_step_cache(2).sample(image, steps=5)
    assert len(runs) - before == (2 if final else 3)  # a last step of its own network is whole, and not counted here
    assert (found - plain).abs().max() > 1e-4 and torch.equal(upsampler.sample(image, steps=5), plain)
    passing = PassThrough("kandinsky-2-2")
    assert passing.with_step_cache(2) is passing


@pytest.mark.parametrize("interval", [0, -1, 2.0, True, None])
def test_bad_intervals_are_refused(tiny, interval):
    for stage in (tiny.decoder(), tiny.upsampler()):
        with pytest.raises(ValueError, match=r"Step Cache: interval must be a whole number from 1 \(off\) up, got"):
            stage.with_step_cache(interval)


@pytest.mark.parametrize("depth", [0, 5, 1.0, True])
def test_depths_beyond_the_unets_blocks_are_refused(tiny, depth):
    for stage, name in ((tiny.decoder(), "decoder"), (tiny.upsampler(), "upsampler")):
        with pytest.raises(ValueError, match=rf"depth must be a whole number from 1 to 4, .* of this {name}, got"):
            stage.with_step_cache(2, depth)


def test_an_inversion_and_its_decoding_run_every_step_whole_and_say_so(tiny):
    image, embed, said = torch.rand(1, 16, 16, 3), tiny.embed(), []
    decoder = tiny.decoder()
    cached = decoder.with_step_cache(2)
    noise = cached.invert(image, embed, steps=6, warn=said.append)
    exact = decoder.invert(image, embed, steps=6)
    assert torch.equal(noise.x_T, exact.x_T) and noise.inversion == exact.inversion
    picture = cached.sample(embed, noise=noise, warn=said.append)
    assert torch.equal(picture, decoder.sample(embed, noise=exact))
    assert [message.partition(":")[0] for message in said] == ["DDIM Invert", "Decoder Sample"]
    assert all("every step runs the whole network, and Step Cache has no effect" in message for message in said)


def test_on_the_shipped_stack_pictures_stay_close_and_the_deeper_cut_is_the_closer(tmp_path):
    stack = load_stack(read_stack(EMBEDDED / "storybook"), "fp32", "cpu")
    text = stack.clip.encode_text(["a red star on a night sky", "a blue boat in the sea"])
    embed = stack.prior.sample(text, seed=0, steps=10)
    options = {"steps": 20, "sampler": "unipc", "seed": 0}
    plain = stack.decoder.sample(embed, text, **options)
    near, far, other = (
        psnr(each.sample(embed, text, **options | {"seed": seed}), plain)
        for each, seed in (
            (stack.decoder.with_step_cache(2, 3), 0),
            (stack.decoder.with_step_cache(4, 1), 0),
            (stack.decoder, 1),
        )
    )
    assert near > 25.0 and near > far + 3.0 > other + 3.0, (near, far, other)
