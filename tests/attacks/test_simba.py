"""SimBA: its directions, its walk against one written out for a single image, its bill."""

import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.simba import SimBA, Walk, waves
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import cross_entropy
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


class Recorder(nn.Module):
    """Remembers what it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.model(x)


class Unmoved(nn.Module):
    """Answers class 0 to everything."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(4)[torch.zeros(len(x), dtype=torch.int64)]


def begun(attack: SimBA, x: Tensor, threat: Threat) -> Walk:
    """The state before the first query."""
    y = torch.zeros(len(x), dtype=torch.int64)
    system = System(model=Unmoved(), num_classes=4, input_shape=tuple(x.shape[1:]))
    goal, draws = Goal(y=y), Draws.for_images(0, x, y)
    oracle = Oracle(system, attack.needs, x, goal, threat, draws)
    state = attack.start(x, goal, threat, draws, oracle)
    assert isinstance(state, Walk)
    return state


def images(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(3)) * 0.5 + 0.25


@pytest.mark.parametrize("basis", ["dct", "pixel"])
@pytest.mark.parametrize("side", [1, 5, 8, 28])
def test_the_waves_are_orthonormal(side: int, basis: str) -> None:
    torch.testing.assert_close(waves(basis, side) @ waves(basis, side).T, torch.eye(side), atol=1e-6, rtol=0)


def test_the_cosines_are_those_of_the_dct() -> None:
    fft = pytest.importorskip("scipy.fft")
    expected = torch.from_numpy(fft.idct(torch.eye(9, dtype=torch.float64).numpy(), norm="ortho", axis=1)).float()
    torch.testing.assert_close(waves("dct", 9), expected)


@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_no_direction_comes_twice_before_all_came(basis: str) -> None:
    state = begun(SimBA(basis=basis), images(3, (2, 4, 5)), Threat(norm="L2", eps=1))
    assert (state.order.sort(1).values == torch.arange(40)).all()
    assert (state.order[0] != state.order[1]).any()


