"""The open_clip wrapper: our own small CLIP, a named open_clip model, and pictures prepared as open_clip does."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.clip.networks import build_network, text_states
from comfyui_unclip.unclip_core.clip.preprocessing import preprocess
from comfyui_unclip.unclip_core.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from comfyui_unclip.unclip_core.presets import STORYBOOK

NAMED = "ViT-tiny-test"
CONFIG = dataclasses.replace(
    STORYBOOK.clip,
    clip_id="tiny",
    embed_dim=24,
    text_width=16,
    context_length=10,
    vision=ClipVisionConfig(width=32, layers=1, head_width=16, patch_size=16, image_size=64),
    text=ClipTextConfig(width=16, layers=2, heads=2),
    vocabulary=("a", "red", "star", "on", "the", "sea"),
    knows="objects: star",
)
CAPTIONS = ["a red star", "", "a red star on the sea on the sea on the sea"]


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_network(CONFIG).state_dict()


@pytest.fixture
def clip(weights):
    return Clip(CONFIG, weights)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A model that open_clip knows by name: one of its own kind, with toy widths and the usual vocabulary."""
    import open_clip

    path = tmp_path_factory.mktemp("models") / f"{NAMED}.json"
    vision = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    clip = Clip.open(NAMED)
    assert clip.network is clip.network
    return clip


def test_an_image_tower_may_be_a_network_of_timm(weights):
    config = dataclasses.replace(CONFIG, vision=ClipVisionConfig(image_size=64, trunk="convnext_atto"))
    torch.manual_seed(0)
    state = build_network(config).state_dict()
    words = [name for name in state if not name.startswith("visual.")]
    assert set(words) == {name for name in weights if not name.startswith("visual.")}
    clip = Clip(config, state)
    pictures = torch.rand(2, 64, 64, 3)
    own = clip.encode_image(pictures).vector
    assert own.shape == (2, 24) and not torch.allclose(own[0], own[1])
    with torch.no_grad():
        network = build_network(config)
        network.load_state_dict(state)
        straight = network.eval().encode_image(preprocess(pictures, 64, config.image_mean, config.image_std))
    assert torch.allclose(own, F.normalize(straight, dim=-1), atol=1e-5)
    unknown = dataclasses.replace(CONFIG, vision=ClipVisionConfig(trunk="convnext_colossal"))
    with pytest.raises(ValueError, match=r"timm .* has no network .convnext_colossal"):
        build_network(unknown)


def test_captions_become_tokens_embedding_ids_and_mask(clip):
    text = clip.encode_text(CAPTIONS)
    assert text.tokens.shape == (3, 10, 16) and text.embed.shape == (3, 24)
    assert text.ids.shape == text.mask.shape == (3, 10)
    assert text.mask.sum(1).tolist() == [5, 2, 10]  # start, words, end; the last one is cut
    assert text.captions == tuple(CAPTIONS) and text.clip_id == "tiny" and len(text) == 3
    assert text.tokens.dtype == text.embed.dtype == torch.float32 and text.mask.dtype == torch.bool
    assert clip.encode_text("a red star").captions == ("a red star",)


def test_text_is_what_open_clip_itself_computes(clip):
    text = clip.encode_text(CAPTIONS)
    network = clip.network
    own = F.normalize(network.encode_text(text.ids), dim=-1)
    torch.testing.assert_close(text.embed, own)
    torch.testing.assert_close(text.embed.norm(dim=1), torch.ones(3))
    # The projection of the end token's state is the embedding, so the states are those after the last LayerNorm.
    ends = text.tokens[torch.arange(3), text.ids.argmax(1)]
    torch.testing.assert_close(F.normalize(ends @ network.text_projection, dim=-1), own)
    normed = (text.tokens - network.ln_final.bias) / network.ln_final.weight
    torch.testing.assert_close(normed.mean(-1), torch.zeros(3, 10), atol=1e-5, rtol=0)


def test_normalised_only_says_what_the_wire_carries(clip, weights):
    raw = Clip(dataclasses.replace(CONFIG, normalised=False), lambda network: weights)
    vector = raw.encode_text(CAPTIONS).embed
    assert (vector.norm(dim=1) - 1).abs().max() > 0.05
    # Priors learn from the text itself which scale their embeddings are to have.
    assert [each.encode_text(CAPTIONS).normalised for each in (raw, clip)] == [False, True]
    torch.testing.assert_close(F.normalize(vector, dim=-1), clip.encode_text(CAPTIONS).embed)
    picture = torch.rand(2, 64, 64, 3)
    torch.testing.assert_close(F.normalize(raw.encode_image(picture).vector, dim=-1), clip.encode_image(picture).vector)


