"""Logit pairing: ALP, CLP and logit squeezing. Kannan, Kurakin, Goodfellow 2018, arXiv 1803.06373."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attack import Attack
from robustbench_lite.attacks.options import at_least
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.fitting import Regularised
from robustbench_lite.defenses.robust import CraftedTraining, scores, usual_attack
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Loss, Moment

SOURCE = "Kannan, Kurakin, Goodfellow 2018, arXiv 1803.06373; broken: Engstrom et al. 2018, arXiv 1807.10272"
Norm = Literal["squared", "plain"]
Classes = Literal["sum", "mean"]


def size(gap: Tensor, norm: Norm, classes: Classes) -> Tensor:
    """The mean over the batch of ||gap||^2 (`squared`) or ||gap|| (`plain`), gap (n, k); a scalar, 0 for no rows.

    Args:
        classes: the squares of the k differences are summed, or averaged: codes differ, and lambda means another thing.
    """
    if not len(gap):
        return gap.sum()
    share = 1.0 if classes == "sum" else 1 / gap.shape[1]
    if norm == "squared":
        return gap.square().sum(1).mean() * share
    return torch.linalg.vector_norm(gap, dim=1).mean() * share**0.5  # its slope at 0 is 0, not NaN


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The options of a penalty on logits.

    Args:
        weight: lambda, of the penalty.
        norm: the penalty is the squared Euclidean norm, or the norm itself (`plain`).
        classes: its squares are summed over the classes, or averaged.
    """

    weight: float = 0.5
    norm: Norm = "squared"
    classes: Classes = "sum"

    def penalty(self, gap: Tensor) -> Tensor:
        """lambda times the size of the logits or of their differences, gap (n, k)."""
        return self.weight * size(gap, self.norm, self.classes)


@dataclass(frozen=True, kw_only=True)
class AdversarialLogitPairing(Pairing, CraftedTraining):
    """Learn from clean and adversarial images alike, and let the logits of each pair agree.

    `form=mixed` is the published one (sec. 3.1): (L(x) + L(x_adv)) / 2 + lambda ||f(x) - f(x_adv)||^2. `form=plain` is
    L(x) + lambda ||f(x) - f(x_adv)||^2, where only the pairing sees adversarial images. The gradient of the pairing flows
    into both branches, none flows through the crafting.

    It misleads under a short attack: its gain over adversarial training shrinks or vanishes under many steps, restarts
    and a margin (Engstrom, Ilyas, Athalye 2018, arXiv 1807.10272; Mosbach et al. 2018, arXiv 1810.12042).

    Args:
        form: `mixed` or `plain`.
        attack: the inner attack. threat: what to train against; left out, the first threat of the evaluation with a radius.
        weight: lambda. norm: `squared`, or `plain` for the norm itself. classes: squares are summed over the classes, or
            averaged, which is as much as a weight divided by their number.
        awp, ramp, from_: as for `adversarial-training`.
        early_stopping: hold out a tenth of the data and keep the most robust epoch; false keeps the last.
    """

    name: ClassVar[str] = "alp"
    source: ClassVar[str] = SOURCE
    form: Literal["mixed", "plain"] = "mixed"
    attack: Attack = field(default_factory=usual_attack)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "weight", 0)

    def inner(self) -> tuple[Attack, ...]:
        """The attack."""
        return (self.attack,)

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """The loss of the batch and its adversarial examples."""
        return self.paired(scores(system, batch.x, batch), scores(system, adv, batch), batch.y)

    def paired(self, clean: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        """The loss of logits (n, k) of clean images and of their adversarial examples, with labels y (n,)."""
        learned = F.cross_entropy(clean, y)
        if self.form == "mixed":
            learned = (learned + F.cross_entropy(adv, y)) / 2
        return learned + self.penalty(clean - adv)


@dataclass(frozen=True, kw_only=True)
class NoisyLogits(Pairing, Regularised):
    """Penalties on the logits of noisy clean images: nothing adversarial is learned from.

    Args:
        noise: standard deviation of the Gaussian noise on every image of the training, clipped to [0, 1].
    """

    source: ClassVar[str] = SOURCE
    noise: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "weight", 0)
        at_least(self, "noise", 0)

    def loss(self, system: System, workshop: Workshop) -> Loss:
        """Cross-entropy of noisy images and the penalty on their logits."""

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            noise = batch.draws.normal(batch.x.shape[1:], "noise")
            logits = scores(system, (batch.x + self.noise * noise).clamp(0, 1), batch)
            return F.cross_entropy(logits, batch.y) + self.penalty(self.gap(logits))

        return loss

    def gap(self, logits: Tensor) -> Tensor:
        """What is to be small, (m, k), of the logits (n, k) of a batch in random order."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class CleanLogitPairing(NoisyLogits):
    """Let the logits of random pairs of noisy images agree, whatever they show (sec. 3.2): they are kept small.

    It masks: cross-entropy attacks with few steps report robustness that a longer one with a margin does not find. A large
    weight makes the answer constant; look at the clean accuracy.

    Args:
        weight: lambda. noise: standard deviation of the noise on the images, clipped to [0, 1].
        norm, classes: the penalty's form, see the family.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: keep the most robust epoch on held-out images instead of the last.
    """

    name: ClassVar[str] = "clp"
    weight: float = 0.2
    noise: float = 0.2

    def gap(self, logits: Tensor) -> Tensor:
        """Each of the first half minus its partner of the second; the last of an odd batch has none."""
        half = len(logits) // 2
        return logits[:half] - logits[half : 2 * half]


@dataclass(frozen=True, kw_only=True)
class LogitSqueezing(NoisyLogits):
    """Keep the logits of noisy images small (sec. 3.3).

    It masks as clean pairing does, and about as little of it is true.

    Args:
        weight: lambda. noise: standard deviation of the noise on the images, clipped to [0, 1].
        norm, classes: the penalty's form, see the family.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: keep the most robust epoch on held-out images instead of the last.
    """

    name: ClassVar[str] = "lsq"

    def gap(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits
