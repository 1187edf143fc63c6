"""Modes that can be counted: of points in the plane, and of stacked digits.

Srivastava et al. 2017, arXiv 1705.07761, sec. 4; Lin et al. 2018, arXiv 1712.04086, sec. 4, whose limits these are.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from robustbench_lite.data.points import Mixture
from robustbench_lite.data.stacked import label_of
from robustbench_lite.errors import UserError
from robustbench_lite.generators.quality.features import BATCH
from robustbench_lite.system import System

#: samples that the papers look at
POINTS, STACKS = 2500, 26_000
#: standard deviations from a mode within which a point is of high quality
_NEAR = 3.0
#: points that a mode needs in the strict count
_STRICT = 20
#: what a classifier must give each channel where only confident samples count
_CONFIDENT = 0.9
_CHANNELS = 3


def point_figures(points: Tensor, mixture: Mixture) -> dict[str, float]:
    """What became of a mixture's modes.

    `modes` have at least one point of high quality, `modes_strict` at least 20; `high_quality` is the share of such
    points; `reverse_kl` is the divergence of their distribution over the modes from the uniform one, `variation` the
    total variation distance between the two, and `variation_packed` that of pairs, which a packed discriminator sees;
    NaN where there are none. Of the mixture itself 98.9 % are of high quality, 1 - exp(-9/2).

    Args:
        points: (n, 2), in their own units.
    """
    apart, nearest = torch.cdist(points.double().cpu(), mixture.centres).div(mixture.std).min(1)
    good = nearest[apart < _NEAR]
    counts = torch.bincount(good, minlength=len(mixture.means))
    return {
        "modes": float((counts > 0).sum()),
        "modes_strict": float((counts >= _STRICT).sum()),
        "high_quality": len(good) / max(len(points), 1),
        "reverse_kl": divergence_from_uniform(counts),
        "variation": _variation_from_uniform(counts, 1),
        "variation_packed": _variation_from_uniform(counts, 2),
    }


def stacked_figures(judge: System, stacks: Iterable[Tensor]) -> dict[str, float]:
    """Which of the thousand classes stacks of three grey images have, by a classifier of the single channels.

    `modes` counts classes with a sample, and `kl` is the divergence of the samples' classes from the uniform
    distribution; noise has modes too, so `modes_confident` and `kl_confident` look at the share `confident` of samples
    alone whose three channels are all told with a probability of 0.9. Of n perfect samples kl is (modes - 1) / 2n.

    Args:
        stacks: batches (m, 3, h, w) in [0, 1].

    Raises:
        UserError: a classifier of other images than single channels.
    """
    parts = [_classes(judge, batch) for batch in stacks]
    labels, sure = torch.cat([found for found, _ in parts]), torch.cat([sure for _, sure in parts])
    total = judge.num_classes**_CHANNELS
    counts, certain = (torch.bincount(chosen, minlength=total) for chosen in (labels, labels[sure]))
    return {
        "modes": float((counts > 0).sum()),
        "kl": divergence_from_uniform(counts),
        "confident": float(sure.double().mean()),
        "modes_confident": float((certain > 0).sum()),
        "kl_confident": divergence_from_uniform(certain),
    }


@torch.no_grad()
def _classes(judge: System, x: Tensor) -> tuple[Tensor, Tensor]:
    """The class (m,) of each stack, and whether all its channels are told with confidence, (m,)."""
    if judge.input_shape != (1, *x.shape[2:]) or x.shape[1] != _CHANNELS:
        raise UserError(
            f"the judge {judge.name} takes images {judge.input_shape}; accepted for stacks {tuple(x.shape[1:])}: a"
            f" classifier of one channel, {(1, *x.shape[2:])}"
        )
    channels = x.to(judge.device).reshape(-1, *judge.input_shape)
    told = torch.cat([judge(part).scores.softmax(1).cpu() for part in channels.split(BATCH)])
    confidence, digits = (part.view(-1, _CHANNELS) for part in told.max(1))
    labels = torch.from_numpy(label_of(digits.numpy(), judge.num_classes))
    return labels, (confidence >= _CONFIDENT).all(1)


def divergence_from_uniform(counts: Tensor) -> float:
    """Sum of p log(p k) over k classes with these counts, in nats; NaN where all are 0."""
    if not int(counts.sum()):
        return math.nan
    share = counts.double() / counts.sum()
    return float(torch.special.xlogy(share, share * len(share)).sum())


def total_variation(one: Tensor, other: Tensor, packing: int = 1) -> float:
    """The total variation distance of two distributions, or of `packing` independent draws from each.

    Packing makes it larger, and most where a mode is lost: of two distributions at the same distance from the target the
    collapsed one comes out farther away, which is why a discriminator of packed samples resists collapse (Lin et al.
    2018, arXiv 1712.04086, sec. 3).

    Args:
        one, other: (k,) probabilities; k ** packing numbers are held in memory.
    """
    first, second = one.double(), other.double()
    for _ in range(packing - 1):
        first, second = torch.outer(first, one.double()).flatten(), torch.outer(second, other.double()).flatten()
    return float((first - second).abs().sum() / 2)


def _variation_from_uniform(counts: Tensor, packing: int) -> float:
    if not int(counts.sum()):
        return math.nan
    return total_variation(counts.double() / counts.sum(), torch.ones_like(counts).double() / len(counts), packing)
