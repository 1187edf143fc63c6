"""C&W L2: the distance plus a weighted margin, minimised without walls; the weight is searched for."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.weights import Weights
from robustbench_lite.errors import UserError
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along, where
from robustbench_lite.threat import Threat

#: pixels stay this far inside the box, relative to its half width: at a wall itself w would be infinite
INSIDE = 1 - 1e-6
#: a loss is a new low when it is below this share of the lowest; little, since pixels at the walls hardly change it at first
LOW = 1 - 1e-6
#: a search goes on for a tenth of its steps without a new low, and for so many: Adam overshoots, then comes nearer; in the
#: last two searches, which find the nearest points, for so many
PATIENCE, PATIENCE_LAST = 10, 20
#: Adam's decay rates, and the dust in its denominator
BETA1, BETA2, DUST = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class Descent(State):
    """Where a row is in both searches.

    Args:
        w: (n, c, h, w), the point is (tanh(w) + 1) / 2. first, second: (n, c, h, w), Adam's moments.
        taken: (n,) int64, steps of the present search. weights: the search for c.
        hit: (n,) bool, whether this c has broken the sample.
        lowest: (n,) float64, the lowest loss of the search. since: (n,) int64, steps since it was reached.
    """

    w: Tensor
    first: Tensor
    second: Tensor
    taken: Tensor
    weights: Weights
    hit: Tensor
    lowest: Tensor
    since: Tensor


@dataclass(frozen=True, kw_only=True)
class CW(Attack):
    """Minimise |x' - x|^2 + c max(0, -margin) by Adam over w, x' = (tanh(w) + 1) / 2, and search for the c.

    A c that breaks the sample is halved towards the last that did not; one that does not is raised, by 10 as long as none
    did. Every c begins afresh: at the image, with Adam at rest. It is thorough, slow and a classic: `ddn` and `fmn` come
    as near in a tenth of the queries. It misleads with few steps (one search of 50 says nothing) and where the gradient
    is masked.

    The published budget is searches=9,steps=10000; the default has a tenth of it. Two things are not as published: when
    a search is aborted (there, where its loss is no lower than a tenth of its steps before), and `warm_up`. A search with
    a confidence is not offered: the nearest breaking point is what counts here.

    Args:
        searches: how many c are tried.
        steps: of Adam for each, each one forward and one backward.
        lr: Adam's step size.
        c: the first one.
        abort_early: end a search whose loss has reached no new low for a tenth of its steps; 10 at least, 20 in the last
            two searches.
        warm_up: first steps of a search whose breaks do not speak for its c: Adam leaps across a boundary that is nearer
            than its step, and returns; none: a tenth of the steps; 0, as published: every break counts.
    """

    name: ClassVar[str] = "cw"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar = ("minimum-norm",)
    source: ClassVar[str] = (
        "Carlini and Wagner 2017, Towards evaluating the robustness of neural networks, arXiv 1608.04644, sec. VI-A"
    )
    searches: int = 9
    steps: int = 1000
    lr: float = 0.01
    c: float = 1e-3
    abort_early: bool = True
    warm_up: int | None = None

    def __post_init__(self) -> None:
        at_least(self, "searches", 1)
        at_least(self, "steps", 1)
        positive(self, "lr")
        positive(self, "c")
        if self.warm_up is not None and not 0 <= self.warm_up < self.steps:
            raise UserError(f"cw: warm_up={self.warm_up}; accepted: 0 to {self.steps - 1}, fewer than steps, or none")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """Before the first search."""
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        w, rest = unsquashed(x), torch.zeros_like(x)
        state: State = Descent.begin(
            x,
            goal,
            threat,
            draws,
            squashed(w),
            w=w,
            first=rest,
            second=rest,
            taken=none,
            weights=Weights.begin(none, self.c),
            hit=none.bool(),
            lowest=none + torch.inf,
            since=none,
        )
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """One step of Adam, or the first of the next search."""
        assert isinstance(state, Descent)
        said = oracle.query(state.adv, margin)
        assert said.grads is not None
        delta, missing, c = state.adv - _inside(state.x), -said.values[0].double(), state.weights.c
        loss = row_sum(delta.double().square()) + c * missing.clamp(min=0)
        push = along(c * (missing > 0), delta).float() * said.grads[0]
        speaks = state.taken >= (self.steps // 10 if self.warm_up is None else self.warm_up)
        state = self._noted(replace(state, hit=state.hit | (said.adversarial & speaks)), loss)
        state = self._descended(state, 2 * delta - push)
        over = self._stalled(state) | (state.taken >= self.steps)
        return where(over, self._begun_again(state), state) if bool(over.any()) else state

    def length(self) -> int:
        """All steps of all searches."""
        return self.searches * self.steps

    def cost(self, num_classes: int) -> Cost:
        """One forward and one backward a step."""
        return Cost(self.length(), self.length())

    def _noted(self, state: Descent, loss: Tensor) -> Descent:
        low = loss < LOW * state.lowest
        since = torch.where(low, 0, state.since + 1)
        return replace(state, lowest=torch.where(low, loss, state.lowest), since=since)

    def _stalled(self, state: Descent) -> Tensor:
        if not self.abort_early:
            return torch.zeros_like(state.done)
        tenth, last_two = self.steps // 10, state.weights.tried >= self.searches - 2
        return state.since >= torch.where(last_two, max(PATIENCE_LAST, tenth), max(PATIENCE, tenth))

    def _descended(self, state: Descent, slope: Tensor) -> Descent:
        """The next point; `slope` is that of the loss by the pixels."""
        slope = slope * (2 * state.adv.double() * (1 - state.adv.double())).float()  # (1 - tanh(w)^2) / 2
        first, second = BETA1 * state.first + (1 - BETA1) * slope, BETA2 * state.second + (1 - BETA2) * slope.square()
        taken = state.taken + 1
        size, width = (along(1 - torch.pow(beta, taken.double()), slope).float() for beta in (BETA1, BETA2))
        w = state.w - self.lr * (first / size) / ((second / width).sqrt() + DUST)
        return replace(state, w=w, adv=squashed(w), first=first, second=second, taken=taken)

    def _begun_again(self, state: Descent) -> Descent:
        """At the image, with the next c."""
        weights, w, rest = state.weights.after(state.hit), unsquashed(state.x), torch.zeros_like(state.w)
        if self.searches >= 10:  # as published, a long search ends with the smallest c that is known to break
            last = (weights.tried == self.searches - 1) & (weights.high < torch.inf)
            weights = replace(weights, c=torch.where(last, weights.high, weights.c))
        return replace(
            state,
            w=w,
            adv=squashed(w),
            first=rest,
            second=rest,
            taken=torch.zeros_like(state.taken),
            weights=weights,
            hit=torch.zeros_like(state.hit),
            lowest=torch.full_like(state.lowest, torch.inf),
            since=torch.zeros_like(state.since),
            done=weights.tried >= self.searches,
        )


def squashed(w: Tensor) -> Tensor:
    """Any numbers as pixels, (tanh(w) + 1) / 2."""
    # In float64, so that the last bit, which may differ with the place in memory, is gone after rounding to float32.
    return ((w.double().tanh() + 1) / 2).float()


def unsquashed(x: Tensor) -> Tensor:
    """The w of pixels that are moved 1e-6 of the way to mid-grey."""
    return ((2 * x.double() - 1) * INSIDE).atanh().float()


def _inside(x: Tensor) -> Tensor:
    """What comes back of an image through `unsquashed` and `squashed`."""
    return (((2 * x.double() - 1) * INSIDE + 1) / 2).float()
