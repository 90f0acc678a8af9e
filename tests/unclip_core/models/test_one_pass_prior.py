"""One-pass priors (ECLIPSE) against diffusers' own blocks, put together as Patel et al. (2024) leave out the time."""

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.diffusers_keys import rule_of
from comfyui_unclip.unclip_core.config import PriorConfig, ScheduleConfig
from comfyui_unclip.unclip_core.models.prior import PriorNetwork

DIM, LENGTH = 24, 10
CONFIG = PriorConfig(
    clip_dim=DIM,
    text_width=DIM,
    context_length=LENGTH,
    width=32,
    depth=3,
    heads=4,
    scaling="constant",
    mask_value=-10000.0,
    one_pass=True,
)


@pytest.fixture
def theirs(randomise):
    from diffusers import PriorTransformer

    network = PriorTransformer(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.width // CONFIG.heads,
        num_layers=CONFIG.depth,
        embedding_dim=DIM,
        num_embeddings=LENGTH,
        additional_embeddings=3,
    )
    del network.time_embedding
    return randomise(network)


@pytest.fixture
def ours(theirs):
    """Our network with their weights."""
    network = PriorNetwork(CONFIG)
    weights, rule = theirs.state_dict(), rule_of("prior")
    for name, tensor in network.state_dict().items():
        rule(name).fill(tensor, [weights[source] for source in rule(name).sources])
    return network.eval()


def one_pass(network, noise, text):
    """77 text states, text embedding, noise, query; padding and what comes later hidden by -10000; the last token."""
    tokens = [
        network.encoder_hidden_states_proj(text["tokens"]),
        network.embedding_proj(text["embed"])[:, None],
        network.proj_in(noise)[:, None],
        network.prd_embedding.expand(len(noise), -1, -1),
    ]
    x = torch.cat(tokens, dim=1) + network.positional_embedding
    seen = torch.nn.functional.pad(text["mask"], (0, 3), value=True)[:, None]
    causal = torch.ones(LENGTH + 3, LENGTH + 3).tril().bool()
    mask = -10000.0 * (~seen).float() - 10000.0 * (~causal).float()
    for block in network.transformer_blocks:
        x = block(x, attention_mask=mask.repeat_interleave(CONFIG.heads, dim=0))
    return network.proj_to_clip_embeddings(network.norm_out(x)[:, -1])


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(1)
    return {
        "tokens": torch.randn(3, LENGTH, DIM, generator=generator),
        "embed": torch.randn(3, DIM, generator=generator),
        "mask": torch.arange(LENGTH) < torch.tensor([[3], [10], [1]]),
    }


@torch.no_grad()
def test_forward_and_cached_step_equal_the_reference(theirs, ours, text):
    noise, t = torch.randn(3, DIM, generator=torch.Generator().manual_seed(2)), torch.zeros(3)
    expected = one_pass(theirs, noise, text)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(noise, t, **text), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.step(noise, t, ours.prefix(**text)), expected, atol=1e-5, rtol=1e-4)
    assert ours.unscale(expected).equal(expected)  # the statistics of the file are not applied


def test_every_weight_of_the_reference_is_used(theirs, ours):
    rule = rule_of("prior")
    used = {source for name in ours.state_dict() for source in rule(name).sources}
    assert set(theirs.state_dict()) - used == {"clip_mean", "clip_std"}


def test_a_one_pass_prior_gives_the_embedding_itself():
    with pytest.raises(ValueError, match="one_pass gives the embedding itself, which is prediction 'x0', got 'eps'"):
        PriorConfig(one_pass=True, schedule=ScheduleConfig(prediction="eps"))
