"""Square: its windows, its schedule, its balls and its bill."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import Affine, affine, run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.square import Found, Square
from robustbench_lite.attacks.windows import Brush, Window, bumps
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import EOT, Ledger, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.testing import check_attack
from robustbench_lite.threat import Threat

BALLS = [("Linf", 0.1), ("L2", 0.6), ("L1", 3.0)]


class Recorder(nn.Module):
    """Remembers what it was shown; answers class 0 to everything unless it has a model."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return torch.eye(4)[torch.zeros(len(x), dtype=torch.int64)] if self.model is None else self.model(x)

    @property
    def shown(self) -> Tensor:
        """(queries, n, c, h, w)."""
        return torch.stack(self.seen)


def grey(count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor, Draws]:
    """Grey images of class 0, each with streams of its own."""
    draws = Draws.of(0, [index.to_bytes(8, "little") for index in range(count)])
    return torch.full((count, *shape), 0.5), torch.zeros(count, dtype=torch.int64), draws


def record(
    spec: str, norm: str, eps: float, count: int, shape: tuple[int, int, int] = (1, 8, 8)
) -> tuple[Tensor, Tensor]:
    """Every point that is shown to a model that nothing impresses, and the last point."""
    x, y, draws = grey(count, shape)
    recorder = Recorder()
    system = System(model=recorder, num_classes=4, input_shape=shape)
    adv = craft(resolve_attack(spec), system, x, Goal(y=y), Threat(norm=norm, eps=eps), draws)
    return recorder.shown, adv


def states(attack: Square, system: System, x: Tensor, y: Tensor, draws: Draws, threat: Threat) -> Iterator[Found]:
    """The states after each query."""
    goal, ledger = Goal(y=y), Ledger.new(x)

    def oracle() -> Oracle:
        return Oracle(system, attack.needs, x, goal, threat, draws, ledger=ledger)

    state = attack.start(x, goal, threat, draws, oracle())
    for _ in range(attack.length()):
        asked = oracle()
        state = attack.step(state, asked)
        state, ledger = replace(state, k=state.k + 1), asked.ledger
        assert isinstance(state, Found)
        yield state


# -- the schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halved, mark", [*enumerate((10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))])
def test_p_halves_after_as_many_windows_as_the_paper_says(halved: int, mark: int) -> None:
    around = torch.tensor([mark, mark + 1]) + 1  # window i, from 0, is query i + 1: the first is the starting point's
    for attack in (Square(queries=100), Square(), Square(queries=20_000), Square(queries=10_000, rescale=True)):
        assert attack.halvings(around).tolist() == [halved, halved + 1]
        assert attack.halvings(torch.tensor([0, 1, 90_000])).tolist() == [0, 0, 9]


@pytest.mark.parametrize("queries", [100, 1000, 5000, 20_000])
def test_rescaled_it_halves_at_the_same_shares_of_the_budget(queries: int) -> None:
    windows = torch.arange(queries)
    share = [int(window) * 10_000 // queries for window in windows]
    expected = [sum(part > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)) for part in share]
    assert Square(queries=queries, rescale=True).halvings(windows + 1).tolist() == expected


def test_rescaled_it_counts_an_average_over_draws_as_one_window() -> None:
    # 400 images pay for 40 windows of ten draws: the last of them are as small as those of 40 queries.
    shown = []
    for spec, draws in (("square:queries=400,rescale=true", 10), ("square:queries=40,rescale=true", 1)):
        x, y, streams = grey(2, (1, 32, 32))
        recorder = Recorder()
        system = System(model=recorder, num_classes=4, input_shape=(1, 32, 32))
        craft(resolve_attack(spec), system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), streams, eot=EOT(draws=draws))
        shown.append(recorder.shown[::draws][:40])
    assert torch.equal(*shown)


def test_rescaling_is_named() -> None:
    assert not Square().rescale
    assert str(Square(queries=1000, rescale=True)) == "square:queries=1000,rescale=true"


def test_the_sides_are_the_published_ones() -> None:
    assert Square().sides(32, 32) == (29, 20, 14, 10, 7, 5, 4, 3, 2, 1)
    assert Square().sides(32, 32, 3, odd=True) == (29, 21, 15, 11, 7, 5, 5, 3, 3, 3)
    assert Square(p=1).sides(32, 32, 3, odd=True)[0] == 32


