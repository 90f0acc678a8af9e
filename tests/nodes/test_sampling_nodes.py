"""The nodes themselves, on the tiny stack: every input does something, and what is left to the model is the model's."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.types import Embedding


@pytest.fixture
def text(node):
    return node("UnCLIPTextEncode", text="a red star")


@pytest.fixture
def embed(node, text):
    return node("UnCLIPDiffusionPrior", text=text, count=2)


def test_a_captions_warnings_come_in_one_call_and_a_good_caption_says_so_too(node, host):
    node("UnCLIPTextEncode", text="a purple star " * 5)
    node("UnCLIPTextEncode", text="a red star")
    (too_long, unknown), nothing = host.warnings
    assert "longer than the 12 tokens" in too_long and "does not know purple" in unknown
    assert nothing == ()


def test_a_whole_novel_as_caption_makes_a_warning_that_can_be_read(node, host):
    node("UnCLIPTextEncode", text="a red star " * 500)
    ((too_long,),) = host.warnings
    assert "longer than the 12 tokens" in too_long and len(too_long) < 300
    assert "star a red star" in too_long and "(1490 words)" in too_long  # of 1500


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a (red:1.2) star", "(red:1.2) in a caption is read as plain text"),
        ("a ((red)) star BREAK a red star", "((red)), BREAK in a caption"),
        ("embedding:star.pt a red star", "embedding:star.pt in a caption"),
        ("a red star <lora:star:0.8>\na (red:2) star, a (red:2) star", "<lora:star:0.8>, (red:2) in a caption"),
    ],
)
def test_other_encoders_commands_in_a_caption_are_told_once_and_read_as_plain_text(node, host, text, named):
    node("UnCLIPTextEncode", text=text, one_per_line=True)
    told = [line for line in host.warnings[-1] if "plain text" in line]
    assert len(told) == 1 and told[0].startswith(f"CLIP Text Encode: {named}")
    weighed = node("UnCLIPTextEncode", text="a (red:1.2) star")
    words = node("UnCLIPTextEncode", text="a red 1 2 star")  # what the tokenizer of words makes of it
    assert torch.equal(weighed.embed, words.embed)


def test_of_commands_in_a_caption_only_the_words_that_they_hold_can_be_unknown(node, host):
    node("UnCLIPTextEncode", text="a (red:1.2) star BREAK embedding:nobody <lora:style:1>")
    assert not any("does not know" in line for line in host.warnings[-1])
    node("UnCLIPTextEncode", text="a (dragon:1.2) and ((red))")
    unknown = [line for line in host.warnings[-1] if "does not know dragon" in line]
    assert len(unknown) == 1 and "red" not in unknown[0].partition(";")[0]


def test_brackets_and_colons_of_a_sentence_are_no_commands(node, host):
    node("UnCLIPTextEncode", text="a red star (on a blue sea): a break, an embedding")
    assert not any("plain text" in line for line in host.warnings[-1])


def test_an_unknown_word_is_told_under_the_name_that_the_loader_has(host):
    loader = NODE_CLASS_MAPPINGS["UnCLIPLoader"]
    clip = loader().load(model_name="storybook", dtype="fp32")[0]
    NODE_CLASS_MAPPINGS["UnCLIPTextEncode"]().encode(clip=clip, text="a red dragon", one_per_line=False)
    assert "(the CLIP of storybook) does not know dragon; it knows" in host.warnings[-1][0]


def test_what_a_sampler_warns_of_on_its_way_is_shown_with_what_was_said_before(node, host, stack, embed):
    def overflowing(dtype):
        network = stack["DECODER"].network._build(torch.float32).to(dtype)
        network.unet.conv_in.weight.data *= 3e5  # beyond float16, which a norm brings back
        return network

    placed = Placed(overflowing, torch.device("cpu"), torch.float16, wider=torch.bfloat16)
    decoder = replace(stack["DECODER"], network=placed)
    node("UnCLIPDecoderSample", embed=embed, decoder=decoder, eta=0.5, sampler="ddpm")
    (before,), (again, late) = host.warnings[-2:]
    assert before == again and "eta" in before and "in float16; it runs again in bfloat16" in late


def test_defaults_are_the_models_own_settings(node, host, text, embed):
    node("UnCLIPDecoderSample", embed=embed)
    assert host.runs == [("Diffusion Prior", 3), ("Decoder Sample", 3)]


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"guidance_scale": 3.0},
        {"candidates": 64},
        {"sampler": "ddim"},
        {"sampler": "dpmpp_2m"},
        {"seed": 1},
    ],
    ids=str,
)
def test_each_widget_of_the_prior_matters(node, text, changes):
    plain = node("UnCLIPDiffusionPrior", text=text).vector
    assert plain.shape == (1, 24) and plain.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert (node("UnCLIPDiffusionPrior", text=text).vector == plain).all()
    assert (node("UnCLIPDiffusionPrior", text=text, **changes).vector - plain).abs().max() > 1e-3


def test_negative_text_matters_under_guidance(node, host, text):
    other = node("UnCLIPTextEncode", text="a blue boat")
    options = {"text": text, "guidance_scale": 3.0}
    difference = node("UnCLIPDiffusionPrior", **options).vector
    difference = difference - node("UnCLIPDiffusionPrior", **options, negative_text=other).vector
    assert difference.abs().max() > 1e-3 and host.warnings[-1] == ()
    node("UnCLIPDiffusionPrior", text=text, guidance_scale=1.0, negative_text=other)
    assert "negative_text has no effect" in host.warnings[-1][0]


def test_the_start_embed_and_its_strength_matter(node, host, text, embed):
    def sampled(**inputs):
        return node("UnCLIPDiffusionPrior", text=text, seed=9, **inputs).vector

    by_default = sampled(start_embed=embed)
    assert by_default.shape == (2, 24) and host.warnings[-1] == ()
    assert by_default.equal(sampled(start_embed=embed, strength=0.3))
    assert (by_default - sampled()).abs().max() > 1e-3
    assert (by_default - sampled(start_embed=embed, strength=0.9)).abs().max() > 1e-3
    sampled(strength=0.5)
    assert "without start_embed strength 0.5 has no effect" in host.warnings[-1][0]


def test_count_makes_a_batch_whose_items_equal_single_runs(node, text, embed):
    assert len(embed) == 2
    second = node("UnCLIPDiffusionPrior", text=text, seed=1).vector
    assert torch.allclose(embed.vector[1:], second, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 4},
        {"guidance_scale": 1.0},
        {"sampler": "ddim"},
        {"sampler": "dpmpp_2m"},
        {"seed": 1},
        {"noise_per_item": False},
    ],
    ids=str,
)
def test_each_widget_of_the_decoder_matters(node, embed, changes):
    plain = node("UnCLIPDecoderSample", embed=embed)
    assert plain.shape == (2, 64, 64, 3) and plain.dtype == torch.float32 and plain.min() >= 0 and plain.max() <= 1
    assert (node("UnCLIPDecoderSample", embed=embed, **changes) - plain).abs().max() > 1e-3


def test_eta_matters_to_ddim(node, embed):
    options = {"embed": embed, "sampler": "ddim"}
    plain = node("UnCLIPDecoderSample", **options)
    assert (node("UnCLIPDecoderSample", **options, eta=1.0) - plain).abs().max() > 1e-3


def test_each_socket_of_the_decoder_matters_and_none_is_needed(node, text, embed):
    free = node("UnCLIPDecoderSample")
    assert free.shape == (1, 64, 64, 3)
    for linked in ({"embed": embed}, {"text": text}, {"noise": node("UnCLIPRandomNoise", seed=5)}):
        assert (node("UnCLIPDecoderSample", **linked)[:1] - free).abs().max() > 1e-3, linked


def test_negatives_matter_to_the_decoder_under_guidance_alone(node, text, embed):
    away = node("UnCLIPTextEncode", text="a blue boat")
    options = {"embed": embed, "text": text, "guidance_scale": 3.0}
    plain = node("UnCLIPDecoderSample", **options)
    for negative in ({"negative_text": away}, {"negative_embed": Embedding(-embed.vector[:1], embed.clip_id)}):
        assert (node("UnCLIPDecoderSample", **options, **negative) - plain).abs().max() > 1e-3, negative
        unguided = options | {"guidance_scale": 1.0}
        kept = node("UnCLIPDecoderSample", **unguided) - node("UnCLIPDecoderSample", **unguided, **negative)
        assert kept.abs().max() == 0, negative


def test_count_makes_as_many_pictures_of_each_item(node, embed):
    pictures = node("UnCLIPDecoderSample", embed=embed, count=3)
    assert pictures.shape == (6, 64, 64, 3)
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3  # each has noise of its own


@pytest.mark.parametrize(("name", "side", "given"), [("UnCLIPUpsample256", 256, 64), ("UnCLIPUpsample1024", 1024, 256)])
def test_the_upsamplers_keep_the_picture_and_heed_steps_and_seed(node, host, name, side, given):
    image = torch.rand(1, given, given, 3, generator=torch.Generator().manual_seed(1))
    plain = node(name, image=image)
    assert plain.shape == (1, side, side, 3) and host.runs[-1][1] == 2
    assert (node(name, image=image, steps=3) - plain).abs().max() > 1e-3 and host.runs[-1][1] == 3
    assert (node(name, image=image, seed=1) - plain).abs().max() > 1e-3


def test_inputs_are_not_changed_in_place(node, text, embed):
    before = embed.vector.clone(), text.tokens.clone()
    image = node("UnCLIPDecoderSample", embed=embed, text=text)
    kept = image.clone()
    node("UnCLIPUpsample256", image=image)
    assert (embed.vector == before[0]).all() and (text.tokens == before[1]).all() and (image == kept).all()


@pytest.mark.parametrize("caption", ["", " \n"])
def test_an_empty_caption_is_a_caption(node, host, stack, caption):
    """Karlo's unconditional is this very text."""
    text = node("UnCLIPTextEncode", text=caption)
    assert host.warnings == [()] and torch.equal(text.embed, stack["CLIP"].encode_text([""]).embed)
    embed = node("UnCLIPDiffusionPrior", text=text)
    assert node("UnCLIPDecoderSample", embed=embed, text=text).isfinite().all()


