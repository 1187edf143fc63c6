"""Domain-adversarial training against a nuisance. Ganin et al. 2016, arXiv 1505.07818 (2015: arXiv 1409.7495)."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import Attack
from robustbench_lite.attacks.options import at_least
from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.fitting import Regularised, stage, under
from robustbench_lite.defenses.nuisances import KINDS, Kind, Nuisance
from robustbench_lite.defenses.probing import evidence, tapped, width_at
from robustbench_lite.defenses.robust import usual_attack
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Fitted, Loss, Moment, derive, seeded

#: how far a step of the head goes that it takes by itself
_RATE = 0.1
#: epochs for one of the usual recipe
_LONGER = 3
Against = Literal["reversal", "confusion"]


class _Reversed(torch.autograd.Function):
    """The identity, with its gradient times -strength."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


def reverse(h: Tensor, strength: float) -> Tensor:
    """h as it is; backward the gradient is multiplied by -strength (arXiv 1505.07818, sec. 4.2)."""
    return cast(Tensor, _Reversed.apply(h, strength))


def strength_at(done: float) -> float:
    """2 / (1 + exp(-10 done)) - 1: from 0 to almost 1 as the training goes on from 0 to 1 (sec. 5.2.2)."""
    return 2 / (1 + math.exp(-10 * done)) - 1


def standardised(h: Tensor) -> Tensor:
    """Features (n, width), each with mean 0 and variance 1 over the batch: a nuisance cannot hide by being small."""
    return (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()


def confusion(head: nn.Module, h: Tensor) -> Tensor:
    """KL(uniform || the head's answer) at h (n, width), the mean over the batch; its gradient reaches h alone."""
    frozen = {name: value.detach() for name, value in head.named_parameters()}
    said = cast(Tensor, torch.func.functional_call(head, frozen, (h,))).log_softmax(1)
    return (-said.mean(1) - math.log(said.shape[1])).mean()


def practise(head: nn.Module, h: Tensor, which: Tensor, steps: int) -> None:
    """Let the head take plain gradient steps of its own on these features; nothing but its weights remembers them."""
    parameters = list(head.parameters())
    for _ in range(steps):
        with torch.enable_grad():
            grads = torch.autograd.grad(F.cross_entropy(head(h), which), parameters)
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.sub_(_RATE * grad)


@dataclass(frozen=True, kw_only=True)
class DomainAdversarial(Regularised):
    """Learn a hidden layer from which an adversary cannot tell what was done to the image.

    Every training image is spoiled in one of a few ways, drawn anew; a second head learns from the hidden layer which one,
    and its gradient is reversed on the way into the network, which learns the classes and unlearns the nuisance. It claims
    invariance to that nuisance and nothing else: not a defense against adversarial examples, whose usual attacks break it.

    A network outruns a head that takes one step for each of its own, and shrinks what it cannot remove: the head is then
    always wrong about a nuisance that is always there. So the head sees the features standardised, and takes `head_steps`.

    That the head lost is no evidence: it may only have been beaten. After the training fresh probes (linear, and with a
    hidden layer) learn the nuisance from the frozen features, here and on a second network that was trained on the same
    images without the reversal; the notes of the training tell the accuracy of both beside chance.

    Args:
        nuisance: `rotation` (by -30, 0, 30 degrees), `noise` (none, Gaussian, salt and pepper) or `attack` (clean, or
            crafted on the network as it is now).
        layer: name of the module whose output the head sees; left out, what goes into the last linear layer.
        weight: the strength of the reversal at the end of its schedule. hidden: units of the head.
        head_steps: of the head, for each one of the network, on the same images. against: what the network climbs:
            `reversal`, the head's loss, or `confusion`, how near its answer is to a uniform one, which has an end.
        attack, threat: of nuisance=attack; the threat is the evaluation's first with a radius where it is left out.
        compare: train the second network too, which doubles the time.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe, with three times its epochs.
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
    head_steps: int = 5
    against: Against = "reversal"
    attack: Attack = field(default_factory=usual_attack)
    compare: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "weight", 0)
        for option in ("hidden", "head_steps"):
            at_least(self, option, 1)

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

    def recipe_defaults(self, system: System, workshop: Workshop) -> dict[str, Any]:
        """Three times as many epochs: in the usual number the network unlearns little (measured in its page)."""
        return {"epochs": _LONGER * training.default_recipe(workshop.train, system.model).epochs}

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
            head = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, nuisance.count))
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
            seen, strength = h[-1].flatten(1).float(), self.weight * strength_at(moment.done)
            practise(head, standardised(seen.detach()), which, self.head_steps - 1)
            task = F.cross_entropy(scores, batch.y)
            if self.against == "reversal":
                return task + F.cross_entropy(head(standardised(reverse(seen, strength))), which)
            learned = F.cross_entropy(head(standardised(seen.detach())), which)
            return task + learned + strength * confusion(head, standardised(seen))

        return loss
