"""What overflows in float16 goes on in a wider dtype where nobody asked for float16, and is an error where one did."""

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages.own_text import OwnText


def overflowing(make, asked=None, dtype=torch.float16, wider=torch.bfloat16):
    """A stage whose first layer gives numbers beyond float16's range, which a norm brings back into it."""
    stage = make()
    build = stage.network._build

    def loud(dtype):
        if asked is not None:
            asked.append(dtype)
        build(dtype).float()  # the tiny stage's one module, which an earlier reading left in float16
        network = build(dtype)
        network.unet.conv_in.weight.data *= 3e5
        return network

    stage.network.__init__(loud, torch.device("cpu"), dtype, wider=wider)
    return stage


def test_what_overflows_in_float16_that_nobody_asked_for_runs_again_wider(tiny):
    asked, said = [], []
    decoder = overflowing(tiny.decoder, asked)
    picture = decoder.sample(tiny.embed(), tiny.text(), seed=3, warn=said.append)
    assert asked == [torch.float16, torch.bfloat16] and decoder.network.dtype == torch.bfloat16
    assert len(said) == 1 and "Decoder Sample: NaN or infinity at step 1 of 4" in said[0]
    assert "in float16; it runs again in bfloat16" in said[0]
    exact = overflowing(tiny.decoder, dtype=torch.bfloat16).sample(tiny.embed(), tiny.text(), seed=3)
    assert torch.equal(picture, exact)  # as if it had been so from the start
    decoder.sample(tiny.embed(), tiny.text(), seed=4, warn=said.append)
    assert len(said) == 1 and len(asked) == 2  # once


def test_float16_that_the_user_chose_is_an_error_that_names_the_network(tiny):
    decoder = overflowing(tiny.decoder, wider=None)
    with pytest.raises(FloatingPointError, match=r"Decoder Sample: .* in float16; load .* bf16 or fp32"):
        decoder.sample(tiny.embed(), tiny.text())


class Loud(nn.Module):
    """A text encoder whose states, 1e5 each, only float16 cannot hold."""

    def __init__(self, dtype):
        super().__init__()
        self.state = nn.Parameter(torch.full((1, 2, 4), 1e5).to(dtype))


@pytest.mark.parametrize("wider", [torch.bfloat16, None])
def test_a_decoders_own_text_encoder_is_watched_too(wider):
    own = OwnText(
        Placed(Loud, torch.device("cpu"), torch.float16, wider=wider),
        lambda captions: (torch.ones(len(captions), 2).long(), torch.ones(len(captions), 2).bool()),
        lambda network, ids, mask: (network.state, network.state.new_empty(1, 0)),
    )
    if wider is None:
        with pytest.raises(FloatingPointError, match=r"text encoder makes NaN or infinity in float16; load .* bf16"):
            own.encode(("a cup", "a star"))
        return
    text = own.encode(("a cup", "a star"))
    assert text.tokens.isfinite().all() and text.tokens.shape == (2, 2, 4) and own.network.dtype == wider


def test_what_an_autoencoder_makes_is_no_reason_to_run_the_network_in_another_dtype(tiny):
    decoder, said = tiny.latent_decoder(), []
    decoder.network._wider = torch.bfloat16
    with torch.no_grad():
        decoder.autoencoder.read().post_quant_conv.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the autoencoder makes NaN or infinity in float32; the weights"):
        decoder.sample(tiny.embed(), warn=said.append)
    assert decoder.network.dtype == torch.float32 and not said
