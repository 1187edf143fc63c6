"""How good a model in training is: clean accuracy, and robust accuracy under a short attack."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

_BATCH = 256


class Score(NamedTuple):
    """Accuracies as fractions, over all samples that were looked at."""

    clean: float
    robust: float


def accuracy(system: System, attack: Attack, threat: Threat, data: Dataset, indices: np.ndarray, *, seed: int) -> Score:
    """Clean and robust accuracy of the system at these positions of the data.

    Misleads where a masked gradient stops the attack: it steers trainings and fills cards, `rbl evaluate` measures.

    Args:
        system: its model is put into eval mode. attack: runs only on what is right, and stops at its first success.
    """
    system.model.eval()
    right, robust = 0, 0
    for begin in range(0, len(indices), _BATCH):
        chosen = indices[begin : begin + _BATCH]
        x, y = data.batch(chosen), data.labels_at(chosen)
        draws = Draws.for_images(seed, x, y)
        at = system.device
        clean, unbroken = _counts(system, attack, threat, x.to(at), y.to(at), draws.to(at))
        right, robust = right + clean, robust + unbroken
    return Score(clean=right / len(indices), robust=robust / len(indices))


def watching_attack(threat: Threat, fallback: Attack) -> Attack:
    """PGD with ten steps where it knows the norm (Rice et al. 2020 track the same), else `fallback`."""
    attack = resolve_attack("pgd:steps=10,step_size=1/4,restarts=1")
    try:
        attack.check(threat, 2)
    except UserError:
        return fallback
    return attack


def _counts(system: System, attack: Attack, threat: Threat, x: Tensor, y: Tensor, draws: Draws) -> tuple[int, int]:
    goal = Goal(y=y)
    with torch.no_grad():
        right = (~goal.reached(system(x, draws, 0))).nonzero().squeeze(1)
    if not len(right):
        return 0, 0
    x, goal, draws = x[right], goal[right], draws[right]
    adv = craft(attack, system, x, goal, threat, draws, stop_early=True)
    with torch.no_grad():
        broken = goal.reached(system(adv, draws, 0))
    return len(right), len(right) - int(broken.sum())
