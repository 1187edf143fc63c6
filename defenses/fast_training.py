"""Adversarial training at the price of a few ordinary ones: fast (one step), and free (replayed batches)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import Attack, resolve_attack
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.inner import WideStep
from robustbench_lite.defenses.robust import CraftedTraining, Play, RobustTraining, cross_entropy, scores
from robustbench_lite.errors import UserError
from robustbench_lite.specs import fraction_text
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Moment, Recipe


@dataclass(frozen=True, kw_only=True)
class FastAT(CraftedTraining):
    """Adversarial training with one step: twice the price of an ordinary training (Wong, Rice and Kolter 2020).

    It may collapse: from one epoch to the next the network learns to defeat the single step alone, and falls to zero under
    several (catastrophic overfitting). Longer trainings, larger radii, longer steps and start=zero bring it on. Every
    epoch is therefore measured under one step and under ten on held-out images; where one step tells 20 points more than
    ten, or ten fall by 20 points, the epoch is marked, a warning says so, and the best epoch's weights are kept. With
    early_stopping=false nobody looks.

    Args:
        start: `uniform`, a random point of the ball; `zero`, the image; `wide`, a random point of the ball of twice the
            radius and a step of eps that is not cut at the ball (N-FGSM: de Jorge et al. 2022, arXiv 2202.01181).
        step_size: length of the step, as a fraction of eps; left out, 1.25, and 1 from a wide start.
        gradalign: weight of 1 - cos(slope at x, slope at a random point of the ball), which keeps the loss linear
            (Andriushchenko and Flammarion 2020, arXiv 2007.02617, eq. 4; 0.2 with start=zero for CIFAR-10 at 8/255); as in
            its authors' code the slope at x is a constant. Two backward passes more.
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        awp, ramp, from_: as for `adversarial-training`.
    """

    name: ClassVar[str] = "fast-at"
    source: ClassVar[str] = "Wong, Rice, Kolter 2020, Fast is better than free, arXiv 2001.03994, alg. 3"
    start: Literal["uniform", "zero", "wide"] = "uniform"
    step_size: float | None = None
    gradalign: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("uniform", "zero", "wide"):
            raise UserError(f"{self.name}: start={self.start}; accepted: uniform, zero, wide")
        positive(self, "step_size")
        at_least(self, "gradalign", 0)

    def inner(self) -> tuple[Attack, ...]:
        """The single step."""
        if self.start == "wide":
            return (WideStep(step_size=self.step_size or 1.0),)
        size, start = fraction_text(self.step_size or 1.25), str(self.start == "uniform").lower()
        return (resolve_attack(f"pgd:steps=1,step_size={size},random_start={start},restarts=1"),)

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """L(x_adv), and what the slopes disagree."""
        robust = cross_entropy(system, adv, batch)
        return robust + self.gradalign * misalignment(system, batch, threat) if self.gradalign else robust


def misalignment(system: System, batch: Batch, threat: Threat) -> Tensor:
    """1 - cos(slope at x, slope at x + eta), averaged over the images with two slopes; eta is uniform in the ball."""
    eta = threat.geometry.random_point(batch.x, threat.radius, batch.draws, 1)
    here, there = _slopes(system, batch.x, batch).detach(), _slopes(system, eta, batch, differentiable=True)
    known = (here != 0).any(1) & (there != 0).any(1)
    return (1 - F.cosine_similarity(here[known], there[known])).sum() / known.sum().clamp(min=1)


def _slopes(system: System, x: Tensor, batch: Batch, *, differentiable: bool = False) -> Tensor:
    """The slope of each image's own loss, flat (n, c h w)."""
    leaf = x.detach().requires_grad_()
    losses = F.cross_entropy(scores(system, leaf, batch), batch.y, reduction="sum")
    (slope,) = torch.autograd.grad(losses, leaf, create_graph=differentiable)
    return slope.flatten(1)


@dataclass(frozen=True, kw_only=True)
class FreeAT(RobustTraining):
    """Adversarial training at the price of an ordinary one: every backward pass moves weights and images (Shafahi et al. 2019).

    Each batch is used for `replays` steps in a row. One backward pass gives the slope of the weights, which the optimizer
    takes, and that of the perturbation, which takes a step of eps along it. The perturbation belongs to the place in the
    batch: the next batch begins with that of the last one, as published. There are `replays` times fewer epochs.

    A perturbation is as old as one step of the optimizer, so it is weaker than one that is crafted for the network as it
    is; and with many replays the network sees few different batches.

    Args:
        replays: how many steps in a row use the same batch, the paper's m; 8 is its choice for CIFAR-10.
        step_size: how far the perturbation moves a step, as a fraction of eps.
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        epochs: passes over the data; left out, the usual number divided by `replays`.
        ramp, from_: as for `adversarial-training`.
    """

    name: ClassVar[str] = "free-at"
    source: ClassVar[str] = "Shafahi et al. 2019, Adversarial training for free!, arXiv 1904.12843, alg. 1"
    replays: int = 8
    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "replays", 1)
        positive(self, "step_size")

    def inner(self) -> tuple[Attack, ...]:
        """The step that a perturbation takes; it stands for the norms that can be trained against."""
        return (resolve_attack(f"pgd:steps=1,step_size={fraction_text(self.step_size)},restarts=1"),)

    def recipe_defaults(self, workshop: Workshop, system: System) -> dict[str, Any]:
        """Fewer epochs, each batch several times."""
        usual = training.default_recipe(workshop.train, system.model).epochs
        return {"epochs": -(-usual // self.replays), "replays": self.replays}

    def play(self, system: System, threat: Threat, ramp: float, recipe: Recipe) -> Play:
        """Perturbations that outlive their batch."""
        return Replaying(defense=self, system=system, threat=threat, ramp=ramp, recipe=recipe)


@dataclass(kw_only=True, eq=False)
class Replaying(Play):
    """One backward pass for weights and perturbation; `carry["delta"]` (batch size, c, h, w) is what is kept of it."""

    defense: FreeAT

    @contextmanager
    def around(self, model: nn.Module, batch: Batch, moment: Moment) -> Iterator[None]:
        """The images with the perturbation of before; afterwards it moves along the slope that the step has found."""
        threat, count = self.at(moment), len(batch)
        if "delta" not in self.carry:
            self.carry["delta"] = batch.x.new_zeros((self.recipe.batch_size, *batch.x.shape[1:]))
        delta = self.carry["delta"].to(batch.x.device)
        points = threat.project(batch.x + delta[:count], batch.x).requires_grad_()
        self.left = points
        yield
        self.left, slope = None, points.grad
        assert slope is not None
        with torch.no_grad():
            far = self.defense.step_size * threat.radius * threat.ascent(slope, at=points)
            moved = threat.project(points + far, batch.x) - batch.x
        self.carry["delta"] = torch.cat((moved, delta[count:]))

    def loss(self, model: nn.Module, part: Batch, moment: Moment) -> Tensor:
        """Cross-entropy at the perturbed images."""
        return cross_entropy(self.system, self.taken(part), part)
