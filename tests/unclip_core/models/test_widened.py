"""Weights that stay in half precision against the same weights made float32 beforehand: not one bit may differ."""

import copy

import pytest
import torch
from torch import nn

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core import pages
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.models import widened
from comfyui_unclip.unclip_core.models.kernels import Conv2d, Linear, freeze
from comfyui_unclip.unclip_core.models.lora import Branch, with_branches
from comfyui_unclip.unclip_core.models.widened import widen_as_used, widened_bytes
from comfyui_unclip.unclip_core.stack import load_stack

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch built without oneDNN")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(params=["plenty", "none", "unknown"])
def free_memory(request, monkeypatch):
    """How much memory is said to be free."""
    free = {"plenty": 2**40, "none": 0, "unknown": None}[request.param]
    monkeypatch.setattr(widened, "available_ram", lambda: free)
    return request.param


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    """The smallest matrices count as large."""
    monkeypatch.setattr(widened, "SMALL_BYTES", 1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def channels_last(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


class Layers(nn.Module):
    """One of each kind that networks have, run over maps and rows of several sizes."""

    def __init__(self):
        super().__init__()
        self.kernel, self.stride = Conv2d(24, 40, 3, padding=1), Conv2d(24, 40, 3, stride=2, padding=1)
        self.pointwise, self.doubling = Conv2d(24, 40, 1), Conv2d(24, 40, 3, padding=1)
        self.matrix, self.unbiased = Linear(48, 96), Linear(48, 96, bias=False)
        self.plain, self.plain_kernel = nn.Linear(48, 96), nn.Conv2d(24, 40, 3, padding=1)
        self.words, self.attention = nn.Embedding(30, 48), nn.MultiheadAttention(48, 4, batch_first=True)
        self.table = nn.Parameter(torch.randn(30, 48))

    def forward(self):
        maps = [channels_last(batch, 24, side, side) for batch, side in ((1, 72), (2, 8), (1, 8), (2, 80), (1, 16))]
        rows = [torch.randn(count, 48) for count in (300, 6, 2, 100, 500)]
        shift, ids = torch.randn(40), torch.randint(30, (3, 5))
        found = [layer(x) for layer in (self.kernel, self.stride, self.pointwise, self.plain_kernel) for x in maps]
        found += [self.kernel(x, bias=shift, add=torch.ones(len(x), 40, *x.shape[2:])) for x in maps]
        found += [self.doubling.over_doubled(x, bias=shift) for x in maps]
        found += [layer(x) for layer in (self.matrix, self.unbiased, self.plain) for x in rows]
        words = self.words(ids)
        return [*found, words, self.attention(words, words, words)[0], words + self.table[:5]]


def run(network, seed=0):
    torch.manual_seed(seed)
    return network()


@needs_onednn
@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_layers_give_the_very_same(half, free_memory):
    stored = Layers().to(half).requires_grad_(False).eval()
    wide = copy.deepcopy(stored).float().to(memory_format=torch.channels_last)
    for module in (kept := widen_as_used(stored).float()), wide:
        freeze(module)
    assert {name for name, _ in kept.named_parameters()} == {n for n, p in wide.named_parameters() if p.ndim == 1}
    size = sum(p.nbytes for p in wide.parameters() if p.ndim > 1)
    assert widened_bytes(kept) == size
    for _ in range(2):
        found, expected = run(kept), run(wide)
        assert all(torch.equal(*pair) and pair[0].dtype == torch.float32 for pair in zip(found, expected, strict=True))
    packs = [kept.kernel, kept.stride, kept.pointwise, kept.matrix, kept.unbiased]
    room = free_memory != "none"
    assert all((layer.packed is not None) == room == (layer.weight is None) for layer in packs)
    assert widened_bytes(kept) == size  # packed or not


@needs_onednn
def test_memory_that_becomes_free_is_used(monkeypatch, caplog):
    widened._say_once.cache_clear()
    layer = widen_as_used(Linear(48, 96).bfloat16().requires_grad_(False)).float()
    freeze(layer)
    x, free = torch.randn(4, 48), [widened.SPARE_BYTES + 4 * 48 * 96 - 1]
    monkeypatch.setattr(widened, "available_ram", lambda: free[0])
    first = layer(x)
    assert torch.equal(layer(x), first) and layer.packed is None
    assert caplog.text.count("weights stay in half precision and are made float32 each time they are used") == 1
    free[0] += 1
    assert torch.equal(layer(x), first) and layer.packed is not None


def test_gradients_pass_and_reach_what_comes_before():
    layers = nn.Sequential(Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3)).bfloat16().requires_grad_(False)
    wide = copy.deepcopy(layers).float().to(memory_format=torch.channels_last)
    kept = widen_as_used(layers).float()
    found = []
    with torch.enable_grad():
        for network in (wide, kept):
            x = torch.linspace(-1, 1, 800).view(1, 8, 10, 10).requires_grad_()
            found.append(torch.autograd.grad(network(x).square().sum(), x)[0])
    assert torch.equal(*found) and found[0].abs().max() > 0


def test_branches_are_in_float32_on_top(free_memory):
    network = nn.ModuleDict({"matrix": Linear(24, 16, bias=False), "kernel": Conv2d(24, 16, 3, padding=1)}).bfloat16()
    wide, kept = copy.deepcopy(network).float(), widen_as_used(network).float()
    branches = {
        "matrix": Branch(torch.randn(2, 24), torch.randn(16, 2)),
        "kernel": Branch(torch.randn(2, 24, 3, 3), torch.randn(16, 2)),
    }
    for each in (wide, kept):
        freeze(each)
    network_of = [with_branches(nn.ModuleDict({**each, "anchor": nn.Linear(1, 1)}), branches) for each in (wide, kept)]
    for name, x in (("matrix", torch.randn(5, 24)), ("kernel", channels_last(2, 24, 8, 8))):
        found = [each[name](x) for each in network_of]
        assert torch.equal(*found) and not torch.equal(found[0], wide[name](x))


@pytest.fixture(params=[("tiny", "bf16"), ("tiny", "fp16"), ("latent", "bf16")], ids="-".join)
def half_stack(request, tiny_models, tiny_latent_models, tmp_path):
    """The folder of a stack whose files, CLIP's too, hold half precision."""
    kind, half = request.param
    source = tiny_models / "tiny" if kind == "tiny" else tiny_latent_models / "tiny-latent"
    for file in source.glob("*.safetensors"):
        if "." in file.stem:  # a fitted table
            (tmp_path / file.name).write_bytes(file.read_bytes())
            continue
        stage, config, state = load_stage(file)
        save_stage(tmp_path / file.name, state, stage, config, dtype=HALVES[half])
    return tmp_path


def pictures(folder):
    """Everything that a stack makes, and the handles."""
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu")
    text = stack.clip.encode_text(["a red star", "blue boat on the sea"])
    embed = stack.prior.sample(text, seed=1)
    reads = text if stack.decoder.reads_text else None
    image = stack.decoder.sample(embed, reads, seed=2)
    noise = stack.decoder.invert(image, embed, steps=3)
    again = stack.decoder.sample(embed, noise=noise)
    large = stack.upsampler_256.sample(image, seed=3) if "upsampler_256" in stack.entry.stages else image
    seen = stack.clip.encode_image(image)
    guided = stack.decoder.with_clip_guidance(stack.clip, 2.0).sample(embed, reads, seed=5, steps=1)
    coded = stack.ar_prior.sample(text, seed=4) if "ar_prior" in stack.entry.stages else embed
    embeds = (embed.vector, seen.vector, coded.vector)
    return stack, (text.tokens, text.embed, *embeds, image, noise.x_T, again, large, guided)


def test_whole_stacks_give_the_very_same(half_stack, free_memory, monkeypatch):
    stack, found = pictures(half_stack)
    networks = (stack.prior.network, stack.decoder.network, stack.clip.placed)
    assert all(widened_bytes(placed.read()) > 0.5 * placed.weight_bytes for placed in networks)
    monkeypatch.setattr(widened, "SMALL_BYTES", 2**60)
    plain, expected = pictures(half_stack)
    assert widened_bytes(plain.prior.network.read()) == 0
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # What is large stays so, in whatever it lies.
    assert plain.decoder.network.weight_bytes == stack.decoder.network.weight_bytes


def test_what_looks_at_weights_gets_all_of_them(half_stack):
    """Gradients through a network, and its state dict, know nothing of this."""
    stack = load_stack(catalog.read_stack(half_stack), "fp32", "cpu")
    for placed in (stack.prior.network, stack.decoder.network, stack.clip.placed):
        assert widened_bytes(placed.read()) > 0
        for whole in (placed.in_memory(), placed.unpacked().read()):
            assert widened_bytes(whole) == 0 and {p.dtype for p in whole.parameters()} == {torch.float32}
    half = load_stack(catalog.read_stack(half_stack), "bf16", "cpu")
    assert widened_bytes(half.prior.network.read()) == 0
    assert widened_bytes(half.prior.network.as_float32().read()) > 0


@pytest.mark.skipif(pages.available_ram() is None, reason="only Linux says what a process maps")
def test_matrices_and_kernels_stay_in_the_mapped_file(half_stack):
    stack = load_stack(catalog.read_stack(half_stack), "fp32", "cpu")
    for placed in (stack.prior.network, stack.decoder.network, stack.clip.placed):
        halves = [half for layer in placed.read().modules() for half in layer.__dict__.get("_halves", {}).values()]
        assert len(halves) > 5 and any(half.ndim == 4 for half in halves) == (placed is not stack.prior.network)
        assert all(pages._backed_by_a_file(half.data_ptr(), half.data_ptr() + half.nbytes) for half in halves)
