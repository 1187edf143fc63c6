"""Modes of points and of stacks."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import data
from robustbench_lite.data.points import GRID, RING, to_points
from robustbench_lite.errors import UserError
from robustbench_lite.generators.quality.modes import (
    divergence_from_uniform,
    point_figures,
    stacked_figures,
    total_variation,
)
from robustbench_lite.system import System


def test_the_mixture_itself_has_all_modes_and_the_known_share_of_high_quality():
    for name, mixture in (("ring", RING), ("grid", GRID)):
        test = data.load(name)
        found = point_figures(to_points(test.batch(range(10_000))), mixture)
        assert found["modes"] == found["modes_strict"] == len(mixture.means)
        assert found["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.005)
        assert found["reverse_kl"] < 0.01
        assert found["variation"] < found["variation_packed"] < 0.1


def test_a_collapsed_generator_is_told_from_one_that_has_some_modes():
    one = RING.centres[:1].repeat(2500, 1)
    found = point_figures(one, RING)
    assert (found["modes"], found["modes_strict"], found["high_quality"]) == (1, 1, 1)
    assert found["reverse_kl"] == pytest.approx(math.log(8))
    assert (found["variation"], found["variation_packed"]) == pytest.approx((7 / 8, 63 / 64))
    half = point_figures(RING.centres[::2].repeat(100, 1), RING)
    assert (half["modes"], half["reverse_kl"]) == (4, pytest.approx(math.log(2)))


def test_a_mode_counts_from_one_good_point_and_strictly_from_twenty():
    points = torch.cat(
        [GRID.centres[:1].repeat(20, 1), GRID.centres[1:2].repeat(19, 1), torch.full((61, 2), 1.0).double()]
    )
    found = point_figures(points, GRID)
    assert (found["modes"], found["modes_strict"]) == (2, 1)
    assert found["high_quality"] == pytest.approx(0.39)
    share = torch.tensor([20, 19]) / 39
    assert found["reverse_kl"] == pytest.approx(float((share * (share * 25).log()).sum()))


def test_high_quality_ends_at_three_standard_deviations():
    offsets = torch.tensor([[2.99, 0.0], [0.0, -2.99], [2.2, 2.2], [3.01, 0.0]]).double() * RING.std
    assert point_figures(RING.centres[3] + offsets, RING)["high_quality"] == 0.5


def test_points_that_are_nowhere_have_no_modes_and_no_divergence():
    found = point_figures(torch.zeros(10, 2), RING)
    assert (found["modes"], found["high_quality"]) == (0, 0)
    assert math.isnan(found["reverse_kl"])
    assert math.isnan(found["variation"])


def test_packing_punishes_the_collapsed_of_two_that_are_equally_far():
    """P = U[0, 1]; Q1 = U[.2, 1] has lost a fifth, Q2 is 0.6 on one half and 1.4 on the other (cells of a tenth)."""
    even = torch.full((10,), 0.1)
    collapsed = torch.tensor([0.0] * 2 + [0.125] * 8)
    tilted = torch.tensor([0.06] * 5 + [0.14] * 5)
    assert total_variation(even, collapsed) == pytest.approx(0.2)
    assert total_variation(even, tilted) == pytest.approx(0.2)
    assert total_variation(even, collapsed, packing=2) == pytest.approx(0.36)
    assert total_variation(even, tilted, packing=2) == pytest.approx(0.24)
    for packing in (3, 4):  # what is lost once is seen in one of m draws
        assert total_variation(even, collapsed, packing) == pytest.approx(1 - 0.8**packing)
        assert total_variation(even, tilted, packing) < total_variation(even, collapsed, packing)


def test_the_divergence_from_uniform_is_the_log_of_what_is_lost():
    assert divergence_from_uniform(torch.tensor([5, 5, 0, 0])) == pytest.approx(math.log(2))
    assert divergence_from_uniform(torch.tensor([7, 7, 7])) == pytest.approx(0, abs=1e-12)


class Reads(nn.Module):
    """Sees class k where pixel k is the brightest; sure of it when the others are dark."""

    def forward(self, x: Tensor) -> Tensor:
        return 30 * x.flatten(1)[:, :10]


JUDGE = System(model=Reads(), num_classes=10, input_shape=(1, 4, 4), name="reads")


def drawn(labels: Tensor) -> Tensor:
    """Stacks (n, 3, 4, 4) whose channels show the labels' digits."""
    digits = torch.stack((labels // 100, labels // 10 % 10, labels % 10), 1)
    return nn.functional.one_hot(digits, 16).float().view(-1, 3, 4, 4)


def test_all_thousand_stacks_are_a_thousand_modes():
    found = stacked_figures(JUDGE, drawn(torch.arange(1000)).split(300))
    assert found == pytest.approx(
        {"modes": 1000, "kl": 0, "confident": 1, "modes_confident": 1000, "kl_confident": 0}, abs=1e-9
    )


def test_a_channel_that_never_changes_leaves_a_hundred_modes():
    found = stacked_figures(JUDGE, [drawn(torch.arange(100) + 300)])
    assert (found["modes"], found["kl"]) == (100, pytest.approx(math.log(10)))
    order = stacked_figures(JUDGE, [drawn(torch.tensor([123])), drawn(torch.tensor([321])), drawn(torch.tensor([123]))])
    assert order["modes"] == 2


def test_grey_noise_has_modes_but_none_with_confidence():
    noise = 0.5 + 0.01 * torch.rand(2000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = stacked_figures(JUDGE, [noise])
    assert found["modes"] > 800
    assert (found["confident"], found["modes_confident"]) == (0, 0)
    assert math.isnan(found["kl_confident"])


def test_the_kl_of_perfect_samples_is_that_of_counting_alone():
    labels = torch.randint(0, 1000, (26_000,), generator=torch.Generator().manual_seed(0))
    assert stacked_figures(JUDGE, [drawn(labels)])["kl"] == pytest.approx(999 / 52_000, rel=0.2)


def test_a_judge_of_whole_stacks_is_refused():
    judge = System(model=Reads(), num_classes=10, input_shape=(3, 4, 4), name="whole")
    with pytest.raises(UserError, match=r"the judge whole takes images .*accepted for stacks"):
        stacked_figures(judge, [torch.rand(2, 3, 4, 4)])
