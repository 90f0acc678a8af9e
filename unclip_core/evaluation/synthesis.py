"""The fitter: a judge that is not trained. It draws what a 64 px picture might show and keeps what comes nearest.

The renderer is known, so what a storybook picture contains can be found by analysis by synthesis: which object of
which colour, where, how large and how turned, drawn over a background of its kind, leaves the smallest error. It knows
no CLIP, no sample and no training picture, only the renderer; so where it agrees with the trained judge, neither's
training explains it.

First every kind in every size and colour is slid over the picture at half its size (correlations by Fourier transform
against a bank of drawn parts). Then the best few are drawn anew around their place until the error grows no smaller,
their colour fitted by least squares. A second object is looked for in what the first leaves unexplained.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..storybook.draw import COLOUR_RGB, OUTLINE, Canvas, render
from ..storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene, Thing
from ..storybook.shapes import BROWN, CREAM, GLASS, INK, LEAF, parts

NONE = "none"
SIZE, FINER = 64, 4  # pixels that pictures are judged at; an object's place is fitted to a FINER-th of one
COARSE = SIZE // 2
FIXED = (INK, BROWN, CREAM, LEAF, GLASS)  # colours that every object shares
ROLES = ("ink", "brown", "cream", "leaf", "glass", "main", "dark", "light")
# A shade is a blend of the object's colour with another: (that colour, its share), as the renderer draws it.
SHADES = {"main": ((0.0,) * 3, 0.0), "dark": ((20 / 255, 10 / 255, 30 / 255), 0.28), "light": ((1.0,) * 3, 0.45)}
SHADE_RANGE = 0.08  # how far an object's colour is blended with white or black
TOLERANCE = 0.35  # RGB distance (0..1 a channel) from which a pixel counts as wholly unexplained
SMALLEST, STRETCH, DEGREES = 0.30, 1.015, 2.0  # widths are SMALLEST * STRETCH**step, angles DEGREES * step
WIDTHS = tuple(range(4, 65, 4))  # steps of the coarse search: 0.32 to 0.78 of the side
PAIR_WIDTHS = tuple(range(12, 33, 4))  # 0.36 to 0.48: two objects are of 0.39 to 0.45
WIDEST, MOST_TURNED = 70, 5  # steps
CANDIDATES, FINALISTS = 9, 3  # what of the coarse search is drawn anew, and what of that to the end
OVERLAPPED, OVERLAP = 0.3, -0.5  # from which share of a pixel two objects overlap, and what that gains
COVERED = 0.02  # share of a pixel from which a drawing counts as being there
# What a fit must reach to count as an object; see `Found.accepted`.
EXPLAINED, INKED, AROUND, GAINED, COLOURED = 0.60, 0.30, 0.10, 0.75, 0.24
FEWEST = 6  # pixels of lines, that a side is judged by
RARE, COMMON = 0.4, 0.05  # what the rarest of a background's colours is charged, and from which share on none is
BACKGROUND_ERROR = 0.35  # mean error from which a background is none of the six


@dataclass(frozen=True)
class Pose:
    """A drawing: x, y, its middle in FINER-ths of a pixel; width and turn in steps."""

    kind: str
    x: int
    y: int
    width: int
    turn: int = 0

    def thing(self, colour: str) -> Thing:
        """As the renderer knows it."""
        scale = 1 / (SIZE * FINER)
        width = SMALLEST * STRETCH**self.width
        return Thing(self.kind, colour, "medium", self.x * scale, self.y * scale, width, DEGREES * self.turn)

    def moved(self, axis: int, steps: tuple[int, int, int]) -> Iterator[Pose]:
        """The two neighbours in x, y, width or turn. steps: of place, width and turn."""
        name, step = ("x", "y", "width", "turn")[axis], (steps[0], *steps)[axis]
        for way in (-step, step):
            pose = replace(self, **{name: getattr(self, name) + way})
            if 0 <= pose.width <= WIDEST and abs(pose.turn) <= MOST_TURNED:
                yield pose


@dataclass(frozen=True)
class Found:
    """An object that was fitted. thing: the drawn object whose picture comes nearest. colour: its name, "none" where
    the fitted colour `rgb` (0..1) is near no palette colour. explained: share of its area that the drawing explains;
    inked: the same of its lines; around: of the lines on its worst side; gain: what it explains better than background
    does, in areas of its lines."""

    thing: Thing
    colour: str
    rgb: tuple[float, float, float]
    explained: float
    inked: float
    around: float
    gain: float

    @property
    def accepted(self) -> bool:
        """Whether an object is there at all."""
        return self.explained >= EXPLAINED and self.inked >= INKED and self.around >= AROUND and self.gain >= GAINED


@dataclass(frozen=True)
class Fit:
    """What a picture shows: its objects, largest gain first; the background's kind, or "none". residual: mean error
    over the picture, 0 (as drawn) to 1 (nothing of it explained)."""

    things: tuple[Found, ...]
    background: str
    residual: float

    def said(self) -> dict[str, str]:
        """As `judge.verdicts` says it of a picture of one object: more objects than one, or none, are "none"."""
        kind, colour = (self.things[0].thing.kind, self.things[0].colour) if len(self.things) == 1 else (NONE, NONE)
        return {"object": kind, "colour": colour, "background": self.background}

    def placed(self, relation: str) -> tuple[dict[str, str], dict[str, str]] | None:
        """Object and colour of the one that is `relation` the other, and of that other; None unless two objects stand
        along that line, further apart along it than across."""
        if len(self.things) != 2:
            return None
        a, b = (found.thing for found in self.things)
        across, down = a.x - b.x, a.y - b.y
        along, other = (down, across) if relation in ("above", "below") else (across, down)
        if abs(along) <= abs(other):
            return None
        first = along < 0 if relation in ("above", "left of") else along > 0
        ordered = self.things if first else self.things[::-1]
        one, two = ({"object": found.thing.kind, "colour": found.colour} for found in ordered)
        return one, two

    def binds(self, scene: Scene) -> bool:
        """Whether both of a scene's objects are there, in their colours and places."""
        told = tuple({"object": thing.kind, "colour": thing.colour} for thing in scene.things)
        return self.placed(scene.relation) == told


