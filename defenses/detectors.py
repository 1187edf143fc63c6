"""What all detectors share: the data they are fitted to, the threshold, and examples of attacks to learn from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.attack import Attack, craft, resolve_attack
from robustbench_lite.attacks.options import at_least, between
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.defenses.robust import with_radius
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.specs import joined
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

BLOCK = 256
#: of the training images that a detector looks at, the share that its threshold is set on
HELD_OUT = 0.25
#: images that each attack whose examples are learned is run on, at most
TAUGHT_ON = 1200

Fitted = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a detector is fitted with: a system without detector, images as the classifier sees them, labels, streams.

    Args:
        x: (n, c, h, w), before the purifiers. y: (n,). seed: for whatever else is drawn.
    """

    system: System
    x: Tensor
    y: Tensor
    draws: Draws
    seed: int

    def __getitem__(self, rows: Tensor) -> "Bench":
        return Bench(system=self.system, x=self.x[rows], y=self.y[rows], draws=self.draws[rows], seed=self.seed)

    @property
    def model(self) -> nn.Module:
        """The classifier behind the purifiers."""
        return self.system.model

    @torch.no_grad()
    def over(self, look: Callable[..., Tensor], x: Tensor | None = None, *, random: bool = False) -> Tensor:
        """What `look` says of the images (its own where none are given) as they come out of the purifiers, in blocks.

        Where it draws, it is called with (x, draws, index), as a purifier is.
        """
        draws = self.draws if x is None else Draws.for_images(self.seed, x, torch.zeros(len(x), dtype=torch.int64))
        x, draws, found = self.x if x is None else x, draws.to(self.x.device), []
        for begin in range(0, len(x), BLOCK):
            part, own = x[begin : begin + BLOCK], draws[begin : begin + BLOCK]
            for purifier in self.system.purifiers:
                part = purifier.apply(part, own, 0)
            found.append(look(part, own, 0) if random else look(part))
        return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class DetectorDefense(Defense):
    """A detector beside a classifier: a score, and a threshold at a stated rate of false alarms on clean images.

    A subclass says what is fitted (`fit`) and how the score is computed from it (`scorer`). Of the training images that
    are looked at, drawn by the seed, a quarter is held out of the fit, and the threshold set there: the lowest one that
    rejects no more than the share `fpr` of them. The classifier itself may have learned from these images, unless a share
    of them is kept `apart`: then it is trained without, and the threshold is set on them. What it rejects of new ones is
    in the results.
    """

    adaptivity: ClassVar[Adaptivity] = "adaptive"
    fpr: float = 0.05
    images: int = 4000
    apart: float = 0.0

    def __post_init__(self) -> None:
        between(self, "fpr", 0, 1)
        at_least(self, "images", 16)
        if not 0 <= self.apart < 1:
            raise UserError(f"{self.name}: apart={self.apart:g}; accepted: 0 to less than 1, such as 0.2")

    def kept_apart(self) -> float:
        """What the threshold is set on."""
        return self.apart

    def fit(self, bench: Bench, threat: Threat | None) -> Fitted:
        """Whatever the score needs, by name; tensors of any type."""
        return {}

    def scorer(self, system: System, fitted: Fitted) -> nn.Module:
        """A module from images, as the classifier sees them, to scores (n,); larger is more suspicious.

        It has a gradient everywhere that an adversary may go; where the score has none by itself, one by BPDA.
        """
        raise NotImplementedError

    def defend(self, system: System, workshop: Workshop) -> System:
        """The same system, able to reject.

        Raises:
            UserError: it has a detector already, or there is nothing to fit one to.
        """
        if system.detector is not None:
            raise UserError(
                f"{self.name}: the system rejects by {system.detector.name} already; it can have one detector"
            )
        fitted = workshop.part(self, system, lambda: self._fitted(system, workshop))
        fitted = {name: value.to(workshop.device) for name, value in fitted.items()}
        score = self.scorer(system, fitted)
        score.to(workshop.device)
        threshold = float(fitted["threshold"])
        return system.with_detector(
            Detector(score=score, threshold=threshold, modules=(score,), name=str(self), random=self.random)
        )

    @property
    def random(self) -> bool:
        """Whether the score draws: it is then called with (x, draws, index)."""
        return False

    def _fitted(self, system: System, workshop: Workshop) -> Fitted:
        rest = _bench(system, workshop, workshop.train, self.images)
        if workshop.apart is not None:
            held = _bench(system, workshop, workshop.apart, self.images)
        else:
            cut = max(1, round(HELD_OUT * len(rest.x)))
            rows = torch.arange(len(rest.x), device=rest.x.device)
            held, rest = rest[rows[:cut]], rest[rows[cut:]]
        fitted = self.fit(rest, self.learned_from(workshop))
        scores = held.over(self.scorer(system, fitted).to(workshop.device).eval(), random=self.random)
        return {**fitted, "threshold": threshold_at(self.fpr, scores)}

    def learned_from(self, workshop: Workshop) -> Threat | None:
        """The threat whose examples the fit needs; None without."""
        return None


