"""Batches that do not fit, estimated and real, and half precision at its limits."""

import subprocess
import sys

import pytest
import torch

from comfyui_unclip.unclip_core.models.layers import GroupNorm, attend, time_features
from comfyui_unclip.unclip_core.runtime.estimates import is_out_of_memory
from comfyui_unclip.unclip_core.stages import finish

HALF = torch.float16
IMAGES = torch.rand(5, 8, 8, 3, generator=torch.Generator().manual_seed(0))


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
def upsampler_stage(tiny):
    return tiny.upsampler()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__ + str(error)[:4])
def test_a_batch_that_does_not_fit_is_split_and_changes_nothing(upsampler_stage, monkeypatch, limit_rows, error):
    whole = upsampler_stage.sample(IMAGES, seed=3)
    network = upsampler_stage.network.read()
    full = Full(network, 2, error)
    monkeypatch.setattr(network, "forward", full)
    limit_rows(5)
    states = []
    split = finish(upsampler_stage.sample_steps(IMAGES, seed=3), states.append)
    assert torch.allclose(split, whole, atol=1e-5)
    assert full.tried[0] == 5
    assert sum(rows for rows in full.tried if rows <= 2) == 5 * upsampler_stage.config.sampling.steps  # none twice
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


def test_a_single_item_that_does_not_fit_says_what_to_do(upsampler_stage, monkeypatch):
    network = upsampler_stage.network.read()
    monkeypatch.setattr(network, "forward", Full(network, 0, ERRORS[1]))
    expected = (
        r"Upsample 32: one item at a time does not fit into memory \(.*\d GiB free\) with weights in float32; choose"
    )
    # The stage is on the processor, whatever else this computer has.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (2**33, 2**34))
    with pytest.raises(MemoryError, match=expected):
        upsampler_stage.sample(IMAGES)


def test_other_errors_pass(upsampler_stage, monkeypatch):
    network, error = upsampler_stage.network.read(), RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    monkeypatch.setattr(network, "forward", Full(network, 0, error))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        upsampler_stage.sample(IMAGES)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space limits are Linux's")
def test_a_real_limit_ends_in_the_message():
    """Nothing is made up here: the process may have 300 MB more, and the weights alone take 1.2 GB."""
    program = """
import resource
import torch
from comfyui_unclip.unclip_core.runtime.placement import Placed
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
try:
    Placed(lambda dtype: torch.nn.Linear(2**15, 10_000), torch.device("cpu"), torch.float32)()
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Load unCLIP: one item at a time does not fit" in done.stdout and "GiB free" in done.stdout, done.stderr


def test_half_precision_survives_large_activations():
    """Squares of 3e4 overflow float16: statistics, softmax and time features must not be computed in it."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 6, 6) * 1e4 + 2e4
    norm, layer_norm = GroupNorm(4, 16, 1e-5), torch.nn.LayerNorm(16)
    tokens = x.flatten(2).transpose(1, 2)
    q = torch.randn(2, 4, 9, 16) * 250  # scores up to 1e6
    with torch.no_grad():
        for exact, half in (
            (norm(x), GroupNorm(4, 16, 1e-5).to(HALF)(x.to(HALF))),
            (layer_norm(tokens), torch.nn.LayerNorm(16).to(HALF)(tokens.to(HALF))),
            (attend(q, q, q), attend(q.to(HALF), q.to(HALF), q.to(HALF))),
        ):
            assert half.dtype == HALF and torch.isfinite(half).all()
            assert (half.float() - exact).abs().max() < 0.01 * exact.abs().max()
    features = time_features(torch.tensor([999]), 64)
    assert features.dtype == torch.float32 and torch.equal(features, time_features(torch.tensor([999.0]), 64))
