"""What the trainings of this folder share that craft nothing, or need no threat: one loss to write, the rest is the loop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from robustbench_lite import training
from robustbench_lite.attack import Attack
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.defenses.robust import TrainsAgainst, usual_attack
from robustbench_lite.system import System
from robustbench_lite.training import Fitted, Loss, Progress


@dataclass(frozen=True, kw_only=True)
class Regularised(TrainsAgainst):
    """A training whose loss says all; a threat is needed only where it is aimed at one.

    Args:
        early_stopping: hold out a tenth of the data and keep the epoch that is most robust to ten-step PGD on it; false
            trains on all and keeps the last. threat: of early stopping.
    """

    why_plain: ClassVar[str] = (
        "nothing is hidden: the defended model is an ordinary network with other weights, and a white-box attack "
        "differentiates all of it; that a short climb of the cross-entropy fails is the attack's fault, so run a margin "
        "attack with many steps too"
    )
    early_stopping: bool = False

    def inner(self) -> tuple[Attack, ...]:
        """What early stopping falls back on where PGD does not know the norm."""
        return (usual_attack(),)

    def aimed(self) -> bool:
        """Whether the training looks at a threat at all."""
        return self.early_stopping

    def loss(self, system: System, workshop: Workshop) -> Loss:
        """What is descended; `system` is the one in training."""
        raise NotImplementedError

    def recipe_defaults(self, system: System, workshop: Workshop) -> dict[str, Any]:
        """Where this defense's recipe differs from everybody's, unless the user says otherwise."""
        return {}

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place.

        Raises:
            UserError: the training diverged, or it needs a threat and there is none that fits.
        """
        # What is rejected is learned from as well.
        fitted = self.fit(system.model, system, self.loss(system.without_detector(), workshop), workshop)
        return system.with_notes(fitted.notes())

    def fit(self, network: nn.Module, system: System, loss: Loss, workshop: Workshop) -> Fitted:
        """Train the network, which is the system's model or holds it."""
        watch = None
        if self.early_stopping:
            threat = self.checked(self.trained_against(workshop), system.num_classes)
            # Dressed: cross-entropy must not vanish on a network that only hides its gradients.
            seen = self.dress(system.without_detector())
            watch = training.validation(seen, threat, self.inner()[0], seed=workshop.seed, one_step=False)
        return training.fit(
            network,
            workshop.train,
            loss,
            recipe=self.recipe_for(workshop, system, **self.recipe_defaults(system, workshop)),
            seed=workshop.seed,
            device=workshop.device,
            progress=workshop.progress,
            validate=watch,
            scratch=workshop.scratch,
        )

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """What decides the weights besides data, architecture and seed, with everything resolved."""
        return super().recipe(workshop) if self.aimed() else Defense.recipe(self, workshop)


def under(folder: Path | None, name: str) -> Path | None:
    """A folder of its own for one of several trainings."""
    return None if folder is None else folder / name


def stage(progress: Progress | None, number: int, of: int, text: str) -> Progress | None:
    """The progress of one of several equally long trainings, from 0."""
    if progress is None:
        return None
    return lambda done, total, line: progress(done + number * total, of * total, f"{text}, {line}")
