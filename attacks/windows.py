"""How Square begins and what it changes at a time, by norm: stripes and windows of one colour, or bumps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.norms.rowwise import INSIDE, row_sum
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Brush:
    """The random window of every row.

    Args:
        sides: of the windows, by how often p was halved. level: (n,) int64, how often it was, for each row.
        words: (n, w) int64, random 32-bit words.
    """

    sides: tuple[int, ...]
    level: Tensor
    words: Tensor


class Painter(ABC):
    """A norm's way; the sides of its windows are at least `least`, and odd where `odd` says so.

    A window takes `places` random words, and one more for the signs of 32 channels.
    """

    least: ClassVar[int]
    odd: ClassVar[bool]
    places: ClassVar[int]

    @abstractmethod
    def first(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """Where to begin, (n, c, h, w)."""

    @abstractmethod
    def next(self, x: Tensor, adv: Tensor, threat: Threat, brush: Brush) -> Tensor:
        """`adv` with one window changed."""


class Stripes(Painter):
    """Linf: vertical stripes of +-eps to begin with, then windows of +-eps, one sign a channel."""

    least, odd, places = 1, False, 3

    def first(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """A sign for each channel and column."""
        return threat.project(x + threat.radius * draws.signs((x.shape[1], 1, x.shape[3]), "stripes"), x)

    def next(self, x: Tensor, adv: Tensor, threat: Threat, brush: Brush) -> Tensor:
        """One window painted; where that would change nothing in other colours, so that no query is wasted."""
        top, left, other, *colour = brush.words.unbind(1)
        window, signs = Window(x, brush, top, left), _signs(colour, x.shape[1])
        clean, old = window.cut(x), window.cut(adv)
        patch = threat.project(clean + threat.radius * signs, clean)
        same = ((patch == old) | ~window.mine).flatten(1).all(1)
        if bool(same.any()):
            signs = torch.where(same[:, None, None, None], signs * _flips(other, x.shape[1]), signs)
            patch = threat.project(clean + threat.radius * signs, clean)
        return window.put(patch, adv)


class Bumps(Painter):
    """A grid of bumps to begin with; then what two windows hold, and what eps still allows, goes into one of them.

    Patches are the pixels of a window in a square of the widest window's side, (n, c, s, s), zero beyond the row's own
    side. Sizes are sums of |delta|^power, (n,) or (n, c) float64. The j-th ring of a bump adds 1 / (j + 1)^fall.
    """

    least, odd, places = 3, True, 5
    power: ClassVar[int]
    fall: ClassVar[int]

    @abstractmethod
    def _powers(self, delta: Tensor) -> Tensor:
        """|delta|^power, float64."""

    @abstractmethod
    def _grown(self, size: Tensor, channels: int) -> Tensor:
        """The size (n, c) of the new window, from its fair share."""

    @abstractmethod
    def _landed(self, x: Tensor, delta: Tensor, size: Tensor, threat: Threat) -> Tensor:
        """The point in ball and box for a perturbation of this size (n,)."""

    def first(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """Bumps side by side, five along the shorter side of the image; each lies or stands, with a sign a channel."""
        channels, height, width = x.shape[1:]
        side = max(1, min(height, width) // 5)
        down, right = height // side, width // side
        lying, standing = bumps((side,), self.power, self.fall)[0].to(x.device).repeat(1, down, right)
        turned = _tiles(draws.integers(2, (1, down, right), "turned"), side) > 0
        grid = torch.where(turned, standing, lying) * _tiles(draws.signs((channels, down, right), "bumps"), side)
        top, left = (height - down * side) // 2, (width - right * side) // 2
        delta = torch.zeros_like(x)
        delta[:, :, top : top + down * side, left : left + right * side] = grid
        return self._landed(x, delta, row_sum(self._powers(delta)), threat)

    def next(self, x: Tensor, adv: Tensor, threat: Threat, brush: Brush) -> Tensor:
        """One window emptied, a bump in another."""
        channels = x.shape[1]
        top, left, other_top, other_left, turned, *colour = brush.words.unbind(1)
        into, out = Window(x, brush, top, left), Window(x, brush, other_top, other_left)
        delta = adv - x
        spent, old = row_sum(self._powers(delta)), into.cut(delta) * into.mine
        held = self._size(old)
        freed = held + self._size(out.cut(delta) * (out.mine & ~into.covers(out)))
        share = (threat.radius**self.power - spent).clamp(min=0)[:, None] / channels + freed
        grown = self._grown(share, channels)
        bump = bumps(brush.sides, self.power, self.fall).to(x.device)
        bump = bump[brush.level, turned & 1, : into.widest, : into.widest][:, None] * _signs(
            colour, channels
        ) + old * self._stretch(1.0, held)
        bump = bump * self._stretch(grown, self._size(bump))
        delta = into.put(bump, out.put(torch.zeros_like(bump), delta))
        return self._landed(x, delta, (spent - row_sum(freed)).clamp(min=0) + row_sum(grown), threat)

    def _size(self, patch: Tensor) -> Tensor:
        """(n, c, s, s) -> (n, c), adding in an order that zeros beyond a row's window do not change."""
        total = self._powers(patch)
        for axis in (3, 2):
            while total.shape[axis] > 1:
                if total.shape[axis] % 2:
                    total = torch.cat((total, torch.zeros_like(total.narrow(axis, 0, 1))), axis)
                total = total.unflatten(axis, (-1, 2))
                total = total.select(axis + 1, 0) + total.select(axis + 1, 1)
        return total[:, :, 0, 0]

    def _stretch(self, to: Tensor | float, size: Tensor) -> Tensor:
        """By what to multiply something of this size to give it another; what is zero stays as it is."""
        factor = (to / torch.where(size > 0, size, 1.0)) ** (1 / self.power)
        return factor.float().view(*size.shape, *(1,) * (4 - size.dim()))


