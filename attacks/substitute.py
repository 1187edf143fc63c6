"""A substitute: labels buy a copy of the system, and the copy is attacked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.attack import Architecture, Attack, Learned, Needs, Setup, resolve_attack
from robustbench_lite.attacks.elsewhere import Elsewhere
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, concat
from robustbench_lite.system import System

#: images shown to the substitute at once while it is asked; a step of its training takes `_BATCH`
_CHUNK, _BATCH = 512, 64


@dataclass(frozen=True, kw_only=True)
class Substitute(Elsewhere):
    """Train a substitute on the labels that the system gives, and attack the substitute.

    A few images that are not evaluated are labelled by the system. In each round every image gets a neighbour, `reach`
    away in the direction in which the substitute's score of the bought label changes fastest; the system labels these
    too, and the substitute learns on. Labels are all that is seen: no score, no gradient, no true label. The examples
    are shown to the system once, by the verdict.

    It tells what an adversary with so many labels can do. Where it finds little, the substitute may be a poor one: the
    table says how often it agrees with the system.

    Args:
        attack: the inner attack, run on the substitute: any white-box attack of one stage.
        model: the substitute's architecture.
        seeds: images to begin with.
        rounds: how often the set is enlarged.
        reach: how far a new image is from the old one, lambda of the paper, in units of [0, 1].
        alternate: rounds after which the direction turns round, tau; 0: never.
        full: rounds in which every image gets a neighbour, sigma; none: all. In later ones `sample` images do.
        sample: how many images get a neighbour in the later rounds, kappa, each as likely as any other.
        labels: the most labels that are bought; the oracle pays for no more. none: what the rounds cost.
        epochs: passes over the set in each round.
        steps: the fewest steps of training in each round, of 64 images each.
        learning_rate: of Adam.
    """

    name: ClassVar[str] = "substitute"
    needs: ClassVar[Needs] = Needs.LABELS
    source: ClassVar[str] = (
        "Papernot et al. 2017, Practical black-box attacks against machine learning, arXiv 1602.02697; "
        "Papernot, McDaniel and Goodfellow 2016, Transferability in machine learning, arXiv 1605.07277 "
        "(turning round, reservoir sampling)"
    )
    attack: Attack = field(default_factory=lambda: resolve_attack("pgd:steps=40,restarts=1"))
    model: Architecture = field(default_factory=lambda: Architecture("small-cnn"))
    seeds: int = 100
    rounds: int = 6
    reach: float = 0.1
    alternate: int = 3
    full: int | None = None
    sample: int | None = None
    labels: int | None = None
    epochs: int = 10
    steps: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("seeds", "rounds", "epochs", "steps"):
            at_least(self, option, 1)
        at_least(self, "alternate", 0)
        for option in ("full", "sample", "labels"):
            if getattr(self, option) is not None:
                at_least(self, option, 1)
        positive(self, "reach")
        positive(self, "learning_rate")
        if (self.full is None) != (self.sample is None):
            raise UserError(f"{self.name}: full and sample go together; write full=3,sample=400, or neither")

    @property
    def setup_budget(self) -> int | None:
        """As the option `labels` says."""
        return self.labels

    def prepare(self, setup: Setup) -> "Trained":
        """Buy labels, and train the substitute on them.

        Raises:
            UserError: there are fewer images to begin with than `seeds`.
        """
        bought = self._first(setup)
        seed = int(bought.draws.words(1, "substitute")[0])
        with training.seeded(seed, setup.x.device):
            copy = self.model.fresh().to(setup.x.device)
        self._fit(copy, bought, seed)
        told: dict[str, float] = {}
        for number in range(self.rounds):
            parents = bought[self._parents(bought, number)]
            if not len(parents):
                break
            draws = parents.draws.fold(number + 1)
            new = _Bought.of(setup, self._neighbours(copy, parents, number), draws)
            told[f"agreement on the new images of round {number + 1}, before"] = new.agreement(copy)
            bought = concat([bought, new])
            self._fit(copy, bought, training.derive(seed, number))
        told |= {"labels": float(len(bought)), "agreement on all images, after": bought.agreement(copy)}
        return self._trained(copy, told, setup)

    def recall(self, learned: Learned, setup: Setup) -> "Trained":
        """The substitute from its weights."""
        copy = self.model.fresh().to(setup.x.device)
        copy.load_state_dict(dict(learned.tensors))
        return self._trained(copy, learned.figures, setup)

    def _trained(self, copy: nn.Module, told: Mapping[str, float], setup: Setup) -> "Trained":
        shape = (setup.x.shape[1], setup.x.shape[2], setup.x.shape[3])
        system = System(model=copy, num_classes=setup.num_classes, input_shape=shape, name="substitute")
        return Trained(recipe=self, attack=self.attack, copy=system, told=told)

    def _first(self, setup: Setup) -> "_Bought":
        """The images to begin with, drawn without a look at their true labels."""
        if len(setup.x) < self.seeds:
            few = f"{len(setup.x)} images that are not evaluated; evaluate fewer, or take fewer seeds"
            raise UserError(f"{self.name}: seeds={self.seeds}, but there are {few}")
        count = self.seeds if self.labels is None else min(self.seeds, self.labels)
        chosen = _drawn(setup.draws, count, "seeds", 0)
        return _Bought.of(setup, setup.x[chosen], setup.draws[chosen])

    def _parents(self, bought: "_Bought", number: int) -> Tensor:
        """Which images get a neighbour in this round: all, or as many as `sample` and `labels` leave."""
        room = len(bought)
        if self.full is not None and self.sample is not None and number >= self.full:
            room = min(room, self.sample)
        if self.labels is not None:
            room = min(room, self.labels - len(bought))
        return _drawn(bought.draws, room, "reservoir", number)

    def _neighbours(self, copy: nn.Module, parents: "_Bought", number: int) -> Tensor:
        """New images: up the score of the bought label, or down where the direction has turned round."""
        turned = self.alternate > 0 and (number // self.alternate) % 2 == 1
        slopes = torch.cat([_slopes(copy, part) for part in parents.chunks()])
        return (parents.x + (-self.reach if turned else self.reach) * slopes.sign()).clamp(0, 1)

    def _fit(self, copy: nn.Module, bought: "_Bought", seed: int) -> None:
        """Train on, in place; what the system rejected teaches nothing."""
        known = bought[bought.y >= 0]
        if not len(known):
            return
        data = from_tensors(known.x, known.y, name="bought")
        epochs = max(self.epochs, -(-self.steps // -(-len(data) // _BATCH)))
        recipe = training.Recipe(
            epochs=epochs, batch_size=_BATCH, learning_rate=self.learning_rate, schedule="constant"
        )
        training.fit(copy, data, _loss, recipe=recipe, seed=seed, device=known.x.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained(Elsewhere):
    """The attack that has its substitute.

    Args:
        recipe: how it was trained. copy: the substitute. told: what is worth telling of its training.
    """

    name: ClassVar[str] = Substitute.name
    needs: ClassVar[Needs] = Substitute.needs
    recipe: Substitute
    copy: System
    told: Mapping[str, float]

    @property
    def learned(self) -> Learned:
        """The substitute's weights."""
        return Learned(tensors=self.copy.model.state_dict(), figures=self.told)

    @property
    def crafted_on(self) -> System:
        """The substitute."""
        return self.copy

    def climbed(self) -> System:
        """The substitute."""
        return self.copy

    def __str__(self) -> str:
        return str(self.recipe)


