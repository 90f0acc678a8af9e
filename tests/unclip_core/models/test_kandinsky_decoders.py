"""Kandinsky 2's decoders against diffusers' UNet2DConditionModel with the same random weights."""

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel

from comfyui_unclip.unclip_core.checkpoints.kandinsky_keys import PART, kandinsky_rule
from comfyui_unclip.unclip_core.config import DecoderConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_1, KANDINSKY_2_2

DIM = {"2.1": 24, "2.2": 40}
TEXT = 48  # width of XLM-R's states, at full size 1024
TOKENS = {"2.1": 3, "2.2": 5}


def diffusers_unet(version, *, channels=(32, 64, 96, 128), dim=None, text=TEXT, cross=32, tokens=None, depth=2):
    dim, tokens = dim or DIM[version], tokens or TOKENS[version]
    first = version == "2.1"
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=channels,
        layers_per_block=depth,
        attention_head_dim=channels[0] // 2 if depth == 2 else 64,
        cross_attention_dim=cross,
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=text if first else dim,
        encoder_hid_dim_type="text_image_proj" if first else "image_proj",
        addition_embed_type="text_image" if first else "image",
    )
    # The numbers of image tokens, and the embeddings' widths, are no arguments: 10 or 32 and the cross width.
    width = 4 * channels[0]
    if first:
        unet.encoder_hid_proj.num_image_text_embeds = tokens
        unet.encoder_hid_proj.image_embeds = torch.nn.Linear(dim, tokens * cross)
        unet.add_embedding.text_proj = torch.nn.Linear(dim, width)
        unet.add_embedding.image_proj = torch.nn.Linear(dim, width)
    else:
        unet.encoder_hid_proj.num_image_text_embeds = tokens
        unet.encoder_hid_proj.image_embeds = torch.nn.Linear(dim, tokens * cross)
        unet.add_embedding.image_proj = torch.nn.Linear(dim, width)
    return unet.eval()


def our_config(version):
    full = KANDINSKY_2_1.decoder if version == "2.1" else KANDINSKY_2_2.decoder
    unet = dataclasses.replace(
        full.unet, channels=32, channel_mult=(1, 2, 3, 4), depth=2, head_channels=16, context_width=32
    )
    own = full.multilingual and dataclasses.replace(full.multilingual, width=TEXT)
    sizes = {"clip_dim": DIM[version], "text_width": TEXT, "extra_tokens": TOKENS[version]}
    return dataclasses.replace(full, **sizes, multilingual=own, unet=unet)


@pytest.fixture(params=["2.1", "2.2"])
def pair(request):
    version = request.param
    torch.manual_seed(0)
    theirs = diffusers_unet(version)
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    ours, source, used = DecoderNetwork(our_config(version)).eval(), theirs.state_dict(), []
    state = {}
    for name, target in ours.state_dict().items():
        rule = kandinsky_rule(name)
        assert rule.part == PART
        state[name] = torch.cat([source[key] for key in rule.sources]).view_as(target)
        used += rule.sources
    assert sorted(used) == sorted(source)
    ours.load_state_dict(state)
    return version, theirs, ours


@torch.no_grad()
def test_the_network_is_diffusers(pair):
    version, theirs, ours = pair
    x_t, t = torch.randn(2, 4, 16, 24), torch.tensor([900, 17])
    embed, states, pooled = torch.randn(2, DIM[version]), torch.randn(2, 7, TEXT), torch.randn(2, DIM[version])
    conditions = {"image_embeds": embed} | ({"text_embeds": pooled} if version == "2.1" else {})
    expected = theirs(x_t, t, states if version == "2.1" else None, added_cond_kwargs=conditions).sample
    if version == "2.1":
        mask = torch.ones(2, 7, dtype=torch.bool)
        mask[1, 4:] = False  # padding, which Kandinsky 2.1 lets be seen
        conditioning = ours.condition(embed, states, mask, pooled)
    else:
        conditioning = ours.condition(embed)
    found = ours(x_t, t, conditioning)
    assert found.shape == (2, 8, 16, 24)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_row_without_an_embedding_is_refused(pair):
    """Their null is CLIP's embedding of a picture, which only CLIP can give."""
    version, _, ours = pair
    text = (torch.randn(1, 7, TEXT), torch.ones(1, 7, dtype=torch.bool), torch.randn(1, DIM[version]))
    with pytest.raises(ValueError, match="no null embedding of its own; pass CLIP's of an all-zero picture"):
        ours.condition(None, *text)


@pytest.mark.parametrize(
    ("config", "parameters"), [(KANDINSKY_2_1.decoder, 1_228_661_768), (KANDINSKY_2_2.decoder, 1_253_057_288)]
)
def test_the_published_sizes(config: DecoderConfig, parameters):
    with torch.device("meta"):
        network = DecoderNetwork(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
