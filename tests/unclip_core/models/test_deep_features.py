"""A UNet that runs its outer blocks alone, against the whole one whose deep features are put back by a hook."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import UNetConfig
from comfyui_unclip.unclip_core.models.unet import DeepFeatures, UNet

BASE = UNetConfig(
    image_size=16,
    in_channels=3,
    out_channels=3,
    channels=16,
    channel_mult=(1, 2, 3),
    depth=2,
    attention_resolutions=(8, 4),
    head_channels=8,
    context_width=16,
    norm_groups=4,
)
KINDS = {
    "karlo": BASE,
    "storybook": replace(BASE, image_size=32, patch_size=2, depth=1, resblock_updown=False, fine_channels=8),
    "latent diffusion": replace(BASE, attention="cross", time_conditioning="add", resblock_updown=False),
}


@pytest.fixture(params=list(KINDS))
def unet(request):
    torch.manual_seed(0)
    unet = UNet(KINDS[request.param])
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.2)
    return unet.eval().requires_grad_(False)


def inputs(unet, rows=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    side = unet.config.image_size
    x = torch.randn(rows, 3, side, side, generator=generator)
    time = torch.randn(1, unet.config.time_width, generator=generator)
    tokens = torch.randn(rows, 5, unet.config.context_width, generator=torch.Generator().manual_seed(9))
    return x, time, unet.project_context(tokens)


def up_blocks(unet):
    return [block for level in unet.up for block in level.blocks]


def down_blocks(unet):
    """Whatever makes a skip after the first convolution, in order."""
    return [part for level in unet.down for part in (*level.blocks, level.resample) if part is not None]


def test_every_skip_leads_to_a_block(unet):
    assert unet.config.skip_count == len(up_blocks(unet)) == len(down_blocks(unet)) + 1


def test_outer_blocks_on_kept_features_equal_the_whole_with_those_features(unet):
    count = unet.config.skip_count
    for depth in range(1, count + 1):
        deep = DeepFeatures(depth)
        first, second = inputs(unet, seed=1), inputs(unet, seed=2)
        whole = unet(*first, deep=deep)
        assert torch.equal(whole, unet(*first))
        seen, block = [], up_blocks(unet)[count - depth]
        handle = block.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        unet(*first)
        handle.remove()
        deep_channels = seen[0].shape[1] - skip_widths(unet)[depth - 1]  # they come before the skip's

        def put_back(module, args, kept=seen[0], channels=deep_channels):
            x, time = args
            return torch.cat([kept[:, :channels], x[:, channels:]], dim=1), time

        handle = block.register_forward_pre_hook(put_back)
        expected = unet(*second)
        handle.remove()
        deep.reuse = True
        found = unet(*second, deep=deep)
        assert torch.allclose(found, expected, atol=1e-5), depth
        assert (found - unet(*second)).abs().max() > 1e-3, depth
        deep.reuse = False
        assert torch.equal(unet(*second, deep=deep), unet(*second))  # and keeps anew
        deep.reuse = True
        assert torch.allclose(unet(*second, deep=deep), unet(*second), atol=1e-6)


def skip_widths(unet):
    config = unet.config
    widths = [config.channels]
    for level, mult in enumerate(config.channel_mult):
        resampled = level < len(config.channel_mult) - 1
        widths += [config.channels * mult] * (config.depth + resampled)
    return widths


def test_inner_blocks_do_not_run(unet):
    for depth in (1, 2, unet.config.skip_count):
        deep, ran = DeepFeatures(depth), []
        unet(*inputs(unet), deep=deep)
        parts = {**{f"down {i}": part for i, part in enumerate(down_blocks(unet))}, "mid": unet.mid_out}
        parts |= {f"up {i}": part for i, part in enumerate(reversed(up_blocks(unet)))}
        handles = [
            part.register_forward_hook(lambda *_, name=name, ran=ran: ran.append(name)) for name, part in parts.items()
        ]
        deep.reuse = True
        unet(*inputs(unet, seed=2), deep=deep)
        for handle in handles:
            handle.remove()
        outer = {f"down {i}" for i in range(depth - 1)} | {f"up {i}" for i in range(depth)}
        assert set(ran) == outer and len(ran) == len(outer), depth


def test_fewer_rows_take_the_first_and_more_rows_run_whole(unet):
    deep = DeepFeatures(1)
    x, time, context = inputs(unet, rows=4)
    unet(x, time, context, deep=deep)
    deep.reuse = True
    both = unet(x * 0.9, time, context, deep=deep)
    half = unet(x[:2] * 0.9, time, [(k[:2], v[:2]) for k, v in context], deep=deep)
    assert torch.allclose(half, both[:2], atol=1e-5)
    fresh = DeepFeatures(1)
    fresh.reuse = True  # nothing is kept yet
    assert torch.equal(unet(x, time, context, deep=fresh), unet(x, time, context))
    assert torch.equal(fresh.take(4)[:2], fresh.take(2)) and fresh.take(5) is None
