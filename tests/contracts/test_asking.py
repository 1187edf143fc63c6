"""Who asks pays, and nobody else; what `craft` and `Asker` add to an oracle."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from contracts.culprits import Honest
from torch import Tensor, nn

from robustbench_lite.attack import Asker, Goal, State, craft, resolve_attack
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import EOT, Answer, Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, concat
from robustbench_lite.system import System
from robustbench_lite.testing.bench import SHAPE, images, victim
from robustbench_lite.threat import Threat

X = images(6)
SYSTEM = victim(4)
Y = SYSTEM(X).prediction()
DRAWS = Draws.for_images(0, X, Y)
LINF = Threat(norm="Linf", eps=0.3)


def asked(needs: Needs = Needs.GRADIENTS, y: Tensor = Y) -> Oracle:
    return Oracle(SYSTEM, needs, X, Goal(y=y), LINF, DRAWS)


def test_a_row_that_does_not_ask_pays_nothing_and_learns_nothing() -> None:
    oracle, asking = asked(y=(Y + 1) % 4), torch.tensor([True, False, True, False, True, False])
    said = oracle.query(X, margin, asking=asking)
    quiet = ~asking
    assert oracle.ledger.forwards.tolist() == oracle.ledger.backwards.tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(oracle.ledger.found, asking)  # every point is an answer that is not y
    assert torch.equal(said.adversarial, asking)
    assert bool((said.values[0][quiet] == -torch.inf).all())
    assert bool((said.grads[:, quiet] == 0).all())
    assert bool((said.grads[:, asking] != 0).any())
    assert bool(said.scores[quiet].isnan().all())
    assert said.labels[quiet].tolist() == [-1, -1, -1]


def test_every_row_pays_for_its_own_number_of_probes() -> None:
    oracle, count = asked(Needs.LABELS), torch.tensor([0, 1, 5, 2, 0, 3])

    def fold(seen: Tensor, number: int, said: Answer) -> Tensor:
        return seen + (said.labels >= 0)

    seen = oracle.many(lambda number: X, count, fold, torch.zeros_like(count))
    assert seen.tolist() == oracle.ledger.forwards.tolist() == count.tolist()
    assert not bool(oracle.ledger.found.any())  # probes are no candidates


@pytest.mark.parametrize("budget", [None, 4])
def test_probes_of_any_rows_come_in_full_batches_and_each_row_pays_for_its_own(budget: int | None) -> None:
    sizes: list[int] = []

    class Sized(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return SYSTEM.model(x)

    rows = torch.tensor([5, 5, 0, 3, 5, 5, 5, 5, 1, 0])
    points = images(10, seed=4)
    watched = replace(SYSTEM, model=Sized())
    oracle = Oracle(watched, Needs.LABELS, X, Goal(y=Y), LINF, DRAWS, budget=budget)
    said = oracle.probes(points, rows)
    count = torch.bincount(rows, minlength=6).clamp(max=budget or 10)
    assert sizes == [6, 6]
    assert oracle.ledger.forwards.tolist() == count.tolist()
    assert not bool(oracle.ledger.found.any())
    paid = torch.tensor([True] * 6 + [budget is None] * 2 + [True, True])  # the last two of row 5
    assert torch.equal(said.labels, torch.where(paid, SYSTEM(points).prediction(), -1))
    assert torch.equal(said.adversarial, paid & (SYSTEM(points).prediction() != Y[rows]))
    assert said.scores is None


def test_a_random_system_answers_probes_as_it_would_one_after_the_other() -> None:
    def shaken(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        return (x + 0.2 * draws.normal(SHAPE, "defense", index)).clamp(0, 1)

    noisy: System = SYSTEM.with_random_purifier(shaken, name="noise")
    together, apart = (Oracle(noisy, Needs.SCORES, X, Goal(y=Y), LINF, DRAWS) for _ in range(2))
    rows = torch.tensor([2, 2, 4, 2])
    said = together.probes(X[rows], rows).scores
    for place, row in enumerate(rows):
        one = apart.query(X, asking=torch.arange(6) == row).scores
        torch.testing.assert_close(said[place], one[row])
    assert torch.equal(together.ledger.forwards, apart.ledger.forwards)


def test_rows_do_not_join_where_a_tensor_is_missing() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pair(Rows):
        one: Tensor
        other: Tensor | None = None

    whole, half = Pair(one=torch.zeros(2), other=torch.zeros(2)), Pair(one=torch.zeros(2))
    for parts in ([whole, half], [half, whole]):
        with pytest.raises(ValueError, match=r"Pair\.other is missing"):
            concat(parts)


@dataclass(frozen=True, kw_only=True)
class Line(Honest):
    """Walks from far away to the clean image and a step beyond, so that its last point is no break."""

    aims: ClassVar[tuple[str, ...]] = ("minimum-norm",)
    restarts: int = 1

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Oracle) -> State:
        far = torch.where(state.x > 0.5, 0.0, 1.0)
        share = (1 - state.k / (self.steps - 1)).view(-1, 1, 1, 1)
        adv = state.x + share * (far - state.x)
        oracle.query(adv)
        return replace(state, adv=adv)


@pytest.mark.parametrize("stop_early", [False, True])
def test_without_a_radius_craft_returns_the_nearest_break_and_not_the_last_or_first(stop_early: bool) -> None:
    threat, attack = Threat(norm="Linf"), Line(steps=21)
    adv = craft(attack, SYSTEM, X, Goal(y=Y), threat, DRAWS, stop_early=stop_early)
    far = torch.where(X > 0.5, 0.0, 1.0)
    shares = torch.linspace(1, 0, 21).view(-1, 1, 1, 1, 1)
    line = X + shares * (far - X)  # (steps, n, c, h, w)
    breaks = torch.stack([SYSTEM(point).prediction() != Y for point in line])
    last = torch.where(breaks.any(0), breaks.long().cumsum(0).argmax(0), 20)
    assert int(breaks.any(0).sum()) >= 2
    torch.testing.assert_close(adv, line[last, torch.arange(len(X))])


def test_craft_chooses_the_targets_that_the_attack_wants_and_leaves_alone_what_has_none() -> None:
    seen: list[Tensor] = []

    class Targets(Honest):
        @property
        def target_rule(self) -> str:
            return "2"

        def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
            assert goal.target is not None
            seen.append(goal.target)
            return super().start(x, goal, threat, draws, oracle)

    y = Y.clone()
    y[1] = 2
    adv = craft(Targets(restarts=1), SYSTEM, X, Goal(y=y), LINF, DRAWS)
    assert torch.cat(seen).tolist() == [2] * int((y != 2).sum())
    assert torch.equal((adv == X).flatten(1).all(1), y == 2)


def test_an_attack_that_submits_its_last_point_is_not_watched() -> None:
    class Once(Honest):
        submits_last: ClassVar[bool] = True

        def step(self, state: State, oracle: Oracle) -> State:
            oracle.query(state.adv, margin)
            return replace(state, adv=state.x)

    wrong = Goal(y=(Y + 1) % 4)  # every point breaks
    adv = craft(Once(steps=2, restarts=2), SYSTEM, X, wrong, LINF, DRAWS, stop_early=True)
    assert torch.equal(adv, X)


def test_an_asker_counts_every_image_and_draws_anew_every_time() -> None:
    def shaken(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        return (x + 0.2 * draws.normal(SHAPE, "defense", index)).clamp(0, 1)

    noisy: System = SYSTEM.with_random_purifier(shaken, name="noise")
    asker = Asker(Honest(), noisy, LINF)
    first, second = asker(X, margin, y=Y), asker(X, margin, y=Y)
    third = asker(X[:2])
    assert not torch.equal(first.values, second.values)
    assert third.grads is None
    assert (asker.forwards, asker.backwards) == (14, 12)


def test_stopping_early_retires_a_sample_at_its_first_break() -> None:
    sizes: list[int] = []

    class Sized(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return SYSTEM.model(x)

    watched, wrong = replace(SYSTEM, model=Sized()), Goal(y=torch.where(torch.arange(6) < 2, (Y + 1) % 4, Y))
    tiny = Threat(norm="Linf", eps=1e-4)
    craft(Honest(restarts=1), watched, X, wrong, tiny, DRAWS, stop_early=True)
    assert sizes == [6, 4, 4, 4, 4]


def test_an_expectation_over_draws_is_the_mean_of_what_each_draw_says() -> None:
    def bright(x: Tensor, draws: Draws, index: Tensor | int) -> Tensor:
        return x * draws.uniform((1, 1, 1), "light", index)

    def shown(draws: int, first: int) -> Oracle:
        ledger, eot = replace(Ledger.new(X), forwards=torch.full_like(Y, first)), EOT(draws=draws, transform=bright)
        return Oracle(SYSTEM, Needs.GRADIENTS, X, Goal(y=Y), LINF, DRAWS, ledger=ledger, eot=eot)

    oracle = shown(3, 0)
    mean, single = oracle.query(X, margin), [shown(1, draw).query(X, margin) for draw in range(3)]
    assert not torch.equal(single[0].values, single[1].values)
    torch.testing.assert_close(mean.values, torch.stack([said.values for said in single]).mean(0))
    torch.testing.assert_close(mean.grads, torch.stack([said.grads for said in single]).mean(0))
    assert oracle.ledger.forwards.tolist() == [3] * 6


def test_a_budget_that_does_not_pay_for_all_draws_pays_for_none() -> None:
    oracle = Oracle(SYSTEM, Needs.SCORES, X, Goal(y=Y), LINF, DRAWS, eot=EOT(draws=3), budget=4)
    oracle.query(X, margin)
    assert bool(oracle.exhausted.all())
    assert bool((oracle.query(X, margin).values == -torch.inf).all())
    assert oracle.ledger.forwards.tolist() == [3] * 6


def test_in_blocks_the_model_is_always_shown_as_many_images() -> None:
    x, sizes = images(70), list[int]()
    y, draws = SYSTEM(x).prediction(), Draws.for_images(0, x, SYSTEM(x).prediction())

    class Seen(nn.Module):
        """The network, and how many images it is shown."""

        def forward(self, seen: Tensor) -> Tensor:
            sizes.append(len(seen))
            return SYSTEM.model(seen)

    attack = resolve_attack("pgd:steps=4,restarts=2")
    found = craft(attack, replace(SYSTEM, model=Seen()), x, Goal(y=y), LINF, draws, block=32, stop_early=True)
    assert set(sizes) == {32}
    assert torch.equal(found, craft(attack, SYSTEM, x, Goal(y=y), LINF, draws, stop_early=True))