@pytest.mark.parametrize("p", [0.8, 1.0, 0.001])
@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4), (2, 2), (1, 1), (1, 9)])
def test_a_side_is_never_longer_than_the_image(shape: tuple[int, int], p: float) -> None:
    for least, odd in ((1, False), (3, True)):
        assert all(1 <= side <= min(shape) for side in Square(p=p).sides(*shape, least, odd))


# -- the windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, eps", BALLS)
def test_every_sample_has_a_window_and_colours_of_its_own(norm: str, eps: float) -> None:
    # The published code draws one window a batch.
    shown, adv = record("square:queries=40,p=0.2", norm, eps, count=6)
    changed = (shown[1:] - adv).abs() > 1e-7
    masks = changed.any(2).flatten(2)  # (queries, n, h * w)
    for one in range(6):
        for other in range(one):
            assert (masks[:, one] != masks[:, other]).any(1).float().mean() > 0.6


def test_windows_reach_the_last_row_and_column() -> None:
    # The published code never draws the last place.
    brush = Brush(sides=(5,), level=torch.zeros(2, dtype=torch.int64), words=torch.zeros(2, 1, dtype=torch.int64))
    words = torch.tensor([0, 2**32 - 1])
    window = Window(torch.zeros(2, 1, 7, 9), brush, words, words)
    places = window.put(torch.ones(2, 1, 5, 5), torch.zeros(2, 1, 7, 9)).bool()
    assert places[0, 0, :5, :5].all()
    assert places[1, 0, 2:, 4:].all()
    assert places.sum() == 50


def test_all_places_are_as_likely() -> None:
    shown, adv = record("square:queries=10,p=0.75", "Linf", 0.1, count=400)  # sides of 7 in 8 x 8: two places each way
    changed = (shown[1:] - adv).abs() > 1e-7
    seen = changed.any(2).any(-1)  # (queries, n, h): all rows but the first or the last, or none
    last, first = seen[:, :, -1].float().mean(), seen[:, :, 0].float().mean()
    assert abs(last - first) < 0.05
    assert last > 0.4


def test_a_window_holds_one_colour_a_channel() -> None:
    shown, adv = record("square:queries=30,p=0.3", "Linf", 0.1, count=4, shape=(3, 9, 6))
    for query in range(1, 30):
        for row in range(4):
            moved = shown[query, row] - adv[row]
            rows, columns = moved.abs().amax((0, 2)) > 1e-7, moved.abs().amax((0, 1)) > 1e-7
            box = shown[query, row][:, rows][:, :, columns]
            assert all(len(channel.unique()) <= 2 for channel in box)
            assert (shown[query, row][:, ~rows] == adv[row][:, ~rows]).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_no_query_is_wasted_on_the_point_that_is_known(shape: tuple[int, int, int]) -> None:
    # With one channel and windows of one pixel the published code asks every second time what it knows already.
    shown, adv = record("square:queries=80,p=0.02", "Linf", 0.1, count=8, shape=shape)
    assert (shown[1:] != adv).flatten(2).any(2).all()


def test_the_first_point_is_made_of_vertical_stripes() -> None:
    shown, _ = record("square:queries=1", "Linf", 0.1, count=20, shape=(3, 8, 8))
    assert (shown[0] == shown[0, :, :, :1]).all()
    assert ((shown[0] - 0.5).abs() > 0.0999).all()
    assert len({row.numpy().tobytes() for row in shown[0]}) == 20
    assert 0.4 < (shown[0] > 0.5).float().mean() < 0.6


