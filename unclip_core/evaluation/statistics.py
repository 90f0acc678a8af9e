"""Numbers with their uncertainty: shares, means, Fréchet distances, precision and recall. Pure tensor functions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Z = 1.96  # 95 % of a normal distribution
# The same of Student's t, by the number of values whose spread is taken from themselves.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


def plain(number: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent from a thousand up."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.{digits}g}"


@dataclass(frozen=True)
class Measured:
    """A number and its 95 % interval; without one, low and high are the value, and `note` says what it is of.

    exact: it has no interval because it is no estimate, as the largest of the values that were looked at.
    """

    value: float
    low: float
    high: float
    note: str = ""
    exact: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether anything is known of how far off it may be."""
        return self.low < self.high

    def shown(self, unit: str = "") -> str:
        """As text. unit: "%" for shares, else appended to three significant digits; more, where the ends of the
        interval would read the same."""
        for more in range(4):
            value, low, high = (_written(number, unit, more) for number in (self.value, self.low, self.high))
            if low != high or not self.has_interval:
                break
        around = f"{low} to {high}" if self.has_interval else self.note or "no interval"
        return f"{value}{' ' + unit if unit not in ('', '%') else ''} ({around})"

    def against(self, target: float, *, below: bool = False) -> str:
        """ "reached" or "missed" where the whole interval lies on one side of the target, else "undecided".

        below: the target is an upper bound. An exact number decides by itself; an estimate of which nothing is known
        but its value decides nothing.
        """
        if not self.has_interval and not self.exact:
            return "undecided"
        if not self.has_interval:
            return "reached" if (self.value <= target if below else self.value >= target) else "missed"
        if self.low <= target <= self.high:
            return "undecided"
        return "reached" if (self.high < target) == below else "missed"


def _written(number: float, unit: str, more: int) -> str:
    return f"{number:.{more}%}" if unit == "%" else plain(number, 3 + more)


def share(values: Sequence[float], groups: int | None = None) -> Measured:
    """Mean of values in 0..1 with Wilson's interval. groups: how many of them are independent (all, if None)."""
    if not values:
        raise ValueError("share: there is no value to average")
    return proportion(sum(values) / len(values), len(values) if groups is None else groups)


def proportion(mean: float, count: int) -> Measured:
    """A share of `count` with Wilson's interval, which has a width at 0 and at 1 too."""
    middle, factor = mean + Z**2 / (2 * count), 1 + Z**2 / count
    spread = Z * math.sqrt(mean * (1 - mean) / count + Z**2 / (4 * count**2))
    # The interval reaches 0 and 1 exactly where the mean does; rounding must not leave the mean outside.
    return Measured(
        mean, max(0.0, min(mean, (middle - spread) / factor)), min(1.0, max(mean, (middle + spread) / factor))
    )


def mean(values: Sequence[float], *, signed: bool = False) -> Measured:
    """Mean with its interval from the values' own spread, none for a single value or equal ones.

    The interval ends at 0 where no value is below, as for sizes, unless they are `signed`: a difference may be below
    though all that were seen are above.

    Values know their own spread badly, few the worse: Student's t makes up for it.
    """
    if not values:
        raise ValueError("mean: there is no value to average")
    middle = sum(values) / len(values)
    if min(values) == max(values):
        return Measured(*3 * (values[0],), "one value" if len(values) == 1 else f"all {len(values)} equal")
    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))
    spread = student(len(values)) * deviation / math.sqrt(len(values))
    low = middle - spread
    return Measured(middle, max(0.0, low) if min(values) >= 0.0 and not signed else low, middle + spread)


def ratio_of(above: list[float], below: list[float]) -> Measured:
    """Ratio of the means; the interval from the mean of scenes' own differences a - r b (Fieller, to first order)."""
    ratio, parts = _ratio(above, below)
    around = mean(parts)
    return Measured(ratio, max(0.0, ratio + around.low), ratio + around.high, around.note)


