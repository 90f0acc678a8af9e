"""Numbers with their uncertainty, against closed forms."""

import math
import statistics

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation.statistics import (
    Measured,
    Reference,
    frechet_difference,
    frechet_over_seeds,
    kappa,
    mean,
    paired_difference,
    precision_recall,
    ratio_difference,
    ratio_of,
    share,
    spread_within,
    student,
)


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(count, dims, seed=0):
    """Points whose sample mean is 0 and whose sample covariance is the identity."""
    x = normal(count, dims, seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T


def test_a_share_has_wilsons_interval():
    # 8 of 10, by hand: centre (0.8 + z2/20) / (1 + z2/10), z = 1.96
    found = share([True] * 8 + [False] * 2)
    assert found.value == 0.8 and (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    all_right = share([True] * 20)
    assert all_right.value == all_right.high == 1.0 and 0.8 < all_right.low < 0.9
    assert share([False] * 3).low == 0.0
    grouped = share([True] * 80 + [False] * 20, groups=10)
    assert grouped == share([True] * 8 + [False] * 2)
    with pytest.raises(ValueError, match="no value"):
        share([])


def test_a_mean_has_an_interval_from_its_spread():
    found = mean([1.0, 2.0, 3.0, 4.0])
    half = 3.182 * math.sqrt(5 / 3) / 2  # Student's t with three degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    many = [1.0, 2.0, 3.0, 4.0] * 5
    assert mean(many).high - 2.5 == pytest.approx(2.0930 * statistics.stdev(many) / math.sqrt(20), rel=1e-4)


def test_students_quantiles_are_the_tables():
    """Of the t distribution with one degree of freedom fewer than values: 0.975 quantiles, to four digits."""
    table = {2: 12.706, 5: 2.776, 9: 2.3060, 10: 2.2622, 21: 2.0860, 31: 2.0423, 121: 1.9799}
    assert {count: student(count) for count in table} == pytest.approx(table, abs=5e-4)
    assert student(100_000) == pytest.approx(1.96, abs=1e-3)


def test_paired_shares_are_closer_than_unpaired_ones_and_never_sure():
    old = [True] * 80 + [False] * 20
    new = [True] * 84 + [False] * 16
    found = paired_difference(new, old)
    # By hand: 4 better, none worse of 100: (4.5 - 0.5) / 102, deviation sqrt(5 - 16 / 102) / 102
    half = 1.96 * math.sqrt(5 - 16 / 102) / 102
    assert (found.value, found.low, found.high) == pytest.approx((0.04, 4 / 102 - half, 4 / 102 + half))
    alike = paired_difference(old, old)
    assert alike.value == 0 and alike.low == -alike.high < 0
    assert paired_difference(old, new).value == -0.04
    assert paired_difference([True], [False]).high == 1.0
    with pytest.raises(ValueError, match="2 new and 1 old values"):
        paired_difference([True, True], [True])


def test_kappa_is_agreement_beyond_habit():
    # Cohen's own form: 20 both yes, 15 both no, 5 and 10 apart: p = 0.7, chance 0.5, kappa 0.4
    one = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    other = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    same, beyond = kappa(one, other)
    assert same.value == 0.7 and beyond.value == pytest.approx(0.4) and beyond.low < 0.4 < beyond.high
    shared, _ = kappa(one * 4, other * 4, groups=50)  # four samples of each caption know no more than one
    assert (shared.value, shared.low, shared.high) == pytest.approx((same.value, same.low, same.high))
    always, chance = kappa([True] * 9, [True] * 9)
    assert always.value == 1.0 and always.low < 1.0 and not chance.has_interval and "one thing" in chance.shown()
    assert kappa(["a", "b"] * 20, ["b", "a"] * 20)[1].value == -1.0
    perfect = kappa(["a", "b"] * 20, ["a", "b"] * 20)[1]
    assert perfect.value == perfect.high == 1.0 > perfect.low
    with pytest.raises(ValueError, match="0 and 0 sayings"):
        kappa([], [])


def test_what_nothing_is_known_of_decides_nothing_unless_it_is_no_estimate():
    assert mean([3.0]).against(1.0) == mean([2.0, 2.0]).against(1.0) == "undecided"
    assert frechet_over_seeds(Reference(normal(9, 2)), [normal(9, 2)], 1).against(1.0, below=True) == "undecided"
    assert Measured(0.0, 0.0, 0.0, "the largest of 16", exact=True).against(1.0, below=True) == "reached"
    assert share([True] * 4).against(0.5) == "reached" and share([True] * 4).against(0.6) == "undecided"


@pytest.mark.parametrize("count", range(2, 9))
def test_the_interval_of_a_few_values_holds_the_truth_as_often_as_it_says(count):
    """95 of 100 times, whatever the number of values: 1.96 holds it in 70 of 100 for two of them."""
    rows = normal(4000, count).tolist()
    held = sum(found.low <= 0.0 <= found.high for found in map(mean, rows)) / len(rows)
    assert held == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("values", [[3.0], [0.25, 0.25, 0.25]])
def test_no_interval_of_no_width_is_shown(values):
    shown = mean(values).shown("dB")
    assert " to " not in shown and shown.startswith(f"{values[0]:g} dB (")
    assert str(len(values)) in shown or len(values) == 1


def test_ends_that_round_to_the_same_are_shown_with_more_digits():
    assert Measured(0.5, 0.4996, 0.5004).shown() == "0.5 (0.4996 to 0.5004)"
    assert Measured(0.5, 0.4996, 0.5004).shown("%") == "50.00% (49.96% to 50.04%)"


def test_numbers_are_shown_with_their_interval():
    assert Measured(0.8, 0.49, 0.943).shown("%") == "80% (49% to 94%)"
    assert Measured(31.234, 30.0, 32.0).shown("dB") == "31.2 dB (30 to 32)"
    assert Measured(1554.4, 999.4, 1_234_567.0).shown() == "1,554 (999 to 1,234,567)"
    assert Measured(0.01234, 0.01, 0.02).shown() == "0.0123 (0.01 to 0.02)"


def test_frechet_distance_is_the_closed_form_of_gaussians():
    x = whitened(200, 5)
    reference = Reference(x)
    assert reference.frechet(x) == pytest.approx(0.0, abs=1e-9)
    assert reference.frechet(x + 2.0) == pytest.approx(5 * 4.0)
    # N(0, 1) against N(0, 9) in five dimensions: 5 (1 + 9 - 2 * 3)
    assert reference.frechet(3.0 * x) == pytest.approx(20.0)
    # Covariances that do not commute, worked out with a matrix root of the plain product.
    a, b = normal(300, 3, 1) @ torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()), normal(300, 3, 2) @ normal(3, 3, 3)
    ca, cb = (torch.cov(x.T) for x in (a, b))
    root = torch.linalg.eigvals(ca @ cb).real.sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root
    assert Reference(a).frechet(b) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="at least 2"):
        Reference(x[:1])


