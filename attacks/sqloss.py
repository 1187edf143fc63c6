"""An image that the model takes for something else and a human for what it is: squared error plus squared distance."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.targeted import check_target, known_target
from robustbench_lite.attacks.weights import Weights
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Objective, cross_entropy, squared_distance
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along, where
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat

#: Adam's decay rates, and the dust in its denominator
BETA1, BETA2, DUST = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class Fitting(State):
    """Where a row is in both searches.

    Args:
        first, second: (n, c, h, w), Adam's moments. taken: (n,) int64, steps of the present search.
        weights: the search for c, which is 1 / lambda.
    """

    first: Tensor
    second: Tensor
    taken: Tensor
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class SquaredLoss(Attack):
    """Minimise |p - e_target|^2 / 2 + lambda |x' - x|^2 over the box by Adam, and search for the largest lambda that breaks.

    The lecture form of a targeted attack: an image that looks like a cat and is answered iguana. A lambda whose minimum
    breaks the sample is raised, one whose minimum does not is lowered. The squared error has no slope where the model is sure
    of another class, so every search begins with some steps up ln p_target; those are the remedy, and `warm_up=0` shows the
    illness. For the smallest perturbation itself `cw`, `ddn` and `fmn` come nearer.

    Args:
        searches: how many lambda are tried.
        steps: of Adam for each, each one forward and one backward; their size falls evenly to 0.
        warm_up: how many of them climb ln p_target alone.
        lr: Adam's first step size.
        weight: the first lambda.
        target: under an untargeted threat, the class to climb towards: least-likely, random, next (label + 1), second
            (likeliest but the label), a class index, column (a label an image, which comes with the data) or all (every
            other class, one after the other).
    """

    name: ClassVar[str] = "sqloss"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar = ("minimum-norm",)
    source: ClassVar[str] = "Stanford CS230, lecture on adversarial attacks (squared error and distance to the image)"
    searches: int = 6
    steps: int = 500
    warm_up: int = 50
    lr: float = 0.01
    weight: float = 1.0
    target: str = "second"

    def __post_init__(self) -> None:
        at_least(self, "searches", 1)
        at_least(self, "steps", 1)
        at_least(self, "warm_up", 0)
        positive(self, "lr")
        positive(self, "weight")
        known_target(self)

    @property
    def target_rule(self) -> str:
        """As the option says."""
        return self.target

    def lanes(self, num_classes: int) -> int:
        """One, or with target=all one a class but the label."""
        return max(1, num_classes - 1) if self.target == "all" else 1

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, and a class that is not there, or a target besides a targeted threat's own."""
        super().check(threat, num_classes)
        check_target(self, threat, num_classes)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        if goal.target is None:
            raise UserError("sqloss: the goal has no target; give one, such as Goal(y=y, target=t)")
        none, rest = torch.zeros(len(x), dtype=torch.int64, device=x.device), torch.zeros_like(x)
        weights = Weights.begin(none, 1 / self.weight)
        state: State = Fitting.begin(x, goal, threat, draws, x, first=rest, second=rest, taken=none, weights=weights)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One step of Adam; after the last of a search, the first of the next."""
        assert isinstance(state, Fitting)
        warm = state.taken < self.warm_up
        said = oracle.query(state.adv, _either(warm))
        assert said.grads is not None
        weight = (1 / state.weights.c).masked_fill(warm, 0.0)
        slope = 2 * along(weight, said.grads[0]).float() * (state.adv - state.x) - said.grads[0]
        over = state.taken >= self.steps  # what this query saw is where the last step has led
        return where(over, self._begun_again(state, said.adversarial), self._descended(state, slope))

    def length(self) -> int:
        """All steps of all searches, and a look at the end of each."""
        return self.searches * (self.steps + 1)

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step."""
        return Cost(self.length(), self.length()) * self.lanes(num_classes)

    def _descended(self, state: Fitting, slope: Tensor) -> Fitting:
        """The next point; `slope` is that of the loss. Adam begins afresh after the warm-up, which had another loss."""
        age = torch.where(state.taken < self.warm_up, state.taken, state.taken - self.warm_up)
        fresh = along(age == 0, slope)
        first, second = (moment.masked_fill(fresh, 0.0) for moment in (state.first, state.second))
        first, second = BETA1 * first + (1 - BETA1) * slope, BETA2 * second + (1 - BETA2) * slope.square()
        size, width = (along(1 - torch.pow(beta, age.double() + 1), slope).float() for beta in (BETA1, BETA2))
        lr = along(self.lr * (1 - state.taken.double() / self.steps), slope).float()
        adv = (state.adv - lr * (first / size) / ((second / width).sqrt() + DUST)).clamp(0, 1)
        return replace(state, adv=adv, first=first, second=second, taken=state.taken + 1)

    def _begun_again(self, state: Fitting, hit: Tensor) -> Fitting:
        """At the image, with the next lambda; after the last one, where it stands."""
        weights = state.weights.after(hit)
        done = weights.tried >= self.searches
        rest = torch.zeros_like(state.first)
        adv = torch.where(along(done, state.x), state.adv, state.x)
        return replace(
            state, adv=adv, first=rest, second=rest, taken=torch.zeros_like(state.taken), weights=weights, done=done
        )


def _either(warm: Tensor) -> Objective:
    """ln p_target for the rows that warm up (n,), minus the squared error for the others."""

    def climb(outputs: Outputs, goal: Goal) -> Tensor:
        return torch.where(warm, cross_entropy(outputs, goal), squared_distance(outputs, goal))

    return climb
