"""`torch.compile` of what runs once a step."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from comfyui_unclip.unclip_core.models.lora import Branch, Lora
from comfyui_unclip.unclip_core.runtime import compiling, streamed
from comfyui_unclip.unclip_core.runtime.placement import Placed


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled, and run as they are: what a compiler makes of them is the compiler's business."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling.torch, "compile", partial(torch.compile, backend=backend))
    compiling._why_not.cache_clear()
    yield found
    compiling._why_not.cache_clear()
    torch._dynamo.reset()


def compiled(made, compiles=True):
    source, config = made.network.read(), made.config

    def build(dtype):
        network = type(source)(config)
        network.load_state_dict(source.state_dict())
        return network

    return replace(made, network=Placed(build, torch.device("cpu"), torch.float32, compiles=compiles))


def test_runs_give_the_same_through_one_graph_for_all_their_steps(tiny, graphs):
    for made, inputs in (
        (tiny.prior(), (tiny.text(2),)),
        (tiny.decoder(), (tiny.embed(2), tiny.text(2))),
        (tiny.upsampler(), (torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)),)),
    ):
        sample = lambda stage, inputs=inputs: stage.sample(*inputs, steps=4, seed=3)  # noqa: E731
        expected, found = sample(compiled(made, compiles=False)), sample(compiled(made))
        expected, found = (getattr(each, "vector", each) for each in (expected, found))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert len(graphs) == 4  # and the tiny function that is tried first


def test_a_lora_is_in_the_graph_and_gone_after_the_run(tiny, graphs):
    made = tiny.decoder()
    shape = made.network.read().unet.mid.attentions[0].qkv.weight.shape
    generator = torch.Generator().manual_seed(0)
    branch = Branch(torch.randn(3, shape[1], generator=generator), torch.randn(shape[0], 3, generator=generator))
    lora = Lora.of("test", {"unet.mid.attentions.0.qkv": branch})
    plain, stage = compiled(made, compiles=False), compiled(made)
    inputs = (tiny.embed(2), tiny.text(2))
    before, expected = plain.sample(*inputs), plain.with_lora(lora).sample(*inputs)
    assert (before - expected).abs().max() > 0.001
    for _ in range(2):
        torch.testing.assert_close(stage.sample(*inputs), before, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(stage.with_lora(lora).sample(*inputs), expected, rtol=1e-3, atol=1e-4)
    assert len(graphs) == 3


def test_dropped_weights_are_gone_at_once_and_the_float32_twin_is_not_compiled(tiny, graphs):
    """Nobody collects garbage before a network that leaves a GPU makes room on it."""
    stage = compiled(tiny.decoder())
    twin = stage.network.as_float32()
    assert twin is not stage.network and not compiling.is_compiled(twin.read())
    stage.sample(tiny.embed(), tiny.text(), steps=2)
    network = weakref.ref(stage.network.read())
    assert compiling.is_compiled(network()) and graphs
    gc.disable()
    try:
        stage.network.drop()
        assert network() is None
    finally:
        gc.enable()


def test_a_network_whose_weights_stream_is_one_graph_too(tiny, graphs, monkeypatch):
    monkeypatch.setattr(streamed, "SMALL_BYTES", 300)
    stage = compiled(tiny.decoder())
    expected = stage.sample(tiny.embed(), tiny.text(), steps=2)
    network = stage.network.read()
    assert streamed.stream(network, torch.device("cpu"), 0)[0] > 0 and compiling.is_compiled(network)
    before = len(graphs)
    assert torch.equal(stage.sample(tiny.embed(), tiny.text(), steps=2), expected) and len(graphs) == before + 1


@pytest.mark.parametrize("interval", [None, (0.0, 0.5)])
def test_fewer_operations_are_a_graph_of_each_kind_of_step(tiny, graphs, interval):
    """Whole, whole once something is kept, and reusing; for guided steps and for those without."""
    plain, stage = compiled(tiny.decoder(), compiles=False), compiled(tiny.decoder())
    plain, stage = (each.with_step_cache(2) for each in (plain, stage))
    if interval is not None:
        plain, stage = (each.with_guidance_interval(*interval) for each in (plain, stage))
    inputs, options = (tiny.embed(2), tiny.text(2)), {"steps": 8, "seed": 3, "guidance_scale": 2.0, "sampler": "ddim"}
    expected = plain.sample(*inputs, **options)
    torch.testing.assert_close(stage.sample(*inputs, **options), expected, rtol=1e-3, atol=1e-4)
    count = len(graphs)
    assert count <= 1 + 3 * (1 if interval is None else 2), count
    torch.testing.assert_close(stage.sample(*inputs, **options), expected, rtol=1e-3, atol=1e-4)
    assert len(graphs) == count  # a second run compiles nothing


class Raised(torch.nn.Module):
    per_step = "forward"

    def __init__(self, count):
        super().__init__()
        self.ones = (1.0,) * count

    def forward(self, x):
        for one in self.ones:
            x = x + one
        return x


def test_more_networks_of_a_class_than_dynamo_expects_are_all_compiled(graphs):
    networks = [compiling.compile_steps(Raised(count)) for count in range(1, 13)]
    with ThreadPoolExecutor() as another:  # than the one that made them, which its own settings of dynamo are for
        found = list(another.map(lambda network: network(torch.zeros(1)).item(), networks))
    assert found == list(range(1, 13))
    assert len(graphs) == len(networks)


def test_without_a_compiler_it_says_so_before_weights_are_read(tiny, monkeypatch):
    compiling._why_not.cache_clear()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    built = []
    stage = compiled(tiny.decoder())
    stage.network._build = built.append
    try:
        with pytest.raises(RuntimeError, match=r"Load unCLIP: compile is on, .* on cpu here: .+; turn compile off, or"):
            stage.sample(tiny.embed())
    finally:
        compiling._why_not.cache_clear()
        torch._dynamo.reset()
    assert built == []
