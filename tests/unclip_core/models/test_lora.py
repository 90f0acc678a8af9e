"""Side branches against merged weights, on plain, packed and low-precision networks, and what they leave behind."""

import copy

import pytest
import torch

from comfyui_unclip.unclip_core.config import DecoderConfig, PriorConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.kernels import freeze
from comfyui_unclip.unclip_core.models.lora import (
    AppliedLora,
    Branch,
    Lora,
    all_layers,
    attention_layers,
    joined,
    layer_shapes,
    new_branches,
    with_branches,
)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def lively(layers, rank=3, seed=0):
    """Branches as after a training: up is not zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Branch(branch.down, torch.randn(branch.up.shape, generator=generator) * 0.1)
        for name, branch in new_branches(layers, rank, seed).items()
    }


def merged(network, branches):
    twin = copy.deepcopy(network)
    for name, branch in branches.items():
        weight = twin.get_submodule(name).weight
        weight += (branch.up @ branch.down.flatten(1)).view_as(weight)
    return twin


@pytest.mark.parametrize("packed", [False, True])
def test_branches_compute_what_merged_weights_do_and_leave_no_trace(case, run, randomise, packed):
    kind, config = case
    network = randomise(kind(config))
    layers = all_layers(network)
    branches = lively(layers)
    plain, expected = run(network), run(merged(network, branches))
    if packed:
        freeze(network)
        run(network)  # packs
    state = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    before = run(network)
    modules = [id(module) for module in network.modules()]

    branched = with_branches(network, branches)
    torch.testing.assert_close(run(branched), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain).abs().max() > 0.01
    assert torch.equal(run(network), before)  # while the other one is there
    del branched
    assert [id(module) for module in network.modules()] == modules
    after = network.state_dict()
    assert after.keys() == state.keys()
    assert all(
        after[name].data_ptr() == place and torch.equal(after[name], value) for name, (place, value) in state.items()
    )
    assert not any(module._forward_hooks for module in network.modules())


def test_a_branched_network_packs_the_networks_own_layers(decoder_config, run, randomise):
    """Whichever runs first, the weights are packed once, in the layers that both share."""
    network = randomise(DecoderNetwork(decoder_config))
    freeze(network)
    branched = with_branches(network, lively(attention_layers(network)))
    run(branched)
    layers = attention_layers(network)
    packed = [layer.packed is not None for layer in layers.values() if hasattr(layer, "packed")]
    assert packed and all(packed)


def test_new_branches_change_nothing_and_several_add_up(decoder_config, run, randomise):
    network = randomise(DecoderNetwork(decoder_config))
    layers = attention_layers(network)
    assert torch.equal(run(with_branches(network, new_branches(layers, 4))), run(network))

    some = dict(list(layers.items())[:2])
    one, two = Lora.of("one", lively(layers, 2, seed=1)), Lora.of("two", lively(some, 3, seed=2))
    both = merged(merged(network, scaled(one.branches, 0.5)), scaled(two.branches, -1.25))
    branched = with_branches(network, joined([AppliedLora(one, 0.5), AppliedLora(two, -1.25)]))
    torch.testing.assert_close(run(branched), run(both), rtol=1e-4, atol=1e-5)
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == Lora.of("renamed", dict(reversed(list(one.branches.items())))).fingerprint


def scaled(branches, factor):
    return {name: Branch(branch.down, branch.up * factor) for name, branch in branches.items()}


def test_branches_follow_the_networks_dtype(decoder_config, run, randomise):
    network = randomise(DecoderNetwork(decoder_config))
    branches = scaled(lively(all_layers(network)), 5.0)
    exact, low = run(with_branches(network, branches)), network.to(torch.bfloat16)
    rounded = run(with_branches(low, branches))
    assert (rounded - exact).abs().max() < 0.1 * (exact - run(low)).abs().max()


def test_attention_is_what_is_branched_and_other_names_are_refused(decoder_config):
    with torch.device("meta"):
        network = DecoderNetwork(decoder_config)
    names = attention_layers(network)
    assert {"unet.mid.attentions.0.qkv", "unet.mid.attentions.0.context_kv", "unet.mid.attentions.0.proj"} <= set(names)
    assert all(name.rpartition(".")[2] in ("qkv", "context_kv", "proj") for name in names)
    assert layer_shapes("decoder", decoder_config).keys() > names.keys()
    with pytest.raises(ValueError, match=r"DecoderNetwork has no layer 'unet\.mid\.nothing'; the LoRA is of"):
        with_branches(network, {"unet.mid.nothing": Branch(torch.zeros(1, 2), torch.zeros(2, 1))})
    with pytest.raises(ValueError, match=r"no layer 'unet\.norm_out'"):
        with_branches(network, {"unet.norm_out": Branch(torch.zeros(1, 2), torch.zeros(2, 1))})


def test_the_table_of_layers_is_that_of_the_network_that_runs(case):
    """Also of Stable unCLIP's, which has another network, and of packed ones, whose layers have no weights any more."""
    kind, config = case
    if not isinstance(config, PriorConfig | DecoderConfig):
        pytest.skip("upsamplers have no LoRA")
    with torch.device("meta"):
        network = kind(config)
    stage = "prior" if isinstance(config, PriorConfig) else "decoder"
    expected = {name: tuple(layer.weight.shape) for name, layer in all_layers(network).items()}
    assert layer_shapes(stage, config) == expected and expected.keys() >= attention_layers(network).keys()
