"""Mixtures of Gaussians in the plane, as images of two channels and one pixel: what mode collapse is measured on.

The ring and the grid of Metz et al. 2017, arXiv 1611.02163, and Srivastava et al. 2017, arXiv 1705.07761, with the spreads
of Lin et al. 2018, arXiv 1712.04086.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.base import ArrayImages, Dataset, Split
from robustbench_lite.errors import UserError
from robustbench_lite.specs import Spec

#: a point's coordinates lie in [-REACH, REACH]
REACH = 6.0
_POINTS = 100_000
_SAMPLES = "1000"


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A uniform mixture of round Gaussians; `means` are their centres, `std` the spread of each coordinate."""

    name: str
    means: tuple[tuple[float, float], ...]
    std: float

    @property
    def centres(self) -> Tensor:
        """The means, (modes, 2) float64."""
        return torch.tensor(self.means, dtype=torch.float64)


RING = Mixture(
    name="ring",
    means=tuple((math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)) for turn in range(8)),
    std=0.01,
)
GRID = Mixture(
    name="grid", means=tuple((float(x), float(y)) for x in range(-4, 5, 2) for y in range(-4, 5, 2)), std=0.05
)
_MIXTURES = {mixture.name: mixture for mixture in (RING, GRID)}


def ring(
    *, split: Split, root: Path | None = None, download: bool = False, points: int = _POINTS, seed: int = 0
) -> Dataset:
    """Eight modes on the unit circle, standard deviation 0.01; a label is the number of the mode.

    Args:
        points: of the training split; the test split has a tenth as many. seed: of the drawing.
    """
    return _drawn(RING, split, points, seed)


def grid(
    *, split: Split, root: Path | None = None, download: bool = False, points: int = _POINTS, seed: int = 0
) -> Dataset:
    """Twenty-five modes at {-4, -2, 0, 2, 4} squared, standard deviation 0.05; a label is the number of the mode.

    Args:
        points: of the training split; the test split has a tenth as many. seed: of the drawing.
    """
    return _drawn(GRID, split, points, seed)


def mixture_of(data: Dataset) -> Mixture | None:
    """The mixture that a dataset was drawn from; None where it holds no such points."""
    return _MIXTURES.get(data.name.partition(":")[0])


def to_points(x: Tensor) -> Tensor:
    """Images (n, 2, 1, 1) in [0, 1] -> points (n, 2) in their own units."""
    return REACH * (2 * x.flatten(1) - 1)


def to_images(points: Tensor) -> Tensor:
    """Points (n, 2) -> images (n, 2, 1, 1); those of coordinates up to `REACH` lie in [0, 1]."""
    return ((points + REACH) / (2 * REACH)).view(-1, 2, 1, 1)


def _drawn(mixture: Mixture, split: Split, points: int, seed: int) -> Dataset:
    modes = len(mixture.means)
    if points < 10 * modes:
        raise UserError(
            f"{mixture.name}: points={points}; accepted: {10 * modes} and more, so that both splits have all"
        )
    if not 0 <= seed < 2**63:
        raise UserError(f"{mixture.name}: seed={seed}; accepted: 0 and more")
    count = points if split == "train" else points // 10
    labels, noise = _numbers(count, modes, seed, split)
    where = np.array(mixture.means)[labels] + mixture.std * noise
    pixels = ((where + REACH) / (2 * REACH)).astype(np.float32).reshape(count, 2, 1, 1)
    options = {"points": (points, _POINTS), "seed": (seed, 0)}
    told = {key: str(value) for key, (value, usual) in options.items() if value != usual}
    return Dataset(
        name=str(Spec(mixture.name, told)),
        images=ArrayImages(pixels),
        labels=labels,
        num_classes=modes,
        shape=(2, 1, 1),
        class_names=tuple(f"({x:.3g}, {y:.3g})" for x, y in np.round(mixture.means, 3) + 0.0),
        split=split,
        default_samples=_SAMPLES,
    )


def _numbers(count: int, modes: int, seed: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Modes (count,) and standard normal pairs (count, 2), by Box and Muller 1958.

    The raw words of a bit generator are the only stream that numpy promises never to change.
    """
    words = np.random.Philox(key=[seed, int(split == "test")]).random_raw(3 * count).reshape(3, count)
    labels = (words[0] >> np.uint64(32)) * np.uint64(modes) >> np.uint64(32)
    even = (words[1:] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(1 - even[0])), 2 * math.pi * even[1]
    return labels.astype(np.int64), np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)
