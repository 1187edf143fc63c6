"""Attacks that follow the gradient of an objective inside the ball: FGSM, BIM, PGD, MI-FGSM.

One loop serves the iterative ones: climb along the norm's steepest direction, project into ball and box. They differ in start,
length of a step, restarts and momentum.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import named
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

Objective = Literal["ce", "margin", "dlr", "log-odds"]
_GRADIENT_NORMS = ("Linf", "L2", "L1")


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step to the point of the ball where the linearised objective is largest.

    Under Linf that is x + eps * sign(gradient), cut at the box. Under L2 and L1 the box is respected exactly, so a wall costs
    no strength: on an affine model of two classes the step is the worst case itself. It misleads on models whose loss is
    curved or saturated: compare with `pgd`.

    Args:
        objective: what to climb: ce, margin, dlr or log-odds.
    """

    name: ClassVar[str] = "fgsm"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = _GRADIENT_NORMS
    source: ClassVar[str] = "Goodfellow, Shlens, Szegedy 2015, Explaining and harnessing adversarial examples, arXiv 1412.6572, sec. 4"
    objective: Objective = "ce"

    def length(self) -> int:
        return 1

    def cost(self, num_classes: int) -> Cost:
        return Cost(1, 1)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        grads = oracle.query(state.adv, named(self.objective)).grads
        assert grads is not None
        return replace(state, adv=state.threat.extreme(state.x, grads[0]))


@dataclass(frozen=True, kw_only=True)
class Climbing(State):
    """A state with the accumulated gradient.

    Args:
        velocity: (n, c, h, w), zeros without momentum.
    """

    velocity: Tensor


@dataclass(frozen=True, kw_only=True)
class Iterative(Attack):
    """The loop that BIM, PGD and MI-FGSM share; the subclasses set the defaults."""

    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = _GRADIENT_NORMS
    steps: int = 100
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    restarts_in_flight: int = 1
    momentum: float = 0.0
    objective: Objective = "ce"

    def __post_init__(self) -> None:
        for option in ("steps", "restarts", "restarts_in_flight"):
            if getattr(self, option) < 1:
                raise UserError(f"{self.name}: {option}={getattr(self, option)}; accepted: 1 and more")
        if self.step_size is not None and not 0 < self.step_size <= 10:
            raise UserError(f"{self.name}: step_size={self.step_size:g}; accepted: a share of eps above 0, such as 1/4")
        if not 0 <= self.momentum < float("inf"):
            raise UserError(f"{self.name}: momentum={self.momentum:g}; accepted: 0 and more")

    @property
    def stride(self) -> float:
        """The length of a step as a share of eps."""
        return 2.5 / self.steps if self.step_size is None else self.step_size

    def length(self) -> int:
        return self.steps

    def lanes(self, num_classes: int) -> int:
        return self.restarts

    @property
    def lanes_in_flight(self) -> int:
        return self.restarts_in_flight

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps) * self.restarts

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        adv = threat.random_point(x, draws) if self.random_start else x
        begun: State = Climbing.begin(x, goal, threat, draws, adv, velocity=torch.zeros_like(x))
        return begun

    def step(self, state: State, oracle: Oracle) -> State:
        assert isinstance(state, Climbing)
        grads = oracle.query(state.adv, named(self.objective)).grads
        assert grads is not None
        velocity = grads[0]
        if self.momentum:
            velocity = self.momentum * state.velocity + _unit_l1(grads[0])
        move = (self.stride * state.threat.radius) * state.threat.steepest(velocity, state.adv)
        return replace(state, adv=state.threat.project(state.adv + move, state.x), velocity=velocity)


@dataclass(frozen=True, kw_only=True)
class BIM(Iterative):
    """The basic iterative method: signed steps from the clean image, no restarts.

    The published rule, steps of 1/255 and min(eps + 4, 1.25 eps) of them in units of 1/255, gives 10 steps of eps/8 at 8/255:
    these are the defaults. From the clean image a saturated loss gives no way out: see `pgd`.

    Args:
        steps: queries. step_size: length of a step as a share of eps.
        random_start: begin at a random point of the ball. restarts: lanes, each from another random point.
        restarts_in_flight: lanes of a sample that run side by side.
        momentum: share of the accumulated gradient that is kept (MI-FGSM).
        objective: what to climb: ce, margin, dlr or log-odds.
    """

    name: ClassVar[str] = "bim"
    source: ClassVar[str] = "Kurakin, Goodfellow, Bengio 2017, Adversarial examples in the physical world, arXiv 1607.02533, sec. 2.2"
    steps: int = 10
    step_size: float | None = 1 / 8
    random_start: bool = False


@dataclass(frozen=True, kw_only=True)
class PGD(Iterative):
    """Projected gradient descent from random points, with restarts; every point on the way counts, not the last alone.

    A step costs one forward and one backward query. Cross-entropy saturates on very confident models and then tells nothing:
    run `objective=margin` or `dlr` too.

    Args:
        steps: queries of a restart. step_size: length of a step as a share of eps; 2.5 / steps if left out.
        random_start: begin at a random point of the ball, not at the clean image.
        restarts: lanes, each from another random point. restarts_in_flight: lanes of a sample that run side by side.
        momentum: share of the accumulated gradient that is kept (MI-FGSM).
        objective: what to climb: ce, margin, dlr or log-odds.
    """

    name: ClassVar[str] = "pgd"
    source: ClassVar[str] = "Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv 1706.06083, sec. 2.1"
    restarts: int = 5


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Iterative):
    """The momentum iterative method: gradients, each divided by its L1 norm, are accumulated; made to transfer.

    Args:
        steps: queries. step_size: length of a step as a share of eps.
        random_start: begin at a random point of the ball. restarts: lanes, each from another random point.
        restarts_in_flight: lanes of a sample that run side by side.
        momentum: share of the accumulated gradient that is kept; 0 gives `bim`.
        objective: what to climb: ce, margin, dlr or log-odds.
    """

    name: ClassVar[str] = "mifgsm"
    source: ClassVar[str] = "Dong et al. 2018, Boosting adversarial attacks with momentum, arXiv 1710.06081, algorithm 1"
    steps: int = 10
    step_size: float | None = 1 / 10
    random_start: bool = False
    momentum: float = 1.0


def _unit_l1(grad: Tensor) -> Tensor:
    """The gradient over its L1 norm, row by row; zero stays zero."""
    norm = row_sum(grad.abs())
    return (grad.double() / along(norm.clamp(min=1e-300), grad)).to(grad.dtype)
