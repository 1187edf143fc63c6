"""Climb a gradient that is estimated from differences of scores: NES and SPSA."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import named
from robustbench_lite.oracle import Answer, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Estimated(Attack):
    """Ascent along an estimated gradient; what NES and SPSA share.

    A step asks `samples` probes, in pairs on both sides of the present point, moves, and asks about the new point, which
    alone may break the sample. The last step takes what is left of the queries.

    Args:
        queries: how many a restart may cost.
        samples: probes a step, an even number.
        sigma: how far a probe lies from the point, in each pixel on average; probes are cut at the box, as no other
            image could be shown.
        step_size: length of a step, as a fraction of eps.
        objective: ce or margin.
        restarts: how often to begin anew, with other probes; a sample stops at its first break.
    """

    needs: ClassVar[Needs] = Needs.SCORES
    queries: int = 10000
    samples: int = 50
    sigma: float = 0.001
    step_size: float = 0.2
    objective: Literal["ce", "margin"] = "ce"
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least(self, "queries", 1)
        at_least(self, "samples", 2)
        at_least(self, "restarts", 1)
        positive(self, "sigma")
        positive(self, "step_size")
        one_of(self, "objective", ("ce", "margin"))
        if self.samples % 2:
            raise UserError(f"{self.name}: samples={self.samples}; accepted: an even number, the probes come in pairs")

    def noise(self, state: State, pair: int) -> Tensor:
        """The direction of a pair of probes, (n, c, h, w), each value of variance 1."""
        raise NotImplementedError

    def moved(self, state: State, slope: Tensor) -> State:
        """The state at the next point, given the estimated gradient."""
        raise NotImplementedError

    def noted(self, state: State, value: Tensor) -> State:
        """The state that knows the objective (n,) at its new point."""
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Estimate, move, look."""
        after = self.moved(state, self.slope(state, oracle))
        return self.noted(after, oracle.query(after.adv, named(self.objective)).values[0])

    def slope(self, state: State, oracle: Oracle) -> Tensor:
        """The mean over pairs of (f(x + sigma u) - f(x - sigma u)) u / (2 sigma), (n, c, h, w)."""
        pairs, noise = self._pairs(state.k, oracle), state.adv

        def probe(number: int) -> Tensor:
            nonlocal noise
            if number % 2 == 0:
                noise = self.noise(state, number // 2)
            return (state.adv + (self.sigma if number % 2 == 0 else -self.sigma) * noise).clamp(0, 1)

        def fold(so_far: tuple[Tensor, Tensor], number: int, said: Answer) -> tuple[Tensor, Tensor]:
            ahead, total = so_far
            if number % 2 == 0:
                return said.values[0], total
            rise = ahead - said.values[0]
            return ahead, total + along(torch.where(rise.isfinite(), rise, 0.0), noise) * noise

        nothing = torch.zeros_like(state.adv)
        total = oracle.many(probe, 2 * pairs, fold, (nothing.flatten(1)[:, 0], nothing), named(self.objective))[1]
        return total / along(2 * self.sigma * pairs.clamp(min=1), total)

    def length(self) -> int:
        """As many steps as the queries suffice for, and one with what is left."""
        return -(-self.queries // (self.samples + 1))

    def lanes(self, num_classes: int) -> int:
        """One a restart."""
        return self.restarts

    @property
    def budget(self) -> int:
        """The queries of one restart."""
        return self.queries

    def cost(self, num_classes: int) -> Cost:
        """One forward a query."""
        return Cost(self.queries) * self.restarts

    def _pairs(self, k: Tensor, oracle: Oracle) -> Tensor:
        """How many pairs of probes the k-th step may ask, (n,) int64: all, or what leaves a query for the new point."""
        left = torch.minimum(self.queries - k * (self.samples + 1), oracle.left)  # fewer where a query is many draws
        return ((left - 1) // 2).clamp(min=0, max=self.samples // 2)


@dataclass(frozen=True, kw_only=True)
class Drift(State):
    """Args:
    velocity: (n, c, h, w), the running mean of the estimated gradients.
    reach: (n,), the length of the next step, as a fraction of eps.
    past: (n, plateau), the objective at the last points, the latest last; -inf where there is none.
    """

    velocity: Tensor
    reach: Tensor
    past: Tensor


@dataclass(frozen=True, kw_only=True)
class NES(Estimated):
    """Natural evolution strategies: estimate the gradient from pairs of Gaussian probes and climb it.

    The gradient of a smoothed model is what it follows, at `samples` + 1 queries a step: where scores are rounded or
    flat at the scale of sigma it sees nothing, and `square` needs far fewer queries on most models. The steps halve
    where the objective is lower than `plateau` points before.

    Args:
        step_size: length of the first steps, as a fraction of eps.
        least: the shortest steps, as a fraction of eps.
        momentum: how much of the former estimates a step keeps.
        plateau: how many points back the objective is compared.
    """

    name: ClassVar[str] = "nes"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = (
        "Ilyas et al. 2018, Black-box adversarial attacks with limited queries and information, arXiv 1804.08598, sec. 3.1"
    )
    least: float = 0.001
    momentum: float = 0.9
    plateau: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "least")
        at_least(self, "plateau", 2)
        if not 0 <= self.momentum < 1:
            raise UserError(f"nes: momentum={self.momentum:g}; accepted: 0 up to, but not including, 1")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        past = torch.full((len(x), self.plateau), -torch.inf, device=x.device)
        reach, still = torch.full_like(past[:, 0], self.step_size), torch.zeros_like(x)
        state: State = Drift.begin(x, goal, threat, draws, x, velocity=still, reach=reach, past=past)
        return state

    def noise(self, state: State, pair: int) -> Tensor:
        """Gaussian."""
        return state.draws.normal(state.x.shape[1:], "nes", state.k, pair)

    def moved(self, state: State, slope: Tensor) -> State:
        """One step along the running mean."""
        assert isinstance(state, Drift)
        velocity = self.momentum * state.velocity + (1 - self.momentum) * slope
        move = along(state.reach * state.threat.radius, velocity) * state.threat.ascent(velocity, at=state.adv)
        return replace(state, adv=state.threat.project(state.adv + move, state.x), velocity=velocity)

    def noted(self, state: State, value: Tensor) -> State:
        """Steps half as long after a plateau."""
        assert isinstance(state, Drift)
        past = torch.cat((state.past[:, 1:], value[:, None]), 1)
        worse = past[:, -1] < past[:, 0]
        reach = torch.where(worse, (state.reach / 2).clamp(min=min(self.least, self.step_size)), state.reach)
        return replace(state, reach=reach, past=past.masked_fill(worse[:, None], -torch.inf))


@dataclass(frozen=True, kw_only=True)
class Moments(State):
    """Args:
    mean, square: (n, c, h, w), Adam's running means of the estimated gradients and of their squares.
    """

    mean: Tensor
    square: Tensor


@dataclass(frozen=True, kw_only=True)
class SPSA(Estimated):
    """Simultaneous perturbation: estimate the gradient from pairs of random corners, climb the margin by Adam.

    Many probes a step and few steps: with `samples` in the thousands it is a slow and steady test of masked gradients.
    """

    name: ClassVar[str] = "spsa"
    norms: ClassVar[tuple[str, ...]] = ("Linf",)
    source: ClassVar[str] = (
        "Uesato et al. 2018, Adversarial risk and the dangers of evaluating against weak attacks, arXiv 1802.05666, sec. 4"
    )
    samples: int = 256
    sigma: float = 0.01
    step_size: float = 0.3
    objective: Literal["ce", "margin"] = "margin"

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        zero = torch.zeros_like(x)
        state: State = Moments.begin(x, goal, threat, draws, x, mean=zero, square=zero)
        return state

    def noise(self, state: State, pair: int) -> Tensor:
        """-1 or +1."""
        return state.draws.signs(state.x.shape[1:], "spsa", state.k, pair)

    def moved(self, state: State, slope: Tensor) -> State:
        """One step of Adam (Kingma and Ba 2015, arXiv 1412.6980, alg. 1, with its defaults)."""
        assert isinstance(state, Moments)
        mean, square = 0.9 * state.mean + 0.1 * slope, 0.999 * state.square + 0.001 * slope.square()
        begun = [(1 - 0.9**age, 1 - 0.999**age) for age in range(1, self.length() + 1)]  # how far the means have come
        first, second = along(torch.tensor(begun, device=slope.device)[state.k].T.contiguous().view(-1), slope).chunk(2)
        move = self.step_size * state.threat.radius * (mean / first) / ((square / second).sqrt() + 1e-8)
        return replace(state, adv=state.threat.project(state.adv + move, state.x), mean=mean, square=square)
