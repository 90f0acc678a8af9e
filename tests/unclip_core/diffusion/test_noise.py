"""The seed rule: item i of a run with seed s is a batch of one with seed s + i, however it is chunked."""

import pytest
import torch

from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise


def draws(noise, times=3):
    return torch.stack([noise.draw((3, 4, 4)) for _ in range(times)], dim=1)


def test_item_equals_batch_of_one():
    batch = draws(ItemNoise(7, 4, "decoder"))
    for i in range(4):
        assert torch.equal(batch[i : i + 1], draws(ItemNoise(7 + i, 1, "decoder")))


def test_rows_equal_the_whole():
    whole = draws(ItemNoise(7, 5, "decoder"))
    noise = ItemNoise(7, 5, "decoder")
    assert torch.equal(draws(noise.rows(slice(3, 5))), whole[3:5])
    assert torch.equal(draws(noise.rows(slice(0, 3))), whole[:3])
    assert torch.equal(draws(noise.rows(slice(1, 4)).rows(slice(1, 2))), whole[2:3])


def test_shared_repeats_item_zero_in_every_chunk():
    noise = ItemNoise(7, 5, "decoder", shared=True)
    whole = draws(noise)
    assert torch.equal(whole, draws(ItemNoise(7, 1, "decoder")).expand_as(whole))
    assert torch.equal(draws(noise.rows(slice(2, 4))), whole[2:4])


def test_stages_candidates_and_seeds_are_unrelated():
    streams = [draws(ItemNoise(s, 1, stage, c)).flatten() for s in (0, 1) for stage in ("a", "b") for c in (0, 1)]
    correlation = torch.corrcoef(torch.stack(streams)).fill_diagonal_(0).abs()
    assert correlation.max() < 0.4
    assert len({tuple(stream.tolist()) for stream in streams}) == 8


def test_seeds_wrap_at_64_bits():
    assert torch.equal(draws(ItemNoise(2**64 - 1, 2, "prior"))[1:], draws(ItemNoise(0, 1, "prior")))
    assert torch.equal(draws(ItemNoise(-1, 1, "prior")), draws(ItemNoise(2**64 - 1, 1, "prior")))


def test_draws_are_standard_normal_and_leave_torch_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sample = ItemNoise(1, 2, "decoder").draw((100_000,))
    assert torch.equal(torch.get_rng_state(), before)
    assert sample.dtype == torch.float32 and sample.shape == (2, 100_000)
    assert sample.mean().abs() < 0.01 and abs(sample.std() - 1) < 0.01


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"seed must be a whole number, got 1\.5"):
        ItemNoise(1.5, 1, "prior")
    with pytest.raises(ValueError, match="at least one item"):
        ItemNoise(1, 0, "prior")
    with pytest.raises(ValueError, match="contiguous"):
        ItemNoise(1, 4, "prior").rows(slice(0, 4, 2))
