"""Which networks lie on an accelerator of N bytes, and that one runs which is larger than it.

The device is pretended: it computes as the CPU does, counts its bytes and refuses what does not fit.
"""

import contextlib
import copy
import logging
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from comfyui_unclip.tests.pretended_device import DEVICE, PretendedDevice
from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.evaluation.check_network import check_network
from comfyui_unclip.unclip_core.models.lora import Branch, Lora, all_layers
from comfyui_unclip.unclip_core.pages import _backed_by_a_file
from comfyui_unclip.unclip_core.runtime import estimates, placement, streamed
from comfyui_unclip.unclip_core.runtime.estimates import Need
from comfyui_unclip.unclip_core.runtime.placement import Placed, module_bytes
from comfyui_unclip.unclip_core.runtime.streamed import stream
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import grid

KB = 1000


@pytest.fixture
def device(monkeypatch):
    """A function from bytes to the device, on which the test runs from then on."""
    opened = []

    def open_device(capacity):
        opened.append(PretendedDevice(capacity).__enter__())
        for module in (placement, estimates, grid):
            monkeypatch.setattr(module, "free_bytes", lambda _: opened[-1].free)
        return opened[-1]

    monkeypatch.setattr(streamed, "SMALL_BYTES", 300)  # of networks this small, nothing would ever be fetched
    yield open_device
    for each in reversed(opened):
        each.__exit__(None, None, None)
    placement._on_device.pop(DEVICE, None)


def network(kilobytes):
    return Placed(lambda dtype: nn.Linear(5, 50 * kilobytes, bias=False), DEVICE, torch.float32)


def there(*networks):
    return [placed.loaded and next(placed.read().parameters()).device == DEVICE for placed in networks]


def test_networks_stay_while_there_is_room_and_the_one_used_longest_ago_leaves(device):
    box = device(100 * KB)
    first, second, third, big = network(30), network(30), network(30), network(60)
    for placed in (first, second, third, first):
        placed.on_device()
    assert there(first, second, third) == [True] * 3 and box.copied == box.used == 90 * KB
    big.on_device()  # 60 do not fit beside all: the second and the third were used before the first
    assert there(first, second, third, big) == [True, False, False, True]
    assert not second.loaded and box.copied == 150 * KB  # dropped: its file is its copy in memory
    first.on_device()
    big.on_device()
    assert box.copied == 150 * KB  # a second picture copies nothing
    third.on_device(first)
    assert there(first, third, big) == [True, True, False]


def test_a_forward_has_its_room_too(device):
    device(100 * KB)
    first, second, third = network(30), network(30), network(10)
    first.on_device()
    second.on_device(need=Need(60 * KB, 5 * KB))
    assert there(first, second) == [False, True]
    third.on_device(need=Need(10**9, 5 * KB))  # more rows than could ever fit: no reason to fetch weights as used
    assert there(second, third) == [False, True] and third._resident == third._bytes
    third.unload()
    second.unload()


def test_what_is_larger_than_the_device_streams_and_is_read_whole_once_there_is_room(device, caplog, monkeypatch):
    box = device(50 * KB)
    monkeypatch.setattr(streamed, "SMALL_BYTES", 1000)  # biases stay
    reads = []

    def build(dtype):
        reads.append(dtype)
        return nn.Sequential(*(nn.Linear(50, 50) for _ in range(10)))  # 10 KB each

    placed, other = Placed(build, DEVICE, torch.float32), network(20)
    other.on_device()
    for _ in range(3):
        module = placed.on_device(need=Need(20 * KB, 10 * KB))
    assert not other.loaded and 20 * KB < box.used <= 40 * KB and len(reads) == 2  # the second reading splits it
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1 and "Sequential" in said[0].message and "copied there each time" in said[0].message
    box.peak = 0
    x = torch.ones(1, 50, device=DEVICE)
    with torch.no_grad():
        out = module(x).cpu()
        assert box.peak < 42 * KB and torch.equal(out, nn.Sequential(*(_plain(layer) for layer in module))(x.cpu()))
    box.capacity = 200 * KB
    module = placed.on_device(need=Need(20 * KB, 10 * KB))
    assert len(list(module.parameters())) == 20 and module_bytes(module) == placed._resident == 102 * KB
    box.capacity = 1 * KB  # less than the biases
    with pytest.raises(MemoryError, match="Load unCLIP: one item at a time does not fit into the GPU"):
        placed.on_device(need=Need(20 * KB, 10 * KB))