def test_bumps_are_two_opposite_halves_of_size_one() -> None:
    for power, fall in ((2, 2), (1, 4)):
        lying, standing = bumps((7, 3), power, fall)[0]
        assert (lying.abs() ** power).sum() == pytest.approx(1)
        assert (lying[:3] > 0).all()
        assert (lying[3:] < 0).all()
        assert torch.equal(lying.T, standing)
        assert (bumps((7, 3), power, fall)[1, :, 3:] == 0).all()
    # Written out for side 3: rings of 1 and 1/4 around the middle, above a row, below two.
    above, below = torch.tensor([[0.25, 1.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat((above / above.norm(), -below / below.norm())) / math.sqrt(2)
    torch.testing.assert_close(bumps((3,), 2, 2)[0, 0], expected)


def test_a_bump_takes_what_two_windows_held_and_what_eps_still_allows() -> None:
    shown, adv = record("square:queries=60,p=0.3", "L2", 0.6, count=5, shape=(2, 10, 10))
    for query in range(1, 60):
        before, after = (adv - 0.5).double(), (shown[query] - 0.5).double()
        assert torch.allclose(after.flatten(1).norm(dim=1), torch.tensor(0.6).double(), rtol=3e-6)
        kept = (after - before).abs() < 1e-5  # grey images: nothing is cut, so the rest of the image keeps its values
        assert kept.flatten(1).float().mean(1).min() > 0.1
        inside = ~kept.all(1, keepdim=True).expand_as(before)
        assert torch.allclose(
            (before * inside).flatten(1).norm(dim=1), (after * inside).flatten(1).norm(dim=1), rtol=1e-3
        )


# -- the search ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, eps", BALLS)
def test_the_best_objective_never_falls_and_is_that_of_the_point_that_is_kept(norm: str, eps: float) -> None:
    system = two_layers()
    x, y, draws = samples(system, 12)
    best = torch.full((12,), -torch.inf)
    for state in states(Square(queries=60, p=0.3), system, x, y, draws, Threat(norm=norm, eps=eps)):
        assert (state.value >= best).all()
        torch.testing.assert_close(state.value, margin(system(state.adv), state.goal))
        best = state.value


@pytest.mark.parametrize("norm, eps", BALLS)
def test_a_point_that_is_as_good_is_not_taken(norm: str, eps: float) -> None:
    shown, adv = record("square:queries=30", norm, eps, count=4)
    assert torch.equal(adv, shown[0])


def test_pixels_are_at_the_ends_of_their_interval() -> None:
    system, eps = two_layers(), 0.1
    x, y, draws = samples(system, 12)
    for state in states(Square(queries=40, p=0.3), system, x, y, draws, Threat(norm="Linf", eps=eps)):
        at_end = ((state.adv - x).abs() - eps).abs() < 2e-7 + 1e-6 * eps
        assert (at_end | (state.adv == 0) | (state.adv == 1)).all()


@pytest.mark.parametrize("norm, eps", [("L2", 2.0), ("L1", 12.0)])
def test_the_length_is_right_after_the_cut_at_the_box(norm: str, eps: float) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 16)
    x = (x > 0.5).float() * 0.9 + 0.05 * (x < 0.9)  # most pixels are near a wall, or at it
    lengths = []
    for state in states(Square(queries=80, p=0.3), system, x, y, draws, threat):
        assert ((state.adv >= 0) & (state.adv <= 1)).all()
        assert threat.contains(state.adv, x).all()
        lengths.append(threat.distance(state.adv, x))
    assert lengths[0].max() < 0.97 * eps if norm == "L2" else True  # the cut took something off
    assert lengths[-1].mean() > lengths[0].mean() if norm == "L2" else True  # and later windows gave it back
    assert lengths[-1].mean() > 0.7 * eps


def two_classes(side: int = 6, seed: int = 0) -> tuple[System, Tensor]:
    """An affine system of two classes, and its slope (from class 0 to class 1)."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(side * side, generator=generator)
    weight, bias = torch.stack((torch.zeros(side * side), w)), torch.tensor([40.0, 0.0])
    return System(model=Affine(weight, bias), num_classes=2, input_shape=(1, side, side)), w.view(1, 1, side, side)


def test_on_an_affine_model_it_reaches_the_corner_of_ball_and_box() -> None:
    system, w = two_classes()
    x, eps = torch.rand((4, 1, 6, 6), generator=torch.Generator().manual_seed(1)), 0.2
    y, threat = torch.zeros(4, dtype=torch.int64), Threat(norm="Linf", eps=eps)
    adv = craft(Square(queries=600, rescale=True), system, x, Goal(y=y), threat, Draws.for_images(0, x, y))
    assert torch.equal(adv, threat.extreme(x, w.expand_as(x)))


@pytest.mark.parametrize("norm, eps, queries", [("L2", 0.8, 500), ("L1", 3.0, 150)])
def test_on_an_affine_model_it_gains_most_of_what_the_ball_allows(norm: str, eps: float, queries: int) -> None:
    system, w = two_classes()
    x, y, draws = grey(6, (1, 6, 6))
    threat = Threat(norm=norm, eps=eps)
    adv = craft(Square(queries=queries, p=0.3, rescale=True), system, x, Goal(y=y), threat, draws)
    gain, best = (((point - x) * w).flatten(1).sum(1) for point in (adv, threat.extreme(x, w.expand_as(x))))
    assert (gain > 0.6 * best).all()


def test_it_climbs_towards_a_target() -> None:
    system, eps = affine(classes=4), 0.35
    x, y, draws = samples(system, 24)
    goal = Goal(y=y, target=(y + 1) % 4, success="targeted")
    threat = Threat(norm="Linf", eps=eps, goal="targeted", target="next")
    adv = craft(Square(queries=300, rescale=True), system, x, goal, threat, draws, stop_early=True)
    weight = system.model.weight.float()
    hit = system(adv).prediction() == goal.target
    # Where one corner beats every other class at once it is there to be found.
    corner = threat.extreme(x, (weight[goal.target] - weight[y]).view_as(x))
    reachable = system(corner).prediction() == goal.target
    assert reachable.sum() > 5
    assert hit[reachable].float().mean() > 0.9


class Rounded(nn.Module):
    """Pixels are rounded on the way, and the model leaves torch: there is nothing to differentiate."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return torch.from_numpy(self.model(torch.round(x * 15) / 15).detach().numpy().copy())


def test_it_needs_no_gradient() -> None:
    plain = affine()
    rounded = plain.with_model(Rounded(plain.model))
    x, _, _ = samples(plain, 40)
    with torch.no_grad():
        y = rounded(x).prediction()
    attack, threat = Square(queries=60, rescale=True), Threat(norm="Linf", eps=0.1)
    found = [run(attack, system, x, y, threat).verdict.broken for system in (plain, rounded)]
    assert found[0].sum() > 15
    assert abs(int(found[0].sum()) - int(found[1].sum())) <= 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 11), (2, 11, 3), (1, 1, 6), (1, 2, 2), (40, 6, 6)])
