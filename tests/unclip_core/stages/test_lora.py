"""LoRAs on handles: a run under them is that of merged weights, the runs around it are as if there were none."""

import copy
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.embeddings import slerp_noises
from comfyui_unclip.unclip_core.models.lora import Branch, Lora, attention_layers, new_branches
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import finish


def handle(made, dtype=torch.float32, lora=None, strength=1.0):
    """`made` without the fixtures' counting of calls; lora: merged into its weights, as a reference."""
    source = made.network.read()

    def build(dtype):
        network = type(source)(made.config)
        network.load_state_dict(source.state_dict())
        for name, branch in (lora.branches if lora else {}).items():
            network.get_submodule(name).weight.data += strength * branch.up @ branch.down
        return network

    return replace(made, network=Placed(build, torch.device("cpu"), dtype))


def lora_for(made, seed=0, name="cup"):
    layers = attention_layers(type(made.network.read())(made.config))
    generator = torch.Generator().manual_seed(seed)
    return Lora.of(
        name,
        {
            layer: Branch(branch.down, torch.randn(branch.up.shape, generator=generator) * 0.5)
            for layer, branch in new_branches(layers, 3, seed).items()
        },
    )


def picture(seed=0):
    return torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_run_is_that_of_merged_weights(tiny, strength):
    for made, inputs in ((tiny.prior(), (tiny.text(2),)), (tiny.decoder(), (tiny.embed(2), tiny.text(2)))):
        lora, plain = lora_for(made), handle(made)

        def sample(stage, inputs=inputs):
            found = stage.sample(*inputs, seed=3)
            return getattr(found, "vector", found)

        before = sample(plain)
        expected = sample(handle(made, lora=lora, strength=strength))
        found = sample(plain.with_lora(lora, strength))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert (found - before).abs().max() > 0.01
        assert torch.equal(sample(plain), before)
        assert plain.with_lora(lora, 0.0) is plain and torch.equal(sample(plain.with_lora(lora, 0)), before)
        there_and_back = plain.with_lora(lora, 1.0).with_lora(lora, -1.0)
        torch.testing.assert_close(sample(there_and_back), before, rtol=1e-3, atol=1e-4)


def test_two_runs_of_one_network_may_take_turns(tiny):
    """An editor's preview, a run that is cancelled midway: the LoRA is the run's, not the network's."""
    decoder, embed = handle(tiny.decoder()), tiny.embed()
    changed = decoder.with_lora(lora_for(tiny.decoder()))
    expected = [stage.sample(embed, seed=1) for stage in (decoder, changed)]
    runs = [stage.sample_steps(embed, seed=1) for stage in (decoder, changed)]
    for run in (*runs, *runs):
        next(run)
    assert all(torch.equal(finish(run), picture) for run, picture in zip(runs, expected, strict=True))
    abandoned = changed.sample_steps(embed, seed=1)
    next(abandoned)
    abandoned.close()
    assert torch.equal(decoder.sample(embed, seed=1), expected[0])


def test_low_precision_and_the_float32_twin_carry_it_too(tiny):
    made = tiny.decoder()
    lora, embed = lora_for(made), tiny.embed()
    low = handle(made, torch.bfloat16)
    rounded, plain = low.with_lora(lora, 6).sample(embed, seed=2), low.sample(embed, seed=2)
    exact = handle(made).with_lora(lora, 6).sample(embed, seed=2)
    assert (rounded - exact).abs().mean() < 0.2 * (exact - plain).abs().mean()
    # Inversion runs in float32.
    noises = [stage.with_lora(lora).invert(picture(), embed, steps=6) for stage in (low, handle(made))]
    torch.testing.assert_close(noises[0].x_T, noises[1].x_T, rtol=0, atol=1e-5)
    assert (noises[0].x_T - low.invert(picture(), embed, steps=6).x_T).abs().max() > 0.01


def test_an_inversion_records_it_and_leads_back_under_it(tiny):
    made = tiny.decoder()
    plain, embed, said = handle(made), tiny.embed(), []
    cup, other = lora_for(made), lora_for(made, seed=4, name="snail")
    decoder = plain.with_lora(cup, 0.8)
    noise = decoder.invert(picture(), embed, steps=12, refine=6)
    (record,) = noise.inversion.loras
    assert (record.name, record.strength, record.fingerprint) == ("cup", 0.8, cup.fingerprint)
    back = decoder.sample(embed, noise=noise, warn=said.append)
    assert (back - picture()).square().mean().sqrt() < 0.01
    both = plain.with_lora(cup, 0.8).with_lora(other).invert(picture(), embed, steps=12)
    plain.with_lora(other).with_lora(cup, 0.8).sample(embed, noise=both, warn=said.append)  # in any order
    plain.with_lora(replace(cup, name="renamed"), 0.8).sample(embed, noise=noise, warn=said.append)
    assert not said
    for stage, words in (
        (plain, "with the LoRA cup at strength 0.8, but is decoded with no LoRA"),
        (plain.with_lora(cup), "but is decoded with the LoRA cup at strength 1,"),
        (decoder.with_lora(other), "decoded with the LoRA cup at strength 0.8 and snail at strength 1"),
    ):
        stage.sample(embed, noise=noise, warn=said.append)
        assert words in said.pop() and not said
    with pytest.raises(
        ValueError, match=r"noise_a was inverted with the LoRA cup at strength 0\.8, noise_b with no LoRA"
    ):
        slerp_noises(noise, plain.invert(picture(), embed, steps=12), 0.0, 1.0, 3)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), True, "1", None])
def test_a_strength_that_is_no_number_is_refused(tiny, strength):
    made = tiny.prior()
    with pytest.raises(ValueError, match="Apply LoRA: strength must be a number"):
        made.with_lora(lora_for(made), strength)


def test_branches_of_another_network_are_refused_by_name(tiny):
    prior, decoder = tiny.prior(), tiny.decoder()
    with pytest.raises(ValueError, match=r"the LoRA cup is of another network: .* has no layer unet\."):
        prior.with_lora(lora_for(decoder))
    wide = copy.deepcopy(lora_for(prior))
    wide.branches["blocks.0.qkv"] = Branch(torch.zeros(2, 99), torch.zeros(48, 2))
    with pytest.raises(ValueError, match=r"blocks\.0\.qkv of .* is \(48, 16\), its branch \(48, 2\) by \(2, 99\)"):
        prior.with_lora(wide)