@dataclass(frozen=True, kw_only=True)
class _Bought(Rows):
    """Images (n, c, h, w), the labels that the system gave them (n,), -1 where it rejected them, and their streams."""

    x: Tensor
    y: Tensor
    draws: Draws

    @classmethod
    def of(cls, setup: Setup, x: Tensor, draws: Draws) -> Self:
        """Have the images labelled."""
        labels = setup.ask(x).labels
        assert labels is not None  # whoever needs labels is shown them
        return cls(x=x, y=labels, draws=draws)

    def chunks(self) -> list[Self]:
        """The same, a few images at a time."""
        return [self[begin : begin + _CHUNK] for begin in range(0, len(self), _CHUNK)]

    def agreement(self, copy: nn.Module) -> float:
        """The share of the accepted images of which the substitute says the same."""
        with torch.no_grad():
            same = torch.cat([copy(part.x).argmax(1) == part.y for part in self.chunks()])
        return float(same[self.y >= 0].double().mean())


def _drawn(draws: Draws, count: int, stream: str, number: int) -> Tensor:
    """Which `count` of the rows, in order; each subset of that size is as likely, as with a reservoir."""
    lots = draws.uniform((), stream, number).view(-1)
    return lots.argsort(stable=True)[: max(count, 0)].sort().values


def _slopes(copy: nn.Module, part: _Bought) -> Tensor:
    """The gradients of the substitute's score of the bought label; zero where the system rejected the image."""
    leaf = part.x.detach().requires_grad_(True)
    with torch.enable_grad():
        score = copy(leaf).gather(1, part.y.clamp(min=0)[:, None]).squeeze(1)
        (slope,) = torch.autograd.grad((score * (part.y >= 0)).sum(), leaf)
    return slope


def _loss(model: nn.Module, batch: training.Batch, moment: training.Moment) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y)
