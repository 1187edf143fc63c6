"""What a bare forward and a bare gradient of a system cost: the units in which an evaluation's cost is told.

Seconds are of the machine. In units that were measured in the same run, by the same process, a slow machine costs what a fast
one does, and a slow engine costs more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustbench_lite.guard import calling
from robustbench_lite.objectives import Goal, cross_entropy
from robustbench_lite.randomness import Draws
from robustbench_lite.run import clocks

if TYPE_CHECKING:
    from robustbench_lite.run.subject import Subject

#: of several measurements the least counts, since a busy machine only adds: as many rounds as so many seconds hold, but three of
#: a network that takes no second
MOST, FEWEST, ENOUGH, LONG = 20, 3, 0.05, 1.0


@dataclass(frozen=True, kw_only=True)
class Units:
    """Seconds an image. NaN where the system cannot be asked so.

    Args:
        forward: of an answer. gradient: of the gradient of a loss with respect to the image, on top of its answer.
    """

    forward: float
    gradient: float


def measure(subject: "Subject") -> Units:
    """The units of the system as it was given, on one block of its images: no copy that is faster, no batch that is larger.

    A system that raises, or has no gradient, has no unit of it; its own cell will tell why. Random numbers of torch that it draws
    are given back.
    """
    device = subject.device
    count = subject.shapes.floor
    rows = torch.arange(count) % len(subject.indices)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            x, y, draws = subject.load(rows)
            forward = _least(lambda: _answer(subject, x, draws), device)
            both = _least(lambda: _slope(subject, x, y, draws), device)
        except Exception:  # no number depends on it
            return Units(forward=math.nan, gradient=math.nan)
    return Units(forward=forward / count, gradient=max(both - forward, 0.0) / count)


def _answer(subject: "Subject", x: Tensor, draws: Draws) -> bool:
    with torch.no_grad():
        subject.system(x, draws, 0)
    return True


def _slope(subject: "Subject", x: Tensor, y: Tensor, draws: Draws) -> bool:
    leaf = x.detach().requires_grad_(True)
    loss = cross_entropy(subject.system(leaf, draws, 0), Goal(y=y)).sum()
    if not loss.requires_grad:
        return False
    with calling(subject.system.name):
        torch.autograd.grad(loss, leaf, allow_unused=True)
    return True


def _least(work: Callable[[], bool], device: torch.device) -> float:
    """The least seconds of some rounds; NaN where it does not work."""
    least, spent = math.inf, 0.0
    for rounds in range(1, MOST + 1):
        started = clocks.busy(device)
        if not work():
            return math.nan
        took = clocks.busy(device) - started
        least, spent = min(least, took), spent + took
        if spent > LONG or (rounds >= FEWEST and spent > ENOUGH):
            break
    return least
