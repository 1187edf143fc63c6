"""Domain-adversarial training against a nuisance. Ganin et al. 2016, arXiv 1505.07818 (2015: arXiv 1409.7495)."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attack import Attack
from robustbench_lite.attacks.options import at_least
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.fitting import Regularised, stage, under
from robustbench_lite.defenses.nuisances import KINDS, Kind, Nuisance
from robustbench_lite.defenses.probing import evidence, tapped, width_at
from robustbench_lite.defenses.robust import usual_attack
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Fitted, Loss, Moment, derive, seeded

_QUICKER = 10.0


class _Reversed(torch.autograd.Function):
    """The identity, with its gradient times -strength."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


class Quick(nn.Linear):
    """A linear layer whose weights move ten times as fast as others under the same optimizer.

    A head that the network outruns is always wrong about a nuisance that is always there.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.div_(_QUICKER)

    def forward(self, h: Tensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        return F.linear(h, _QUICKER * self.weight, _QUICKER * self.bias)


def reverse(h: Tensor, strength: float) -> Tensor:
    """h as it is; backward the gradient is multiplied by -strength (arXiv 1505.07818, sec. 4.2)."""
    return cast(Tensor, _Reversed.apply(h, strength))


def strength_at(done: float) -> float:
    """2 / (1 + exp(-10 done)) - 1: from 0 to almost 1 as the training goes on from 0 to 1 (sec. 5.2.2)."""
    return 2 / (1 + math.exp(-10 * done)) - 1


@dataclass(frozen=True, kw_only=True)
class DomainAdversarial(Regularised):
    """Learn a hidden layer from which an adversary cannot tell what was done to the image.

    Every training image is spoiled in one of a few ways, drawn anew; a second head learns from the hidden layer which one,
    and its gradient is reversed on the way into the network, which learns the classes and unlearns the nuisance. It claims
    invariance to that nuisance and nothing else: not a defense against adversarial examples, whose usual attacks break it.

    That the head lost is no evidence: it may only have been beaten. After the training fresh probes (linear, and with a
    hidden layer) learn the nuisance from the frozen features, here and on a second network that was trained on the same
    images without the reversal; the notes of the training tell the accuracy of both beside chance.

    Args:
        nuisance: `rotation` (by -30, 0, 30 degrees), `noise` (none, Gaussian, salt and pepper) or `attack` (clean, or
            crafted on the network as it is now).
        layer: name of the module whose output the head sees; left out, what goes into the last linear layer.
        weight: the strength of the reversal at the end of its schedule. hidden: units of the head.
        attack, threat: of nuisance=attack; the threat is the evaluation's first with a radius where it is left out.
        compare: train the second network too, which doubles the time.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: keep the most robust epoch on held-out images instead of the last.
    """

    name: ClassVar[str] = "domain-adversarial"
    source: ClassVar[str] = "Ganin et al. 2016, arXiv 1505.07818; Ganin, Lempitsky 2015, arXiv 1409.7495"
    why_plain: ClassVar[str] = (
        "nothing is hidden: the second head is gone after the training, and what is left is an ordinary network with "
        "other weights that a white-box attack differentiates"
    )
    nuisance: Kind = "rotation"
    layer: str | None = None
    weight: float = 1.0
    hidden: int = 64
    attack: Attack = field(default_factory=usual_attack)
    compare: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "weight", 0)
        at_least(self, "hidden", 1)

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place, and probe it.

        Raises:
            UserError: no such layer, or nuisance=attack without a threat that the attack knows.
        """
        seen, nuisance = system.without_detector(), self._nuisance(system, workshop)
        other = seen.with_model(copy.deepcopy(system.model))
        halves = 2 if self.compare else 1
        shop = replace(workshop, progress=stage(workshop.progress, 0, halves, "domain-adversarial"))
        fitted = self._trained(seen, nuisance, replace(shop, scratch=under(shop.scratch, "with")))
        told = {"with": evidence(seen, self.layer, nuisance, workshop)}
        if self.compare:
            shop = replace(workshop, progress=stage(workshop.progress, 1, halves, "without it"))
            shop = replace(shop, scratch=under(shop.scratch, "without"))
            replace(self, weight=0, early_stopping=False)._trained(other, nuisance, shop)
            told["without"] = evidence(other, self.layer, nuisance, workshop)
        chance = 1 / nuisance.count
        return system.with_notes(fitted.notes(evidence={"nuisance": self.nuisance, "chance": chance, **told}))

    def inner(self) -> tuple[Attack, ...]:
        """What nuisance=attack crafts with."""
        return (self.attack,)

    def aimed(self) -> bool:
        """An attack needs a threat."""
        return self.early_stopping or self.nuisance == "attack"

    def _nuisance(self, system: System, workshop: Workshop) -> Nuisance:
        if self.nuisance != "attack":
            return KINDS[self.nuisance]
        threat = self.checked(self.trained_against(workshop), system.num_classes)
        return Nuisance.crafted(self.attack, threat)

    def _trained(self, system: System, nuisance: Nuisance, workshop: Workshop) -> Fitted:
        """Train the system's model together with a head of its own, which is thrown away."""
        system.to(workshop.device)
        with seeded(derive(workshop.seed, "head")):
            width = width_at(system, self.layer)
            head = nn.Sequential(Quick(width, self.hidden), nn.ReLU(), Quick(self.hidden, nuisance.count))
        rivals = nn.ModuleDict({"model": system.model, "head": head})
        fitted = self.fit(rivals, system, self._rivalry(system, head, nuisance), workshop)
        system.model.requires_grad_(False)
        return fitted

    def _rivalry(self, system: System, head: nn.Module, nuisance: Nuisance) -> Loss:
        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            which = batch.draws.integers(nuisance.count, (1,), "nuisance").squeeze(1)
            spoiled = nuisance.spoil(system, batch.x, batch.y, which, batch.draws)
            with tapped(system.model, self.layer) as h:
                scores = system(spoiled, batch.draws, adaptive=True).scores
            guess = head(reverse(h[-1].flatten(1), self.weight * strength_at(moment.done)))
            return F.cross_entropy(scores, batch.y) + F.cross_entropy(guess, which)

        return loss
