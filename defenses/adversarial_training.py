"""Adversarial training: learn from the adversarial examples of the model as it is now."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Loss, Moment, Recipe, Score, Validate

#: width in pixels up to which a radius needs no ramp
_SMALL = 16


def _pgd() -> Attack:
    return resolve_attack("pgd:steps=7,step_size=1/4,restarts=1")


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Minimise the loss on adversarial examples that are crafted anew for every batch.

    The pure form is L(x_adv), min-max training (Madry et al. 2018, arXiv 1706.06083, sec. 2.1); with `weight` it is
    L(x) + weight * L(x_adv), for weight 1 twice the alpha = 1/2 of Goodfellow et al. 2015 (arXiv 1412.6572, sec. 6).
    Examples are crafted in eval mode, so that batch statistics see the images that are learned from and no others, and
    no gradient flows through the crafting. Early stopping keeps the epoch that is most robust to ten-step PGD on
    held-out images (Rice et al. 2020, arXiv 2002.11569).

    A one-step inner attack may overfit to itself: attacks with many steps then break the model.

    Args:
        attack: the inner attack.
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        weight: of the adversarial term in the mixed loss; none for the pure form.
        ramp: share of the training over which the radius grows from zero, without which a large radius is slow to start
            (MNIST at Linf 0.3); left out, none for images up to 16 pixels wide and 0.2 for larger ones.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: hold out a tenth of the data and keep the best epoch; false trains on all and keeps the last.
        from_: written `from=FILE`: a checkpoint to fine-tune instead of starting from fresh weights.
    """

    name: ClassVar[str] = "adversarial-training"
    trains: ClassVar[bool] = True
    adaptivity: ClassVar[Adaptivity] = "plain-is-adaptive"
    why_plain: ClassVar[str] = (
        "nothing is hidden: the defended model is an ordinary network with other weights, and the plain white-box "
        "attack differentiates all of it"
    )
    source: ClassVar[str] = (
        "Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083; "
        "Rice, Wong, Kolter 2020, arXiv 2002.11569"
    )
    attack: Attack = field(default_factory=_pgd)
    threat: Threat | None = None
    weight: float | None = None
    ramp: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    early_stopping: bool = True
    from_: str | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise UserError(f"adversarial-training: weight={self.weight:g}; accepted: 0 and more, or none")
        if self.ramp is not None and not 0 <= self.ramp <= 1:
            raise UserError(f"adversarial-training: ramp={self.ramp:g}; accepted: a share from 0 to 1")
        Recipe(**{"epochs": 1, **self._changes()})  # refuses a value out of range now, not when the training begins

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place.

        Raises:
            UserError: no threat with a radius, an inner attack that does not know the norm, a file that does not fit.
        """
        threat = self.trained_against(workshop)
        try:
            self.attack.check(threat, system.num_classes)
        except UserError as error:
            raise UserError(f"{self.name} trains with {self.attack} against {threat}: {error}") from None
        if self.from_ is not None:
            training.start_from(system.model, Path(self.from_))
        seen = system.without_detector()  # what is rejected is learned from as well
        fitted = training.fit(
            system.model,
            workshop.train,
            self._loss(seen, threat, self._ramp(workshop)),
            recipe=replace(training.default_recipe(workshop.train, system.model), **self._changes()),
            seed=workshop.seed,
            device=workshop.device,
            progress=workshop.progress,
            validate=self._validation(seen, threat, workshop.seed) if self.early_stopping else None,
            scratch=workshop.scratch,
        )
        told = fitted.notes(threat=str(threat), attack=str(self.attack))
        return replace(system.with_model(system.model), notes={**system.notes, **told})

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """What decides the weights besides data, architecture and seed, with everything resolved."""
        attack = {item.name: str(getattr(self.attack, item.name)) for item in fields(self.attack)}
        return {
            **super().recipe(workshop),
            "threat": str(self.trained_against(workshop)),
            "attack": [self.attack.name, self.attack.version, attack],
            "ramp": self._ramp(workshop),
            "from": None if self.from_ is None else training.file_digest(Path(self.from_)),
        }

    def trained_against(self, workshop: Workshop) -> Threat:
        """The threat of the training: its own, or the first of the evaluation with a radius; always untargeted.

        One that turns or shifts images counts where the inner attack does too.

        Raises:
            UserError: there is none.
        """
        offered = workshop.threats if self.threat is None else (self.threat,)
        for threat in offered:
            if threat.eps is not None and (not threat.rendered or threat.norm in self.attack.norms):
                return replace(threat, goal="untargeted", target=None)
        raise UserError(
            f"{self.name} needs a threat with a radius to train against; "
            f"write {self.name}:threat=(Linf:8/255), or evaluate under one"
        )

    def _changes(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate")}
        return {name: value for name, value in own.items() if value is not None}

    def _ramp(self, workshop: Workshop) -> float:
        if self.ramp is not None:
            return self.ramp
        return 0.0 if max(workshop.train.shape[1:]) <= _SMALL else 0.2

    def _loss(self, system: System, threat: Threat, ramp: float) -> Loss:
        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            now = threat.at(threat.radius * min(1.0, moment.done / ramp)) if ramp else threat
            adv = craft(self.attack, system, batch.x, Goal(y=batch.y), now, batch.draws)
            robust = _cross_entropy(system, adv, batch)
            # Two forwards: clean and adversarial images have batch statistics of their own.
            return robust if self.weight is None else _cross_entropy(system, batch.x, batch) + self.weight * robust

        return loss

    def _validation(self, system: System, threat: Threat, seed: int) -> Validate:
        attack = training.watching_attack(threat, self.attack)

        def validate(model: nn.Module, data: Dataset, held: np.ndarray) -> Score:
            return training.accuracy(system, attack, threat, data, held, seed=seed)

        return validate


def _cross_entropy(system: System, x: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(system(x, batch.draws, adaptive=True).scores, batch.y)
