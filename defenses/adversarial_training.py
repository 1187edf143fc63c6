"""Adversarial training: learn from the adversarial examples of the model as it is now."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, craft, in_mode, resolve_attack
from robustbench_lite.defenses.robust import CraftedTraining, cross_entropy, usual_attack
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.specs import joined
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(CraftedTraining):
    """Minimise the loss on adversarial examples that are crafted anew for every batch.

    The pure form is L(x_adv), min-max training (Madry et al. 2018, arXiv 1706.06083, sec. 2.1); with `weight` it is
    L(x) + weight * L(x_adv), for weight 1 twice the alpha = 1/2 of Goodfellow et al. 2015 (arXiv 1412.6572, sec. 6).
    Examples are crafted in eval mode, so that batch statistics see the images that are learned from and no others, and
    no gradient flows through the crafting. Early stopping keeps the epoch that is most robust to ten-step PGD on
    held-out images (Rice et al. 2020, arXiv 2002.11569).

    A one-step inner attack may overfit to itself: attacks with many steps then break the model. Its card says so where
    that shows on held-out images: `catastrophic_overfitting`, `label_leaking`.

    Args:
        attack: the inner attack.
        also: more inner attacks, joined by +; each image of each batch draws one of all from its own random stream, so
            that every batch is a mixture (cf. Tramer and Boneh 2019, arXiv 1904.13000, sec. 3, who use all on each).
        label: what the inner attack climbs away from: the true label, or the predicted one, against label leaking
            (Kurakin et al. 2017, arXiv 1611.01236, sec. 4.3).
        threat: what to train against; left out, the first threat of the evaluation that has a radius.
        weight: of the adversarial term in the mixed loss; none for the pure form.
        awp: adversarial weight perturbation, as a share of each layer's weights (0.01); none: without.
        ramp: share of the training over which the radius grows from zero, without which a large radius is slow to start
            (MNIST at Linf 0.3); left out, none for images up to 16 pixels wide and 0.2 for larger ones.
        early_stopping: hold out a tenth of the data and keep the best epoch; false trains on all and keeps the last.
        from_: written `from=FILE`: a checkpoint to fine-tune instead of starting from fresh weights.
    """

    name: ClassVar[str] = "adversarial-training"
    source: ClassVar[str] = (
        "Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083; "
        "Rice, Wong, Kolter 2020, arXiv 2002.11569"
    )
    attack: Attack = field(default_factory=usual_attack)
    also: str | None = None
    label: Literal["true", "predicted"] = "true"
    weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight is not None and not 0 <= self.weight < float("inf"):
            raise UserError(f"{self.name}: weight={self.weight:g}; accepted: 0 and more, or none")
        if self.label not in ("true", "predicted"):
            raise UserError(f"{self.name}: label={self.label}; accepted: true, predicted")
        self.inner()  # refuses an unknown attack now, not when the training begins

    def inner(self) -> tuple[Attack, ...]:
        """The attack, and those besides it."""
        return (self.attack, *(resolve_attack(text) for text in joined(self.also or "")))

    def crafted(self, system: System, batch: Batch, threat: Threat) -> Tensor:
        """Adversarial examples of the batch, each by one of the attacks."""
        goal = Goal(y=batch.y if self.label == "true" else _predicted(system, batch))
        attacks = self.inner()
        if len(attacks) == 1:
            return craft(self.attack, system, batch.x, goal, threat, batch.draws)
        drawn = batch.draws.integers(len(attacks), (1,), "inner-attack").squeeze(1)
        adv = batch.x.clone()
        for number, attack in enumerate(attacks):
            rows = (drawn == number).nonzero().squeeze(1)
            if len(rows):
                adv[rows] = craft(attack, system, batch.x[rows], goal[rows], threat, batch.draws[rows])
        return adv

    def descended(self, system: System, batch: Batch, adv: Tensor, threat: Threat) -> Tensor:
        """L(x_adv), or L(x) + weight * L(x_adv)."""
        robust = cross_entropy(system, adv, batch)
        # Two forwards: clean and adversarial images have batch statistics of their own.
        return robust if self.weight is None else cross_entropy(system, batch.x, batch) + self.weight * robust


def _predicted(system: System, batch: Batch) -> Tensor:
    with in_mode(system.model, "eval"), torch.no_grad():
        return system(batch.x, batch.draws).prediction()
