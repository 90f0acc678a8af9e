"""Stable unCLIP's networks against diffusers' and transformers' modules with the same random weights."""

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from comfyui_unclip.unclip_core.checkpoints.stable_unclip_keys import network_names, text_tower_names
from comfyui_unclip.unclip_core.config import TextTowerConfig
from comfyui_unclip.unclip_core.models.kernels import freeze
from comfyui_unclip.unclip_core.models.stable_decoder import StableDecoderNetwork
from comfyui_unclip.unclip_core.models.text_encoder import TextTower
from comfyui_unclip.unclip_core.presets import STABLE_UNCLIP_H, STABLE_UNCLIP_L

DIM, TEXT = 24, 48
FULL = STABLE_UNCLIP_H.decoder
TOWER = TextTowerConfig(vocabulary_size=60, context_length=12, width=TEXT, depth=3, heads=4)
CONFIG = dataclasses.replace(
    FULL,
    clip_dim=DIM,
    text_width=TEXT,
    text_tower=TOWER,
    unet=dataclasses.replace(FULL.unet, channels=32, head_channels=16, context_width=TEXT),
)


def diffusers_unet(channels=(32, 64, 128, 128), heads=(2, 4, 8, 8), text=TEXT, dim=DIM):
    return UNet2DConditionModel(
        sample_size=96,
        block_out_channels=channels,
        attention_head_dim=heads,  # the number of heads, by an old slip of diffusers
        cross_attention_dim=text,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * dim,
    ).eval()


def transformers_tower(config=TOWER):
    sizes = {"vocab_size": config.vocabulary_size, "max_position_embeddings": config.context_length}
    sizes |= {"hidden_size": config.width, "intermediate_size": 4 * config.width, "hidden_act": "gelu"}
    layers = {"num_hidden_layers": config.depth, "num_attention_heads": config.heads}
    return CLIPTextModel(CLIPTextConfig(**sizes, **layers, eos_token_id=config.vocabulary_size - 1)).eval()


def with_weights_of(theirs, ours, names, prefix=""):
    """`ours` with their weights; every tensor of theirs is used once."""
    source, state, used = theirs.state_dict(), {}, []
    for name, target in ours.state_dict().items():
        keys = [f"{prefix}{key}" for key in names(name)]
        state[name] = torch.cat([source[key] for key in keys]).view_as(target)
        used += keys
    assert sorted(used) == sorted(key for key in source if not key.endswith("position_ids"))
    ours.load_state_dict(state)
    return ours.eval()


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs = diffusers_unet()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return theirs, with_weights_of(theirs, StableDecoderNetwork(CONFIG), network_names)


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_diffusers(pair, frozen):
    """At two noise levels, with a row of the null embedding. Frozen: with packed weights, as it runs on a processor."""
    from diffusers.models.embeddings import get_timestep_embedding

    theirs, ours = pair
    if frozen:
        ours = with_weights_of(theirs, StableDecoderNetwork(CONFIG), network_names).requires_grad_(False)
        freeze(ours)
    x_t, t = torch.randn(3, 4, 16, 24), torch.tensor([900, 17, 500])
    embed, states, level = torch.randn(3, DIM), torch.randn(3, 7, TEXT), torch.tensor([0, 250, 30])
    labels = torch.cat([embed, get_timestep_embedding(level, DIM, flip_sin_to_cos=True, downscale_freq_shift=0)], 1)
    labels[2] = 0
    expected = theirs(x_t, t, states, class_labels=labels).sample
    conditioning = ours.condition(embed, states, level=level, drop_embed=torch.tensor([False, False, True]))
    found = ours(x_t, t, conditioning)
    assert found.shape == (3, 4, 16, 24)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    nothing = ours(x_t, t, ours.condition(None, states))
    assert torch.allclose(nothing[2], found[2], atol=1e-4)


@torch.no_grad()
def test_the_text_tower_is_transformers():
    torch.manual_seed(1)
    theirs = transformers_tower()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    names = {key.startswith("text_model.") for key in theirs.state_dict()}  # transformers' versions differ in this
    ours = with_weights_of(theirs, TextTower(TOWER), text_tower_names, "text_model." if names == {True} else "")
    ids = torch.randint(0, 60, (3, 12))
    expected = theirs(ids).last_hidden_state
    assert (ours(ids) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_it_cannot_do_is_refused(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="pass those of the empty caption"):
        ours.condition(torch.randn(1, DIM))
    with pytest.raises(ValueError, match="trained on 24-d embeddings of ViT-H-14/laion2b_s32b_b79k, but got 25-d"):
        ours.condition(torch.randn(1, DIM + 1), torch.randn(1, 7, TEXT))
    with pytest.raises(ValueError, match="go with text 'own_clip' alone, got 'clip'"):
        dataclasses.replace(CONFIG, text="clip")
    with pytest.raises(ValueError, match=r"'own_clip' needs unet\.attention 'cross'"):
        dataclasses.replace(CONFIG, extra_tokens=4)


@pytest.mark.parametrize(
    ("decoder", "parameters"), [(STABLE_UNCLIP_H.decoder, 870_173_124), (STABLE_UNCLIP_L.decoder, 869_517_764)]
)
def test_the_published_sizes(decoder, parameters):
    with torch.device("meta"):
        network, tower = StableDecoderNetwork(decoder), TextTower(decoder.text_tower)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(parameter.numel() for parameter in tower.parameters()) == 340_387_840
