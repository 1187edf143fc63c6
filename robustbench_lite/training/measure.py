"""How good a model in training is: clean accuracy, and robust accuracy under a short attack."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training.batch import Validate
from robustbench_lite.training.history import Score

_BATCH = 256


def accuracy(
    system: System,
    attack: Attack,
    threat: Threat,
    data: Dataset,
    indices: np.ndarray,
    *,
    seed: int,
    one_step: Attack | None = None,
) -> Score:
    """Clean and robust accuracy of the system at these positions of the data.

    Misleads where a masked gradient stops the attack: it steers trainings and fills cards, `rbl evaluate` measures.

    Args:
        system: its model is put into eval mode. attack: runs only on what is right, and stops at its first success.
        one_step: a second, shorter attack for `Score.one_step`, whose gap to the first tells of catastrophic overfitting.
    """
    attacks = [(one, threat) for one in (attack, one_step) if one is not None]
    return Score(*_shares(system, attacks, data, indices, seed))


def validation(system: System, threat: Threat, fallback: Attack, *, seed: int, one_step: bool = True) -> Validate:
    """The validation of a training against a threat: clean, ten steps, and a single one, on what is held out.

    Args:
        fallback: measures robust accuracy where PGD does not know the norm.
        one_step: look for catastrophic overfitting, which trainings on adversarial examples alone can show; another model
            that is weak beside ten steps and less so beside one has overfitted to nothing.
    """
    attack, single = watching_attack(threat, fallback), _known("fgsm", threat) if one_step else None

    def validate(model: nn.Module, data: Dataset, held: np.ndarray) -> Score:
        return accuracy(system, attack, threat, data, held, seed=seed, one_step=single)

    return validate


def clean_validation(system: System, seed: int) -> Validate:
    """The validation of a training that is not for any threat: the most accurate epoch is kept."""

    def validate(model: nn.Module, data: Dataset, held: np.ndarray) -> Score:
        (clean,) = _shares(system, [], data, held, seed)
        return Score(clean=clean, robust=None)

    return validate


def watching_attack(threat: Threat, fallback: Attack) -> Attack:
    """PGD with ten steps where it knows the norm (Rice et al. 2020 track the same), else `fallback`."""
    return _known("pgd:steps=10,step_size=1/4,restarts=1", threat) or fallback


def _known(spec: str, threat: Threat) -> Attack | None:
    attack = resolve_attack(spec)
    try:
        attack.check(threat, 2)
    except UserError:
        return None
    return attack


def _shares(
    system: System, attacks: Sequence[tuple[Attack, Threat]], data: Dataset, indices: np.ndarray, seed: int
) -> list[float]:
    """The share of images that is right, and the shares that stay so under each of the attacks."""
    system.model.eval()
    counts = np.zeros(1 + len(attacks), dtype=np.int64)
    for begin in range(0, len(indices), _BATCH):
        chosen = indices[begin : begin + _BATCH]
        x, y = data.batch(chosen), data.labels_at(chosen)
        draws, at = Draws.for_images(seed, x, y), system.device
        counts += _counts(system, attacks, x.to(at), y.to(at), draws.to(at))
    return [int(count) / len(indices) for count in counts]


def _counts(system: System, attacks: Sequence[tuple[Attack, Threat]], x: Tensor, y: Tensor, draws: Draws) -> list[int]:
    """How many images are right, and stay so under each of the attacks."""
    goal = Goal(y=y)
    with torch.no_grad():
        right = (~goal.reached(system(x, draws, 0))).nonzero().squeeze(1)
    x, goal, draws = x[right], goal[right], draws[right]
    return [len(right), *(_unbroken(system, attack, threat, x, goal, draws) for attack, threat in attacks)]


def _unbroken(system: System, attack: Attack, threat: Threat, x: Tensor, goal: Goal, draws: Draws) -> int:
    if not len(x):
        return 0
    adv = craft(attack, system, x, goal, threat, draws, stop_early=True)
    with torch.no_grad():
        return len(x) - int(goal.reached(system(adv, draws, 0)).sum())