class EuclideanBumps(Bumps):
    """L2: the whole is stretched to length eps, then cut at the box, which shortens it again."""

    power, fall = 2, 2

    def _powers(self, delta: Tensor) -> Tensor:
        return delta.double().square()

    def _grown(self, size: Tensor, channels: int) -> Tensor:
        return size

    def _landed(self, x: Tensor, delta: Tensor, size: Tensor, threat: Threat) -> Tensor:
        return threat.project(x + delta * self._stretch((INSIDE * threat.radius) ** 2, size), x)


class SteepBumps(Bumps):
    """L1: every channel gets as many times its share as there are channels, and the projection decides what stays."""

    power, fall = 1, 4

    def _powers(self, delta: Tensor) -> Tensor:
        return delta.abs().double()

    def _grown(self, size: Tensor, channels: int) -> Tensor:
        return size * channels

    def _landed(self, x: Tensor, delta: Tensor, size: Tensor, threat: Threat) -> Tensor:
        return threat.project(x + delta, x)


class Window:
    """One window a row, in a square of the widest one's side: pixels past its own side stand for its first one.

    `mine` (n, 1, s, s) says which are not past it; `widest` is s.
    """

    def __init__(self, x: Tensor, brush: Brush, top: Tensor, left: Tensor) -> None:
        height, width = x.shape[2:]
        self.widest = brush.sides[int(brush.level.min())]
        self._side = torch.tensor(brush.sides, device=x.device)[brush.level][:, None]
        self._top, self._left = _begin(top, self._side, height), _begin(left, self._side, width)
        offset = torch.arange(self.widest, device=x.device)
        inside = offset < self._side
        self.mine = (inside[:, :, None] & inside[:, None, :])[:, None]
        self._rows, self._columns = self._top + offset, self._left + offset
        place = self._rows[:, :, None] * width + self._columns[:, None, :]
        place = torch.where(self.mine[:, 0], place, place[:, :1, :1]).flatten(1)
        self._place = place[:, None].expand(-1, x.shape[1], -1)

    def cut(self, image: Tensor) -> Tensor:
        """The window's pixels, (n, c, s, s)."""
        return image.flatten(2).gather(2, self._place).unflatten(2, (self.widest, self.widest))

    def put(self, patch: Tensor, image: Tensor) -> Tensor:
        """The image with the window's pixels replaced."""
        patch = torch.where(self.mine, patch, patch[:, :, :1, :1])
        return image.flatten(2).scatter(2, self._place, patch.flatten(2)).view(image.shape)

    def covers(self, other: "Window") -> Tensor:
        """Which pixels of the other window are in this one, (n, 1, s, s)."""
        rows = (other._rows >= self._top) & (other._rows < self._top + self._side)
        columns = (other._columns >= self._left) & (other._columns < self._left + self._side)
        return (rows[:, :, None] & columns[:, None, :])[:, None]


PAINTERS: dict[str, Painter] = {"Linf": Stripes(), "L2": EuclideanBumps(), "L1": SteepBumps()}


@lru_cache(maxsize=64)
def bumps(sides: tuple[int, ...], power: int, fall: int) -> Tensor:
    """A bump for each side, lying and standing, (len(sides), 2, s, s), zero past its side; its size is 1."""
    table = torch.zeros(len(sides), 2, max(sides), max(sides))
    for number, side in enumerate(sides):
        lying = torch.cat((_hill(side // 2, side, power, fall), -_hill(side - side // 2, side, power, fall)))
        lying = lying / (lying.abs() ** power).sum() ** (1 / power)
        table[number, :, :side, :side] = torch.stack((lying, lying.T))
    return table


def _hill(height: int, width: int, power: int, fall: int) -> Tensor:
    """Rectangles one above the other around the middle, of size 1."""
    hill = torch.zeros(height, width, dtype=torch.float64)
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        hill[max(top - ring, 0) : top + ring + 1, max(left - ring, 0) : left + ring + 1] += 1 / (ring + 1) ** fall
    return hill / (hill**power).sum() ** (1 / power) if hill.numel() else hill


def _begin(word: Tensor, side: Tensor, size: int) -> Tensor:
    """Where a window of this side (n, 1) begins, from a random word (n,): 0 to size - side."""
    return (word[:, None] * (size - side + 1)) >> 32


def _signs(words: list[Tensor], channels: int) -> Tensor:
    """-1 or +1 for each channel, (n, channels, 1, 1); a random word (n,) is good for 32 of them."""
    bits = torch.stack(words, 1)[:, :, None] >> torch.arange(32, device=words[0].device)
    return ((bits & 1).flatten(1)[:, :channels].float() * 2 - 1)[:, :, None, None]


def _flips(word: Tensor, channels: int) -> Tensor:
    """-1 for the channels to flip, of the first 31: any set but none, all as likely."""
    few = min(channels, 31)
    chosen = 1 + ((word * (2**few - 1)) >> 32)
    flips = 1 - 2 * ((chosen[:, None] >> torch.arange(few, device=word.device)) & 1).float()
    return torch.cat((flips, flips.new_ones(len(word), channels - few)), 1)[:, :, None, None]


def _tiles(values: Tensor, side: int) -> Tensor:
    """Each value (n, c, a, b) as a square of pixels."""
    return values.repeat_interleave(side, 2).repeat_interleave(side, 3)
