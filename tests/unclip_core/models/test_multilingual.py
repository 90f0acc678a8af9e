"""Kandinsky 2.1's text encoder against diffusers' MultilingualCLIP with the same random weights."""

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.kandinsky_keys import IGNORED, multilingual_rule
from comfyui_unclip.unclip_core.config import MultilingualConfig
from comfyui_unclip.unclip_core.models.multilingual import MultilingualEncoder

CONFIG = MultilingualConfig(60, 12, 20, 48, 3, 4, 80, padding=1)


def reference(config, dim):
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    return MultilingualCLIP(
        MCLIPConfig(
            config.width,
            dim,
            vocab_size=config.vocabulary_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.positions,
            layer_norm_eps=config.norm_eps,
            type_vocab_size=1,
        )
    ).eval()


@torch.no_grad()
def test_states_and_mean_are_those_of_diffusers():
    torch.manual_seed(0)
    theirs, ours = reference(CONFIG, 40), MultilingualEncoder(CONFIG, 40).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    source, state, used = theirs.state_dict(), {}, []
    for name, target in ours.state_dict().items():
        rule = multilingual_rule(name)
        state[name] = torch.cat([source[key] for key in rule.sources]).view_as(target)
        used += rule.sources
    assert sorted(used) == sorted(key for key in source if not key.endswith(IGNORED))
    ours.load_state_dict(state)
    ids = torch.randint(2, 60, (3, 12))
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    ids[~mask] = 1
    pooled, states = theirs(ids, mask.long())
    found, mean = ours(ids, mask)
    assert (found - states).abs().max() <= 1e-5 * states.abs().max()
    assert (mean - pooled).abs().max() <= 1e-5 * pooled.abs().max()


def test_the_published_size():
    """family.md's count has the summary that M-CLIP does not use."""
    with torch.device("meta"):
        network = MultilingualEncoder(MultilingualConfig(), 768)
    assert sum(parameter.numel() for parameter in network.parameters()) == 560_677_632 - 1024 * 1025


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width 48 must be divisible by heads 5"):
        MultilingualEncoder(MultilingualConfig(60, 12, 20, 48, 3, 5, 80), 40)
