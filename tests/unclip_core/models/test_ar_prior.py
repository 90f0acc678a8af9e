"""The autoregressive prior's network: causality, cache, nulls, codes."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import ARPriorConfig, TextEncoderConfig
from comfyui_unclip.unclip_core.models.ar_codes import BucketTable, Quantiser
from comfyui_unclip.unclip_core.models.ar_prior import ARPriorNetwork
from comfyui_unclip.unclip_core.runtime.placement import Placed

CONFIG = ARPriorConfig(
    clip_dim=24,
    text_width=20,
    components=6,
    buckets=16,
    context_length=8,
    width=16,
    depth=2,
    heads=2,
    embed_scale=4.9,
    text_encoder=None,
)
ENCODER = TextEncoderConfig(vocabulary_size=50, context_length=10, width=24, depth=2, heads=3)
CONFIGS = {
    "clip-states": CONFIG,
    "smooth-buckets": replace(CONFIG, bucket_features=5),
    "own-text-encoder": replace(CONFIG, text_encoder=ENCODER),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture
def target():
    """z_i . z_t and codes of three rows."""
    generator = torch.Generator().manual_seed(4)
    return {
        "dot": torch.randint(16, (3,), generator=generator),
        "codes": torch.randint(16, (3, 6), generator=generator),
    }


def build(config, randomise):
    torch.manual_seed(0)
    return randomise(ARPriorNetwork(config))


def run(network, text, target, **options):
    words = {name: text[name] for name in ("tokens", "embed", "mask", "ids")}
    with torch.no_grad():
        return network(**words, **target, **options)


def stepwise(network, text, target, **options):
    """The same logits by prefix and steps."""
    found = []
    with torch.no_grad():
        dot, cache = network.prefix(text["tokens"], text["embed"], text["mask"], ids=text["ids"], **options)
        for bucket in (target["dot"], *target["codes"][:, :-1].T):
            logits, cache = network.step(bucket, cache)
            found.append(logits)
    return dot, torch.stack(found, dim=1)


@every_config
def test_shapes_and_a_start_where_every_bucket_is_as_likely(config, text, target):
    dot, codes = run(ARPriorNetwork(config).eval(), text, target)
    assert dot.shape == (3, 16) and codes.shape == (3, 6, 16) and codes.dtype == torch.float32
    assert dot.abs().max() == 0 and codes.abs().max() == 0


@every_config
def test_cached_equals_uncached(config, text, target, randomise):
    network = build(config, randomise)
    for drop in (None, torch.tensor([False, True, False])):
        whole = run(network, text, target, drop=drop)
        cached = stepwise(network, text, target, drop=drop)
        assert whole[1].std() > 0.1
        for one, other in zip(whole, cached, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@every_config
def test_no_logit_sees_what_comes_after_it(config, text, target, randomise):
    network = build(config, randomise)
    before = torch.cat([run(network, text, target)[0][:, None], run(network, text, target)[1]], dim=1)
    for place in range(7):  # 0 is z_i . z_t, then the codes
        changed = {name: value.clone() for name, value in target.items()}
        if place == 0:
            changed["dot"] = (target["dot"] + 5) % 16
        else:
            changed["codes"][:, place - 1] = (target["codes"][:, place - 1] + 5) % 16
        dot, codes = run(network, text, changed)
        after = torch.cat([dot[:, None], codes], dim=1)
        assert torch.allclose(after[:, : place + 1], before[:, : place + 1], atol=1e-5)
        if place < 6:
            assert (after[:, place + 1] - before[:, place + 1]).abs().amax(-1).min() > 1e-4


@every_config
def test_rows_and_padding_do_not_leak(config, text, target, randomise):
    network = build(config, randomise)
    whole = run(network, text, target)
    for row in range(3):
        length = int(text["mask"][row].sum())
        alone = {name: value[row : row + 1] for name, value in text.items()}
        for name in ("tokens", "mask", "ids"):
            alone[name] = alone[name][:, :length]
        mine = run(network, alone, {name: value[row : row + 1] for name, value in target.items()})
        for one, other in zip(whole, mine, strict=True):
            torch.testing.assert_close(one[row : row + 1], other, atol=2e-5, rtol=1e-4)


@every_config
def test_a_dropped_row_forgets_its_caption_and_only_it(config, text, target, randomise):
    network = build(config, randomise)
    plain, drop = run(network, text, target)[1], torch.tensor([False, True, False])
    dropped = run(network, text, target, drop=drop)[1]
    assert torch.allclose(plain[::2], dropped[::2], atol=1e-5) and not torch.allclose(plain[1], dropped[1], atol=1e-3)
    other = {**text, "embed": text["embed"] * 2, "tokens": text["tokens"] * 2, "ids": (text["ids"] + 1) % 50}
    assert torch.allclose(run(network, other, target, drop=drop)[1][1], dropped[1], atol=1e-5)


def test_every_parameter_gets_a_gradient(text, target, randomise):
    network = build(CONFIGS["own-text-encoder"], randomise).train()
    words = {name: text[name] for name in ("tokens", "embed", "mask", "ids")}
    dot, codes = network(**words, **target, drop=torch.tensor([False, True, False]))
    (dot.square().mean() + codes.square().mean()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_low_precision_stays_close_and_buckets_stay_exact(text, target, randomise):
    network = build(CONFIG, randomise)
    network.quantiser.reach.mul_(1.0001)
    exact, reach = run(network, text, target)[1], network.quantiser.reach.clone()
    low = Placed(lambda dtype: network, torch.device("cpu"), torch.bfloat16).read()
    assert low.text_in.weight.dtype == torch.bfloat16
    assert low.quantiser.reach.dtype == low.quantiser.basis.dtype == torch.float32
    assert torch.equal(low.quantiser.reach, reach)
    assert (run(low, text, target)[1] - exact).norm() < 0.1 * exact.norm()


def test_wrong_text_is_refused(text, target, randomise):
    with pytest.raises(ValueError, match="reads token states of width 20, but got 7; encode with the stack's own CLIP"):
        run(build(CONFIG, randomise), {**text, "tokens": text["tokens"][..., :7]}, target)
    with pytest.raises(ValueError, match="has a text encoder of its own; pass the token ids"):
        run(build(CONFIGS["own-text-encoder"], randomise), {**text, "ids": None}, target)
    with pytest.raises(ValueError, match=r"components 40 must be 1 to clip_dim 24"):
        replace(CONFIG, components=40)
    with pytest.raises(ValueError, match=r"context_length 6 is too short .* it needs 7"):
        replace(CONFIG, context_length=6)


@pytest.fixture
def quantiser():
    """Six of eight dimensions in 64 buckets, from -2 to 2 along the widest and ever narrower."""
    made = Quantiser(replace(CONFIG, clip_dim=8, buckets=64))
    made.mean.copy_(torch.linspace(-1, 1, 8))
    made.basis.copy_(torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0][:6])
    made.reach.mul_(2.0 * 0.7 ** torch.arange(6))
    return made


def test_codes_hold_a_vector_to_half_a_bucket(quantiser):
    inside = (torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1) * quantiser.reach
    vectors = quantiser.mean + inside @ quantiser.basis
    codes = quantiser.encode(vectors)
    assert codes.dtype == torch.int64 and codes.min() >= 0 and codes.max() <= 63 and codes.unique().numel() > 50
    width = 2 * quantiser.reach / quantiser.buckets
    error = (quantiser.decode(codes) - vectors) @ quantiser.basis.T
    assert (error.abs() <= width / 2 + 1e-5).all() and error.abs().max() > 0.2 * width.min()
    assert torch.equal(quantiser.encode(quantiser.decode(codes)), codes)


def test_what_lies_outside_takes_the_last_bucket(quantiser):
    far = quantiser.mean + torch.tensor([[9.0, -9.0, 0, 0, 0, 0]]) @ quantiser.basis
    assert quantiser.encode(far)[0, :2].tolist() == [63, 0]


def test_the_first_codes_alone_give_the_widest_components(quantiser):
    codes = torch.randint(64, (3, 6), generator=torch.Generator().manual_seed(2))
    part = quantiser.decode(codes[:, :2])
    assert torch.allclose((part - quantiser.mean) @ quantiser.basis[2:].T, torch.zeros(3, 4), atol=1e-5)
    assert torch.equal(quantiser.encode(part)[:, :2], codes[:, :2])


def test_dots_are_of_native_vectors(quantiser):
    quantiser.dot_reach.fill_(10.0)
    image, text = torch.tensor([[3.0] + [0.0] * 7]), torch.tensor([[2.0] * 8])
    assert quantiser.encode_dot(image, text).item() == 51  # 6.0 in steps of 20 / 64


def test_smooth_tables_give_neighbours_alike():
    torch.manual_seed(0)
    rows = BucketTable(256, 16, 8).rows()
    near = (rows[1:] - rows[:-1]).norm(dim=1)[64:192]
    assert rows.shape == (256, 16) and near.max() < 0.1 * (rows[64] - rows[192]).norm()