@torch.no_grad()
def fits(pictures: Tensor) -> list[Fit]:
    """What each of IMAGE (B, 64, 64, 3) shows. Deterministic. Raises ValueError for pictures of another size."""
    if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (SIZE, SIZE, 3):
        raise ValueError(
            f"fits: pictures have shape {tuple(pictures.shape)}, but it fits IMAGE (B, {SIZE}, {SIZE}, 3); give the "
            "decoder's 64 px pictures, not the upsamplers'"
        )
    return [_fit(picture.float().clamp(0, 1)) for picture in pictures]


def _fit(picture: Tensor) -> Fit:
    errors = background_errors(picture)  # (kinds, H, W)
    likely = (errors * _border()).flatten(1).mean(1).argsort().tolist()
    tried: dict[int, list[Look]] = {}
    kind = likely[0]
    while kind not in tried:
        looks = _objects(Page(picture, errors[kind]))
        tried[kind] = looks
        if not looks and len(tried) == 1:  # perhaps the background was taken for another
            kind = likely[1]
            continue
        clear = ~torch.from_numpy(_union(looks))
        kind = int(errors[:, clear].mean(1).argmin()) if looks else likely[0]
    looks = tried[kind]
    error = float(errors[kind][clear].mean()) if clear.any() else 1.0
    things = sorted((look.found() for look in looks), key=lambda found: -found.gain)
    left = float(errors[kind][clear].sum()) + sum(float(look.error[look.inside].sum()) for look in looks)
    return Fit(tuple(things), BACKGROUNDS[kind] if error < BACKGROUND_ERROR else NONE, min(1.0, left / SIZE**2))


def _union(looks: list[Look]) -> np.ndarray:
    """(H, W) bool: what the drawings cover."""
    covered = np.zeros((SIZE, SIZE), bool)
    for look in looks:
        covered[look.window] |= look.inside
    return covered


@cache
def _border() -> Tensor:
    """(H, W): how much each pixel says about the background: most at the border, where no object stands."""
    from_middle = torch.linspace(-1, 1, SIZE).abs()
    return 0.2 + torch.maximum(from_middle[:, None], from_middle[None]).square()


def _objects(page: Page) -> list[Look]:
    """One or two objects that are there, or none."""
    first = page.best(WIDTHS)
    if first is None:
        return []
    second = page.best(PAIR_WIDTHS, first)
    if second is None:
        return [first]
    # The first was fitted as if alone: once more, beside the second.
    again = page.finished(first, second)
    return [again if again.found().accepted else first, second]