def test_weights_are_read_on_first_use_and_must_fit(weights):
    reads = []

    def read(network):
        reads.append(1)
        return weights

    clip = Clip(CONFIG, read)
    assert clip.unknown_words("a blue star") == ["blue"] and clip.truncated(CAPTIONS[2]) == "sea on the sea"
    assert not reads
    clip.encode_text("a")
    clip.encode_image(torch.rand(1, 64, 64, 3))
    assert len(reads) == 1 and not clip.network.training
    assert not any(parameter.requires_grad for parameter in clip.network.parameters())
    with pytest.raises(RuntimeError, match="ln_final"):
        Clip(CONFIG, {k: v for k, v in weights.items() if "ln_final" not in k}).encode_text("a")


def test_bf16_weights_are_read_as_float32(weights):
    rounded = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    text = Clip(CONFIG, rounded).encode_text(CAPTIONS)
    torch.testing.assert_close(text.embed, Clip(CONFIG, weights).encode_text(CAPTIONS).embed, atol=0.02, rtol=0)


def test_open_clip_warns_of_random_weights_only_where_they_stay(named, caplog):
    def texts():
        return [record.getMessage() for record in caplog.records if "randomly" in record.getMessage()]

    clip = Clip(named.config, named.network.state_dict())
    with caplog.at_level(logging.WARNING):
        clip.encode_text(["a cat"])
        assert not texts()  # the weights were assigned
        logging.warning("No pretrained weights loaded for model 'other'. Model initialized randomly.")
        assert len(texts()) == 1  # nothing is silenced for good
        assert Clip.open(NAMED).network is not None
    assert len(texts()) == 2 and NAMED in texts()[1]


@pytest.mark.parametrize("name", ["ln_final.bias", "visual.ln_post.bias"])
def test_a_tower_that_gives_no_numbers_is_named(weights, name):
    clip = Clip(CONFIG, {**weights, name: torch.full_like(weights[name], float("inf"))})
    encode, who = (clip.encode_text, "Text") if name.startswith("ln_") else (clip.encode_image, "Image")
    with pytest.raises(FloatingPointError, match=f"CLIP {who} Encode: tiny makes NaN or infinity in float32; the weig"):
        encode(torch.rand(1, 64, 64, 3) if who == "Image" else CAPTIONS)


def test_no_caption_what_is_no_caption_and_no_towers_are_refused(clip):
    with pytest.raises(ValueError, match="no caption given"):
        clip.encode_text([])
    for given, kind in ((None, "NoneType"), (5, "int"), (["a star", 5], "int")):
        with pytest.raises(ValueError, match=f"CLIP Text Encode: captions must be texts, got {kind}"):
            clip.encode_text(given)
    with pytest.raises(ValueError, match="neither an architecture name nor vision and text towers"):
        build_network(dataclasses.replace(CONFIG, vision=None))


def test_a_named_model_reads_text_and_pictures(named):
    caption = "a cat on a sofa " * 30
    text = named.encode_text(["a cat", caption])
    assert named.clip_id == f"{NAMED}/random" and text.embed.shape == (2, 24)
    assert text.tokens.shape == (2, 77, 16)
    assert text.mask.sum(1).tolist() == [4, 77]
    torch.testing.assert_close(text.embed, named.network.encode_text(text.ids))
    ends = text.tokens[torch.arange(2), text.ids.argmax(1)]
    torch.testing.assert_close(ends @ named.network.text_projection, text.embed)
    # 75 of the caption's 120 words fit between start and end.
    assert named.truncated(caption) == " ".join(caption.split()[75:]) and named.truncated("a cat") == ""
    assert named.unknown_words("astronaut") == []
    vector = named.encode_image(torch.rand(2, 40, 30, 3)).vector
    assert vector.shape == (2, 24) and named.encode_image(torch.rand(1, 8, 8, 4)).modality == "image"


def test_a_local_file_gives_its_weights_and_its_name(named, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(named.network.state_dict(), path)
    again = Clip.open(NAMED, pretrained=str(path))
    assert again.clip_id == f"{NAMED}/mine"  # a name, not a path
    torch.testing.assert_close(again.encode_text("a cat").embed, named.encode_text("a cat").embed)


def test_models_that_cannot_serve_are_refused_at_once():
    with pytest.raises(ValueError, match="'ViT-Q-1' is unknown to open_clip"):
        Clip.open("ViT-Q-1")
    with pytest.raises(ValueError, match=r"Hugging Face text tower roberta-base.*ViT-L-14"):
        Clip.open("roberta-ViT-B-32")
    tower = torch.nn.Module()
    with pytest.raises(ValueError, match="Module has no final LayerNorm over tokens"):
        text_states(tower, torch.zeros(1, 4, dtype=torch.int64))


def test_a_tag_brings_its_own_picture_statistics():
    siglip = Clip.open("ViT-B-32-SigLIP2-256", "webli").config
    assert siglip.image_mean == siglip.image_std == (0.5, 0.5, 0.5)
    assert Clip.open("ViT-B-32", "openai").config.image_mean == ClipConfig.image_mean


def picture(height, width):
    """Smooth colours with some texture, 8-bit."""
    ys, xs = np.mgrid[0:height, 0:width]
    waves = [
        127.5 + 90 * np.sin(xs / (5 + k) + k) * np.cos(ys / (7 - k)) + 30 * np.sin(xs * 1.7 + ys) for k in range(3)
    ]
    return np.stack(waves, -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(97, 150), (333, 225), (64, 64), (40, 31)])
