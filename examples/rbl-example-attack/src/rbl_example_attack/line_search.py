"""A line search: one gradient, several looks along it."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from robustbench_lite import UserError
from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Line(State):
    """Where each image stands, and the far end of its line, (n, c, h, w)."""

    far: Tensor


@dataclass(frozen=True, kw_only=True)
class LineSearch(Attack):
    """Walk in a straight line to where the margin, taken as linear, is largest, and look at evenly spaced points.

    The last look is FGSM's point (with the margin for its objective), so what it finds beyond FGSM is what FGSM steps
    over. It misleads wherever the way to a break is not straight: it never turns, so an image that holds out says little.

    Args:
        looks: points on the line, each one forward; the direction costs a forward and a backward besides.
    """

    name: ClassVar[str] = "line-search"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    looks: int = 10

    def __post_init__(self) -> None:
        if self.looks < 1:
            raise UserError(f"line-search: looks={self.looks}; accepted: 1 and more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images, with a direction."""
        grads = oracle.query(x, margin).grads
        assert grads is not None  # it has declared Needs.GRADIENTS
        line: State = Line.begin(x, goal, threat, draws, x, far=threat.extreme(x, grads[0]))
        return line

    def step(self, state: State, oracle: Oracle) -> State:
        """One look, a bit further out. The engine counts the steps of every row in `state.k`."""
        assert isinstance(state, Line)
        share = along((state.k + 1) / self.looks, state.x)
        adv = state.threat.project(state.x + share * (state.far - state.x), state.x)
        oracle.query(adv, grads=False)
        return replace(state, adv=adv)

    def length(self) -> int:
        """One step a look."""
        return self.looks

    def cost(self, num_classes: int) -> Cost:
        """The direction, then a forward a look."""
        return Cost(1 + self.looks, 1)
