"""Small victims and attacks with known answers, shared by the tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.objectives import cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import concat
from robustbench_lite.run.engine import Search, search
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.verdict import look
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


class Affine(nn.Module):
    """z = W x + b in double precision, so that a row does not feel its neighbours."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.double()), nn.Parameter(bias.double())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        return ((flat[:, None, :] * self.weight[None]).sum(2) + self.bias).float()


def affine(classes: int = 3, side: int = 4, seed: int = 0) -> System:
    """A random affine classifier of 1 x side x side images."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((classes, side * side), generator=generator)
    bias = -weight.sum(1) / 2
    return System(model=Affine(weight, bias), num_classes=classes, input_shape=(1, side, side), name="affine")


def two_layers(classes: int = 5, side: int = 8, seed: int = 0) -> System:
    """A small network with ordinary layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 64), nn.ReLU(), nn.Linear(64, classes))
    return System(model=net, num_classes=classes, input_shape=(1, side, side), name="two-layers")


def samples(system: System, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Draws]:
    """Random images with the labels that the system gives them."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.rand((count, *system.input_shape), generator=generator)
    y = system(x).prediction()
    return x, y, Draws.for_images(seed, x, y)


@dataclass(frozen=True, kw_only=True)
class Climb(Attack):
    """Signed gradient steps from a random point; the engine's guinea pig."""

    name: ClassVar[str] = "climb"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    steps: int = 10
    restarts: int = 2
    side_by_side: int = 1

    def length(self) -> int:
        return self.steps

    def lanes(self, num_classes: int) -> int:
        return self.restarts

    @property
    def lanes_in_flight(self) -> int:
        return self.side_by_side

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps) * self.restarts

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, threat.random_point(x, draws))

    def step(self, state: State, oracle: Oracle) -> State:
        grads = oracle.query(state.adv, cross_entropy).grads
        assert grads is not None
        move = 0.2 * state.threat.radius * state.threat.steepest(grads[0])
        return replace(state, adv=state.threat.project(state.adv + move, state.x))


@dataclass(frozen=True, kw_only=True)
class Cascade(Attack):
    """Three stages of climbing, the later ones stronger."""

    name: ClassVar[str] = "stages"
    needs: ClassVar[Needs] = Needs.GRADIENTS

    def stages(self) -> Sequence[Attack]:
        return [Climb(steps=2, restarts=1), Climb(steps=4, restarts=1), Climb(steps=12, restarts=2)]


@dataclass(frozen=True, kw_only=True)
class Scripted(Attack):
    """Shows the points that a test gives it, one a step."""

    name: ClassVar[str] = "scripted"
    needs: ClassVar[Needs] = Needs.LABELS
    aims: ClassVar = ("fixed-eps", "minimum-norm")
    points: Callable[[Tensor, int], Tensor]
    steps: int = 3

    def length(self) -> int:
        return self.steps

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        adv = torch.stack([self.points(x[None], int(k))[0] for x, k in zip(state.x, state.k, strict=True)])
        oracle.query(adv)
        return replace(state, adv=adv)


def run(
    attack: Attack,
    system: System,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    fast: System | None = None,
    shapes: Shapes | None = None,
    order: Tensor | None = None,
    stop_early: bool = True,
) -> Outcome:
    """All outcomes of a search, in the order of the samples."""
    shapes = shapes or Shapes(batch=64, floor=32)
    draws = Draws.for_images(seed, x, y)
    job = Search(
        attack=attack,
        threat=threat,
        system=system,
        fast=fast or system,
        shapes=shapes,
        load=lambda positions: (x[positions], y[positions], draws[positions]),
        stop_early=stop_early,
    )
    order = torch.arange(len(x)) if order is None else order
    found = concat(list(search(job, order, look(system, x, y, draws, shapes))))
    return found[found.sample.argsort()]
