"""Weights of a smaller network start a larger one: words keep their rows, a map gives what its mean gave."""

import dataclasses

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.native import load_strict
from comfyui_unclip.unclip_core.clip.networks import build_network
from comfyui_unclip.unclip_core.clip.words import WordTokenizer
from comfyui_unclip.unclip_core.config import ClipVisionConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.training.widen import widened

TRUNK = "convnext_atto"


def built(config, seed):
    torch.manual_seed(seed)
    return build_network(config).eval()


@pytest.fixture
def before(tiny_configs):
    return dataclasses.replace(tiny_configs.clip, vision=ClipVisionConfig(trunk=TRUNK))


def test_words_keep_their_rows_and_new_ones_get_their_own(before):
    words = ("zebra", *reversed(before.vocabulary))
    after = dataclasses.replace(before, vocabulary=words)
    old, fresh = built(before, 0), built(after, 1)
    network = built(after, 2)
    load_strict(network, widened(old.state_dict(), before, fresh.state_dict(), after, "old"), "old")
    caption = "a red star above the blue boat, unheard of"
    known = caption.replace(", unheard of", "")
    ids = [torch.tensor([WordTokenizer.of(config).encode(known)]) for config in (before, after)]
    with torch.no_grad():
        torch.testing.assert_close(network.encode_text(ids[1]), old.encode_text(ids[0]))
    zebra = WordTokenizer.of(after).ids["zebra"]
    assert torch.equal(network.token_embedding.weight[zebra], fresh.token_embedding.weight[zebra])


def test_a_map_starts_as_the_mean_of_its_cells(before):
    after = dataclasses.replace(before, vision=ClipVisionConfig(trunk=TRUNK, head="map"))
    old, network = built(before, 0), built(after, 1)
    load_strict(network, widened(old.state_dict(), before, network.state_dict(), after, "old"), "old")
    flat = torch.rand(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        cells = old.visual.trunk.head.norm(old.visual.trunk.forward_features(flat))
        expected = old.visual.trunk.head.fc(cells.mean((2, 3)))
        torch.testing.assert_close(network.encode_image(flat), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="old projects a map"):
        widened(network.state_dict(), after, old.state_dict(), before, "old")


def test_a_decoder_with_more_layers_starts_as_what_it_was(tiny_configs, randomise):
    config = tiny_configs.decoder
    small = dataclasses.replace(
        config, unet=dataclasses.replace(config.unet, attention_resolutions=(), fine_channels=0)
    )
    large = dataclasses.replace(config, unet=dataclasses.replace(config.unet, fine_channels=4))
    old, fresh, network = randomise(DecoderNetwork(small)), DecoderNetwork(large), DecoderNetwork(large).eval()
    load_strict(network, widened(old.state_dict(), small, fresh.state_dict(), large, "old"), "old")
    x_t, t, z = torch.randn(2, 3, 64, 64), torch.tensor([10, 900]), torch.randn(2, config.clip_dim)
    with torch.no_grad():
        torch.testing.assert_close(network(x_t, t, network.condition(z)), old(x_t, t, old.condition(z)))
    assert torch.equal(network.unet.conv_fine.weight, fresh.unet.conv_fine.weight)
    with pytest.raises(ValueError, match=r"--init x has unet.* for which this network has no place"):
        widened(fresh.state_dict(), large, old.state_dict(), small, "--init x")
    name = "unet.conv_in.weight"
    with pytest.raises(ValueError, match=r"--init x: unet.conv_in.weight is \(99, 3, 3, 3\) there"):
        widened({**old.state_dict(), name: torch.zeros(99, 3, 3, 3)}, small, fresh.state_dict(), large, "--init x")