@dataclass(frozen=True, kw_only=True)
class TaughtDetector(DetectorDefense):
    """A detector that learns from adversarial examples of the training images.

    Args:
        attacks: whose successful examples it learns, joined by `+`. threat: under which they are made; left out, the first
            threat of the evaluation that has a radius.
    """

    attacks: str = "fgsm+deepfool"
    threat: Threat | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teachers:
            raise UserError(f"{self.name}: attacks={self.attacks!r}; accepted: attacks joined by +")

    @property
    def teachers(self) -> tuple[Attack, ...]:
        """The attacks that it learns from."""
        return tuple(resolve_attack(text) for text in joined(self.attacks))

    def learned_from(self, workshop: Workshop) -> Threat:
        """Its own threat, or the first of the evaluation with a radius; always untargeted.

        Raises:
            UserError: there is none, or an attack does not know the norm.
        """
        needed = f"{self.name} learns from adversarial examples and needs a threat with a radius; write "
        threat = with_radius(self.threat, workshop, f"{needed}{self.name}:threat=(Linf:8/255)")
        for attack in self.teachers:
            attack.check(threat, workshop.train.num_classes)
        return threat

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """With the threat and the attacks resolved."""
        attacks = [[attack.version, repr(attack)] for attack in self.teachers]
        return {**super().recipe(workshop), "threat": str(self.learned_from(workshop)), "attacks": attacks}

    def lessons(self, bench: Bench, threat: Threat) -> tuple[Tensor, Tensor]:
        """What must pass (clean images, and the same with random noise as long as the attacks'), and what must not.

        Raises:
            UserError: no attack fools the classifier on any of the images.
        """
        right = bench.over(lambda x: bench.model(x).argmax(1)) == bench.y
        noise = threat.geometry.random_direction(bench.x, bench.draws, stream="control")
        passing = torch.cat((bench.x, threat.project(bench.x + threat.radius * noise, bench.x)))
        bench = bench[right.nonzero().squeeze(1)[:TAUGHT_ON]]
        fooled = []
        for number, attack in enumerate(self.teachers):
            draws = bench.draws.fold(number + 1)
            adv = torch.cat([_crafted(attack, bench, threat, draws, cut) for cut in _cuts(len(bench.x))] or [bench.x])
            wrong = bench.over(lambda x: bench.model(x).argmax(1), adv) != bench.y
            fooled.append(adv[wrong])
        if not any(map(len, fooled)):
            raise UserError(
                f"{self.name}: {self.attacks} fools the classifier on none of {len(bench.x)} training images under "
                f"{threat}, so there is nothing to learn; give stronger attacks, or a larger threat"
            )
        return passing, torch.cat(fooled)


def threshold_at(fpr: float, scores: Tensor) -> Tensor:
    """The lowest threshold that no more than the share `fpr` of these scores (n,) lies above, a float64 scalar."""
    ranked = scores.double().sort().values
    above = int(fpr * len(ranked) + 1e-9)
    return ranked[len(ranked) - 1 - above].clone()


def _bench(system: System, workshop: Workshop, data: Dataset, most: int) -> Bench:
    """Images drawn by the seed."""
    count = min(most, len(data))
    chosen = np.random.default_rng([workshop.seed, 0xDE7EC7]).permutation(len(data))[:count]
    x, y = data.batch(chosen), data.labels_at(chosen)
    draws = Draws.for_images(workshop.seed, x, y)
    device = workshop.device
    return Bench(system=system, x=x.to(device), y=y.to(device), draws=draws.to(device), seed=workshop.seed)


def _crafted(attack: Attack, bench: Bench, threat: Threat, draws: Draws, cut: slice) -> Tensor:
    return craft(attack, bench.system, bench.x[cut], Goal(y=bench.y[cut]), threat, draws[cut])


def _cuts(count: int) -> Iterator[slice]:
    for begin in range(0, count, BLOCK):
        yield slice(begin, begin + BLOCK)


def squares(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances of the rows of (n, d) and (m, d), (n, m)."""
    products = (one**2).sum(1, keepdim=True) - 2 * one @ other.T + (other**2).sum(1)
    return F.relu(products)


def spread(values: Tensor) -> Tensor:
    """The standard deviation of each column of (n, d), 1 where there is none."""
    found = values.double().std(0, unbiased=False)
    return torch.where(found > 0, found, torch.ones_like(found))