def test_with_one_per_line_every_line_is_a_caption(node, host, stack):
    lines = "\n a red star \n\n a purple boat\n" + " red" * 20
    batch = node("UnCLIPTextEncode", text=lines, one_per_line=True)
    alone = [node("UnCLIPTextEncode", text=line) for line in ("a red star", "a purple boat", "red " * 20)]
    assert torch.allclose(batch.embed, torch.cat([text.embed for text in alone]), atol=1e-5)
    assert batch.captions[:2] == ("a red star", "a purple boat")
    too_long, unknown = host.warnings[0]
    assert "caption 3 of 3 is longer than the 12 tokens" in too_long and "does not know purple" in unknown
    assert len(node("UnCLIPTextEncode", text=lines)) == 1
    nothing = node("UnCLIPTextEncode", text=" \n\n", one_per_line=True)
    assert nothing.captions == ("",)
    assert node("UnCLIPDecoderSample", text=batch).shape[0] == 3


def test_minus_one_alone_leaves_a_value_to_the_model(node, text):
    for name, what in (("UnCLIPDiffusionPrior", "Diffusion Prior"), ("UnCLIPDecoderSample", "Decoder Sample")):
        node(name, text=text, guidance_scale=-1.0)
        with pytest.raises(ValueError, match=f"{what}: guidance_scale must be a number from 0 up .*got -0.5"):
            node(name, text=text, guidance_scale=-0.5)