def _plain(layer):
    copy = nn.Linear(layer.in_features, layer.out_features)
    copy.load_state_dict({"weight": layer.weight.cpu(), "bias": layer.bias.cpu()})
    return copy


def test_a_device_that_is_fuller_than_it_says_evicts_then_streams(device, monkeypatch):
    box = device(100 * KB)
    first, second = network(60), network(60)
    monkeypatch.setattr(placement, "free_bytes", lambda _: 10**9)
    first.on_device()
    second.on_device()
    assert there(first, second) == [False, True]
    box.capacity = 50 * KB
    second.drop()
    layers = Placed(lambda dtype: nn.Sequential(*(nn.Linear(50, 50) for _ in range(10))), DEVICE, torch.float32)
    layers.on_device()
    assert 0 < layers._resident < layers._bytes and box.used < 50 * KB


def paint(stack, lora=None):
    """(embedding, picture, noise that the picture came from) by every stage there is."""
    text = stack.clip.encode_text(["a red star on the night sky", "a blue boat"])
    embed = stack.prior.sample(text, seed=1)
    decoder = stack.decoder if lora is None else stack.decoder.with_lora(lora)
    reads = {"text": text} if decoder.reads_text else {}
    picture = decoder.sample(embed, seed=2, **reads)
    inverted = decoder.invert(picture, embed, steps=2)
    if "upsampler_256" in stack.entry.stages:
        picture = stack.upsampler_256.sample(picture, seed=3)
    return embed.vector, picture, inverted.x_T


@pytest.mark.parametrize("kind", ["tiny", "tiny-latent"])
def test_every_stage_paints_the_same_bit_for_bit_when_its_weights_stream(device, tiny_models, tiny_latent_models, kind):
    """With a LoRA on layers that are fetched. The autoencoder, CLIP and the float32 twin of an inversion stream too."""
    entry = read_stack(Path({"tiny": tiny_models, "tiny-latent": tiny_latent_models}[kind]) / kind)
    device(10**9)
    stack = load_stack(entry, "bf16", DEVICE)
    generator = torch.Generator().manual_seed(0)
    layers = all_layers(stack.decoder.network.read())
    shapes = {name: layer.weight.shape for name, layer in layers.items() if layer.weight.nbytes > 500}
    branches = {
        name: Branch(torch.randn(2, *inputs, generator=generator), torch.randn(rows, 2, generator=generator) / 9)
        for name, (rows, *inputs) in shapes.items()
    }
    lora = Lora.of("test", branches)
    whole = paint(stack, lora)
    placed = [stack.clip._captions, stack.prior.network, stack.decoder.network]
    assert there(*placed) == [True] * 3
    for each in placed:
        each.unload()
    placement_room = placement._room
    with pytest.MonkeyPatch.context() as patch:  # room for nothing: all that can be is fetched
        patch.setattr(placement, "_room", lambda networks, weights, need: placement_room(networks, weights, need) * 0)
        streamed_pictures = paint(stack, lora)
    for one, other in zip(whole, streamed_pictures, strict=True):
        assert torch.equal(one, other)
    assert all(each._resident < each._bytes for each in placed)