def ratio_difference(
    above: list[float], below: list[float], other_above: list[float], other_below: list[float]
) -> Measured:
    """Ratio of the means of the first two less that of the others, all of the same things: as `ratio_of`, paired."""
    ratio, parts = _ratio(above, below)
    other, other_parts = _ratio(other_above, other_below)
    around = mean([a - b for a, b in zip(parts, other_parts, strict=True)], signed=True)
    apart = ratio - other
    return Measured(apart, apart + around.low, apart + around.high, around.note)


def _ratio(above: list[float], below: list[float]) -> tuple[float, list[float]]:
    """The ratio of means, and what each thing adds to its error to first order, in all zero."""
    top, bottom = sum(above) / len(above), max(sum(below) / len(below), 1e-9)
    ratio = top / bottom
    return ratio, [(a - ratio * b) / bottom for a, b in zip(above, below, strict=True)]


def student(count: int) -> float:
    """Half the width of Student's 95 % interval in standard errors, for a mean of `count` values, at least two."""
    if count in STUDENT:
        return STUDENT[count]
    # Its expansion around the normal distribution's (Abramowitz and Stegun 26.7.5): 5e-4 near from nine values up.
    free, z = count - 1, 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3


def paired_difference(new: Sequence[bool], old: Sequence[bool]) -> Measured:
    """Share of `new` less share of `old`, judged on the same things: the interval of Agresti and Min (2005), Wald's
    after half a thing is added to each of the four cells, so that it has a width where the two never differ.

    Raises ValueError for none, or unequal numbers.
    """
    if not new or len(new) != len(old):
        raise ValueError(f"paired difference: {len(new)} new and {len(old)} old values; give as many of each, not none")
    count, better = len(new), sum(a and not b for a, b in zip(new, old, strict=True))
    worse = sum(b and not a for a, b in zip(new, old, strict=True))
    whole, up, down = count + 2, better + 0.5, worse + 0.5
    middle, spread = (up - down) / whole, Z * math.sqrt(up + down - (up - down) ** 2 / whole) / whole
    value = (better - worse) / count
    return Measured(value, max(-1.0, min(value, middle - spread)), min(1.0, max(value, middle + spread)))


def kappa(one: Sequence[object], other: Sequence[object], groups: int | None = None) -> tuple[Measured, Measured]:
    """How often two judges say the same of the same things, and Cohen's kappa: the same beyond what their habits alone
    would give, 0 for chance, 1 for always. Intervals are Wilson's, kappa's with the habits taken as known. groups: how
    many of the things are independent (all, if None).

    Where both always say one thing, kappa is not defined: it has no interval and its note says so.
    """
    if not one or len(one) != len(other):
        raise ValueError(f"kappa: {len(one)} and {len(other)} sayings; give as many of each, not none")
    count = len(one)
    same = share([a == b for a, b in zip(one, other, strict=True)], groups)
    names = set(one) | set(other)
    chance = sum(sum(a == name for a in one) * sum(b == name for b in other) for name in names) / count**2
    if chance >= 1.0:
        return same, Measured(1.0, 1.0, 1.0, "both always say the same one thing")
    return same, Measured(*((end - chance) / (1 - chance) for end in (same.value, same.low, same.high)))


class Reference:
    """Mean and covariance of real features (N, D), against which `frechet` measures."""

    def __init__(self, features: Tensor) -> None:
        self.mean, self.covariance = _moments(features)
        values, vectors = torch.linalg.eigh(self.covariance)
        self.root = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)

    def frechet(self, features: Tensor) -> float:
        """|difference of means|^2 + tr(A + B - 2 (AB)^1/2), float64; 0 for the same moments."""
        middle, covariance = _moments(features)
        # tr (AB)^1/2 through the symmetric A^1/2 B A^1/2, whose eigenvalues are AB's own.
        cross = torch.linalg.eigvalsh(self.root @ covariance @ self.root).clamp(min=0).sqrt().sum()
        distance = (middle - self.mean).square().sum() + self.covariance.trace() + covariance.trace() - 2 * cross
        return max(0.0, float(distance))


