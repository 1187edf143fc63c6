"""The engine: a sample's fate is its own, and nobody is retired on hearsay."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import Climb, Scripted, affine, run, samples, two_layers

from robustbench_lite.attack import Needs, State, resolve_attack
from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.run import engine
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.threat import Threat

FIELDS = ("adv", "forwards", "backwards", "lane", "break_forward", "target")
LINF = Threat(norm="Linf", eps=0.02)


def assert_same(one: Outcome, other: Outcome) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name, value in vars(one.verdict).items():
        assert torch.equal(value.nan_to_num(), getattr(other.verdict, name).nan_to_num()), name


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
@pytest.mark.parametrize("stop_early", [True, False])
def test_order_and_micro_batch_do_not_change_a_byte(side_by_side: int, stop_early: bool) -> None:
    system = two_layers()
    x, y, _ = samples(system, 150)
    attack = Climb(restarts=3, side_by_side=side_by_side)
    first = run(attack, system, x, y, LINF, stop_early=stop_early)
    assert 0 < float(first.verdict.broken.double().mean()) < 1  # or the comparison says nothing
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    for shapes, order in ((Shapes(batch=128, floor=32), shuffled), (Shapes(batch=33, floor=32), shuffled.flip(0))):
        assert_same(first, run(attack, system, x, y, LINF, shapes=shapes, order=order, stop_early=stop_early))


def test_a_slice_gives_the_rows_of_the_whole() -> None:
    system = two_layers()
    x, y, _ = samples(system, 100)
    whole = run(Climb(), system, x, y, LINF)
    part = run(Climb(), system, x[:30], y[:30], LINF)
    assert_same(whole[torch.arange(30)], part)


def test_a_broken_sample_leaves_early_and_pays_less() -> None:
    system = two_layers()
    x, y, _ = samples(system, 100)
    attack = Climb(restarts=2)
    early = run(attack, system, x, y, LINF)
    full = run(attack, system, x, y, LINF, stop_early=False)
    broken = early.verdict.broken
    assert (early.forwards[broken] < full.forwards[broken]).any()
    assert (full.forwards == attack.steps * attack.restarts).all()
    assert (early.forwards[~broken] == attack.steps * attack.restarts).all()
    assert not (broken & ~full.verdict.broken).any()  # the whole path contains the short one
    assert (full.verdict.margin[broken] >= early.verdict.margin[broken]).all()


def test_a_middle_point_that_breaks_counts_though_the_last_one_does_not() -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    far = x[(y[:, None] != y[None, :]).int().argmax(1)]  # for each sample a point of another class

    def points(clean: Tensor, k: int) -> Tensor:
        place = int((x == clean).flatten(1).all(1).nonzero()[0])
        return far[place : place + 1] if k == 1 else clean

    for stop_early in (True, False):
        found = run(Scripted(points=points), system, x, y, Threat(norm="Linf", eps=1), stop_early=stop_early)
        assert found.verdict.broken.all()
        assert (found.break_forward == 2).all()


def test_an_example_outside_the_ball_is_invalid_not_a_success() -> None:
    system = affine()
    x, y, _ = samples(system, 20)
    found = run(Scripted(points=lambda clean, k: 1 - clean), system, x, y, Threat(norm="Linf", eps=0.01))
    assert not found.verdict.broken.any()
    assert not found.verdict.valid.any()
    assert (found.verdict.reason == 3).all()


class Liar(nn.Module):
    """A fast copy that takes the first class for every image that is not the clean one."""

    def __init__(self, model: nn.Module, clean: Tensor) -> None:
        super().__init__()
        self.model, self.clean = model, clean

    def forward(self, x: Tensor) -> Tensor:
        scores = self.model(x)
        known = torch.stack([(self.clean == row).flatten(1).all(1).any() for row in x])
        return torch.where(known[:, None], scores, scores.flip(1) * 2)


def test_only_the_original_confirms() -> None:
    """The search believes in breaks that are none; the verdict denies them and the rows fly on to the end."""
    system = two_layers()
    x, y, _ = samples(system, 60)
    liar = replace(system, model=Liar(system.model, x))
    attack = Climb(restarts=1)
    found = run(attack, system, x, y, LINF, fast=liar)
    again = run(attack, system, x, y, LINF, fast=liar, shapes=Shapes(batch=40, floor=32))
    assert_same(found, again)
    with torch.no_grad():
        wrong = system(found.adv).prediction() != y
    assert torch.equal(found.verdict.broken, wrong)
    assert (found.forwards[~found.verdict.broken] == attack.steps).all()


def test_the_smallest_breaking_norm_is_kept() -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 30)
    other = x[(y[:, None] != y[None, :]).int().argmax(1)]

    def points(clean: Tensor, k: int) -> Tensor:
        place = int((x == clean).flatten(1).all(1).nonzero()[0])
        share = (1.0, 0.9, 0.1)[k]
        return clean + share * (other[place : place + 1] - clean)

    found = run(Scripted(points=points), system, x, y, Threat(norm="L2"))
    length = (other - x).flatten(1).norm(dim=1)
    shares = found.verdict.norms[:, 1] / length
    with torch.no_grad():
        at = [(system(x + share * (other - x)).prediction() != y) for share in (1.0, 0.9, 0.1)]
    expected = torch.where(at[2], 0.1, torch.where(at[1], 0.9, 1.0)).double()
    assert found.verdict.broken.all()
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=0)


@dataclass(frozen=True, kw_only=True)
class Budgeted(Climb):
    """Climb that may pay six forwards."""

    name: ClassVar[str] = "budgeted"
    needs: ClassVar[Needs] = Needs.GRADIENTS

    @property
    def budget(self) -> int:
        return 6


def test_the_oracle_stops_paying_at_the_budget() -> None:
    system = two_layers()
    x, y, _ = samples(system, 50)
    found = run(Budgeted(restarts=1), system, x, y, Threat(norm="Linf", eps=0.001))
    assert not found.verdict.broken.all()
    assert int(found.forwards.max()) == 6


@dataclass(frozen=True, kw_only=True)
class Quitter(Climb):
    """Climb whose rows give up after their own number of steps."""

    name: ClassVar[str] = "quitter"

    def step(self, state: State, oracle: Oracle) -> State:
        state = super().step(state, oracle)
        return replace(state, done=state.k >= (state.goal.y % 3))


def test_done_rows_are_retired_one_by_one() -> None:
    system = two_layers()
    x, y, _ = samples(system, 60)
    found = run(Quitter(restarts=1), system, x, y, Threat(norm="Linf", eps=1e-5))
    assert not found.verdict.broken.any()
    assert torch.equal(found.forwards, y % 3 + 1)


@dataclass(frozen=True, kw_only=True)
class Dictated(Scripted):
    """Submits its last point alone: the watch sits elsewhere."""

    name: ClassVar[str] = "dictated"
    submits_last: ClassVar[bool] = True


def test_an_attack_that_submits_is_judged_once_on_its_last_point() -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    far = x[(y[:, None] != y[None, :]).int().argmax(1)]

    def points(clean: Tensor, k: int) -> Tensor:
        place = int((x == clean).flatten(1).all(1).nonzero()[0])
        return far[place : place + 1] if k == 1 else clean

    found = run(Dictated(points=points), system, x, y, Threat(norm="Linf", eps=1))
    assert not found.verdict.broken.any()


def test_draws_differ_by_lane_and_by_seed() -> None:
    system = two_layers()
    x, y, draws = samples(system, 5)
    there = LINF.random_point(x, draws)
    assert not torch.equal(there, LINF.random_point(x, draws.in_lane(1)))
    assert not torch.equal(there, LINF.random_point(x, Draws.for_images(1, x, y)))


def test_targets_of_a_targeted_threat_decide_success() -> None:
    system = two_layers()
    x, y, _ = samples(system, 60)
    threat = Threat(norm="Linf", eps=0.1, goal="targeted", target="second")
    found = run(Climb(), system, x, y, threat)
    assert torch.equal(found.verdict.broken, found.verdict.prediction == found.target)
    assert (found.target != y).all()
    assert found.verdict.broken.any()


@dataclass(frozen=True, kw_only=True)
class Weighed(Climb):
    """Climb that notes how many rows it was shown."""

    name: ClassVar[str] = "weighed"
    seen: list[int]

    def step(self, state: State, oracle: Oracle) -> State:
        self.seen.append(len(state))
        return super().step(state, oracle)


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_no_micro_batch_is_larger_than_asked_or_ends_in_part_of_a_block(side_by_side: int) -> None:
    system = two_layers()
    x, y, _ = samples(system, 150)
    liar = replace(system, model=Liar(system.model, x))  # denied rows come back on top of those that fly
    attack = Weighed(restarts=3, side_by_side=side_by_side, seen=[])
    run(attack, system, x, y, LINF, fast=liar, shapes=Shapes(batch=64, floor=32))
    assert {size for size in attack.seen if size > 32} == {64}


@pytest.mark.parametrize("step, judged", [(8 / 255, 1), (8.4 / 255, 2)], ids=["an 8-bit image", "between two"])
def test_a_point_that_is_its_8_bit_neighbour_but_for_dust_is_judged_once(
    monkeypatch: pytest.MonkeyPatch, step: float, judged: int
) -> None:
    shown = []

    def counting(system: object, x: Tensor, *rest: object, **named: object) -> object:
        shown.append(len(x))
        return judge(system, x, *rest, **named)  # type: ignore[arg-type]

    judge = engine.judge
    monkeypatch.setattr(engine, "judge", counting)
    system = affine(classes=3)
    x = (torch.rand((20, 1, 4, 4), generator=torch.Generator().manual_seed(2)) * 200).round() / 255
    y = system(x).prediction()
    unbreakable = replace(system, model=Constant(y[0].item(), classes=3))
    x = x[y == y[0]]
    y = y[y == y[0]]
    outcome = run(Scripted(points=lambda one, k: one + step, steps=1), unbreakable, x, y, Threat(norm="Linf", eps=0.1))
    assert not outcome.verdict.broken.any()
    assert sum(shown) == judged * len(x)


class Constant(nn.Module):
    def __init__(self, label: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.eye(classes)[label])

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1)


@dataclass(frozen=True, kw_only=True)
class Uneven(Climb):
    """The first lane gives up at once; the second asks about one point and ends at another, which nobody asked about."""

    name: ClassVar[str] = "uneven"
    last: Callable[[Tensor], Tensor]

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        begun = state.k > 0
        oracle.query(torch.where(along(begun, state.x), (state.x + 1e-3).clamp(max=1), state.x))
        adv = torch.where(along(begun, state.x), self.last(state.x), state.x)
        return replace(state, adv=adv, done=state.draws.lane == 0)


def test_the_last_point_is_judged_though_a_lane_beside_it_ended_before() -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    far = x[(y[:, None] != y[None, :]).int().argmax(1)]

    def last(clean: Tensor) -> Tensor:
        return far[(x[None] == clean[:, None]).flatten(2).all(2).int().argmax(1)]

    attack = Uneven(steps=2, side_by_side=2, last=last)
    liar = replace(system, model=Liar(system.model, x))
    found = run(attack, system, x, y, Threat(norm="Linf", eps=1), fast=liar)
    assert found.verdict.broken.all()


def test_few_rows_are_shown_without_copies_once_that_is_known_to_change_no_bit() -> None:
    system, sizes = two_layers(), list[int]()
    x, y, _ = samples(system, 9)
    attack, tiny = Climb(steps=40), Threat(norm="Linf", eps=1e-4)

    def counting(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        sizes.append(len(given[0]))

    padded = run(attack, system, x, y, tiny, shapes=Shapes(batch=32, floor=32, fixed=True))
    handle = system.model.register_forward_pre_hook(counting)
    snug = run(attack, system, x, y, tiny, shapes=Shapes(batch=32, floor=32))
    handle.remove()
    assert_same(padded, snug)
    assert not bool(snug.verdict.broken.any())
    assert sizes[:2] == [32, 32]  # the copies are paid for before the trial
    assert sizes.count(9) > 30


@pytest.mark.parametrize("count", [1, 3, 15, 40])
@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("norm, eps", [("Linf", 0.02), ("L2", 0.2), ("L1", 0.8)])
def test_steps_side_by_side_change_no_byte(
    norm: str, eps: float, stop_early: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, made = two_layers(), list[int]()
    x, y, _ = samples(system, count)
    attack, threat = resolve_attack("square:queries=120,restarts=2"), Threat(norm=norm, eps=eps)

    def counting(self: engine._Engine, flight: engine._Flight) -> engine._Flight:
        made.append(len(flight))
        return stepped(self, flight)

    stepped = engine._Engine._stepped
    monkeypatch.setattr(engine._Engine, "_stepped", counting)
    shapes = Shapes(batch=32, floor=32)
    together, calls = run(attack, system, x, y, threat, shapes=shapes, stop_early=stop_early), len(made)
    monkeypatch.setattr(engine._Engine, "_step", stepped)
    assert_same(together, run(attack, system, x, y, threat, shapes=shapes, stop_early=stop_early))
    assert max(made) <= 32
    if count < 4 and not stop_early:
        assert calls < 120 * 2 / 2, "fewer calls than half of the steps"


def test_few_rows_keep_their_copies_where_the_network_rounds_otherwise_without() -> None:
    class Uneven(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.inner(x)
            return scores * (1 if len(x) % 32 == 0 else 1 + 1e-6)

    system = two_layers()
    system = replace(system, model=Uneven(system.model))
    x, y, _ = samples(system, 9)
    shapes = Shapes(batch=32, floor=32)
    attack, tiny = Climb(steps=40), Threat(norm="Linf", eps=1e-4)
    assert_same(
        run(attack, system, x, y, tiny, shapes=shapes),
        run(attack, system, x, y, tiny, shapes=replace(shapes, fixed=True)),
    )
    assert shapes.few.alike == {(9, True): False}