def test_an_item_that_does_not_fit_beside_the_weights_runs_again_while_they_stream(device, tiny_models, monkeypatch):
    box = device(10**9)
    stack = load_stack(read_stack(Path(tiny_models) / "tiny"), "fp32", DEVICE)
    text, reads, said = stack.clip.encode_text(["a red star"]), [], []
    options = {"text": text, "seed": 2, "sampler": "ddim", "steps": 2, "warn": said.append}
    peaks = []
    stack.decoder.null_text()
    stack.clip._captions.unload()
    for room in (1, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(placement, "_room", lambda networks, weights, need, room=room: weights * room)
            stack.decoder.network.unload()
            box.peak = 0
            picture = stack.decoder.sample(**options)
            peaks.append(box.peak)
    stack.decoder.network.unload()
    assert peaks[1] < peaks[0] - 10 * KB and not said
    box.capacity = sum(peaks) // 2
    for module in (placement, estimates):  # what it says of itself is wrong
        monkeypatch.setattr(module, "free_bytes", lambda _: 10**9)
    monkeypatch.setattr(Placed, "_build_module", _noting(Placed._build_module, reads))
    assert torch.equal(stack.decoder.sample(**options), picture)
    assert len(said) == 1 and "one item at a time does not fit into the GPU" in said[0]
    assert "it runs again with weights that are copied there each time they are used, which is slow" in said[0]
    assert reads == [stack.decoder.network] * 3  # whole; whole again, to be split
    assert torch.equal(stack.decoder.sample(**options), picture) and len(said) == 1 and len(reads) == 3
    inverted = stack.decoder.invert(picture, text=text, steps=2, warn=said.append)
    assert inverted.x_T.isfinite().all()
    box.capacity = peaks[1] // 2
    with pytest.raises(MemoryError, match="does not fit into the GPU"):
        stack.decoder.sample(**options)


def test_networks_of_other_runs_leave_before_weights_stream(device, tiny_models, monkeypatch):
    """Where a forward takes more than was thought, and a network that this run does not need lies on the device."""
    box = device(10**9)
    stack = load_stack(read_stack(Path(tiny_models) / "tiny"), "fp32", DEVICE)
    text, said, reads = stack.clip.encode_text(["a red star"]), [], []
    options = {"text": text, "seed": 2, "sampler": "ddim", "steps": 2, "warn": said.append}
    picture = stack.decoder.sample(**options)
    stack.clip._captions.unload()
    stack.decoder.network.unload()
    box.peak = 0
    other = network(40)
    other.on_device()
    monkeypatch.setattr(Placed, "_build_module", _noting(Placed._build_module, reads))
    stack.decoder.sample(**options)
    box.capacity = box.peak - 20 * KB  # nothing but the other's leaving gives as much
    for module in (placement, estimates):
        monkeypatch.setattr(module, "free_bytes", lambda _: 10**9)
    assert torch.equal(stack.decoder.sample(**options), picture)
    assert not said and there(other, stack.decoder.network) == [False, True]
    assert not stack.decoder.network.fetches and stack.decoder.network not in reads[1:]
    other.on_device()
    assert torch.equal(stack.decoder.sample(**options), picture) and not other.loaded  # at once


def test_what_two_threads_place_at_once_is_known_of_both():
    """What the list of networks lost would lie on the device for good."""
    meet = threading.Barrier(2)

    class Slow(nn.Linear):
        def _apply(self, fn, *args, **kwargs):
            if fn(torch.empty(0)).is_meta:  # moves there
                with contextlib.suppress(threading.BrokenBarrierError):
                    meet.wait(0.3)  # for the other to be as far, unless it is kept from that
            return super()._apply(fn, *args, **kwargs)

    placed = [Placed(lambda dtype: Slow(5, 5), torch.device("meta"), torch.float32) for _ in range(2)]
    for each in placed:
        each.read()
    threads = [threading.Thread(target=each.on_device) for each in placed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(placement._current(torch.device("meta"))) == set(placed)


def test_a_check_of_what_streams_counts_all_weights(device, tiny_models, monkeypatch):
    device(10**9)
    stack = load_stack(read_stack(Path(tiny_models) / "tiny"), "fp32", DEVICE)
    monkeypatch.setattr(placement, "_room", lambda networks, weights, need: 0)
    prior = stack.prior.network
    found = {finding.check: finding for finding in check_network("prior", "prior", prior, lambda rows: None)}
    assert prior.fetches
    whole = sum(tensor.numel() for tensor in prior.in_memory().state_dict().values())
    assert found["prior: size"].found.startswith(f"{whole:,} numbers, float32")
    assert found["prior: matrices the right way round"].status == "skipped"


def test_a_second_picture_reads_nothing_and_copies_no_weights(device, tiny_models, monkeypatch):
    entry = read_stack(Path(tiny_models) / "tiny")
    box = device(10**9)
    stack, reads = load_stack(entry, "fp32", DEVICE), []
    monkeypatch.setattr(Placed, "_build_module", _noting(Placed._build_module, reads))
    copied = []
    for seed in (1, 2):
        box.copied = 0
        stack.text_to_image("a red star", seed=seed)
        copied.append(box.copied)
    weights = sum(placed._bytes for placed in reads)
    assert len(reads) == 5 and copied[0] - copied[1] >= weights  # noise, times and text travel for each picture


def _noting(build, reads):
    def noted(placed):
        reads.append(placed)
        return build(placed)

    return noted


def test_what_is_fetched_lies_in_the_mapped_file(device, tiny_models):
    device(10**9)
    stack = load_stack(read_stack(Path(tiny_models) / "tiny"), "fp32", DEVICE)
    module = stack.prior.network.read()
    stream(module, DEVICE, 0)
    kept = [tensor for layer in module.modules() for tensor in layer.__dict__.get("_kept", {}).values()]
    assert len(kept) > 5
    for tensor in kept:
        page = tensor.data_ptr() // 4096 * 4096
        assert _backed_by_a_file(page, page + 4096)


def test_attention_with_projections_of_its_own_and_tables_of_words_stream(device):
    """nn.MultiheadAttention never calls its output layer, and open_clip's towers are made of it."""
    box = device(10**9)
    torch.manual_seed(0)
    attention, words = nn.MultiheadAttention(16, 2, batch_first=True).eval(), nn.Embedding(1000, 16)
    ids = torch.tensor([[1, 999, 5]])
    whole = copy.deepcopy(attention).to(DEVICE)
    with torch.no_grad():
        x = words(ids).to(DEVICE)
        wanted = whole(x, x, x, need_weights=False)[0]
        assert stream(attention, DEVICE, 0)[0] >= 4 * 16 * 16 * 4 and stream(words, DEVICE, 0)[0] == 64_000
    box.copied = 0
    with torch.no_grad():
        found = words(ids.to(DEVICE))
        assert box.copied < 1000  # three rows, not the table
        found = attention(found, found, found, need_weights=False)[0]
    assert torch.equal(found.cpu(), wanted.cpu())


def test_clip_reads_a_batch_that_does_not_fit_in_parts_of_what_does(device, tiny_models, monkeypatch):
    box = device(10**9)
    clip = load_stack(read_stack(Path(tiny_models) / "tiny"), "fp32", DEVICE).clip
    captions, pictures = ["a red star", "a blue boat", "a star"] * 5, torch.rand(15, 64, 64, 3)
    for encode, given in ((clip.encode_text, captions), (clip.encode_image, pictures)):
        encode(given[:1])  # whose weights lie there from now on
        box.peak, weights = 0, box.used
        whole, peak = encode(given), box.peak
        expected = whole.embed if given is captions else whole.vector
        box.capacity, box.peak = weights + (peak - weights) // 3, 0
        for module in (placement, estimates):
            monkeypatch.setattr(module, "free_bytes", lambda _: 10**9)  # more than there is
        found = encode(given)
        torch.testing.assert_close(found.embed if given is captions else found.vector, expected)
        assert box.peak <= box.capacity
        box.capacity = weights + 500
        with pytest.raises(MemoryError, match="Encode: one item at a time does not fit into the GPU"):
            encode(given)
        box.capacity = 10**9


class Manager:
    """An editor's that has room for `bytes`."""

    def __init__(self, bytes):
        self.bytes, self.adopted, self.brought = bytes, [], []

    def adopt(self, module, leave):
        self.adopted.append((module, leave))
        return module

    def room(self, adopted, weights, need):
        return self.bytes - need.least

    def bring(self, adopted, need):
        self.brought.append((adopted, need))


def test_an_editors_manager_decides_and_what_it_takes_off_is_read_again(device):
    device(10**9)
    reads, manager = [], Manager(100 * KB)

    def build(dtype):
        reads.append(dtype)
        return nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))

    first, second = (Placed(build, DEVICE, torch.float32, manager) for _ in range(2))
    module = first.on_device(second, need=Need(7, 3))
    assert manager.brought == [([module, second.read()], 7)] and len(reads) == 2
    assert module[0].weight.device.type == "cpu"  # the manager moves, not the core
    manager.adopted[0][1]()
    assert module[0].weight.numel() == 0 and not first.loaded
    again = first.on_device(need=Need(7, 3))
    assert again is not module and manager.brought[-1] == ([again], 7) and len(reads) == 3
    manager.bytes = 5 * KB
    module = first.on_device(need=Need(7, 3))
    assert manager.adopted[-1][0] is module and "weight" not in module[0]._parameters