def test_dtype_reaches_the_networks_and_another_one_is_refused(tiny_stack, host):
    load = NODE_CLASS_MAPPINGS["UnCLIPLoader"]().load
    assert load(model_name=tiny_stack, dtype="bf16")[2].network.dtype == torch.bfloat16
    assert load(model_name=tiny_stack, dtype="fp32")[2].network.dtype == torch.float32


def test_the_loader_lists_what_is_installed_and_checks_it(tiny_stack, host):
    loader = NODE_CLASS_MAPPINGS["UnCLIPLoader"]
    assert "tiny" in loader.INPUT_TYPES()["required"]["model_name"][0]
    assert loader.VALIDATE_INPUTS(model_name="tiny") is True
    assert "no model 'gone'" in loader.VALIDATE_INPUTS(model_name="gone")


@pytest.mark.parametrize(
    ("name", "side", "other"), [("UnCLIPUpsample256", 256, 1024), ("UnCLIPUpsample1024", 1024, 256)]
)
def test_the_other_sizes_upsampler_is_refused_by_name(node, stack, name, side, other):
    """Both come over sockets of one type."""
    said = f"Upsample {side}: the linked upsampler makes {other} px pictures; link UPSAMPLER {side} of Load unCLIP"
    with pytest.raises(ValueError, match=said):
        node(name, image=torch.rand(1, 64, 64, 3), upsampler=stack[f"UPSAMPLER {other}"])


def test_a_wide_pictures_middle_is_enlarged_unless_it_is_to_be_squashed(node):
    wide = torch.rand(1, 64, 96, 3)
    middle = node("UnCLIPUpsample256", image=wide[:, :, 16:80])
    assert torch.equal(node("UnCLIPUpsample256", image=wide), middle)
    squashed = node("UnCLIPUpsample256", image=wide, crop="squash")
    assert squashed.shape == middle.shape and (squashed - middle).abs().max() > 1e-3
