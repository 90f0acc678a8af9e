"""What every run shares: finishing, cancelling, the NaN watch, precision, memory estimates."""

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.samplers import StepState
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.pictures.resizing import resize_bicubic
from comfyui_unclip.unclip_core.presets import KARLO, STORYBOOK
from comfyui_unclip.unclip_core.runtime import estimates as memory
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Decoder, finish
from comfyui_unclip.unclip_core.stages.run import NanWatch, split_rows


def test_weights_load_at_the_first_step(tiny):
    decoder = tiny.decoder()
    steps = decoder.sample(tiny.embed())
    assert not decoder.network.loaded
    next(steps)
    assert decoder.network.loaded
    steps.close()


def test_closing_cancels_between_steps(tiny):
    decoder = tiny.decoder()
    steps = decoder.sample(tiny.embed(), steps=10)
    assert [next(steps).index for _ in range(3)] == [0, 1, 2]
    steps.close()
    assert len(decoder.network.read().calls) == 3
    with pytest.raises(StopIteration):
        next(steps)
    assert decoder.sample(tiny.embed()).shape == (1, 16, 16, 3)  # and the stage still works


def test_an_exception_of_the_listener_ends_the_run(tiny):
    decoder = tiny.decoder()

    def cancel(state):
        if state.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(decoder.sample_steps(tiny.embed(), steps=10), cancel)
    assert len(decoder.network.read().calls) == 2


def test_grad_mode_is_left_alone_between_steps(tiny):
    steps = tiny.decoder().sample(tiny.embed())
    state = next(steps)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not state.x0.requires_grad and not state.x0.is_inference()
    steps.close()
    assert torch.is_grad_enabled()


def test_nan_names_stage_step_and_dtype(tiny):
    decoder = tiny.decoder()
    network = decoder.network.read()
    original = network.forward

    def broken(x, *args, **kwargs):
        output = original(x, *args, **kwargs)
        return output * float("nan") if len(network.calls) == 3 else output

    network.forward = broken
    with pytest.raises(
        FloatingPointError, match=r"Decoder Sample: NaN or infinity at step 3 of 7 \(t=\d+\) in float32"
    ):
        decoder.sample(tiny.embed(), steps=7)
    assert len(network.calls) == 3


def test_nan_watch_off_the_cpu_still_names_the_first_bad_step():
    watch = NanWatch("Decoder Sample", 5, torch.float16, torch.device("meta"))
    watch.INTERVAL = 1e9
    good, bad = torch.zeros(1, 2), torch.full((1, 2), float("nan"))
    for index in range(4):
        watch.see(StepState(index, 5, 90 - index, bad if index >= 2 else good, good))
    with pytest.raises(FloatingPointError, match=r"step 3 of 5 \(t=88\) in float16; load the model with dtype fp32"):
        watch.see(StepState(4, 5, 0, good, good))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arithmetic_of_samplers_stays_float32_in_low_precision(tiny, dtype):
    config = tiny.decoder().config
    low = Decoder(config, Placed(lambda dtype: tiny.random_weights(DecoderNetwork(config)), torch.device("cpu"), dtype))
    states = []
    result = finish(low.sample_steps(tiny.embed(2), tiny.text(2), seed=3), states.append)
    assert result.dtype == torch.float32 and low.network.dtype == dtype
    for state in states:
        assert state.x_t.dtype == state.x0.dtype == torch.float32
        assert not torch.equal(state.x_t, state.x_t.to(dtype).float())  # nor rounded on the way


def test_split_rows_covers_the_batch_evenly():
    for batch in range(1, 20):
        for rows in range(1, 22):
            slices = list(split_rows(batch, rows))
            sizes = [s.stop - s.start for s in slices]
            assert [i for s in slices for i in range(s.start, s.stop)] == list(range(batch))
            assert max(sizes) <= rows and max(sizes) - min(sizes) <= 1
            assert len(slices) == -(-batch // rows)


def test_estimates_grow_with_the_picture_and_cover_what_a_forward_allocates():
    big, small = KARLO.upsampler_256.unet, STORYBOOK.upsampler_256.unet
    assert 3.9 < memory.unet_row_bytes(big, 512, 2) / memory.unet_row_bytes(big, 256, 2) < 4.1
    assert memory.unet_row_bytes(small, 256, 2) < memory.unet_row_bytes(big, 256, 2) / 20
    assert memory.rows_that_fit(torch.device("cpu"), 10**15) == 1
    few, many = (memory.rows_that_fit(torch.device("cpu"), size) for size in (2**24, 2**20))
    assert 1 <= few < many <= 1024


def test_resizing_is_float32_and_exact_when_nothing_changes():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(resize_bicubic(x, 8), x)
    large = resize_bicubic(x.to(torch.bfloat16), 32)
    assert large.dtype == torch.float32 and large.shape == (2, 3, 32, 32)
    assert torch.allclose(resize_bicubic(torch.full((1, 3, 20, 12), 0.3), 8), torch.full((1, 3, 8, 8), 0.3), atol=1e-6)