class Page:
    """A picture (H, W, 3) with its background's errors (H, W), and the search for objects on it."""

    def __init__(self, picture: Tensor, background: Tensor) -> None:
        self.picture, self.background = picture, background
        self.pixels, self.bare = picture.movedim(-1, 0).contiguous().numpy(), background.numpy()
        self.errors = colour_errors(picture)

    def best(self, widths: tuple[int, ...], other: Look | None = None) -> Look | None:
        """Of the objects that are there, the one that explains most of the picture, or of what another leaves of it."""
        looks = []
        for pose in self._coarse(widths, other):
            place = Place(self, pose, other)
            looks.append(place.better(place.look(pose), (4, 4, 2), rounds=1))
        looks.sort(key=lambda look: -look.gain)
        finals = [self.finished(look, other) for look in looks[:FINALISTS]]
        return max((look for look in finals if look.found().accepted), key=lambda look: look.gain, default=None)

    def finished(self, look: Look, other: Look | None) -> Look:
        """The best drawing near one that is about right."""
        for steps in ((4, 4, 2), (2, 2, 1), (1, 1, 1)):
            place = Place(self, look.pose, other)
            look = place.better(place.look(look.pose), steps)
        return look

    def _coarse(self, widths: tuple[int, ...], other: Look | None) -> list[Pose]:
        """The likeliest kinds where they gain most, every colour and place tried."""
        taken = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        if other is not None:
            taken[other.window] = torch.from_numpy(other.alpha > OVERLAPPED)
        names = list(self.errors)
        errors = torch.stack([self.errors[name] for name in names])
        # A line is thinner than the steps of this search: one pixel beside it is still found.
        errors[0] = -F.max_pool2d(-errors[:1], 3, 1, 1)[0]
        gains = torch.where(taken, torch.tensor(OVERLAP), self.background - errors)
        spectra = dict(zip(names, torch.fft.rfft2(F.avg_pool2d(gains, 2)), strict=True))
        found: list[tuple[float, Pose]] = []
        for kind in OBJECTS:
            roles, bank, allowed = drawn_bank(kind, widths)
            wanted = torch.stack(
                [torch.stack([spectra[_named(role, colour)] for role in roles]) for colour in COLOURS]
            )  # (colours, roles, H, W / 2 + 1)
            sums = torch.fft.irfft2(torch.einsum("trhw,crhw->cthw", bank, wanted), s=(COARSE, COARSE))
            values, places = torch.where(allowed, sums, torch.tensor(-1e9)).flatten(1).max(1)
            pick = int(values.argmax())
            size, at = divmod(int(places[pick]), COARSE * COARSE)
            y, x = (_middle(step) * 2 * FINER for step in divmod(at, COARSE))
            found.append((float(values[pick]), Pose(kind, x, y, widths[size])))
        found.sort(key=lambda pair: -pair[0])
        return [pose for _, pose in found[:CANDIDATES]]


