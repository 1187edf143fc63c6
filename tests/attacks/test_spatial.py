"""The spatial attack: what its grid holds, what it finds, and in which order."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

THREAT = Threat.parse("spatial:translation=2,rotation=40")


class Lit(nn.Module):
    """Class 1 where one pixel is bright, else class 0."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.row, self.column = row, column

    def forward(self, x: Tensor) -> Tensor:
        lit = x[:, 0, self.row, self.column]
        return torch.stack((torch.full_like(lit, 0.5), lit), 1)


def broken(spec: str, system: System, x: Tensor, y: Tensor, threat: Threat = THREAT, **more: Any) -> Outcome:
    return run(resolve_attack(spec), system, x, y, threat, **more)


def test_the_grid_finds_every_shift_that_there_is_and_no_other() -> None:
    system = System(model=Lit(4, 4), num_classes=2, input_shape=(1, 9, 9))
    x = torch.zeros(81, 1, 9, 9)
    x.view(81, 81)[torch.arange(81), torch.arange(81)] = 1.0
    y = system(x).prediction()
    threat = Threat.parse("spatial:translation=2,rotation=0")
    found = broken("spatial", system, x[y == 0], y[y == 0], threat)
    place = torch.arange(81)[y == 0]
    near = ((place // 9 - 4).abs() <= 2) & ((place % 9 - 4).abs() <= 2)
    assert torch.equal(found.verdict.broken, near)
    shift = found.witness
    assert shift is not None
    assert torch.equal(shift[near, 0].long(), (4 - place % 9)[near])
    assert torch.equal(shift[near, 1].long(), (4 - place // 9)[near])
    assert (found.forwards[~near] == 25).all()  # a limit of 0 degrees has one angle


def test_the_grid_of_the_paper_has_775_points_with_the_ends_and_the_image_itself() -> None:
    attack = resolve_attack("spatial")
    assert attack.length() == attack.cost(10).forwards == 775
    grid = attack._grid(torch.tensor([3.0, 3.0, 30.0], dtype=torch.float64))  # type: ignore[attr-defined]
    assert len(grid.unique(dim=0)) == 775
    assert grid[0].abs().tolist() == [1, 1, 1]  # the farthest first
    assert grid[-1].tolist() == [0, 0, 0]
    assert sorted({round(30 * angle) for angle in grid[:, 2].tolist()}) == list(range(-30, 31, 2))
    assert sorted({3 * shift for shift in grid[:, 0].tolist()}) == [-3, -1.5, 0, 1.5, 3]


def test_a_finer_grid_and_wider_limits_break_no_less() -> None:
    system = two_layers(classes=3)
    x, y, _ = samples(system, 60)
    coarse, fine = (
        broken(f"spatial:{grid}", system, x, y) for grid in ("translations=3,rotations=3", "translations=5,rotations=5")
    )
    assert not (coarse.verdict.broken & ~fine.verdict.broken).any()
    half = broken("spatial:translations=3,rotations=3", system, x, y, THREAT.at(0.5))
    assert not (half.verdict.broken & ~fine.verdict.broken).any()
    assert coarse.verdict.broken.any()


def test_the_grid_breaks_no_less_than_ten_random_draws() -> None:
    system = two_layers(classes=3)
    x, y, _ = samples(system, 60)
    grid, random = (broken(spec, system, x, y) for spec in ("spatial:rotations=11", "spatial:mode=random"))
    assert grid.verdict.broken.sum() >= random.verdict.broken.sum()
    assert random.verdict.broken.any()
    assert random.verdict.valid.all()
    more = broken("spatial:mode=random,draws=20", system, x, y)
    assert not (random.verdict.broken & ~more.verdict.broken).any()


def test_limits_of_zero_break_nothing_and_cost_one_query() -> None:
    system = two_layers()
    x, y, _ = samples(system, 8)
    found = broken("spatial", system, x, y, THREAT.at(0.0))
    assert not found.verdict.broken.any()
    assert (found.forwards == 1).all()
    assert torch.equal(found.adv, x)


def test_what_is_kept_is_the_worst_where_the_search_goes_on() -> None:
    system = two_layers(classes=3)
    x, y, _ = samples(system, 30)
    spec = "spatial:translations=3,rotations=5"
    first, worst = (broken(spec, system, x, y, stop_early=early) for early in (True, False))
    assert torch.equal(first.verdict.broken, worst.verdict.broken)
    hit = first.verdict.broken
    assert (worst.verdict.margin[hit] >= first.verdict.margin[hit]).all()
    assert (first.forwards <= worst.forwards).all()
    assert (worst.forwards == 45).all()


def test_a_sample_does_not_feel_its_neighbours() -> None:
    system = two_layers(classes=3)
    x, y, _ = samples(system, 20)
    for spec in ("spatial:translations=3,rotations=3", "spatial:mode=random,draws=6"):
        one, other = broken(spec, system, x, y), broken(spec, system, x, y, order=torch.arange(20).flip(0))
        assert torch.equal(one.adv, other.adv)
        assert one.witness is not None
        assert other.witness is not None
        assert torch.equal(one.witness, other.witness)


def test_training_is_given_what_the_engine_finds() -> None:
    system = two_layers(classes=3)
    x, y, draws = samples(system, 20)
    spec = "spatial:translations=3,rotations=3"
    adv = craft(resolve_attack(spec), system, x, Goal(y=y), THREAT, draws, stop_early=True)
    found = broken(spec, system, x, y).verdict.broken
    assert torch.equal(system(adv).prediction() != y, found)
    assert found.any()


def test_random_draws_are_uniform_within_the_limits() -> None:
    system = two_layers()
    x = torch.rand((500, *system.input_shape), generator=torch.Generator().manual_seed(0))
    y = torch.zeros(500, dtype=torch.int64)
    found = run(resolve_attack("spatial:mode=random,draws=1"), system, x, y, THREAT)
    assert found.witness is not None
    shares = found.witness.double() / torch.tensor([2.0, 2.0, 40.0])
    assert (shares.abs() <= 1).all()
    assert torch.allclose(shares.mean(0), torch.zeros(3, dtype=torch.float64), atol=0.12)
    assert torch.allclose(shares.var(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.05)
    assert len(Draws.for_images(0, x, y)) == 500


@pytest.mark.parametrize(
    "spec", ["spatial:translations=4", "spatial:rotations=2", "spatial:draws=0", "spatial:mode=best"]
)
def test_bad_options_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"spatial: .*accepted"):
        resolve_attack(spec)