def test_more_dimensions_than_rows_are_no_nan():
    distance = Reference(normal(6, 32)).frechet(normal(6, 32, 1))
    assert math.isfinite(distance) and distance > 0


def test_distances_over_seeds_average_and_their_interval_narrows():
    reference = Reference(whitened(400, 3))
    near, far = whitened(400, 3, 1), whitened(400, 3, 1) + 1.0
    both = frechet_over_seeds(reference, [near, far], 20)
    assert both.value == pytest.approx(1.5) and both.low < 1.5 < both.high
    wide = frechet_over_seeds(reference, [far[:40]], 40)
    narrow = frechet_over_seeds(reference, [far], 40)
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
    assert frechet_over_seeds(reference, [near], 20) == frechet_over_seeds(reference, [near], 20)


def test_distances_of_the_same_things_are_compared_pair_by_pair():
    """What makes both far in the same draws cancels out: the interval is that of what is left."""
    reference = Reference(whitened(400, 3))
    base = normal(200, 3, 1)
    near, far = base + 1.0, base + 1.1
    found = frechet_difference(reference, [near], [far], 60)
    assert found.value == pytest.approx(reference.frechet(near) - reference.frechet(far)) and found.high < 0
    alone = [frechet_over_seeds(reference, [each], 60) for each in (near, far)]
    assert alone[0].high > alone[1].low, "by themselves they overlap"
    assert found.high - found.low < 0.3 * (alone[0].high - alone[0].low)
    again = frechet_difference(reference, [far, near], [near, far], 20)
    assert again.value == pytest.approx(0.0) and again.low < 0 < again.high
    with pytest.raises(ValueError, match=r"rows \[200\] and \[199\] of the seeds are not of the same things"):
        frechet_difference(reference, [near], [far[1:]])


def test_ratios_of_the_same_things_are_compared_pair_by_pair():
    below = [1.0, 2.0, 3.0, 4.0, 5.0]
    one, other = ([share * value + 0.01 * (-1) ** row for row, value in enumerate(below)] for share in (0.9, 0.8))
    found = ratio_difference(one, below, other, below)
    assert found.value == pytest.approx(0.1) and (found.high - found.low) < 1e-9  # their errors are the same
    apart = ratio_difference(one, below, [2.0, 1.0, 3.0, 5.0, 4.0], below)
    assert apart.value == pytest.approx(ratio_of(one, below).value - 1.0) and apart.low < apart.value < apart.high


def test_precision_and_recall_tell_a_copy_from_a_collapse_and_a_miss():
    real = normal(60, 4)
    assert precision_recall(real, real) == (1.0, 1.0)
    collapsed = real[:1] + 1e-4 * normal(60, 4, 1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0 and recall < 0.1  # good pictures, all alike
    assert precision_recall(real, real + 100.0) == (0.0, 0.0)
    wide = torch.cat([real, real[:20] + 50.0])
    precision, recall = precision_recall(real, wide)
    assert precision == pytest.approx(0.75) and recall == 1.0
    with pytest.raises(ValueError, match="more than 3 pictures on each side, got 60 real and 3 made"):
        precision_recall(real, real[:3])


def test_spread_is_the_mean_distance_within_each_group():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert spread_within(features, 2) == pytest.approx([5.0, 0.0])


def test_the_interval_of_sizes_does_not_reach_below_nothing():
    assert mean([0.0, 0.0, 3.0]).low == 0.0 > mean([0.0, -0.1, 3.0]).low
    assert mean([0.1, 0.1, 3.0], signed=True).against(-0.1) == "undecided"  # a difference could be below all the same
