"""Climb an objective by its gradient, in one step or in many: FGSM, BIM, PGD, MI-FGSM.

There is one iteration, `Ascent`; the iterative attacks are its options' settings.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import Objective, named
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

Climbed = Literal["ce", "margin", "dlr", "log-odds"]


def gradient(oracle: Oracle, at: Tensor, objective: Objective) -> Tensor:
    """The objective's gradient at the points `at`, (n, c, h, w); one forward and one backward."""
    grads = oracle.query(at, objective).grads
    assert grads is not None  # whoever asks has declared Needs.GRADIENTS
    return grads[0]


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Go to the point of ball and box where the objective, taken as linear, is largest.

    In Linf that is x + eps sign(gradient), cut at the box; in L2 along the gradient, in L1 and L0 the largest slopes
    first, each up to its wall. It misleads wherever the objective is not linear over the ball: a model that one step
    does not break is not robust, and where one step beats `pgd` the gradients are masked.

    Args:
        objective: ce, margin, dlr or log-odds (z_target - z_true; without a target, the margin).
    """

    name: ClassVar[str] = "fgsm"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    source: ClassVar[str] = (
        "Goodfellow, Shlens and Szegedy 2015, Explaining and harnessing adversarial examples, arXiv 1412.6572, sec. 4"
    )
    objective: Climbed = "ce"

    def __post_init__(self) -> None:
        one_of(self, "objective", get_args(Climbed))

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """The only one."""
        slope = gradient(oracle, state.adv, named(self.objective))
        return replace(state, adv=state.threat.extreme(state.x, slope))

    def length(self) -> int:
        """One step."""
        return 1

    def cost(self, num_classes: int) -> Cost:
        """One forward, one backward."""
        return Cost(1, 1)


@dataclass(frozen=True, kw_only=True)
class Ascent(Attack):
    """Steepest ascent inside ball and box; what the iterative attacks share.

    Args:
        steps: queries per lane, each one forward and one backward.
        step_size: the length of every step, as a fraction of eps. Left out, an attack follows its own rule: equal steps
            that add up to `stride` eps; or, where `stride` is None, a first step to the end of the ball, as FGSM's, and
            then steps that shrink evenly from 2 eps, the width of the ball, to 0.
        random_start: begin at a random point of the ball, not at the clean image.
    """

    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    stride: ClassVar[float | None] = None
    steps: int = 100
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        at_least(self, "steps", 1)
        positive(self, "step_size")

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """Ask the oracle, and say where to climb: the state with what it remembers, and a direction (n, c, h, w)."""
        raise NotImplementedError

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point of the ball, or at the clean images."""
        state: State = State.begin(x, goal, threat, draws, self._first_point(x, threat, draws))
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Up, and back into ball and box."""
        state, slope = self.slope(state, oracle)
        return replace(state, adv=self.move(state, slope))

    def length(self) -> int:
        """The steps of one lane."""
        return self.steps

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step and lane."""
        return Cost(self.steps, self.steps) * self.lanes(num_classes)

    def move(self, state: State, slope: Tensor) -> Tensor:
        """The next point."""
        threat = state.threat
        far = along(self.reach(state.k) * threat.radius, slope).to(slope.dtype)
        adv = threat.project(state.adv + far * threat.ascent(slope, at=state.adv), state.x)
        leaps = state.k == 0
        if self._shrinks and bool(leaps.any()):  # rows of different ages share a batch
            adv = torch.where(along(leaps, adv), threat.extreme(state.x, slope), adv)
        return adv

    def reach(self, k: Tensor) -> Tensor:
        """How far the k-th step of each row goes, as a fraction of eps: (n,) int64 -> (n,) float64."""
        if self._shrinks:
            return 2.0 * (1.0 - k.double() / self.steps)
        size = self.step_size if self.step_size is not None else (self.stride or 0.0) / self.steps
        return torch.full_like(k, size, dtype=torch.float64)

    @property
    def _shrinks(self) -> bool:
        return self.step_size is None and self.stride is None

    def _first_point(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        return threat.random_point(x, draws) if self.random_start else x


@dataclass(frozen=True, kw_only=True)
class Climb(State):
    """A state that remembers where it was heading.

    Args:
        velocity: (n, c, h, w), the decayed sum of the normalised gradients; None without momentum.
    """

    velocity: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class PGD(Ascent):
    """Projected gradient descent: climb along the norm's steepest direction, project into ball and box, begin again.

    Every point on the way counts, not the last alone. With `step_size` left out the first step goes to the end of the
    ball, as FGSM's does, and the later ones shrink evenly from 2 eps to 0. That is exact on affine models of two
    classes, and at the same cost stronger than equal steps of 2.5 eps / steps, which stop short (ResNet-20, 500 images
    of CIFAR-10, 40 steps at Linf 1/255: 74 hold out, not 94). A paper's settings are written out:
    `pgd:steps=20,step_size=1/4,restarts=1` is Madry's 20 steps of 2/255 at 8/255. Cross-entropy dies where a model is
    very confident, and masked gradients stop all of it: try objective=margin or dlr, and read the diagnostics.

    Args:
        steps: queries per restart, each one forward and one backward.
        step_size: the length of every step, as a fraction of eps; none: shrinking steps.
        random_start: begin at a random point of the ball, not at the clean image.
        objective: ce, margin, dlr or log-odds (z_target - z_true; without a target, the margin).
        momentum: how much of the former direction a step keeps; 0 is plain ascent, 1 what MI-FGSM does.
        restarts: how often to begin anew, each time at another random point (without random_start: once); a sample
            stops at its first break.
        restarts_in_flight: how many restarts of a sample run side by side.
    """

    name: ClassVar[str] = "pgd"
    source: ClassVar[str] = (
        "Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv 1706.06083, sec. 2.1"
    )
    objective: Climbed = "ce"
    momentum: float = 0.0
    restarts: int = 5
    restarts_in_flight: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "objective", get_args(Climbed))
        at_least(self, "momentum", 0)
        at_least(self, "restarts", 1)
        at_least(self, "restarts_in_flight", 1)

    def lanes(self, num_classes: int) -> int:
        """One a restart; without a random start all would be alike, so there is one."""
        return self.restarts if self.random_start else 1

    @property
    def lanes_in_flight(self) -> int:
        """As the option says."""
        return self.restarts_in_flight

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point of the ball, or at the clean images; at rest."""
        velocity = torch.zeros_like(x) if self.momentum else None
        first = self._first_point(x, threat, draws)
        state: State = Climb.begin(x, goal, threat, draws, first, velocity=velocity)
        return state

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The gradient; with momentum, added to what is left of the former ones."""
        assert isinstance(state, Climb)
        grad = gradient(oracle, self.point(state), named(self.objective))
        if state.velocity is None:
            return state, grad
        velocity = self.momentum * state.velocity + normalised(grad)
        return replace(state, velocity=velocity), velocity

    def point(self, state: Climb) -> Tensor:
        """Where the gradient is taken."""
        return state.adv


