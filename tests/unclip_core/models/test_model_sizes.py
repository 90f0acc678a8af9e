"""Parameter counts on the meta device: Karlo's exactly, the paper's within its own rounding."""

from collections import Counter

import pytest
import torch

from comfyui_unclip.unclip_core.models.ar_prior import ARPriorNetwork
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.models.upsampler import stored_upsampler
from comfyui_unclip.unclip_core.presets import ECLIPSE_KANDINSKY_2_2, ECLIPSE_KARLO, KARLO, PAPER


def build(network, config):
    with torch.device("meta"):
        return network(config)


def count(module):
    """Everything a checkpoint holds: parameters and the prior's mean and std."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def transformer_weights(width, depth):
    return 12 * depth * width**2


def test_karlo_prior_exactly():
    assert count(build(PriorNetwork, KARLO.prior)) == 1_022_030_080


@pytest.mark.parametrize(("stack", "published"), [(ECLIPSE_KARLO, 33_143_040), (ECLIPSE_KANDINSKY_2_2, 34_193_152)])
def test_eclipse_priors_exactly(stack, published):
    """Their files hold a mean and a std too, which nobody reads."""
    assert count(build(PriorNetwork, stack.prior)) + 2 * stack.prior.clip_dim == published


def test_karlo_decoder_exactly():
    decoder = build(DecoderNetwork, KARLO.decoder)
    assert count(decoder.unet) == 885_439_686
    assert count(decoder) - count(decoder.unet) == 7_878_400


def test_karlo_super_resolution_exactly():
    upsampler = build(stored_upsampler, KARLO.upsampler_256)
    assert count(upsampler.first) == count(upsampler.final) == 691_579_523
    assert count(upsampler) == 2 * 691_579_523


@pytest.mark.parametrize(
    ("network", "stage", "size"),
    [
        (DecoderNetwork, "decoder", 3.5e9),
        (stored_upsampler, "upsampler_256", 700e6),
        (stored_upsampler, "upsampler_1024", 300e6),
    ],
)
def test_paper_within_ten_percent(network, stage, size):
    assert count(build(network, getattr(PAPER, stage))) == pytest.approx(size, rel=0.1)


def test_paper_prior_by_arithmetic():
    prior = build(PriorNetwork, PAPER.prior)
    matrices = sum(p.numel() for block in prior.blocks for p in block.parameters() if p.ndim == 2)
    assert matrices == transformer_weights(2048, 24) == pytest.approx(1.21e9, rel=0.01)
    assert count(prior) == pytest.approx(1.21e9, rel=0.02)


def test_paper_autoregressive_prior_by_arithmetic():
    """Text encoder and latent decoder, widths and depths of Table 3: 2.0 B, and 0.1 B of embeddings around them."""
    config = PAPER.ar_prior
    network = build(ARPriorNetwork, config)
    encoder = transformer_weights(config.text_encoder.width, config.text_encoder.depth)
    latent = transformer_weights(config.width, config.depth)
    assert encoder + latent == pytest.approx(2.0e9, rel=0.02)
    blocks = [*network.text_encoder.blocks, *network.blocks]
    assert sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2) == encoder + latent
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(2.1e9, rel=0.02)
    assert config.components + 1 == 320 <= config.context_length == 384


def unfused(state):
    """Shapes of a state dict with fused q/k/v and k/v taken apart, single dimensions dropped."""
    shapes = Counter()
    for name, tensor in state.items():
        parts = 3 if ".qkv." in name else 2 if ".context_kv." in name else 1
        shape = (tensor.shape[0] // parts, *tensor.shape[1:])
        shapes[tuple(size for size in shape if size != 1)] += parts
    return shapes


def diffusers_unet(**options):
    from diffusers import UNet2DConditionModel, UNet2DModel

    shared = {
        "block_out_channels": (320, 640, 960, 1280),
        "layers_per_block": 3,
        "norm_eps": 1e-5,
        "downsample_padding": 1,
        "act_fn": "silu",
    }
    kind = UNet2DConditionModel if "cross_attention_dim" in options else UNet2DModel
    with torch.device("meta"):
        return kind(**shared, **options)


def test_karlo_decoder_has_the_tensors_of_diffusers():
    theirs = diffusers_unet(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        cross_attention_dim=1536,
        attention_head_dim=64,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    assert unfused(build(DecoderNetwork, KARLO.decoder).unet.state_dict()) == unfused(theirs.state_dict())


def test_karlo_super_resolution_has_the_tensors_of_diffusers():
    theirs = diffusers_unet(
        sample_size=256,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",) * 4,
        up_block_types=("ResnetUpsampleBlock2D",) * 4,
        add_attention=False,
    )
    assert unfused(build(stored_upsampler, KARLO.upsampler_256).first.unet.state_dict()) == unfused(theirs.state_dict())


def test_karlo_prior_has_the_tensors_of_diffusers():
    from diffusers import PriorTransformer

    with torch.device("meta"):
        theirs = PriorTransformer()
    assert unfused(build(PriorNetwork, KARLO.prior).state_dict()) == unfused(theirs.state_dict())