def test_low_frequencies_come_first() -> None:
    state = begun(SimBA(low=0.25), images(4, (3, 32, 32)), Threat(norm="L2", eps=1))
    highest = torch.maximum(state.order % 1024 // 32, state.order % 32)
    assert (highest[:, : 3 * 64] < 8).all()
    assert (highest[:, 3 * 64 : 3 * 81] == 8).all()
    assert (highest[:, -3 * 63 :] == 31).all()
    assert len({tuple(row) for row in state.order[:, :192].tolist()}) == 4


@pytest.mark.parametrize("basis", ["dct", "pixel"])
@pytest.mark.parametrize("norm, eps", [("Linf", 0.1), ("L2", 0.4), ("L1", 0.4)])
def test_a_step_has_the_length_that_is_asked_for(norm: str, eps: float, basis: str) -> None:
    x, threat = images(4, (3, 8, 8)), Threat(norm=norm, eps=eps)
    recorder = Recorder(Unmoved())
    system = System(model=recorder, num_classes=4, input_shape=(3, 8, 8))
    y = torch.zeros(4, dtype=torch.int64)
    attack = SimBA(queries=7, basis=basis, step_size=0.5)
    adv = craft(attack, system, x, Goal(y=y), threat, Draws.for_images(0, x, y))
    assert torch.equal(adv, x)  # a point that is as good is not taken
    assert torch.equal(recorder.seen[0], x)
    for point in recorder.seen[1:]:
        torch.testing.assert_close(threat.distance(point, x), torch.full((4,), eps / 2).double(), rtol=1e-5, atol=0)
        assert ((point != x).flatten(2).any(2).sum(1) == 1).all()  # one channel
    for there, back in ((1, 2), (3, 4), (5, 6)):
        torch.testing.assert_close(recorder.seen[there] - x, x - recorder.seen[back], atol=1e-7, rtol=0)


@pytest.mark.parametrize("norm, share", [("Linf", 1.0), ("L2", 0.2), ("L1", 0.2)])
def test_left_out_a_step_is_all_of_eps_only_where_steps_do_not_add_up(norm: str, share: float) -> None:
    x, threat = images(2, (1, 6, 6)), Threat(norm=norm, eps=0.1)
    recorder = Recorder(Unmoved())
    system, y = System(model=recorder, num_classes=4, input_shape=(1, 6, 6)), torch.zeros(2, dtype=torch.int64)
    craft(SimBA(queries=2), system, x, Goal(y=y), threat, Draws.for_images(0, x, y))
    torch.testing.assert_close(
        threat.distance(recorder.seen[1], x), torch.full((2,), 0.1 * share).double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_in_a_wide_ball_it_is_the_published_walk(basis: str) -> None:
    system, threat, step = two_layers(), Threat(norm="L2", eps=50.0), 0.2
    x, y, draws = samples(system, 8)
    attack = SimBA(queries=60, basis=basis, step_size=step / 50, low=1.0)
    state = begun(attack, x, threat)
    order = attack.start(x, Goal(y=y), threat, draws, Oracle(system, attack.needs, x, Goal(y=y), threat, draws)).order
    assert order.shape == state.order.shape
    adv = craft(attack, system, x, Goal(y=y), threat, draws)
    for row in range(8):
        torch.testing.assert_close(adv[row], published(system, x[row], y[row], order[row], basis, step, 60))


def published(system: System, x: Tensor, y: Tensor, order: Tensor, basis: str, step: float, queries: int) -> Tensor:
    """Algorithm 1 for one image, with its box, until the queries are spent."""
    goal, table = Goal(y=y[None]), waves(basis, 8)
    spent, best = 1, cross_entropy(system(x[None]), goal)
    for place in order.tolist():
        wave = torch.outer(table[place // 8], table[place % 8])[None]
        for sign in (-1, 1):
            point = (x + sign * step * wave).clamp(0, 1)
            if torch.equal(point, x):
                continue
            if spent == queries:
                return x
            value, spent = cross_entropy(system(point[None]), goal), spent + 1
            if value > best:
                x, best = point, value
                break
    return x


@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_pixel_by_pixel_it_reaches_the_corner_on_an_affine_model_of_two_classes(objective: str) -> None:
    system, threat = affine(classes=2), Threat(norm="Linf", eps=0.03)
    x, y, draws = samples(system, 12)
    attack = SimBA(queries=2 * 16 + 1, basis="pixel", objective=objective)
    adv = craft(attack, system, x, Goal(y=y), threat, draws)
    weight = system.model.weight.float()
    assert torch.equal(adv, threat.extreme(x, (weight[1 - y] - weight[y]).view_as(x)))


@pytest.mark.parametrize("norm, eps", [("Linf", 0.08), ("L2", 0.3), ("L1", 1.5)])
@pytest.mark.parametrize("basis", ["dct", "pixel"])
def test_every_point_is_inside_the_threat(norm: str, eps: float, basis: str) -> None:
    threat, plain = Threat(norm=norm, eps=eps), two_layers()
    x, y, draws = samples(plain, 10)
    recorder = Recorder(plain.model)
    craft(SimBA(queries=60, basis=basis, step_size=0.6), plain.with_model(recorder), x, Goal(y=y), threat, draws)
    assert all(threat.contains(point, x).all() for point in recorder.seen)
    assert all(((point >= 0) & (point <= 1)).all() for point in recorder.seen)


def test_no_query_is_spent_on_a_step_into_a_wall() -> None:
    x = torch.cat((torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)))
    y = torch.zeros(4, dtype=torch.int64)
    recorder = Recorder(Unmoved())
    system = System(model=recorder, num_classes=4, input_shape=(1, 4, 4))
    attack, draws = SimBA(queries=17, basis="pixel"), Draws.for_images(0, x, y)
    craft(attack, system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)
    shown = torch.stack(recorder.seen)[1:]
    assert (shown != x).flatten(2).any(2).all()
    assert ((shown != x).sum((0,)) == 1).all()  # each pixel once: the other sign leads nowhere


def test_after_all_directions_they_come_again_in_another_order() -> None:
    x, y = images(2, (1, 3, 3)), torch.zeros(2, dtype=torch.int64)
    recorder = Recorder(Unmoved())
    system = System(model=recorder, num_classes=4, input_shape=(1, 3, 3))
    attack = SimBA(queries=37, basis="pixel")
    craft(attack, system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), Draws.for_images(0, x, y))
    places = (torch.stack(recorder.seen)[1::2] != x).flatten(2).float().argmax(2).T  # (n, 18)
    assert (places[:, :9].sort(1).values == torch.arange(9)).all()
    assert (places[:, 9:].sort(1).values == torch.arange(9)).all()
    assert (places[:, :9] != places[:, 9:]).any(1).all()


@pytest.mark.parametrize("queries", [1, 2, 20])
def test_the_budget_is_exact(queries: int) -> None:
    system = System(model=Unmoved(), num_classes=4, input_shape=(1, 4, 4))
    x, y = images(5, (1, 4, 4)), torch.zeros(5, dtype=torch.int64)
    found = run(SimBA(queries=queries, restarts=2), system, x, y, Threat(norm="L2", eps=0.5))
    assert (found.forwards == 2 * queries).all()


def test_nothing_is_counted_after_the_first_break() -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    found = run(SimBA(queries=100, basis="pixel"), system, x, y, Threat(norm="Linf", eps=0.3))
    broken = found.verdict.broken
    assert broken.float().mean() > 0.8
    assert torch.equal(found.forwards[broken], found.break_forward[broken])


@pytest.mark.parametrize(
    "spec, message",
    [
        ("simba:queries=0", "simba: queries=0; accepted: 1 and more"),
        ("simba:basis=dtc", "simba: basis=dtc; accepted: dct, pixel; did you mean dct"),
        ("simba:low=0", "simba: low=0; accepted: more than 0, up to 1"),
        ("simba:step_size=0", "simba: step_size=0; accepted: more than 0"),
    ],
)
def test_bad_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)
