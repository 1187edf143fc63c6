"""What may be done to an image that is none of a classifier's business: rotations, noise, an attack."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attack import Attack, craft
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

Kind = Literal["rotation", "noise", "attack"]
#: degrees of the three rotations
_DEGREES = (-30.0, 0.0, 30.0)
#: standard deviation of the Gaussian noise, and share of the values that become black or white
_SIGMA, _PEPPERED = 0.2, 0.1


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """One of `count` things happens to each image.

    Args:
        spoil: (system, x, y, which, draws) -> x (n, c, h, w) in [0, 1]; `which` (n,) int64, from 0 to count - 1. The system
            is the one in training; only an attack looks at it, and at the labels.
    """

    count: int
    spoil: Callable[[System, Tensor, Tensor, Tensor, Draws], Tensor]

    @staticmethod
    def crafted(attack: Attack, threat: Threat) -> "Nuisance":
        """Nothing, or an adversarial example that is crafted on the system as it is now."""

        def spoil(system: System, x: Tensor, y: Tensor, which: Tensor, draws: Draws) -> Tensor:
            hit = which.bool()
            if not bool(hit.any()):
                return x
            return x.index_put((hit,), craft(attack, system, x[hit], Goal(y=y[hit]), threat, draws[hit]))

        return Nuisance(count=2, spoil=spoil)


def rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """x (n, c, h, w), each image turned counter-clockwise by its angle (n,), black coming in; bilinear."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = x.shape[2:]
    rows = ((cos, -sin * height / width, zero), (sin * width / height, cos, zero))
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def _rotate(system: System, x: Tensor, y: Tensor, which: Tensor, draws: Draws) -> Tensor:
    return rotated(x, torch.tensor(_DEGREES, device=x.device)[which])


def _add_noise(system: System, x: Tensor, y: Tensor, which: Tensor, draws: Draws) -> Tensor:
    gaussian = (x + _SIGMA * draws.normal(x.shape[1:], "nuisance-gaussian")).clamp(0, 1)
    u = draws.uniform(x.shape[1:], "nuisance-pepper")
    peppered = torch.where(u < _PEPPERED / 2, 0.0, torch.where(u < _PEPPERED, 1.0, x))
    return torch.where(along(which == 0, x), x, torch.where(along(which == 1, x), gaussian, peppered))


KINDS: dict[str, Nuisance] = {
    "rotation": Nuisance(count=len(_DEGREES), spoil=_rotate),
    "noise": Nuisance(count=3, spoil=_add_noise),
}
