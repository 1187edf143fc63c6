"""What holds for every norm on images: rows do not see each other, dust stays inside, broken numbers stay put."""

from collections.abc import Callable, Sequence

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from robustbench_lite.norms import NORMS, Norm, norm
from robustbench_lite.norms.rowwise import fill, row_sum
from robustbench_lite.randomness import Draws

ROWS, SHAPE = 24, (3, 5, 7)  # a width that no vector register divides
EPS = {"Linf": 8 / 255, "L2": 0.5, "L1": 4.0, "L0": 7.0}
every_norm = pytest.mark.parametrize("geometry", NORMS.values(), ids=str)


def images(count: int = ROWS, shape: Sequence[int] = SHAPE, seed: int = 0) -> Tensor:
    """Pixels on the 8-bit grid, many of them at a wall."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    return (x.clamp(0, 1) * 255).round() / 255


def noise(x: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * 10 ** -images(len(x), x.shape[1:])


def draws_for(x: Tensor) -> Draws:
    return Draws.of(0, [bytes([i % 256, i // 256]) for i in range(len(x))])


def operations(g: Norm, eps: float | Tensor) -> dict[str, Callable[[Tensor, Tensor, Draws], Tensor]]:
    """Everything that a norm can do, as functions of an image, a direction and the streams."""
    every: dict[str, Callable[[Tensor, Tensor, Draws], Tensor]] = {
        "distance": lambda x, v, draws: g.distance(v),
        "dual": lambda x, v, draws: g.dual(v),
        "project": lambda x, v, draws: g.project(x + v, x, eps),
        "steepest": lambda x, v, draws: g.steepest(v, x, 0.1),
        "extreme": lambda x, v, draws: g.extreme(x, v, eps),
        "random_point": lambda x, v, draws: g.random_point(x, eps, draws, 3),
        "random_direction": lambda x, v, draws: g.random_direction(x, draws, 3),
    }
    if g.name != "L0":
        every["hyperplane"] = lambda x, v, draws: g.hyperplane(x, v, row_sum(x * v) + 0.3)
    return every


CASES = [(item, what) for item in NORMS.values() for what in operations(item, 0.1)]


@pytest.mark.parametrize("geometry, what", CASES, ids=str)
def test_a_row_is_the_same_alone_and_in_any_batch(geometry: Norm, what: str) -> None:
    x = images()
    v, draws = noise(x), draws_for(x)
    together = operations(geometry, EPS[geometry.name])[what](x, v, draws)
    for row in torch.arange(ROWS).split(1) + torch.randperm(ROWS).split(5):
        alone = operations(geometry, EPS[geometry.name])[what](x[row], v[row], draws[row])
        assert torch.equal(alone, together[row])


@pytest.mark.parametrize("what", ["project", "extreme", "hyperplane", "random_point", "distance", "dual"])
@pytest.mark.parametrize("name", ["Linf", "L2", "L1"])
def test_a_long_row_is_the_same_alone_and_in_a_batch(name: str, what: str) -> None:
    x = images(3, (1, 400, 500))  # long enough for torch to share one row out among threads
    v, draws = noise(x), draws_for(x)
    operation = operations(norm(name), EPS[name])[what]
    assert torch.equal(operation(x[1:2], v[1:2], draws[torch.tensor([1])])[0], operation(x, v, draws)[1])


def test_the_sum_of_a_row_does_not_depend_on_the_number_of_rows() -> None:
    values = torch.randn(64, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = row_sum(values)
    assert all(torch.equal(row_sum(values[i : i + 1])[0], total[i]) for i in range(64))
    torch.testing.assert_close(total, values.sum(1), rtol=1e-9, atol=1e-9)


@every_norm
def test_channels_last_memory_changes_nothing(geometry: Norm) -> None:
    x = images()
    v, draws = noise(x), draws_for(x)
    last = torch.channels_last
    for what, operation in operations(geometry, EPS[geometry.name]).items():
        turned = operation(x.contiguous(memory_format=last), v.contiguous(memory_format=last), draws)
        assert torch.equal(operation(x, v, draws), turned), what


@pytest.mark.parametrize("geometry, what", CASES, ids=str)
def test_one_radius_a_sample_is_the_loop_over_samples(geometry: Norm, what: str) -> None:
    x = images()
    v, draws = noise(x), draws_for(x)
    eps = torch.linspace(0, 3, ROWS) * EPS[geometry.name]
    eps[5] = torch.inf
    together = operations(geometry, eps)[what](x, v, draws)
    for i in range(ROWS):
        row = torch.tensor([i])
        assert torch.equal(operations(geometry, eps[i].item())[what](x[row], v[row], draws[row])[0], together[i])


@every_norm
@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 30.0])
def test_no_point_leaves_ball_or_box_and_projecting_again_changes_nothing(geometry: Norm, scale: float) -> None:
    x, eps = images(), EPS[geometry.name] * scale
    v = noise(x)
    flat = torch.full_like(v, 0.3)  # every coordinate would be rounded the same way
    made = {what: operations(geometry, eps)[what](x, v, draws_for(x)) for what in ("extreme", "random_point")}
    made |= {"project": geometry.project(x + v, x, eps), "flat": geometry.project(x * 0 + 0.7 + flat, x * 0 + 0.7, eps)}
    for what, point in made.items():
        clean = x * 0 + 0.7 if what == "flat" else x
        assert (geometry.distance(point.double() - clean.double()) <= eps).all(), what
        assert ((point >= 0) & (point <= 1)).all(), what
        assert torch.equal(geometry.project(point, clean, eps), point), what


@every_norm
def test_a_projection_uses_the_whole_radius(geometry: Norm) -> None:
    x, eps = images(), EPS[geometry.name]
    for point in (geometry.project(x + 5 * noise(x), x, eps), geometry.extreme(x, noise(x), eps)):
        assert (geometry.distance(point.double() - x.double()) >= eps * (1 - 5e-6)).all()


@every_norm
@pytest.mark.parametrize("eps", [0.0, torch.zeros(ROWS), torch.full((ROWS,), torch.nan)], ids=["0", "rows", "nan"])
def test_a_ball_without_radius_gives_the_image_back_bit_for_bit(geometry: Norm, eps: float | Tensor) -> None:
    x = images()
    for what in ("project", "extreme", "random_point"):
        assert torch.equal(operations(geometry, eps)[what](x, noise(x), draws_for(x)), x), what


@every_norm
def test_a_zero_gradient_moves_nothing(geometry: Norm) -> None:
    x = images()
    zero = torch.zeros_like(x)
    assert not geometry.steepest(zero, x).any()
    assert torch.equal(geometry.extreme(x, zero, EPS[geometry.name]), x)
    if geometry.name != "L0":
        assert torch.equal(geometry.hyperplane(x, zero, torch.ones(ROWS)), x)


@pytest.mark.parametrize("geometry, what", CASES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_numbers_stay_in_their_row(geometry: Norm, what: str, bad: float) -> None:
    x = images()
    v = noise(x)
    broken = v.clone()
    broken[4], broken[7, 0, 0, 0] = bad, bad
    operation, others = operations(geometry, EPS[geometry.name])[what], torch.arange(ROWS)
    others = others[(others != 4) & (others != 7)]
    good, found = operation(x, v, draws_for(x)), operation(x, broken, draws_for(x))
    assert torch.equal(found[others], good[others])
    if what in ("steepest", "extreme", "hyperplane", "dual"):
        assert found.isfinite().all()
    if what == "project":  # an infinite wish is a far one; what is not a number stays visible
        assert found[7].isnan().sum() == (1 if bad != bad else 0)


@pytest.mark.parametrize("name", ["L2", "L1"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 2, 2)])
def test_random_points_fill_the_ball_evenly(name: str, shape: tuple[int, int, int]) -> None:
    x = torch.full((2000, *shape), 0.5)
    delta = norm(name).random_point(x, 0.05, draws_for(x)).double() - 0.5
    volume = (norm(name).distance(delta) / 0.05) ** x[0].numel()
    assert kstest(volume.numpy(), "uniform").pvalue > 1e-3
    if shape == (1, 1, 2):  # the direction, in the plane
        first, second = delta.flatten(1).T
        angle = torch.atan2(second, first) / torch.pi if name == "L2" else first.abs() / delta.flatten(1).abs().sum(1)
        assert kstest(angle.abs().numpy(), "uniform").pvalue > 1e-3


def test_random_points_of_the_cube_are_uniform_in_every_coordinate() -> None:
    x = torch.full((500, 1, 2, 2), 0.5)
    delta = norm("Linf").random_point(x, 0.25, draws_for(x)) - 0.5
    assert kstest((delta.flatten() * 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


def test_random_points_of_l0_change_exactly_that_many_values() -> None:
    x = torch.full((100, 1, 4, 4), 0.5)
    changed = norm("L0").random_point(x, 5, draws_for(x)) != x
    assert (changed.flatten(1).sum(1) == 5).all()
    assert changed.any(0).all()


@every_norm
def test_random_directions_have_norm_one_and_change_with_the_index(geometry: Norm) -> None:
    x = images()
    first, second = (geometry.random_direction(x, draws_for(x), index) for index in (0, 1))
    torch.testing.assert_close(geometry.distance(first), torch.ones(ROWS, dtype=torch.float64), rtol=1e-6, atol=0)
    assert not torch.equal(first, second)


def test_the_searches_end_where_every_step_passes_one_breakpoint_only() -> None:
    width = 300
    halves = 0.5 ** torch.arange(width, dtype=torch.float64)[None, :]
    level = fill(torch.ones(1, width, dtype=torch.float64), halves, halves.sum(1) * 0.99999)
    reached = torch.minimum(level[:, None], halves).sum(1)
    torch.testing.assert_close(reached, halves.sum(1) * 0.99999, rtol=1e-12, atol=0)
    x = torch.zeros(1, 1, 1, width)
    wish = (halves * 1e6).float().view_as(x)
    for eps in (1e-3, 0.5, 2.0):
        point = norm("L1").project(wish, x, eps)
        assert eps * (1 - 3e-6) <= norm("L1").distance(point).item() <= eps
    assert norm("L1").distance(norm("L1").project(wish, x, 1e-12)).item() <= 1e-12  # beyond float64 at this size


@every_norm
def test_no_rows_are_no_trouble(geometry: Norm) -> None:
    x = images(0)
    for what, operation in operations(geometry, 0.1).items():
        assert len(operation(x, x, Draws.of(0, []))) == 0, what
