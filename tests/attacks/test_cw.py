"""C&W: walls, fresh starts, the search for c, and rows that give up alone."""

import torch
from toys import affine, run, samples, two_layers
from worst_case import points

from robustbench_lite.attack import Goal, resolve_attack
from robustbench_lite.attacks.cw import squashed, unsquashed
from robustbench_lite.attacks.weights import Weights
from robustbench_lite.threat import Threat

L2 = Threat(norm="L2")


def test_pixels_at_the_walls_are_finite_and_come_back() -> None:
    x = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    w = unsquashed(x)
    assert w.isfinite().all()
    torch.testing.assert_close(squashed(w), x, rtol=0, atol=1e-6)


def test_an_image_of_black_and_white_pixels_is_not_frozen() -> None:
    # The inverse of tanh is infinite at 0 and 1: such pixels would stay for ever, or become NaN.
    system = affine(classes=2)
    x, _, _ = samples(system, 16)
    x = x.round()
    y = system(x).prediction()
    outcome = run(resolve_attack("cw:searches=4,steps=200,c=1,lr=0.05"), system, x, y, L2)
    assert outcome.verdict.broken.all()


def test_every_search_begins_at_the_image_with_adam_at_rest() -> None:
    system = affine()
    x, _, draws = samples(system, 8)
    x = x * 0.8 + 0.1
    y = system(x).prediction()
    attack = resolve_attack("cw:searches=3,steps=20,abort_early=false,c=1,lr=0.01")
    way = points(attack, system, x, Goal(y=y), L2, draws)
    for first in (0, 20, 40):
        torch.testing.assert_close(way[first], x, rtol=0, atol=1e-6)
        # From rest, Adam's first step has the length lr in every coordinate that has a slope.
        step = (unsquashed(way[first + 1]) - unsquashed(way[first])).abs()
        assert (step.flatten(1).median(1).values - 0.01).abs().max() < 1e-3


def test_a_row_that_stands_still_ends_its_search_alone() -> None:
    system = two_layers()
    x, y, _ = samples(system, 16)
    attack = resolve_attack("cw:searches=3,steps=200,c=1")
    together = run(attack, system, x, y, L2)
    assert together.forwards.min() < 600
    assert len(together.forwards.unique()) > 1
    alone = run(attack, system, x[5:6], y[5:6], L2)
    assert alone.forwards[0] == together.forwards[5]


def test_a_short_search_is_not_given_up() -> None:
    system = two_layers()
    x, y, _ = samples(system, 8)
    assert (run(resolve_attack("cw:searches=2,steps=20"), system, x, y, L2).forwards == 40).all()


def test_the_weight_is_bracketed_and_raised_by_10_before() -> None:
    weights = Weights.begin(torch.zeros(2, dtype=torch.int64), 0.1)
    hits = [(False, True), (False, True), (True, False), (False, True)]
    seen = []
    for pair in hits:
        weights = weights.after(torch.tensor(pair))
        seen.append(weights.c.tolist())
    expected = [[1.0, 0.05], [10.0, 0.025], [5.5, 0.0375], [7.75, 0.03125]]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))
    assert weights.tried.tolist() == [4, 4]


def test_a_leap_across_a_near_boundary_does_not_end_the_search_for_c() -> None:
    # The boundary is nearer than Adam's first step: as published, that leap passes for the work of c = 0.001.
    system = affine(classes=2)
    x, y, _ = samples(system, 200)
    weight, bias = (part.detach() for part in (system.model.weight, system.model.bias))
    slope = weight[1] - weight[0]
    height = (x.double().flatten(1) @ slope + bias[1] - bias[0]).abs()
    away = height / slope.norm()
    row = away.sort().indices[(away.sort().values > 0.004).nonzero()[0]]
    outcome = run(resolve_attack("cw:searches=7,steps=300"), system, x[row], y[row], L2)
    assert float(outcome.verdict.norms[0, 1] / away[row]) < 1.05
