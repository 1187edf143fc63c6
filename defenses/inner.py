"""Inner maximisations of adversarial trainings that no attack plugin is: climbed by the stepping of every attack."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.gradient import Ascent, gradient
from robustbench_lite.objectives import Context, Objective, cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Clean(Context):
    """What the model said of the clean images.

    Args:
        probabilities: (n, k).
    """

    probabilities: Tensor


def divergence(outputs: Outputs, goal: Goal) -> Tensor:
    """KL(p(x) || p(x')), (n,): how far the answer is from the clean one, which the goal's context knows.

    It looks at no label. At x' = x it is 0 and so is its gradient: an ascent that begins there stays there.
    """
    clean = goal.context
    assert isinstance(clean, Clean)
    return F.kl_div(outputs.scores.log_softmax(1), clean.probabilities, reduction="none").sum(1)


def kl(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(moved)) of every row, summed over the classes: (n, k), (n, k) -> (n,)."""
    return F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


_CLIMBED: dict[str, Objective] = {"kl": divergence, "ce": cross_entropy}


@dataclass(frozen=True, kw_only=True)
class Nearby(Ascent):
    """Equal steps up an objective, from a point beside the clean image: what TRADES and MART climb with.

    Zhang et al. 2019, arXiv 1901.08573, alg. 1; Wang et al. 2020, ICLR. One query more than steps, for the clean answer.

    Args:
        objective: `kl`, the divergence from the clean answer, or `ce`, the cross-entropy.
        noise: standard deviation of the normal noise that the first point is away from the image; 0: none.
        step_size: the length of every step, as a fraction of eps.
    """

    name: ClassVar[str] = "nearby"
    stride: ClassVar[float | None] = 2.5
    steps: int = 10
    step_size: float | None = 0.25
    objective: Literal["kl", "ce"] = "kl"
    noise: float = 0.001

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """Beside the clean images, whose answers the goal gets to know."""
        if self.objective == "kl":
            scores = oracle.query(x, probe=True, grads=False).scores
            assert scores is not None
            goal = replace(goal, context=Clean(probabilities=scores.softmax(1)))
        first = x if not self.noise else threat.project(x + self.noise * draws.normal(x.shape[1:], "nearby"), x)
        state: State = State.begin(x, goal, threat, draws, first)
        return state

    def slope(self, state: State, oracle: Oracle) -> tuple[State, Tensor]:
        """The objective's gradient."""
        return state, gradient(oracle, state.adv, _CLIMBED[self.objective])

    def cost(self, num_classes: int) -> Cost:
        """One query a step, and one for the clean answer."""
        return Cost(self.steps + 1, self.steps)


@dataclass(frozen=True, kw_only=True)
class WideStep(Attack):
    """One step from far away, cut at the box but not at the ball: for training alone, since it may leave the threat.

    de Jorge et al. 2022, N-FGSM, arXiv 2202.01181, eq. 5.

    Args:
        noise: radius that the first point is drawn from. step_size: length of the step. Both are fractions of eps.
    """

    name: ClassVar[str] = "wide-step"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    noise: float = 2.0
    step_size: float = 1.0

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At a random point of the wide ball."""
        first = threat.geometry.random_point(x, self.noise * threat.radius, draws, 0)
        state: State = State.begin(x, goal, threat, draws, first)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """The only one."""
        slope = gradient(oracle, state.adv, cross_entropy)
        far = self.step_size * state.threat.radius * state.threat.steepest(slope, at=state.adv)
        return replace(state, adv=(state.adv + far).clamp(0, 1))

    def length(self) -> int:
        """One step."""
        return 1

    def cost(self, num_classes: int) -> Cost:
        """One forward, one backward."""
        return Cost(1, 1)
