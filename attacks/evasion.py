"""Evasion: climb the margin, and keep to where samples of the other class lie."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from robustbench_lite.attack import Goal, Setup, State
from robustbench_lite.attacks.gradient import Ascent, gradient
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.starts import Examples
from robustbench_lite.attacks.targeted import check_target, known_target
from robustbench_lite.errors import UserError
from robustbench_lite.norms import norm
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class Density:
    """A Gaussian kernel estimate of where each class lies: p_c(x) = mean over its samples of exp(-|x - x_i|^2 / (2 h^2)).

    Args:
        samples: (classes, most, c, h, w), those of each class first. count: (classes,), how many it has.
        width: (classes,) float64, h of each class.
    """

    samples: Tensor
    count: Tensor
    width: Tensor

    @classmethod
    def of(cls, examples: Examples, num_classes: int, width: float | None) -> Self:
        """The density of each class among the examples; the width, or else the median distance between its samples."""
        own = [examples.x[examples.labels == label] for label in range(num_classes)]
        count = torch.tensor([len(part) for part in own], device=examples.x.device)
        most = max(1, int(count.max()))
        samples = torch.stack([torch.cat((part, part.new_zeros(most - len(part), *part.shape[1:]))) for part in own])
        widths = [_spread(part) if width is None else width for part in own]
        return cls(samples=samples, count=count, width=torch.tensor(widths, dtype=torch.float64, device=samples.device))

    def slope(self, x: Tensor, label: Tensor) -> Tensor:
        """The gradient of p_label at x (n, c, h, w), for one label a row; zero for a class without samples."""
        total, euclid = torch.zeros_like(x), norm("L2")
        count, width = self.count[label], self.width[label]
        for number in range(self.samples.shape[1]):
            away = self.samples[label, number] - x
            kernel = (-((euclid.distance(away) / width) ** 2) / 2).exp() / (count.clamp(min=1) * width**2)
            total = total + along((kernel * (number < count)).to(x.dtype), x) * away
        return total


def _spread(samples: Tensor) -> float:
    """The median distance between two of the samples; 1 where there are no two different ones."""
    far = [norm("L2").distance(samples - one) for one in samples]
    between = torch.cat(far) if far else torch.zeros(0, dtype=torch.float64)
    between = between[between > 0]
    return float(between.median()) if len(between) else 1.0


@dataclass(frozen=True, kw_only=True)
class Evasion(Ascent):
    """Climb the margin of a target class, pulled to where samples of that class lie.

    The slope is that of z_target - max z_other, plus `mimicry` times that of a kernel density of samples of the target
    class, which are not among the evaluated ones and which the system gets right. Without the pull (mimicry=0) it is
    margin ascent from the clean image, exact on linear models. The pull is for models whose score is flat where no
    data lie (an SVM with radial kernels): there the margin alone leads nowhere. On deep networks it costs strength at a
    small eps, and one run from the clean image is less than `pgd` with restarts.

    Under an untargeted threat any wrong answer on the way breaks the sample.

    Args:
        target: second (likeliest but the label), least-likely, random, next (label + 1), a class index, column (a label
            an image, which comes with the data) or all (every other class, one after the other).
        mimicry: lambda, the weight of the density; 0 needs no samples.
        width: h of the kernel, in L2 units of an image in [0, 1]; none: the median distance between a class's samples.
        samples: how many of each class.
        steps: queries per target, each one forward and one backward.
        step_size: the length of every step, as a fraction of eps; none: shrinking steps, as `pgd`.
        random_start: begin at a random point of the ball, not at the clean image.
    """

    name: ClassVar[str] = "evasion"
    source: ClassVar[str] = (
        "Biggio et al. 2013, Evasion attacks against machine learning at test time, arXiv 1708.06131, alg. 1"
    )
    target: str = "second"
    mimicry: float = 10.0
    width: float | None = None
    samples: int = 20
    random_start: bool = False
    #: what `prepare` found; not an option
    density: Density | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        known_target(self)
        at_least(self, "mimicry", 0)
        positive(self, "width")
        at_least(self, "samples", 1)

    @property
    def target_rule(self) -> str:
        """As the option says."""
        return self.target

    def lanes(self, num_classes: int) -> int:
        """One, or with target=all one a class but the label."""
        return max(1, num_classes - 1) if self.target == "all" else 1

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a class that is not there, or a target besides the threat's own."""
        super().check(threat, num_classes)
        check_target(self, threat, num_classes)

    def learns(self, threat: Threat) -> bool:
        """The densities, if there is a pull."""
        return self.mimicry > 0

    def prepare(self, setup: Setup) -> Self:
        """Estimate the density of every class."""
        taught = copy.copy(self)
        examples = Examples.of(setup, self.samples, right=True)
        density = Density.of(examples, setup.num_classes, self.width)
        object.__setattr__(taught, "density", density)  # frozen for everybody else
        return taught

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images, or at a random point of the ball."""
        if goal.target is None:
            raise UserError("evasion: the goal has no target; give one, such as Goal(y=y, target=t)")
        if self.mimicry and self.density is None:
            raise UserError("evasion: there are no samples to mimic; prepare it on some, or give mimicry=0")
        return super().start(x, goal, threat, draws, oracle)

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The margin's gradient and the density's."""
        slope = gradient(oracle, state.adv, margin)
        if self.mimicry and self.density is not None and state.goal.target is not None:
            slope = slope + self.mimicry * self.density.slope(state.adv, state.goal.target)
        return state, slope