@pytest.mark.parametrize("norm, eps", BALLS)
def test_any_shape_of_image_will_do(norm: str, eps: float, shape: tuple[int, int, int]) -> None:
    shown, _ = record("square:queries=25,rescale=true", norm, eps, count=3, shape=shape)
    threat, x = Threat(norm=norm, eps=eps), torch.full((3, *shape), 0.5)
    assert shown.isfinite().all()
    assert all(threat.contains(point, x).all() for point in shown)


# -- the bill --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 7, 33])
def test_a_sample_that_holds_out_costs_every_query_and_no_more(queries: int) -> None:
    x, y, draws = grey(5)
    recorder = Recorder()
    system = System(model=recorder, num_classes=4, input_shape=(1, 8, 8))
    craft(Square(queries=queries), system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)
    assert len(recorder.seen) == queries
    found = run(Square(queries=queries, restarts=2), system, x, y, Threat(norm="Linf", eps=0.1))
    assert (found.forwards == 2 * queries).all()
    assert Square(queries=queries, restarts=2).cost(4).forwards == 2 * queries


def test_nothing_is_counted_after_the_first_break() -> None:
    system = affine()
    x, y, _ = samples(system, 60)
    found = run(Square(queries=200, rescale=True), system, x, y, Threat(norm="Linf", eps=0.3))
    broken = found.verdict.broken
    assert broken.float().mean() > 0.9
    assert torch.equal(found.forwards[broken], found.break_forward[broken])
    assert found.forwards[broken].min() == 1  # the stripes alone


def test_more_averaging_leaves_fewer_windows_but_no_larger_bill() -> None:
    class Costly(Square):
        """Answers are averages over three draws."""

        @property
        def eot(self):  # type: ignore[no-untyped-def]
            from robustbench_lite.attack import EOT

            return EOT(draws=3)

    system = affine()
    x, y, _ = samples(system, 20)
    found = run(Costly(queries=30), system, x, y, Threat(norm="Linf", eps=0.001))
    assert found.forwards.max() == 30


@pytest.mark.parametrize("spec", ["square:queries=12,p=0.3,restarts=2", "square:queries=20,rescale=true"])
def test_it_obeys_the_laws(spec: str) -> None:
    check_attack(spec)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("square:queries=0", "square: queries=0; accepted: 1 and more"),
        ("square:p=0", "square: p=0; accepted: more than 0, up to 1"),
        ("square:p=1.5", "square: p=1.5; accepted: more than 0, up to 1"),
        ("square:restarts=0", "square: restarts=0; accepted: 1 and more"),
        ("square:n_queries=5", "did you mean queries"),
    ],
)
def test_bad_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)
