"""What every run shares: finishing, cancelling, the NaN watch, precision, batches that do not fit."""

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.samplers import StepState
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.runtime.estimates import is_out_of_memory
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Decoder, finish
from comfyui_unclip.unclip_core.stages.run import NanWatch

IMAGES = torch.rand(5, 8, 8, 3, generator=torch.Generator().manual_seed(0))


def test_weights_load_at_the_first_step(tiny):
    decoder = tiny.decoder()
    steps = decoder.sample_steps(tiny.embed())
    assert not decoder.network.loaded
    next(steps)
    assert decoder.network.loaded
    steps.close()


def test_closing_cancels_between_steps(tiny):
    decoder = tiny.decoder()
    steps = decoder.sample_steps(tiny.embed(), steps=10)
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
    steps = tiny.decoder().sample_steps(tiny.embed())
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


class OnDevice(torch.Tensor):
    """Values on the CPU that say they lie on a device, from which a flag is not read at once."""

    device = torch.device("cuda")


def test_nan_watch_off_the_cpu_still_names_the_first_bad_step():
    watch = NanWatch("Decoder Sample", torch.float16)
    watch.INTERVAL = 1e9
    good, bad = (torch.full((1, 2), value).as_subclass(OnDevice) for value in (0.0, float("nan")))
    for index in range(4):
        watch.check(StepState(index, 5, 90 - index, bad if index >= 2 else good, good))
    watch.INTERVAL = 0.0
    with pytest.raises(FloatingPointError, match=r"step 3 of 5 \(t=88\) in float16; load .* dtype bf16 or fp32"):
        watch.check(StepState(4, 5, 0, good, good))
    watch = NanWatch("Decoder Sample", None)
    watch.INTERVAL = 1e9
    watch.check(StepState(0, 1, 0, bad, bad))
    with pytest.raises(FloatingPointError, match=r"step 1 of 1 \(t=0\) in float32; the weights may be damaged"):
        watch.finish()


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


class Full:
    """A network with room for so many rows."""

    def __init__(self, network, rows, error):
        self.network, self.rows, self.error, self.tried = network, rows, error, []

    def __call__(self, x_t, *args, **kwargs):
        self.tried.append(len(x_t))
        if len(x_t) > self.rows:
            raise self.error
        return type(self.network).forward(self.network, x_t, *args, **kwargs)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    MemoryError(),
]


def assert_numbered_through(states):
    """However a run was split, its steps count up to a total that never shrinks and is reached."""
    indices, totals = [state.index for state in states], [state.total for state in states]
    assert indices == sorted(indices) and totals == sorted(totals)
    assert all(index < total for index, total in zip(indices, totals, strict=True))
    assert states[-1].index + 1 == states[-1].total


@pytest.fixture
def upsampler(tiny):
    return tiny.upsampler()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__ + str(error)[:4])
def test_a_batch_that_does_not_fit_is_split_and_changes_nothing(upsampler, monkeypatch, limit_rows, error):
    whole = upsampler.sample(IMAGES, seed=3)
    network = upsampler.network.read()
    full = Full(network, 2, error)
    monkeypatch.setattr(network, "forward", full)
    limit_rows(5)
    states = []
    split = finish(upsampler.sample_steps(IMAGES, seed=3), states.append)
    assert torch.allclose(split, whole, atol=1e-5)
    assert full.tried[0] == 5
    assert sum(rows for rows in full.tried if rows <= 2) == 5 * upsampler.config.sampling.steps  # none twice
    assert_numbered_through(states)


def test_an_inversion_that_does_not_fit_is_split_and_changes_nothing(tiny, monkeypatch, limit_rows):
    decoder, embed = tiny.decoder(), tiny.embed()
    whole = decoder.invert(IMAGES, embed, steps=4, refine=1)
    network = decoder.network.read()
    full = Full(network, 2, ERRORS[0])
    monkeypatch.setattr(network, "forward", full)
    limit_rows(5)
    states = []
    split = finish(decoder.invert_steps(IMAGES, embed, steps=4, refine=1), states.append)
    assert torch.allclose(split.x_T, whole.x_T, atol=1e-4)
    assert full.tried[0] == 5
    assert_numbered_through(states)
    monkeypatch.setattr(network, "forward", Full(network, 0, ERRORS[0]))
    expected = r"DDIM Invert: one item .* with weights in float32, which it needs; choose a smaller model"
    with pytest.raises(MemoryError, match=expected):
        decoder.invert(IMAGES, steps=4)


def test_autoregressive_codes_that_do_not_fit_are_split_and_change_nothing(
    tiny, make_ar_prior, monkeypatch, limit_rows
):
    prior, text = make_ar_prior(), tiny.text(5)
    whole = prior.sample(text, seed=3)
    network = prior.network.read()
    step, tried = network.step, []

    def full(bucket, cache):
        tried.append(len(bucket))
        if len(bucket) > 2:
            raise ERRORS[1]
        return step(bucket, cache)

    monkeypatch.setattr(network, "step", full)
    limit_rows(5)
    states = []
    split = finish(prior.sample_steps(text, seed=3), states.append)
    assert torch.allclose(split.vector, whole.vector, atol=1e-5)
    assert tried[0] == 5 and sum(rows for rows in tried if rows <= 2) == 5 * prior.config.components
    assert_numbered_through(states)
    monkeypatch.setattr(network, "step", lambda *given: full(torch.zeros(3), None))
    with pytest.raises(MemoryError, match=r"Autoregressive Prior: one item at a time does not fit into"):
        prior.sample(text)


def test_a_single_item_that_does_not_fit_says_what_to_do(upsampler, monkeypatch):
    network = upsampler.network.read()
    monkeypatch.setattr(network, "forward", Full(network, 0, ERRORS[1]))
    expected = (
        r"Upsample 32: one item at a time does not fit into memory \(.*\d GiB free\) with weights in float32; choose"
    )
    # The stage is on the processor, whatever else this computer has.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (2**33, 2**34))
    with pytest.raises(MemoryError, match=expected):
        upsampler.sample(IMAGES)


def test_other_errors_pass(upsampler, monkeypatch):
    network, error = upsampler.network.read(), RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    monkeypatch.setattr(network, "forward", Full(network, 0, error))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        upsampler.sample(IMAGES)


def test_two_networks_of_one_run_share_the_chunks_and_the_numbering(tiny, monkeypatch, limit_rows):
    """What the first network's run had to halve stays halved for the final network's."""
    upsampler = tiny.upsampler(final_network=True)
    whole = upsampler.sample(IMAGES, seed=3)
    first, final = upsampler.network.read(), upsampler.final_network.read()
    full = Full(first, 2, ERRORS[0])
    monkeypatch.setattr(first, "forward", full)
    limit_rows(5)
    final.calls.clear()
    states = []
    split = finish(upsampler.sample_steps(IMAGES, seed=3), states.append)
    assert torch.allclose(split, whole, atol=1e-5)
    assert [rows for rows, _ in final.calls] == [rows for rows in full.tried if rows <= 2][::2]
    assert_numbered_through(states)
    assert len({state.index for state in states}) == len(states) == 3 * len(final.calls)


def test_nan_names_the_step_of_the_whole_run_where_two_networks_share_it(tiny):
    upsampler = tiny.upsampler(final_network=True)
    final = upsampler.final_network.read()
    original = final.forward
    final.forward = lambda *args, **kwargs: original(*args, **kwargs) * float("nan")
    with pytest.raises(FloatingPointError, match=r"Upsample 32: NaN or infinity at step 3 of 3 \(t=0\) in float32"):
        upsampler.sample(IMAGES[:1])
