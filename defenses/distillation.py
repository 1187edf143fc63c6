"""Defensive distillation. Papernot et al. 2016, arXiv 1511.04508."""

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.defense import Adaptivity, Workshop
from robustbench_lite.defenses.fitting import Regularised, stage, under
from robustbench_lite.errors import UserError
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Loss, Moment, derive


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T), (n, k): rows that sum to 1; the larger T, the closer to uniform."""
    return (logits / temperature).softmax(1)


@dataclass(frozen=True, kw_only=True)
class Distillation(Regularised):
    """Train a teacher at a high temperature, and a student of the same architecture on its soft labels; deploy at T = 1.

    Both learn through softmax(f / T); the student never sees a label of the data. Deployed without the division, its
    logits are about T times as large, the softmax is exactly one-hot in float32, and the gradient of the cross-entropy is
    exactly zero: attacks that climb it report robustness that is not there. The adaptive adversary climbs f / T (Carlini
    and Wagner 2016, arXiv 1607.04311), which gives the same answers; a margin, DLR or C&W attack on the logits needs no
    such help (Carlini and Wagner 2017, arXiv 1608.04644).

    Dividing by T divides every gradient by T. The loss is multiplied by T, which undoes that for plain descent; Adam does
    not care, and takes three times the learning rate and 1.5 times the epochs to let the logits grow. Teacher and student
    use the same recipe and start from the same weights.

    Args:
        temperature: T, from 1 (no more than a copy) to 100.
        epochs, batch_size, learning_rate: of each of the two trainings, instead of the recipe above.
        early_stopping: keep the student's most robust epoch on held-out images (PGD on f / T) instead of the last.
    """

    name: ClassVar[str] = "distillation"
    adaptivity: ClassVar[Adaptivity] = "adaptive"
    why_plain: ClassVar[str] = ""
    source: ClassVar[str] = "Papernot et al. 2016, arXiv 1511.04508; broken: Carlini and Wagner 2016, arXiv 1607.04311"
    temperature: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.temperature <= 100:
            raise UserError(f"distillation: temperature={self.temperature:g}; accepted: 1 to 100")

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train a teacher and then `system.model`, in place, on what the teacher says."""
        seen = system.without_detector()
        teacher = seen.with_model(copy.deepcopy(system.model))
        first = replace(
            workshop,
            seed=derive(workshop.seed, "teacher"),
            scratch=under(workshop.scratch, "teacher"),
            progress=stage(workshop.progress, 0, 2, "teacher"),
        )
        taught = replace(self, early_stopping=False).fit(teacher.model, teacher, self.teaching(teacher), first)
        second = replace(
            workshop, scratch=under(workshop.scratch, "student"), progress=stage(workshop.progress, 1, 2, "student")
        )
        frozen = teacher.with_model(teacher.model)
        fitted = self.fit(system.model, system, self.learning(seen, frozen), second)
        return system.with_notes(fitted.notes(teacher=taught.notes()["training"]["last"]))

    def dress(self, system: System) -> System:
        """The adaptive adversary differentiates the logits divided by T."""
        if self.temperature == 1:
            return system
        return replace(system, differentiable_as=Cooled(system.model, self.temperature))

    def recipe_defaults(self, system: System, workshop: Workshop) -> dict[str, Any]:
        """Adam three times as fast for 1.5 times as long; plain descent as ever, on a loss times T."""
        usual = training.default_recipe(workshop.train, system.model)
        if usual.optimizer != "adam":
            return {}
        return {"epochs": -(-3 * usual.epochs // 2), "learning_rate": 3 * usual.learning_rate}

    def teaching(self, teacher: System) -> Loss:
        """Cross-entropy of the labels at temperature T, times T."""

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            scores = teacher(batch.x, batch.draws, adaptive=True).scores
            return self.temperature * F.cross_entropy(scores / self.temperature, batch.y)

        return loss

    def learning(self, student: System, teacher: System) -> Loss:
        """Cross-entropy of the teacher's soft labels at temperature T, times T; the labels of the data play no part."""

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            with torch.no_grad():
                targets = soft_labels(teacher(batch.x, batch.draws).scores, self.temperature)
            scores = student(batch.x, batch.draws, adaptive=True).scores
            return self.temperature * F.cross_entropy(scores / self.temperature, targets)

        return loss


class Cooled(nn.Module):
    """A network with its logits divided by T: the same answers, and a cross-entropy that has a gradient."""

    def __init__(self, inner: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inner, self.temperature = inner, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> logits (n, k)."""
        return self.inner(x) / self.temperature