def normalised(grad: Tensor) -> Tensor:
    """Each row divided by its L1 norm; a row of zeros stays as it is."""
    size = row_sum(grad.abs()).clamp(min=torch.finfo(grad.dtype).tiny)
    return grad / along(size, grad).to(grad.dtype)


@dataclass(frozen=True, kw_only=True)
class BIM(PGD):
    """The basic iterative method: small equal steps from the clean image, no restarts.

    With `step_size` left out they add up to 1.25 eps: the paper's rule, min(eps + 4, 1.25 eps) steps of one level, is
    10 steps of eps / 8 at 8/255 and 20 of eps / 16 at 16/255. It ends where the slope at the clean image leads, and
    where that slope is masked it finds nothing; `pgd` is the evaluation.

    Args:
        step_size: the length of every step, as a fraction of eps; none: 1.25 / steps.
    """

    name: ClassVar[str] = "bim"
    source: ClassVar[str] = (
        "Kurakin, Goodfellow and Bengio 2017, Adversarial examples in the physical world, arXiv 1607.02533, sec. 2.2"
    )
    stride: ClassVar[float | None] = 1.25
    steps: int = 10
    random_start: bool = False
    restarts: int = 1


@dataclass(frozen=True, kw_only=True)
class MIFGSM(PGD):
    """The momentum iterative method: equal steps of eps / steps along a decayed sum of gradients, each of L1 norm 1.

    The sum smooths the path, so that examples transfer to other models; against the model itself `pgd` is stronger.
    momentum=0 is the basic iterative method with these steps.

    Args:
        step_size: the length of every step, as a fraction of eps; none: 1 / steps.
        momentum: how much of the former direction a step keeps; the paper's decay factor mu.
        lookahead: take the gradient where the momentum alone would lead (NI-FGSM; Lin et al. 2020, arXiv 1908.06281);
            that point may lie outside of ball and box.
    """

    name: ClassVar[str] = "mifgsm"
    source: ClassVar[str] = "Dong et al. 2018, Boosting adversarial attacks with momentum, arXiv 1710.06081, alg. 1"
    stride: ClassVar[float | None] = 1.0
    steps: int = 10
    random_start: bool = False
    momentum: float = 1.0
    restarts: int = 1
    lookahead: bool = False

    def point(self, state: Climb) -> Tensor:
        """Here, or one step of the momentum ahead, whose mean gradient is taken as long as a step in each pixel."""
        if not self.lookahead or state.velocity is None:
            return state.adv
        threat, velocity = state.threat, state.velocity
        size = row_sum(threat.steepest(torch.ones_like(velocity)).abs()) * threat.radius * self.momentum
        return state.adv + along(self.reach(state.k) * size, velocity).to(velocity.dtype) * velocity