def test_pictures_are_prepared_as_open_clip_does(height, width):
    from open_clip.transform import image_transform

    pixels = picture(height, width)
    theirs = image_transform(64, is_train=False)(Image.fromarray(pixels))[None]
    config = ClipConfig()
    ours = preprocess(torch.from_numpy(pixels)[None] / 255, 64, config.image_mean, config.image_std)
    assert ours.shape == (1, 3, 64, 64)
    # They round to 8 bits after each of two passes.
    levels = (ours - theirs).abs() * torch.tensor(config.image_std)[:, None, None] * 255
    assert levels.max() <= 1.6 and levels.mean() < 0.5


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 8000, 4), (2, 8000, 3, 1), (1, 65, 64, 3)], ids=str)
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_any_picture_goes_in(shape, crop):
    pixels = preprocess(torch.rand(*shape) * 3 - 1, 32, (0, 0, 0), (1, 1, 1), crop)
    assert pixels.shape == (shape[0], 3, 32, 32) and pixels.min() >= 0 and pixels.max() <= 1


def test_long_strips_are_cut_before_they_are_scaled():
    strip = torch.rand(1, 6, 600, 3, generator=torch.Generator().manual_seed(0))
    middle = strip[:, :, 291:309]
    ours, expected = (preprocess(x, 32, (0, 0, 0), (1, 1, 1)) for x in (strip, middle))
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4, 4, 3), r"CLIP Image Encode: image must be \(B, H, W, C\).* got shape \(4, 4, 3\)"),
        (torch.zeros(1, 0, 4, 3), r"CLIP Image Encode: image is empty, shape \(1, 0, 4, 3\)"),
        (torch.full((1, 4, 4, 3), float("nan")), "CLIP Image Encode: the image holds NaN"),
    ],
)
def test_what_is_no_picture_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        preprocess(bad, 32, (0, 0, 0), (1, 1, 1))


def test_gradients_reach_the_pixels_of_a_network_built_under_inference_mode(weights):
    clip = Clip(CONFIG, weights)
    with torch.inference_mode():
        plain = clip.encode_image(torch.full((1, 64, 64, 3), 0.25)).vector
    pixels = torch.full((1, 3, 64, 64), 0.25, requires_grad=True)
    embed = clip.embed_pixels(pixels)
    assert torch.allclose(embed, plain.clone(), atol=1e-5)
    embed[0, 0].backward()
    assert pixels.grad.abs().max() > 0


def test_squash_keeps_the_whole_picture_and_center_the_middle():
    wide = torch.zeros(1, 32, 96, 3)
    wide[:, :, :32], wide[:, :, 64:] = 1.0, 0.5  # white left, black middle, grey right
    squashed = preprocess(wide, 32, (0, 0, 0), (1, 1, 1), "squash")
    assert squashed.shape == (1, 3, 32, 32)
    assert squashed[..., 2].mean() > 0.99 and squashed[..., 16].mean() < 0.01
    assert abs(squashed[..., -3].mean() - 0.5) < 0.01
    assert preprocess(wide, 32, (0, 0, 0), (1, 1, 1), "center").abs().max() == 0
    with pytest.raises(ValueError, match="crop 'left' is unknown; choose one of center, squash"):
        preprocess(wide, 32, (0, 0, 0), (1, 1, 1), "left")


def test_a_tower_that_is_not_there_says_so(weights):
    text_only = dataclasses.replace(CONFIG, towers=("text",))
    clip = Clip(text_only, {k: v for k, v in weights.items() if not k.startswith("visual.")})
    whole = Clip(CONFIG, weights)
    assert torch.equal(clip.encode_text(CAPTIONS).embed, whole.encode_text(CAPTIONS).embed)
    with pytest.raises(ValueError, match="CLIP Image Encode: this model's CLIP has no image tower"):
        clip.encode_image(torch.rand(1, 64, 64, 3))
    image_only = dataclasses.replace(CONFIG, towers=("image",))
    kept = {k: v for k, v in weights.items() if k.startswith("visual.") or k == "logit_scale"}
    clip, picture = Clip(image_only, kept), torch.rand(1, 64, 64, 3)
    assert torch.equal(clip.encode_image(picture).vector, whole.encode_image(picture).vector)
    with pytest.raises(ValueError, match="CLIP Text Encode: this model's CLIP has no text tower"):
        clip.encode_text("a")


def test_given_weights_are_used_in_place(weights):
    clip = Clip(CONFIG, weights)
    assert clip.network.ln_final.weight.data_ptr() == weights["ln_final.weight"].data_ptr()
