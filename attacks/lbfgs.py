"""The first attack on neural networks: distance plus weighted cross-entropy, minimised over the box by L-BFGS."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.quasi_newton import Minimiser
from robustbench_lite.attacks.targeted import check_target, known_target
from robustbench_lite.attacks.weights import Weights
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along, where
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Minimising(State):
    """Where a row is in both searches.

    Args:
        inner: the minimiser for the present c. taken: (n,) int64, its questions. weights: the search for c.
        hit: (n,) bool, whether the point that it holds breaks the sample.
    """

    inner: Minimiser
    taken: Tensor
    weights: Weights
    hit: Tensor


@dataclass(frozen=True, kw_only=True)
class LBFGS(Attack):
    """Minimise |x' - x|^2 - c ln p_target over the box by L-BFGS, and search for the smallest c that reaches the target.

    A c whose minimum breaks the sample is halved towards the last that did not; one whose minimum does not is raised, by
    10 as long as none did. Every c begins afresh, at the image. Of historical interest: an attack towards one class
    overstates the distance to the nearest other one, and `fmn`, `ddn` and `cw` come nearer.

    Args:
        searches: how many c are tried.
        steps: the most questions to minimise for one c, each one forward and one backward; most end far earlier.
        c: the first one.
        memory: steps that the minimiser remembers.
        target: under an untargeted threat, the class to climb towards: least-likely, random, next (label + 1), second
            (likeliest but the label), a class index, column (a label an image, which comes with the data) or all (every
            other class, one after the other).
    """

    name: ClassVar[str] = "lbfgs"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar = ("minimum-norm",)
    source: ClassVar[str] = (
        "Szegedy et al. 2014, Intriguing properties of neural networks, arXiv 1312.6199, sec. 4.1; the search for c as in "
        "CleverHans 3.1"
    )
    searches: int = 5
    steps: int = 1000
    c: float = 0.01
    memory: int = 10
    target: str = "second"

    def __post_init__(self) -> None:
        for option in ("searches", "steps", "memory"):
            at_least(self, option, 1)
        positive(self, "c")
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
            raise UserError("lbfgs: the goal has no target; give one, such as Goal(y=y, target=t)")
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        inner, weights = Minimiser.begin(x, self.memory), Weights.begin(none, self.c)
        state: State = Minimising.begin(
            x, goal, threat, draws, x, inner=inner, taken=none, weights=weights, hit=none.bool()
        )
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One question to the minimiser's function."""
        assert isinstance(state, Minimising)
        said = oracle.query(state.adv, cross_entropy)
        assert said.grads is not None
        delta, c = state.adv - state.x, state.weights.c
        value = row_sum(delta.double().square()) - c * said.values[0].double()
        slope = 2 * delta - along(c, delta).float() * said.grads[0]
        inner, accepts = state.inner.told(state.adv, value, slope)
        state = replace(
            state,
            inner=inner,
            taken=state.taken + 1,
            hit=torch.where(accepts, said.adversarial, state.hit),
            adv=inner.proposal,
        )
        over = inner.ended | (state.taken >= self.steps)
        return where(over, self._begun_again(state), state) if bool(over.any()) else state

    def length(self) -> int:
        """All questions of all searches."""
        return self.searches * self.steps

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a question."""
        return Cost(self.length(), self.length()) * self.lanes(num_classes)

    def _begun_again(self, state: Minimising) -> Minimising:
        """At the image, with the next c."""
        weights = state.weights.after(state.hit)
        return replace(
            state,
            inner=Minimiser.begin(state.x, self.memory),
            adv=state.x,
            taken=torch.zeros_like(state.taken),
            weights=weights,
            hit=torch.zeros_like(state.hit),
            done=weights.tried >= self.searches,
        )
