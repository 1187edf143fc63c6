"""Square: random search that paints windows, seeing scores alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least
from robustbench_lite.attacks.windows import PAINTERS, Brush
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import cross_entropy, margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import Outputs
from robustbench_lite.threat import Threat

#: p halves after so many windows out of `SCHEDULED` (Andriushchenko et al. 2020, sec. 4.1)
HALVINGS, SCHEDULED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), 10_000
#: for how many queries random words are drawn at a time; drawing costs more than painting a window
DEALT = 16


def climbed(outputs: Outputs, goal: Goal) -> Tensor:
    """What Square climbs, as published: the margin, or with a target its log-probability."""
    return margin(outputs, goal) if goal.target is None else cross_entropy(outputs, goal)


@dataclass(frozen=True, kw_only=True)
class Found(State):
    """The best point so far is `adv`.

    Args:
        value: (n,), what the objective was there; -inf before the first query.
        words: (n, DEALT, w) int64, random words for this query and those around it.
    """

    value: Tensor
    words: Tensor


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search with square windows: keep what raises the margin, ask one query a window.

    It uses no gradients, so it goes where gradients are masked; a model on which it beats `pgd` masks them. In Linf it
    starts from vertical stripes of +-eps and paints windows +-eps, one colour a channel; in L2 and L1 it starts from a
    grid of bumps, empties one window and spends what was in it on a bump in another. It is weak where few queries are
    allowed and the schedule is not rescaled: then the windows stay large.

    Args:
        queries: how many a restart may cost; the first is for the starting point, each of the others for one window.
        p: share of the pixels in the first windows; halves nine times, after 10, 50, 200, 500, 1000, 2000, 4000, 6000
            and 8000 windows. The paper takes 0.05 (Linf) and 0.1 (L2) for undefended, 0.3 to 0.8 for robust models.
        restarts: how often to begin anew, with other stripes and windows; a sample stops at its first break.
        rescale: halve after these shares of 10,000 windows of `queries` instead. AutoAttack does not; with few queries
            it is stronger.
    """

    name: ClassVar[str] = "square"
    needs: ClassVar[Needs] = Needs.SCORES
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    source: ClassVar[str] = (
        "Andriushchenko, Croce, Flammarion and Hein 2020, Square Attack, arXiv 1912.00049, alg. 1-3; "
        "L1: Croce and Hein 2021, Mind the box, arXiv 2103.01208, sec. 5"
    )
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = False

    def __post_init__(self) -> None:
        at_least(self, "queries", 1)
        at_least(self, "restarts", 1)
        if not 0 < self.p <= 1:
            raise UserError(f"square: p={self.p:g}; accepted: more than 0, up to 1")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the stripes or bumps; the first step asks about them."""
        painter, lowest = PAINTERS[threat.norm], torch.full((len(x),), -torch.inf, device=x.device)
        words = torch.zeros((len(x), DEALT, painter.places + -(-x.shape[1] // 32)), dtype=torch.int64, device=x.device)
        first = painter.first(x, threat, draws)
        state: State = Found.begin(x, goal, threat, draws, first, value=lowest, words=words)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """Ask about one window more, and keep it where the objective rose."""
        assert isinstance(state, Found)
        state = _dealt(state)
        point = self._candidate(state, self.queries // oracle.draws)
        value = oracle.query(point, climbed).values[0]
        higher = value > state.value
        adv = torch.where(along(higher, point), point, state.adv)
        return replace(state, adv=adv, value=torch.where(higher, value, state.value))

    def advanced(self, before: State, after: State) -> Tensor:
        """Where the objective rose."""
        assert isinstance(before, Found)
        assert isinstance(after, Found)
        return after.value != before.value

    def length(self) -> int:
        """One query a step."""
        return self.queries

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

    def halvings(self, k: Tensor, queries: int | None = None) -> Tensor:
        """How often p was halved before the k-th query (n,), k from 0; the first window is that of query 1.

        Args:
            queries: how many there are in all, if not as many as the option says: an average over draws is paid as many.
        """
        windows = k - 1
        if self.rescale:
            windows = windows * SCHEDULED // max(1, self.queries if queries is None else queries)
        return torch.bucketize(windows, torch.tensor(HALVINGS, device=k.device))

    def sides(self, height: int, width: int, least: int = 1, odd: bool = False) -> tuple[int, ...]:
        """The sides of the windows after 0, 1, ... halvings: at least `least`, made odd, and no longer than the image."""
        rounded = [round((self.p / 2**times * height * width) ** 0.5) for times in range(len(HALVINGS) + 1)]
        wanted = [max(side, least) for side in rounded]
        return tuple(min(side + (1 - side % 2 if odd else 0), height, width) for side in wanted)

    def _candidate(self, state: Found, queries: int) -> Tensor:
        """The starting point at the first of so many queries, then the best point with one window painted anew."""
        painter, (height, width) = PAINTERS[state.threat.norm], state.x.shape[2:]
        first = state.k == 0
        if bool(first.all()):
            return state.adv
        sides = self.sides(height, width, painter.least, painter.odd)
        words = state.words[torch.arange(len(state.k), device=state.k.device), state.k % DEALT]
        brush = Brush(sides=sides, level=self.halvings(state.k, queries), words=words)
        point = painter.next(state.x, state.adv, state.threat, brush)
        return torch.where(along(first, point), state.adv, point) if bool(first.any()) else point


def _dealt(state: Found) -> Found:
    """With the words of the rows' present queries; those of rows that have them already are drawn alike."""
    if not bool((state.k % DEALT == 0).any()):
        return state
    words = state.draws.words(state.words.shape[1:].numel(), "square", state.k // DEALT)
    return replace(state, words=words.view(state.words.shape))
