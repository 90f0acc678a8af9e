"""The tiny stack's handles, a host that remembers, and nodes called as the executor calls them."""

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.workflows.document.schema import node_schema


class CountingHost(LocalHost):
    """Remembers how many steps each run had."""

    def __init__(self):
        super().__init__(quiet=True)
        self.runs = []
        self.warnings = []

    def warn(self, *messages):
        self.warnings.append(messages)

    def progress(self, label):
        progress = super().progress(label)
        self.runs.append((label, 0))
        step = progress.step

        def counting(state):
            self.runs[-1] = (label, self.runs[-1][1] + 1)
            step(state)

        progress.step = counting
        return progress


def load(models, name):
    """Outputs of Load unCLIP by socket name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCLIP_MODELS", str(models))
        loader = NODE_CLASS_MAPPINGS["UnCLIPLoader"]
        handles = loader().load(model_name=name, dtype="fp32")
    return dict(zip(loader.RETURN_NAMES, handles, strict=True))


@pytest.fixture(scope="module")
def stack(tiny_models):
    """Outputs of Load unCLIP by socket name."""
    return load(tiny_models, "tiny")


@pytest.fixture(scope="module")
def latent_stack(tiny_latent_models):
    """The same of a stack whose decoder paints latents."""
    return load(tiny_latent_models, "tiny-latent")


@pytest.fixture
def host():
    with use_host(CountingHost()) as host:
        yield host


@pytest.fixture
def node(stack, host):
    """node(class, **inputs) -> its first output, widgets at their defaults; `stack` handles by socket."""
    return caller(stack)


@pytest.fixture
def latent_node(latent_stack, host):
    """As `node`, on a stack whose decoder paints latents."""
    return caller(latent_stack)


def caller(stack):
    """What calls a node with a stack's handles."""
    sources = {"clip": "CLIP", "prior": "PRIOR", "decoder": "DECODER"}

    def call(name, **inputs):
        cls = NODE_CLASS_MAPPINGS[name]
        specs = node_schema(cls).inputs
        given = {n: spec.default for n, spec in specs.items() if spec.is_widget}
        given |= {n: stack[sources[n]] for n in specs if n in sources}
        if "upsampler" in specs:
            given["upsampler"] = stack["UPSAMPLER " + name.removeprefix("UnCLIPUpsample")]
        with torch.inference_mode():
            return getattr(cls(), cls.FUNCTION)(**given | inputs)[0]

    return call
