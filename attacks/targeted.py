"""Iterative targeted attacks: make the model say a class of our choice."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import named
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import TARGET_RULES, Threat

_RULES = (*TARGET_RULES, "all", "column")


@dataclass(frozen=True, kw_only=True)
class Targeted(Attack):
    """Climb towards a class that was chosen on the clean image.

    Under an untargeted threat any wrong answer breaks; whether the target itself was reached is recorded besides. Images
    whose label is the target are left out and counted. `squared` stalls where the model is certain of a wrong class.

    Args:
        target: `least-likely`, `random` (neither the label nor the answer), `next`, `second`, a class index, `column` (the
            user's own, one an image), or `all`: every class but the label, one lane each.
        objective: `log-odds`, ln p_target - ln p_true, which never saturates; `ce`, ln p_target; `squared`,
            -||p - e_target||^2 / 2 - image_weight * ||x - x_0||^2.
        image_weight: of the distance to the clean image, for `squared`.
        steps: queries of a lane. step_size: length of a step as a share of eps; 2.5 / steps if left out.
        raw: step along the gradient itself, `step_size` times it, instead of the norm's steepest direction.
        random_start: begin at a random point of the ball.
    """

    name: ClassVar[str] = "targeted"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = (
        "Kurakin, Goodfellow, Bengio 2017, arXiv 1607.02533, sec. 2.3 (least-likely class); "
        "Carlini and Wagner 2017, arXiv 1608.04644, sec. III (choice of targets)"
    )
    target: str = "least-likely"
    objective: Literal["log-odds", "ce", "squared"] = "log-odds"
    image_weight: float = 0.0
    steps: int = 100
    step_size: float | None = None
    raw: bool = False
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.target not in _RULES and not self.target.isdecimal():
            raise UserError(f"targeted: target={self.target}; accepted: {', '.join(_RULES)}, a class index")
        if self.steps < 1:
            raise UserError(f"targeted: steps={self.steps}; accepted: 1 and more")
        if self.step_size is not None and not self.step_size > 0:
            raise UserError(f"targeted: step_size={self.step_size:g}; accepted: above 0")
        if self.raw and self.step_size is None:
            raise UserError("targeted: raw=true needs a step_size, by which the gradient is multiplied")
        if self.image_weight < 0 or (self.image_weight and self.objective != "squared"):
            raise UserError(f"targeted: image_weight={self.image_weight:g}; accepted: 0 and more, with objective=squared")

    @property
    def target_rule(self) -> str:
        return self.target

    def length(self) -> int:
        return self.steps

    def lanes(self, num_classes: int) -> int:
        return num_classes - 1 if self.target == "all" else 1

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps) * self.lanes(num_classes)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        adv = threat.random_point(x, draws) if self.random_start else x
        return State.begin(x, goal, threat, draws, adv)

    def step(self, state: State, oracle: Oracle) -> State:
        grads = oracle.query(state.adv, named(self.objective)).grads
        assert grads is not None
        grad = grads[0]
        if self.image_weight:
            grad = grad - (2 * self.image_weight) * (state.adv - state.x)
        return replace(state, adv=state.threat.project(state.adv + self._move(state, grad), state.x))

    def _move(self, state: State, grad: Tensor) -> Tensor:
        if self.raw:
            assert self.step_size is not None
            return self.step_size * grad
        stride = 2.5 / self.steps if self.step_size is None else self.step_size
        return (stride * state.threat.radius) * state.threat.steepest(grad, state.adv)