def frechet_over_seeds(reference: Reference, seeds: Sequence[Tensor], repeats: int = 100) -> Measured:
    """Mean Fréchet distance of several seeds' features (N, D). The interval comes from resampling each seed's rows.

    Resampling repeats rows, which biases each distance upward, so only the spread of the repeats is used.
    """
    middle = sum(reference.frechet(features) for features in seeds) / len(seeds)
    rng = random.Random(0)
    found = []
    for _ in range(repeats):
        drawn = [features[rng.choices(range(len(features)), k=len(features))] for features in seeds]
        found.append(sum(reference.frechet(features) for features in drawn) / len(seeds))
    if repeats < 2:
        return Measured(middle, middle, middle, "not resampled")
    spread = Z * float(torch.tensor(found).std())
    return Measured(middle, max(0.0, middle - spread), middle + spread)


def frechet_difference(
    reference: Reference, ones: Sequence[Tensor], others: Sequence[Tensor], repeats: int = 100
) -> Measured:
    """Distance of `ones` less that of `others`, each several seeds' features (N, D) of the same things row by row.

    The interval comes from drawing the same rows of both: what makes a thing hard is hard for both, and says nothing
    about which is nearer. Raises ValueError where they are not as many.
    """
    if [len(each) for each in ones] != [len(each) for each in others]:
        raise ValueError(
            f"Fréchet difference: rows {[len(each) for each in ones]} and {[len(each) for each in others]} of the "
            "seeds are not of the same things; give features of the same captions"
        )

    def apart(rows: Sequence[Sequence[int] | slice]) -> float:
        pairs = zip(ones, others, rows, strict=True)
        found = [reference.frechet(one[drawn]) - reference.frechet(other[drawn]) for one, other, drawn in pairs]
        return sum(found) / len(found)

    value, rng = apart([slice(None)] * len(ones)), random.Random(0)
    found = [apart([rng.choices(range(len(each)), k=len(each)) for each in ones]) for _ in range(repeats)]
    if repeats < 2:
        return Measured(value, value, value, "not resampled")
    spread = Z * float(torch.tensor(found).std())
    return Measured(value, value - spread, value + spread)


def precision_recall(real: Tensor, made: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Kynkäänniemi et al. 2019: share of `made` (M, D) within reach of the real (N, D), and the other way round.

    The reach of a point is the distance to its `neighbours`-th neighbour among its own kind.
    Raises ValueError where there are no more points than neighbours.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(
            f"precision and recall need more than {neighbours} pictures on each side, got {len(real)} real and "
            f"{len(made)} made; give more captions or pictures"
        )
    between = torch.cdist(made.double(), real.double())  # (M, N)
    reach_real = torch.cdist(real.double(), real.double()).kthvalue(neighbours + 1, dim=1).values
    reach_made = torch.cdist(made.double(), made.double()).kthvalue(neighbours + 1, dim=1).values
    precision = (between <= reach_real[None]).any(1).double().mean()
    recall = (between <= reach_made[:, None]).any(0).double().mean()
    return float(precision), float(recall)


def spread_within(features: Tensor, groups: int) -> list[float]:
    """Mean distance between the members of each group: features (groups * k, D), group by group, k at least 2."""
    members = features.unflatten(0, (groups, -1))
    count = members.shape[1]
    distances = torch.cdist(members.double(), members.double()).sum((1, 2)) / (count * (count - 1))
    return distances.tolist()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    if len(features) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 pictures on each side, got {len(features)}")
    features = features.double()
    middle = features.mean(0)
    centred = features - middle
    return middle, centred.T @ centred / (len(features) - 1)
