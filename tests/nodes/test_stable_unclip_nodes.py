"""Stable unCLIP through the nodes: captions by its own text encoder, noise on embeddings, what does not go together."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core.checkpoints.catalog import StackEntry, find
from comfyui_unclip.unclip_core.checkpoints.embedding_file import load_embedding, save_embedding
from comfyui_unclip.unclip_core.checkpoints.header import StageFile
from comfyui_unclip.unclip_core.clip.pca import fit_pca, project
from comfyui_unclip.unclip_core.embeddings import text_diff
from comfyui_unclip.unclip_core.presets import STABLE_UNCLIP_L
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.workflows.document.schema import node_schema

ENCODE, NOISE, SAMPLE = (
    NODE_CLASS_MAPPINGS[f"UnCLIP{name}"] for name in ("TextEncode", "NoiseEmbedding", "DecoderSample")
)

SEEN = 2e-3  # a difference in a picture that no rounding makes


@pytest.fixture(scope="module")
def folder(stable_unclip, karlo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    karlo.write_karlo_folder(folder / "karlo-v1-alpha")
    stable_unclip.stable_unclip_h(folder / "h")
    stable_unclip.stable_unclip_l(folder / "small")
    return folder


@pytest.fixture(scope="module")
def h(folder):
    return load_stack(find("h", [folder]), "fp32", "cpu")


@pytest.fixture(scope="module")
def small(folder):
    return load_stack(find("small", [folder]), "fp32", "cpu")


@pytest.fixture
def said(host):
    """said() -> what nodes have warned of."""
    return lambda: [text for texts in host.warnings for text in texts]


def paint(stack, embed=None, text=None, **options):
    """By Decoder Sample, its widgets at their defaults."""
    given = {name: spec.default for name, spec in node_schema(SAMPLE).inputs.items() if spec.is_widget}
    given |= {"decoder": stack.decoder, "embed": embed, "text": text, "steps": 3, "guidance_scale": 2.0}
    return SAMPLE().sample(**given | options)[0]


@pytest.fixture(scope="module")
def embed(h):
    return h.clip.encode_image(torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)))


def read(stack, text):
    return ENCODE().encode(clip=stack.clip, text=text, one_per_line=True)[0]


def test_every_input_of_the_noise_changes_it(h, small, embed):
    def noise(stack=h, embed=embed, noise_level=500, seed=3):
        return NOISE().noise(decoder=stack.decoder, embed=embed, noise_level=noise_level, seed=seed)[0]

    found = noise()
    assert found.noise_level == 500 and found.clip_id == embed.clip_id
    assert torch.equal(noise().vector, found.vector)
    other = replace(embed, vector=embed.vector + 1)
    for change in ({"noise_level": 501}, {"seed": 4}, {"embed": other}):
        assert (noise(**change).vector - found.vector).abs().max() > 1e-4, change
    # The decoder brings the units of the noise.
    spread = SimpleNamespace(mean=torch.zeros(128), std=torch.full((128,), 9.0))
    placed = SimpleNamespace(read=lambda: spread)
    wider = SimpleNamespace(decoder=replace(h.decoder, normalizer=placed))
    assert noise(wider).vector.std() > 2 * found.vector.std()
    # Hardly any at level 0, nothing but noise at 999.
    assert (noise(noise_level=0).vector - embed.vector).abs().max() < 0.05 * embed.vector.abs().max()
    left = torch.stack([noise(noise_level=999, embed=each).vector for each in (embed, other)])
    assert (left[0] - left[1]).abs().max() < 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noise_level": 1000}, "noise_level must be a whole number from 0 to 999, got 1000"),
        ({"noise_level": True}, "from 0 to 999, got True"),
        ({"embed": "a picture"}, "embed must be an Embedding, got str"),
    ],
)
def test_noise_that_cannot_be_is_refused(h, embed, change, said):
    given = {"decoder": h.decoder, "embed": embed, "noise_level": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=f"Noise Embedding: .*{said}"):
        NOISE().noise(**given)


def test_noise_goes_with_the_decoder_that_is_told_of_it(h, small, folder, embed, said):
    karlo = load_stack(find("karlo-v1-alpha", [folder]), "fp32", "cpu")
    text = karlo.clip.encode_text("a boat")
    imagined = karlo.prior.sample(text, steps=2, candidates=1)
    with pytest.raises(
        ValueError, match=r"Noise Embedding: the decoder .* is told no noise level; link that of a Stable"
    ):
        NOISE().noise(decoder=karlo.decoder, embed=imagined, noise_level=1, seed=0)
    with pytest.raises(ValueError, match=r"trained on .*128-d.*but got 32-d"):
        NOISE().noise(decoder=h.decoder, embed=imagined, noise_level=1, seed=0)
    (noisy,) = NOISE().noise(decoder=small.decoder, embed=imagined, noise_level=300, seed=0)
    with pytest.raises(ValueError, match="has noise of level 300 already"):
        NOISE().noise(decoder=small.decoder, embed=noisy, noise_level=1, seed=0)
    paint(small, noisy)
    assert not said()
    paint(karlo, noisy, text, steps=1)
    assert any("noise of level 300, which this decoder is not told" in each for each in said())


def test_the_decoder_is_told_the_level(host, h, embed):
    """The same vector at another level is another picture; at level 0 it is the one without noise."""
    told = [paint(h, replace(embed, noise_level=level)) for level in (0, 0, 400)]
    assert torch.equal(told[0], told[1]) and (told[0] - told[2]).abs().max() > SEEN
    # Of guidance's two halves each has its own.
    negative = replace(embed, vector=-embed.vector)
    pair = [paint(h, embed, negative_embed=replace(negative, noise_level=level)) for level in (0, 400)]
    assert (pair[0] - pair[1]).abs().max() > SEEN


def test_captions_are_read_by_its_own_text_encoder(h, small, embed, said):
    """h's CLIP reads no captions, and any CLIP's will do; none is the empty one."""
    text = read(h, "a boat\na red star")
    assert text.captions == ("a boat", "a red star") and text.embed.shape == (2, 0)
    pictures = paint(h, embed, text)
    assert torch.equal(paint(h, embed, read(small, "a boat\na red star")), pictures)
    nothing = paint(h, embed)
    assert (pictures - nothing).abs().amax((1, 2, 3)).min() > SEEN
    assert torch.equal(paint(h, embed, read(h, "")), paint(h, embed, replace(text, captions=("", ""))))
    assert torch.allclose(paint(h, embed, read(small, "")), nothing, atol=1e-5)
    negative = paint(h, embed, text, negative_text=read(h, "a boat"))
    assert (negative - pictures).abs().max() > SEEN
    assert not said()


def test_a_caption_that_no_clip_encoded_is_refused_elsewhere(host, h, small, embed):
    text = read(h, "a boat")
    alone = r"this text has no CLIP embedding, as the CLIP of its Load unCLIP reads pictures alone .*take the text from"
    with pytest.raises(ValueError, match=f"Diffusion Prior: {alone}"):
        small.prior.sample(text)
    with pytest.raises(ValueError, match=f"Text As Embedding: {alone}"):
        NODE_CLASS_MAPPINGS["UnCLIPTextAsEmbedding"]().convert(text=text)
    with pytest.raises(ValueError, match=f"Text Diff: {alone}"):
        NODE_CLASS_MAPPINGS["UnCLIPTextDiff"]().turn(
            embed=embed, text_to=text, text_from=None, start_theta=0.0, end_theta=0.5, frames=2
        )
    with pytest.raises(ValueError, match="CLIP Text Encode: this model's CLIP has no text tower"):
        NODE_CLASS_MAPPINGS["UnCLIPZeroShot"]().classify(clip=h.clip, image=torch.rand(1, 32, 32, 3), labels="a, b")
    with pytest.raises(ValueError, match=f"Decoder Sample: {alone}"):
        guided = h.decoder.with_clip_guidance(h.clip, 1.0)
        paint(SimpleNamespace(decoder=guided), embed, text)


def test_a_model_without_a_prior_says_how_to_get_one(h):
    """Karlo's speaks the CLIP of the small one; for the other there is none."""
    with pytest.raises(ValueError, match=r"'h' has no prior stage .*none was published; .*CLIP Image Encode gives"):
        _ = h.prior.sample
    decoder = StageFile(Path("small"), "decoder", STABLE_UNCLIP_L.decoder, {}, "stable-unclip")
    alone = load_stack(StackEntry("small", Path("small"), {"decoder": decoder}), "fp32", "cpu")
    with pytest.raises(ValueError, match=r"Karlo's speaks its CLIP, get it with `unclip pull karlo-v1-alpha`"):
        _ = alone.prior.sample


