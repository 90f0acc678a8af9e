"""The same battery for every network: shape, start, gradients, dtypes, layout, batch rows, state dict."""

import copy

import pytest
import torch

from comfyui_unclip.unclip_core.models.prior import PriorNetwork


def build(case):
    network, config = case
    torch.manual_seed(0)
    return network(config)


def expected_shape(case):
    network, config = case
    return (3, config.clip_dim) if network is PriorNetwork else (3, config.unet.out_channels, 16, 16)


def test_forward_gives_float32_of_the_promised_shape(case, randomise, run):
    out = run(randomise(build(case)))
    assert out.shape == expected_shape(case)
    assert out.dtype == torch.float32
    assert out.isfinite().all() and out.std() > 0.1


def test_untrained_network_predicts_zero(case, run):
    """Output layers start at zero (ADM), so that training starts from the mean."""
    assert run(build(case).eval()).abs().max() == 0


def test_every_parameter_gets_a_gradient(case, randomise, run):
    module = randomise(build(case)).train()
    run(module).square().mean().backward()
    # Nulls are used by dropped rows only, the final network by the last step only; they have tests of their own.
    silent = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not {name for name in silent if not name.startswith(("null_", "final."))}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_pure_low_precision_weights(case, dtype, tolerance, randomise, run):
    module = randomise(build(case))
    exact = run(module)
    out = run(copy.deepcopy(module).to(dtype))
    assert out.dtype == torch.float32
    assert (out - exact).norm() < tolerance * exact.norm()


def test_autocast_trains_close_to_float32(case, randomise, run):
    module = randomise(build(case))
    exact = run(module)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(module)
    out.square().mean().backward()
    assert (out - exact).norm() < 0.1 * exact.norm()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters() if p.grad is not None)


def test_channels_last_changes_nothing(case, randomise, run):
    module = randomise(build(case))
    exact = run(module)
    torch.testing.assert_close(run(module.to(memory_format=torch.channels_last)), exact, atol=2e-5, rtol=1e-4)


def test_rows_do_not_see_each_other(case, randomise, run):
    module = randomise(build(case))
    together = run(module)
    alone = torch.cat([run(module, slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(alone, together, atol=2e-5, rtol=1e-4)


def test_state_dict_round_trip(case, randomise, run):
    module = randomise(build(case))
    other = randomise(build(case), seed=9)
    assert not torch.allclose(run(other), run(module))
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(run(other), run(module))


def test_gradient_mode_does_not_change_the_output(case, randomise, run):
    """Without gradients some operations run in place."""
    module = randomise(build(case))
    with torch.inference_mode():
        inferred = run(module)
    torch.testing.assert_close(inferred, run(module).detach(), atol=1e-6, rtol=1e-5)
