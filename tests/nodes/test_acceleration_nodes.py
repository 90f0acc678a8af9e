"""Guidance Interval and Step Cache: every input counts, what is not linked, and what their help pages say."""

import re

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core.diffusion.schedule import Schedule
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2, KARLO, STORYBOOK

OPTIONS = {"steps": 6, "guidance_scale": 3.0, "sampler": "ddim"}


@pytest.fixture
def paint(node):
    text = node("UnCLIPTextEncode", text="a red star")
    return lambda **inputs: node("UnCLIPDecoderSample", text=text, **OPTIONS | inputs)


def reuse(stack, *links, interval=2, depth=1):
    handles = {name: stack[socket] for name, socket in links}
    return NODE_CLASS_MAPPINGS["UnCLIPStepCache"]().reuse(interval=interval, depth=depth, **handles)


def test_start_and_end_of_the_interval_matter_and_the_whole_of_it_is_no_interval(node, paint, stack):
    plain = paint()
    pictures = [
        paint(decoder=node("UnCLIPGuidanceInterval", start=start, end=end))
        for start, end in ((0.0, 0.5), (0.3, 0.5), (0.0, 0.9))
    ]
    for index, picture in enumerate(pictures):
        assert all((picture - other).abs().max() > 1e-4 for other in (plain, *pictures[:index])), index
    assert torch.equal(paint(decoder=node("UnCLIPGuidanceInterval", start=0.0, end=1.0)), plain)
    assert torch.equal(paint(), plain)  # the other branch of the graph
    with pytest.raises(ValueError, match=r"Guidance Interval: start 0\.6 must lie below end 0\.6"):
        node("UnCLIPGuidanceInterval", start=0.6, end=0.6)


def test_a_warning_reaches_the_host(node, host, paint):
    paint(decoder=node("UnCLIPGuidanceInterval"), guidance_scale=1.0)
    assert "Guidance Interval has no effect" in host.warnings[-1][0]


def test_interval_and_depth_of_the_cache_matter(paint, stack):
    link, plain = ("decoder", "DECODER"), paint()
    pictures = [
        paint(decoder=reuse(stack, link, interval=interval, depth=depth)[0])
        for interval, depth in ((2, 1), (3, 1), (2, 2))
    ]
    for index, picture in enumerate(pictures):
        assert all((picture - other).abs().max() > 1e-5 for other in (plain, *pictures[:index])), index
    assert torch.equal(paint(decoder=reuse(stack, link, interval=1)[0]), plain)
    with pytest.raises(ValueError, match=r"Step Cache: depth must be a whole number from 1 to 2, .* got 3"):
        reuse(stack, link, depth=3)


def test_an_upsampler_goes_through_alone_or_beside_a_decoder(node, stack):
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    links = ("decoder", "DECODER"), ("upsampler", "UPSAMPLER 256")
    decoder, upsampler = reuse(stack, *links)
    assert decoder.network is stack["DECODER"].network and upsampler.network is stack["UPSAMPLER 256"].network
    options = {"image": image, "steps": 5}
    plain, cached = node("UnCLIPUpsample256", **options), node("UnCLIPUpsample256", **options, upsampler=upsampler)
    assert cached.shape == plain.shape and (cached - plain).abs().max() > 1e-5
    decoder, upsampler = reuse(stack, links[1])
    with pytest.raises(ValueError, match="Step Cache: its input decoder is not linked; link Load unCLIP"):
        decoder.sample()
    with pytest.raises(ValueError, match="the linked upsampler makes 256 px pictures; link UPSAMPLER 1024"):
        node("UnCLIPUpsample1024", image=image, upsampler=upsampler)
    with pytest.raises(ValueError, match="its input upsampler is not linked"):
        reuse(stack, links[0])[1].check_size("Upsample 256", 256)
    with pytest.raises(ValueError, match="Step Cache: nothing is linked"):
        reuse(stack)


def test_a_latent_stacks_upsampler_passes_through(latent_stack):
    _, upsampler = reuse(latent_stack, ("upsampler", "UPSAMPLER 256"))
    assert upsampler is latent_stack["UPSAMPLER 256"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_help_page_has_the_noise_levels_of_the_schedules(repository, language):
    page = (repository / "web" / "docs" / "UnCLIPGuidanceInterval" / f"{language}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]*(?:schedule|进程)[^|]*\|(.*)\|$", page, flags=re.MULTILINE)
    shares = re.search(r"^\| (?:share|比例) \|(.*)\|$", page, flags=re.MULTILINE)[1].split("|")
    for row, stacks in zip(rows, ((STORYBOOK, KARLO), (KANDINSKY_2_2,)), strict=True):
        for stack in stacks:
            schedule = Schedule(stack.decoder.schedule)
            for share, shown in zip(shares, row.split("|"), strict=True):
                t = round((1.0 - float(share)) * (schedule.timesteps - 1))
                sigma = schedule.sqrt_one_minus_alphas_cumprod[t] / schedule.sqrt_alphas_cumprod[t]
                assert float(shown) == pytest.approx(sigma.item(), rel=0.05), (stack.name, share)  # two digits


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_help_page_says_how_deep_a_cache_can_cut(repository, language):
    page = (repository / "web" / "docs" / "UnCLIPStepCache" / f"{language}.md").read_text(encoding="utf-8")
    numbers = [STORYBOOK.decoder.unet.skip_count, KARLO.decoder.unet.skip_count]
    assert KARLO.upsampler_256.unet.skip_count == numbers[1]
    said = {"en": r"(\d+) for (?:storybook|Karlo)", "zh": r"(?:storybook|Karlo)[^，。]*为 (\d+)"}[language]
    assert [int(number) for number in re.findall(said, page)] == numbers