def test_levels_go_through_what_moves_embeddings(h, small, embed, said, tmp_path):
    """Slerp takes the higher one; Text Diff, PCA and files keep it."""
    noisy = replace(embed, noise_level=200)
    slerp = NODE_CLASS_MAPPINGS["UnCLIPSlerpEmbedding"]()
    same = {"start": 0.0, "end": 1.0, "frames": 3}
    (mixed,) = slerp.mix(embed_a=embed, embed_b=noisy, **same)
    assert mixed.noise_level == 200
    (told,) = said()
    assert "noise of the levels 0, 200; the decoder is told 200" in told
    (mixed,) = slerp.mix(embed_a=noisy, embed_b=noisy, **same)
    assert mixed.noise_level == 200 and len(said()) == 1
    save_embedding(tmp_path / "e.safetensors", noisy)
    assert load_embedding(tmp_path / "e.safetensors").noise_level == 200
    basis = fit_pca(torch.randn(200, 128), noisy.clip_id)
    assert project(noisy, basis, [20]).noise_level == 200
    noisy = small.decoder.noise_embedding(small.clip.encode_image(torch.rand(1, 32, 32, 3)), 200)
    turned = text_diff(noisy, read(small, "a boat"), read(small, "a star"), frames=2)
    assert turned.noise_level == 200


def test_a_picture_is_inverted_and_painted_again(h, embed):
    """The latents of SD's autoencoder, its text encoder's captions: the way back is the way there."""
    picture = torch.rand(1, 48, 48, 3, generator=torch.Generator().manual_seed(5))
    one = replace(embed, vector=embed.vector[:1])
    text = read(h, "a boat")
    noise = h.decoder.invert(picture, one, text, steps=40, refine=20)
    assert noise.x_T.shape == (1, 4, 12, 12)
    others = [
        h.decoder.invert(picture, one, each, steps=2, refine=0).inversion for each in (text, read(h, "a star"), None)
    ]
    assert len({inversion.text_hash for inversion in others}) == 3 and others[2].text_hash == ""
    back = h.decoder.sample(one, text, noise=noise, guidance_scale=1.0)
    through = h.decoder.autoencoder.read()
    expected = through.decode(through.encode(picture.movedim(-1, 1) * 2 - 1)).movedim(1, -1).clamp(-1, 1) / 2 + 0.5
    other = h.decoder.sample(one, text, guidance_scale=1.0, steps=40)
    assert (back - expected).abs().mean() < 0.1 * (other - expected).abs().mean()
