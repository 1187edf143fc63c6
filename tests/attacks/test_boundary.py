"""The boundary attack: near the exact distance, always on the broken side, each row with steps of its own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

from robustbench_lite.attack import Goal, State, resolve_attack
from robustbench_lite.attacks.boundary import ROUND, Boundary, Walk, Window
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

L2 = Threat(norm="L2")


def begun(attack: Boundary, system: System, x: Tensor, y: Tensor, draws: Draws) -> tuple[State, Oracle]:
    """The state after the start, and the oracle."""
    oracle = Oracle(system, Needs.LABELS, x, Goal(y=y), L2, draws, budget=attack.budget)
    return attack.start(x, Goal(y=y), L2, draws, oracle), oracle


def test_it_comes_within_five_percent_of_the_exact_distance_to_a_half_space() -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 24)
    weight, bias = system.model.weight, system.model.bias
    w = (weight[1] - weight[0]).view(1, 1, 4, 4).expand(24, -1, -1, -1).float()
    exact = L2.distance(L2.geometry.hyperplane(x, w, (bias[0] - bias[1]).expand(24).float()), x)
    outcome = run(resolve_attack("boundary:queries=1500,sideways=0.1,inwards=0.05"), system, x, y, L2)
    ratio = L2.distance(outcome.adv, x) / exact
    assert float(ratio.max()) < 1.05
    assert float(ratio.min()) > 0.999


def test_every_point_of_the_walk_breaks_and_none_is_further_than_the_last() -> None:
    system, attack = two_layers(), Boundary(queries=600)
    x, y, draws = samples(system, 8)
    state, oracle = begun(attack, system, x, y, draws)
    first = far = L2.distance(state.point, x)
    for _ in range(attack.length()):
        state = replace(attack.step(state, oracle), k=state.k + 1)
        assert bool((system(state.point).prediction() != y).all())
        assert bool((L2.distance(state.point, x) <= far).all())
        far = L2.distance(state.point, x)
    assert bool((far < 0.9 * first).all())
    assert oracle.ledger.forwards.tolist() == [600] * 8


def test_a_proposal_goes_sideways_on_the_sphere_and_then_inwards() -> None:
    system, attack = affine(classes=2, side=8), Boundary(sideways=0.1, inwards=0.05)
    x = torch.full((6, 1, 8, 8), 0.5) + torch.linspace(0, 0.01, 6).view(6, 1, 1, 1)
    y = system(x).prediction()
    state, _ = begun(attack, system, x, y, Draws.for_images(0, x, y))
    assert isinstance(state, Walk)
    beside, there = attack.proposal(state, 0)
    far = L2.distance(state.point, x)
    torch.testing.assert_close(L2.distance(beside, x), far, rtol=1e-4, atol=0)
    torch.testing.assert_close(L2.distance(there, x), 0.95 * far, rtol=1e-4, atol=0)
    cosine = torch.cosine_similarity((beside - x).flatten(1), (state.point - x).flatten(1))
    torch.testing.assert_close(cosine, torch.full((6,), 1 / (1 + 0.1**2) ** 0.5))


def test_every_row_draws_a_direction_of_its_own() -> None:
    # One Gaussian for the whole batch would send equal images the same way.
    system, attack = affine(classes=2, side=8), Boundary(sideways=0.5)
    x, y, _ = samples(system, 1)
    x, y = x.expand(2, -1, -1, -1).contiguous(), y.expand(2).contiguous()
    draws = Draws.of(0, [b"one", b"two"])
    state, _ = begun(attack, system, x, y, draws)
    state = replace(state, point=state.point[:1].expand(2, -1, -1, -1))
    assert isinstance(state, Walk)
    moves = (attack.proposal(state, 0)[0] - state.point).flatten(1)
    assert float(torch.cosine_similarity(moves[:1], moves[1:])) < 0.9


def test_a_window_answers_when_it_is_full_and_row_by_row() -> None:
    window, tries = Window(size=4, high=0.5, low=0.3), torch.zeros(3, 5)
    often, seldom, half = [True, True, True, False], [False, True, False, False], [True, False, True, False]
    for number, success in enumerate(zip(often, seldom, half, strict=True)):
        tries, factor = window.seen(tries, torch.tensor(success))
        assert factor.tolist() == ([1, 1, 1] if number < 3 else pytest.approx([1.5, 1 / 1.5, 1]))
    assert tries[:, 0].tolist() == [0, 0, 4]
    tries, factor = window.seen(tries, torch.tensor([True, True, True]))  # the third forgets its first success
    assert factor.tolist() == [1, 1, 1]
    assert tries[:, 0].tolist() == [1, 1, 5]
    tries, factor = window.seen(tries, torch.tensor([True, True, True]))  # 1 0 1 1: three of four
    assert factor.tolist() == [1, 1, 1.5]


class Counter(nn.Module):
    """A model that counts the images it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


def test_every_image_that_the_system_sees_of_a_lone_row_is_counted() -> None:
    system, attack = two_layers(), Boundary(queries=10_000)
    x, y, draws = (part[:1] for part in samples(system, 3))
    counter = Counter(system.model)
    state, oracle = begun(attack, replace(system, model=counter), x, y, draws)
    begin = counter.images
    assert int(oracle.ledger.forwards) == begin
    for _ in range(3):
        state = attack.step(state, oracle)
    assert int(oracle.ledger.forwards) == counter.images == begin + 3 * (ROUND + 1)


def test_where_nothing_breaks_the_norm_is_infinite() -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(5)[0].expand(len(x), 5)

    x, _, _ = samples(two_layers(), 4)
    system = System(model=Always(), num_classes=5, input_shape=(1, 8, 8))
    outcome = run(Boundary(), system, x, torch.zeros(4, dtype=torch.int64), L2)
    assert not bool(outcome.verdict.broken.any())
    assert outcome.forwards.tolist() == [100] * 4


def test_a_walk_that_has_converged_ends() -> None:
    system, attack = two_layers(), Boundary(inwards=1e-8)
    x, y, draws = samples(system, 4)
    state, oracle = begun(attack, system, x, y, draws)
    assert bool(attack.step(state, oracle).done.all())
    assert bool((Ledger.new(x).forwards < oracle.ledger.forwards).all())


@pytest.mark.parametrize("spec", ["queries=0", "sideways=0", "inwards=-1"])
def test_options_without_meaning_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="accepted"):
        resolve_attack(f"boundary:{spec}")