class Place:
    """A part of a picture where drawings are laid over it. other: an object that is there already.

    Where a drawing covers a pixel in part, the rest is taken as the picture has it next to the first drawing.
    """

    def __init__(self, page: Page, pose: Pose, other: Look | None) -> None:
        reach = _cover(pose.kind, pose.width, pose.turn, 0, 0).shape[0] // 2 + 5
        self.window = tuple(
            slice(max(0, at // FINER - reach), min(SIZE, at // FINER + reach)) for at in (pose.y, pose.x)
        )
        self.shape = tuple(part.stop - part.start for part in self.window)
        self.pixels = page.pixels[(slice(None), *self.window)].reshape(3, -1)
        self.bare = page.bare[self.window].reshape(-1)
        self.taken = None
        if other is not None:
            taken = np.zeros((SIZE, SIZE), bool)
            taken[other.window] = other.alpha > OVERLAPPED
            self.taken = taken[self.window].reshape(-1)
        alpha = torch.from_numpy(self._layers(pose).sum(0).reshape(self.shape))
        outside = (F.max_pool2d(alpha[None], 5, 1, 2)[0] <= COVERED).float()
        local = torch.from_numpy(self.pixels.reshape(3, *self.shape))
        spread = F.avg_pool2d(torch.cat([local * outside, outside[None]])[None], 9, 1, 4)[0]
        around = torch.where(spread[3:] > 1e-3, spread[:3] / spread[3:].clamp(min=1e-3), local)
        self.around = around.reshape(3, -1).numpy()

    def _layers(self, pose: Pose) -> np.ndarray:
        """(roles, pixels of the window) float32: how much of each pixel the drawing's roles cover."""
        return layers(pose, self.window).reshape(len(ROLES), -1)

    def look(self, pose: Pose) -> Look:
        """How well a drawing explains the picture."""
        cover = self._layers(pose)
        alpha = cover.sum(0)
        left = self.pixels - LAYER_RGB @ cover - (1 - alpha) * self.around
        amount = LAYER_SHARE @ cover
        rgb = np.clip(left @ amount / max(float(amount @ amount), 1e-6), 0, 1)
        colour, distance, named = nearest_colour(rgb)
        # Drawn in the palette's colour, so that a colour of its own costs.
        left -= named[:, None] * amount
        error = np.minimum((left * left).sum(0) / TOLERANCE**2, 1.0)
        inside = alpha > COVERED
        gains = np.where(inside, self.bare - error, 0.0)
        if self.taken is not None:
            gains[inside & self.taken] = OVERLAP
        shaped = [values.reshape(self.shape) for values in (alpha, cover[0], inside, error)]
        return Look(pose, self.window, *shaped, rgb, colour, distance, float(gains.sum()))

    def better(self, look: Look, step: tuple[int, int, int], rounds: int = 12) -> Look:
        """The best drawing of this kind near by: its neighbours are tried in turn until none gains."""
        tried = {look.pose}
        for _ in range(rounds):
            before = look
            for axis in range(4):
                for pose in look.pose.moved(axis, step):
                    if pose not in tried:
                        tried.add(pose)
                        if (other := self.look(pose)).gain > look.gain:
                            look = other
                            break
            if look is before:
                break
        return look


@dataclass(frozen=True, eq=False)
class Look:
    """A drawing laid over a window of a picture. alpha, ink: (h, w), how much of each pixel it and its ink cover;
    error: that of the drawing where it is `inside`; gain: background's error there less its own; distance: of the
    fitted colour rgb from the palette's."""

    pose: Pose
    window: tuple[slice, slice]
    alpha: np.ndarray
    ink: np.ndarray
    inside: np.ndarray
    error: np.ndarray
    rgb: np.ndarray
    colour: str
    distance: float
    gain: float

    def found(self) -> Found:
        """As a result."""
        body, line = self.alpha > 0.5, self.ink > 0.4
        explained = 1.0 - float(self.error[body].mean()) if body.any() else 0.0
        inked = 1.0 - float(self.error[line].mean()) if line.any() else 0.0
        named = self.colour if self.distance <= COLOURED else NONE
        gain = self.gain / max(float(self.ink.sum()), 1.0)
        rgb = tuple(self.rgb.tolist())
        return Found(self.pose.thing(self.colour), named, rgb, explained, inked, self._around(line), gain)

    def _around(self, line: np.ndarray) -> float:
        """The least share of its lines that is explained within a third of the way round it: half an object, fitted by
        a smaller whole one, has no line where it was cut."""
        rows, columns = np.nonzero(line)
        if not len(rows):
            return 0.0
        down, right = (
            at - (middle / FINER - part.start)
            for at, middle, part in zip((rows, columns), (self.pose.y, self.pose.x), self.window, strict=True)
        )
        turns, errors = np.arctan2(down, right), self.error[line]
        sides = [np.cos(turns - side * np.pi / 4) > 0.5 for side in range(8)]
        return 1.0 - max((float(errors[side].mean()) for side in sides if side.sum() >= FEWEST), default=1.0)


def _error(squared: Tensor) -> Tensor:
    """0 for the very colour to 1 for one TOLERANCE away or further."""
    return (squared / TOLERANCE**2).clamp(max=1.0)


def nearest_colour(rgb: np.ndarray) -> tuple[str, float, np.ndarray]:
    """Of the palette's colours in all their shades the nearest to (3,): its name, how far it is, and the shade."""
    along = SHADED[:, 1] - SHADED[:, 0]
    share = ((rgb - SHADED[:, 0]) * along).sum(1) / (along * along).sum(1)
    shades = SHADED[:, 0] + np.clip(share, 0, 1)[:, None] * along
    distances = ((rgb - shades) ** 2).sum(1)
    pick = int(distances.argmin())
    return COLOURS[pick], float(distances[pick]) ** 0.5, shades[pick]


def _on_segment(rgb: Tensor, start: Tensor, end: Tensor) -> Tensor:
    along = end - start
    share = ((rgb - start) * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)
    return start + share.clamp(0, 1) * along


def _palette() -> Tensor:
    main = torch.tensor([COLOUR_RGB[colour] for colour in COLOURS]) / 255
    return torch.stack([main * (1 - SHADE_RANGE), main * (1 - SHADE_RANGE) + SHADE_RANGE], dim=1)


PALETTE = _palette()  # (colours, darkest and lightest, 3)
FIXED_RGB = torch.tensor(FIXED) / 255
# A role's colour is LAYER_RGB, without the object's own, and LAYER_SHARE of that.
LAYER_SHARE = np.float32([0.0] * len(FIXED) + [1 - share for _, share in SHADES.values()])
LAYER_RGB = np.float32(
    [*(FIXED_RGB.tolist()), *([share * value for value in other] for other, share in SHADES.values())]
).T.copy()  # (3, roles)
SHADED = PALETTE.numpy()


def _named(role: str, colour: str) -> str:
    return f"{role} {colour}" if role in SHADES else role


def colour_errors(picture: Tensor) -> dict[str, Tensor]:
    """(H, W) errors of (H, W, 3) against every colour that an object can have somewhere, the ink's first."""
    found = {role: _error((picture - rgb).square().sum(-1)) for role, rgb in zip(ROLES, FIXED_RGB, strict=False)}
    for role, (other, share) in SHADES.items():
        for colour, ends in zip(COLOURS, PALETTE, strict=True):
            dark, light = (1 - share) * ends + share * torch.tensor(other)
            found[_named(role, colour)] = _error((picture - _on_segment(picture, dark, light)).square().sum(-1))
    return found


WHOLE = (slice(0, SIZE), slice(0, SIZE))


def layers(pose: Pose, window: tuple[slice, slice] = WHOLE) -> np.ndarray:
    """(roles, h, w) float32: how much of each pixel of a window the drawing's parts of each role cover; colours do not
    matter."""
    (down, top), (right, left) = (
        (at % FINER, at // FINER - part.start) for at, part in zip((pose.y, pose.x), window, strict=True)
    )
    small = _cover(pose.kind, pose.width, pose.turn, down, right)
    half = (small.shape[0] - 1) // 2
    shape = [part.stop - part.start for part in window]
    cover = np.zeros((len(ROLES), *shape), np.float32)
    rows, columns = (
        slice(max(0, at - half), max(0, min(size, at + half + 1))) for at, size in zip((top, left), shape, strict=True)
    )
    own = small[
        rows.start - top + half : rows.stop - top + half, columns.start - left + half : columns.stop - left + half
    ]
    cover[:, rows, columns] = own.transpose(2, 0, 1)
    cover /= FINER**2
    return cover


@lru_cache(maxsize=4096)
def _cover(kind: str, width: int, turn: int, down: int, right: int) -> np.ndarray:
    """(side, side, roles) uint8, side odd: in how many of its FINER x FINER parts each pixel has each role, the middle
    of the drawing being so many parts beyond the first edges of the middle pixel."""
    drawn = _drawn(kind, width, turn)
    fine = np.zeros((len(drawn) + FINER, len(drawn) + FINER), np.uint8)
    fine[down : down + len(drawn), right : right + len(drawn)] = drawn
    side = len(fine) // FINER
    # A byte of a word for each role, so that one sum counts them all: no count is above 16.
    words = COUNTERS[fine].reshape(side, FINER, side, FINER).sum((1, 3), dtype=np.uint64)
    return words[..., None].view(np.uint8) if LITTLE else words.byteswap()[..., None].view(np.uint8)


COUNTERS = np.array([0, *(1 << (8 * number) for number in range(len(ROLES)))], np.uint64)
LITTLE = sys.byteorder == "little"


@lru_cache(maxsize=2048)
def _drawn(kind: str, width: int, turn: int) -> np.ndarray:
    """(side, side) uint8: an object in the middle, FINER times as fine as the picture; 0 or one more than a role."""
    thing = Pose(kind, SIZE * FINER // 2, SIZE * FINER // 2, width, turn).thing("red")
    reach = int(np.ceil((0.72 * thing.width + 2 * OUTLINE) * SIZE))
    side = 2 * reach / SIZE
    canvas = Canvas(2 * reach * FINER, (0.5 - side / 2, 0.5 - side / 2, side))
    angle, half = np.radians(thing.angle), thing.width / 2
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed = [
        (
            list(map(tuple, (0.5 + half * (np.array(points) @ turned)).tolist())),
            ROLES.index(role) if isinstance(role, str) else FIXED.index(role),
        )
        for points, role in parts(kind)
    ]
    ink, main = (1,) * 3, ROLES.index("main")
    # In the renderer's order: every part's ink, then the parts, those of another colour with thin ink of their own.
    for points, _ in placed:
        canvas.outline(points, OUTLINE, ink)
    for points, number in placed:
        if number != main:
            canvas.outline(points, OUTLINE * 0.55, ink)
        canvas.polygon(points, (number + 1,) * 3)
    return np.asarray(canvas.image)[..., 0].copy()


@cache
def _roles_of(kind: str) -> tuple[int, ...]:
    return tuple(int(number) - 1 for number in np.unique(_drawn(kind, 40, 0)) if number)


@cache
def drawn_bank(kind: str, widths: tuple[int, ...]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """For the coarse search of a kind: the roles it has; the conjugate spectra (widths, roles, H, W / 2 + 1) of what
    they cover, drawn in the middle; where its middle may lie, (widths, H, W), so that it is on the picture."""
    middle = SIZE * FINER // 2
    poses = [Pose(kind, middle, middle, width) for width in widths]
    used = list(_roles_of(kind))
    drawn = (
        F.avg_pool2d(torch.from_numpy(np.stack([layers(pose)[used] for pose in poses])), 2) * 4
    )  # in pixels of the whole size
    middles = torch.tensor([_middle(step) / COARSE for step in range(COARSE)])
    allowed = torch.stack([(middles - 0.5).abs() <= 0.5 - 0.45 * pose.thing("red").width for pose in poses])
    bank = torch.fft.rfft2(drawn).conj().resolve_conj()
    return tuple(ROLES[number] for number in used), bank, allowed[:, :, None] & allowed[:, None, :]


def _middle(step: int) -> int:
    """Where the middle of a drawing lies that was moved by so many coarse pixels round the picture."""
    return (step + COARSE // 2) % COARSE


def background_errors(picture: Tensor) -> Tensor:
    """(kinds, H, W): each pixel's error against the colours that each background has at its height."""
    colours, rarity = background_colours()
    rows = picture.repeat(len(BACKGROUNDS), 1, 1)  # (kinds * H, W, 3)
    squared = torch.cdist(rows, colours, compute_mode="donot_use_mm_for_euclid_dist").square()
    return _error(squared + rarity[:, None]).min(-1).values.unflatten(0, (len(BACKGROUNDS), SIZE))


@cache
def background_colours(seeds: int = 40, count: int = 14) -> tuple[Tensor, Tensor]:
    """What colours each background has at each height, taken from empty renders, of each row's those that lie furthest
    apart: (kinds * H, colours, 3); and what a pixel of each is charged for its rarity, (kinds * H, colours): a star of
    the night sky may be anywhere, but not as large as a white fish."""
    found, charged = [], []
    for name in BACKGROUNDS:
        empty = [render(Scene((), name, "anywhere", None, None, seed), SIZE) for seed in range(seeds)]
        rows = torch.from_numpy(np.stack(empty)).float().div(255).transpose(0, 1).flatten(1, 2)
        near = [torch.arange(SIZE).add(step).clamp(0, SIZE - 1) for step in (-1, 0, 1)]
        rows = torch.cat([rows[at] for at in near], dim=1)  # (H, pixels, 3) of a row and those next to it
        picked = rows.median(1).values[:, None]
        nearest = torch.cdist(rows, picked)[..., 0]
        for _ in range(count - 1):
            picked = torch.cat([picked, rows[torch.arange(SIZE), nearest.argmax(1)][:, None]], dim=1)
            nearest = torch.minimum(nearest, torch.cdist(rows, picked[:, -1:])[..., 0])
        share = F.one_hot(torch.cdist(rows, picked).argmin(-1), count).float().mean(1)  # (H, colours)
        found.append(picked)
        charged.append(RARE * TOLERANCE**2 * (1 - share / COMMON).clamp(min=0))
    return torch.cat(found), torch.cat(charged)
