"""The boundary attack: a random walk along the boundary, a little nearer at each step."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite.attack import Cost, Goal, Needs, State
from robustbench_lite.attacks.options import at_least, positive
from robustbench_lite.attacks.starts import FromAfar, behind, to_boundary
from robustbench_lite.norms import norm
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: proposals of one round; one more query sees whether the sideways part alone breaks
ROUND = 10
#: by how much steps grow and shrink; a source step this small has converged
FACTOR, CONVERGED = 1.5, 1e-7
#: how near the walk begins to the boundary, as a part of its distance
START = 1e-3


@dataclass(frozen=True, kw_only=True)
class Window:
    """Whether the last tries of a row were successes.

    Args:
        size: how many tries it holds. high, low: rates above and below which a step is too short or too long.
    """

    size: int
    high: float
    low: float

    def seen(self, tries: Tensor, success: Tensor) -> tuple[Tensor, Tensor]:
        """The tries (n, 1 + size), whose first column counts them, after one more (n,); and a factor (n,) for the step,
        after which a row begins to count anew."""
        count, past = tries[:, :1], tries[:, 1:]
        place = torch.arange(self.size, device=tries.device) == count % self.size
        past, count = torch.where(place, success[:, None].to(tries.dtype), past), count + 1
        rate, full = past.sum(1) / self.size, count[:, 0] >= self.size
        factor = torch.where(full & (rate > self.high), FACTOR, torch.where(full & (rate < self.low), 1 / FACTOR, 1.0))
        count = torch.where((factor != 1)[:, None], 0, count)
        return torch.cat((count, past), 1), factor.to(torch.float64)


SIDEWAYS, WHOLE = Window(size=100, high=0.5, low=0.2), Window(size=30, high=0.25, low=0.1)


@dataclass(frozen=True, kw_only=True)
class Walk(State):
    """Where the walk is.

    Args:
        point: (n, c, h, w), seen to break.
        sideways, inwards: (n,) float64, the present length of the two steps, as parts of the distance.
        sideways_tries, whole_tries: (n, 1 + size), see `Window`.
    """

    point: Tensor
    sideways: Tensor
    inwards: Tensor
    sideways_tries: Tensor
    whole_tries: Tensor


@dataclass(frozen=True, kw_only=True)
class Boundary(FromAfar):
    """Walk at random along the boundary; every proposal goes a step sideways, at the same distance, and one inwards.

    It starts where `hopskipjump` does and asks for one label a proposal: what breaks and is nearer is kept. The lengths
    of both steps follow each row's own successes. Its walk is long: with the same queries `hopskipjump` comes nearer
    (by far in the first thousands), so this is a control, and a start where boundaries are too rough for a normal. A
    sample without a start is unbroken, at norm infinity.

    One step is a round of ten proposals and one query that goes sideways alone, so all rows are always in the same
    phase and no place in a micro-batch is idle.

    Args:
        queries: the most forwards a sample may cost, everything included.
        sideways: length of the first steps along the sphere, as a part of the distance.
        inwards: length of the first steps towards the clean image, as a part of the distance.
    """

    name: ClassVar[str] = "boundary"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    aims: ClassVar[tuple[Literal["fixed-eps", "minimum-norm"], ...]] = ("minimum-norm", "fixed-eps")
    source: ClassVar[str] = (
        "Brendel, Rauber and Bethge 2018, Decision-based adversarial attacks, arXiv 1712.04248, sec. 2"
    )
    queries: int = 25_000
    sideways: float = 0.01
    inwards: float = 0.01

    def __post_init__(self) -> None:
        at_least(self, "queries", 1)
        positive(self, "sideways")
        positive(self, "inwards")

    @property
    def budget(self) -> int:
        """As the option says."""
        return self.queries

    def length(self) -> int:
        """As many rounds as the budget pays for; the last may be cut short."""
        return -(-self.queries // (ROUND + 1))

    def cost(self, num_classes: int) -> Cost:
        """The budget."""
        return Cost(self.queries)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """Near the boundary, between the clean image and a point that breaks."""
        far, found = self.first_break(x, goal, draws, oracle)
        point = to_boundary(far, x, threat, oracle, found, START)
        one = torch.ones(len(x), dtype=torch.float64, device=x.device)
        state: State = Walk.begin(
            x,
            goal,
            threat,
            draws,
            torch.where(along(found, x), behind(point, x, threat), x),
            point=point,
            sideways=self.sideways * one,
            inwards=self.inwards * one,
            sideways_tries=x.new_zeros((len(x), 1 + SIDEWAYS.size)),
            whole_tries=x.new_zeros((len(x), 1 + WHOLE.size)),
        )
        return replace(state, done=~found)

    def step(self, state: State, oracle: Oracle) -> State:
        """One round."""
        assert isinstance(state, Walk)
        for number in range(ROUND):
            beside, there = self.proposal(state, number)
            last = number == ROUND - 1
            asked = ~(state.done | oracle.exhausted)
            aside = oracle.query(beside, probe=True, asking=asked).adversarial if last else asked
            whole = oracle.query(there, asking=asked).adversarial
            euclid = state.threat.distance
            nearer = whole & (euclid(there, state.x) < euclid(state.point, state.x))
            state = replace(state, point=torch.where(along(nearer, there), there, state.point))
            state = self._adapted(state, asked, aside, whole) if last else state
        adv = torch.where(along(state.done, state.adv), state.adv, behind(state.point, state.x, state.threat))
        return replace(state, adv=adv, done=state.done | (state.inwards < CONVERGED))

    def proposal(self, state: Walk, number: int) -> tuple[Tensor, Tensor]:
        """The two points of one proposal: sideways on the sphere around x, and from there inwards."""
        x, wild = state.x, state.draws.normal(state.x.shape[1:], "proposal", state.k, number)
        back, euclid = x - state.point, norm("L2").distance
        far = euclid(back)
        square = (far**2).clamp(min=torch.finfo(torch.float64).tiny)
        across = wild - along((row_sum(wild * back) / square).to(x.dtype), x) * back
        across = along((state.sideways * far / euclid(across)).to(x.dtype), x) * across
        shrink = along((1 + state.sideways**2).rsqrt().to(x.dtype), x)  # back onto the sphere
        beside = (x + shrink * (across - back)).clamp(0, 1)
        rest = euclid(x - beside)
        inwards = ((state.inwards * far + rest - far).clamp(min=0) / rest.clamp(min=1e-30)).clamp(max=1)
        return beside, (beside + along(inwards.to(x.dtype), x) * (x - beside)).clamp(0, 1)

    def _adapted(self, state: Walk, asked: Tensor, aside: Tensor, whole: Tensor) -> Walk:
        """The state with the steps made longer or shorter, where a row asked."""
        sideways_tries, both = SIDEWAYS.seen(state.sideways_tries, aside)
        whole_tries, inwards = WHOLE.seen(state.whole_tries, whole)
        return replace(
            state,
            sideways=torch.where(asked, state.sideways * both, state.sideways),
            inwards=torch.where(asked, state.inwards * both * inwards, state.inwards),
            sideways_tries=torch.where(asked[:, None], sideways_tries, state.sideways_tries),
            whole_tries=torch.where(asked[:, None], whole_tries, state.whole_tries),
        )
