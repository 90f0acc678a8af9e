"""The average of the weights."""

import pytest
import torch
from torch import nn

from comfyui_unclip.unclip_core.training.ema import Ema


class Net(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 3), float(value)))
        self.frozen = nn.Parameter(torch.full((2,), float(value)), requires_grad=False)
        self.register_buffer("count", torch.tensor(int(value)))


def test_the_average_is_the_closed_form():
    network, ema = Net(0), Ema(Net(0), 0.9)
    expected = 0.0
    for step in range(200):
        network.weight.data.fill_(float(step))
        ema.update(network, step)
        keep = min(0.9, (1 + step) / (10 + step))  # eased in
        expected = keep * expected + (1 - keep) * step
    assert torch.allclose(ema.state["weight"], torch.full((2, 3), expected))
    assert expected == pytest.approx(190, abs=0.5)  # lags by 1 / (1 - decay) - 1 steps


def test_only_what_is_trained_is_held_and_averaged():
    network = Net(3)
    ema = Ema(network, 0.5)
    assert ema.state.keys() == {"weight"}
    network.count.fill_(9)
    network.frozen.data.fill_(7.0)
    with ema.applied(network):
        assert network.count == 9 and (network.frozen == 7.0).all()


def test_inside_applied_the_network_is_the_average_and_afterwards_itself():
    network = Net(4)
    ema = Ema(network, 0.5)
    network.weight.data.fill_(8.0)
    place = network.weight.data_ptr()
    with pytest.raises(RuntimeError, match="boom"), ema.applied(network):
        assert (network.weight == 4.0).all()
        raise RuntimeError("boom")
    assert (network.weight == 8.0).all() and (ema.state["weight"] == 4.0).all()
    assert network.weight.data_ptr() == place


def test_a_saved_average_is_taken_up_as_a_copy():
    ema = Ema(Net(1), 0.5)
    saved = {name: value.clone() for name, value in Ema(Net(7), 0.5).state.items()}
    ema.load(saved)
    saved["weight"].zero_()
    assert (ema.state["weight"] == 7.0).all()
    with pytest.raises(ValueError, match="the saved average and the trained weights differ in other"):
        ema.load({**saved, "other": torch.zeros(1)})


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        Ema(Net(0), decay)
