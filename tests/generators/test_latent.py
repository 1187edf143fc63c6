"""Walks through a latent space, and what arithmetic in it does."""

import math

import pytest
import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.generators.base import Network
from robustbench_lite.generators.latent import (
    arithmetic,
    direction,
    interpolate,
    slant,
    slerp,
    thickness,
    traverse,
    width,
)
from robustbench_lite.randomness import Draws


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_interpolation_begins_and_ends_at_its_points():
    one, other = random(5, 7), random(5, 7, seed=1)
    found = interpolate(one, other)
    assert found.shape == (5, 9, 7)
    torch.testing.assert_close(found[:, 0], one)
    torch.testing.assert_close(found[:, -1], other)
    torch.testing.assert_close(found[:, 4], slerp(one, other, 0.5))


def test_between_points_of_one_norm_the_norm_stays_and_the_angle_grows_evenly():
    one, other = (3 * random(5, 7, seed=seed) for seed in (0, 1))
    one, other = (5 * z / z.norm(dim=1, keepdim=True) for z in (one, other))
    found = interpolate(one, other, 5)
    torch.testing.assert_close(found.norm(dim=2), torch.full((5, 5), 5.0))
    angles = ((found[:, 1:] * found[:, :-1]).sum(2) / 25).acos()
    whole = ((one * other).sum(1) / 25).acos()
    torch.testing.assert_close(angles, (whole / 4)[:, None].expand(5, 4), rtol=1e-3, atol=1e-4)


def test_parallel_and_opposite_points_and_the_origin_are_joined_by_a_straight_line():
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    other = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    found = slerp(one, other, 0.25)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[0], torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.0]))


def test_a_traversal_moves_one_coordinate_from_minus_three_to_three():
    z = random(2, 4)
    found = traverse(z, 1, points=7)
    assert found.shape == (2, 7, 4)
    torch.testing.assert_close(found[1, :, 1], torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]))
    for other in (0, 2, 3):
        torch.testing.assert_close(found[:, :, other], z[:, None, other].expand(2, 7))


def test_a_direction_is_the_difference_of_the_means():
    z = random(8, 3)
    has = torch.tensor([True, False] * 4)
    torch.testing.assert_close(direction(z, has), z[::2].mean(0) - z[1::2].mean(0))


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda z: traverse(z, 4), "no latent coordinate 4; accepted: 0 to 3"),
        (lambda z: traverse(z, 0, points=1), "points=1"),
        (lambda z: interpolate(z, z, 1), "points=1"),
        (lambda z: direction(z, torch.arange(8) < 2), "2 of 8 samples have the attribute; accepted: 3"),
    ],
)
def test_walks_that_lead_nowhere_are_refused(act, message):
    with pytest.raises(UserError, match=message):
        act(random(8, 4))


def bar(lean: float = 0.0, breadth: float = 2.0, size: int = 32) -> Tensor:
    """A bar of height 16 that leans to the right by `lean` pixels for each row upwards, (1, 1, size, size)."""
    down, across = torch.meshgrid(
        torch.arange(size) - size / 2 + 0.5, torch.arange(size) - size / 2 + 0.5, indexing="ij"
    )
    inside = (breadth / 2 + 0.5 - (across + lean * down).abs()).clamp(0, 1)
    return (inside * (down.abs() < 8))[None, None]


@pytest.mark.parametrize("lean", [-0.5, 0.0, 0.3, 0.8])
def test_the_slant_of_a_bar_is_how_it_was_drawn(lean):
    assert float(slant(bar(lean))) == pytest.approx(lean, abs=0.02)


def test_the_width_is_that_of_the_ink_whatever_its_slant_and_grows_with_it():
    upright, leaning, wide = (float(width(x)) for x in (bar(0, 6), bar(0.5, 6), bar(0, 12)))
    assert upright == pytest.approx(4 * 6 / math.sqrt(12), rel=0.06)  # the deviation of a uniform law
    assert leaning == pytest.approx(upright, rel=0.05)
    assert wide == pytest.approx(2 * upright, rel=0.06)


def test_the_thickness_grows_with_the_stroke_and_not_with_the_figure():
    thin, thick = float(thickness(bar(0, 1))), float(thickness(bar(0, 2)))
    assert thick == pytest.approx(2 * thin, rel=0.05)
    small = torch.zeros(1, 1, 32, 32)
    small[:, :, 12:20, 15:17] = 1
    large = torch.zeros(1, 1, 32, 32)
    large[:, :, 4:28, 15:17] = 1
    assert float(thickness(small)) == pytest.approx(float(thickness(large)), rel=0.1)


def test_an_empty_image_has_attributes_that_are_finite():
    nothing = torch.zeros(2, 1, 8, 8)
    for attribute in (thickness, slant, width):
        assert bool(attribute(nothing).isfinite().all())


class Bars(Network):
    """A bar whose breadth the first coordinate sets, and its class the second; the others do nothing."""

    def __init__(self) -> None:
        super().__init__((1, 32, 32), 0, 6)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        rows = [bar(0, 5 + float(point[0].clamp(-3, 3))) * (1.0 if point[1] > 0 else 0.5) for point in z]
        return torch.cat(rows)


def bright(x: Tensor) -> Tensor:
    return (x.flatten(1).amax(1) > 0.75).long()


def test_arithmetic_changes_its_attribute_more_than_random_directions_and_keeps_the_class():
    network = Bars()
    z = random(60, 6)
    z[:, 1] = 2 * z[:, 1].sign()  # far from the border of the classes
    draws = Draws.of(0, [index.to_bytes(8, "little") for index in range(60)])
    found = arithmetic(network, z, None, width, bright, draws)
    assert found.change > 1
    assert found.change > 2 * found.random
    assert found.kept > 0.9
    assert arithmetic(network, z, None, width, bright, draws) == found


def test_an_attribute_that_the_latent_space_does_not_hold_does_not_change():
    draws = Draws.of(0, [index.to_bytes(8, "little") for index in range(24)])
    found = arithmetic(Bars(), random(24, 6), None, lambda x: torch.zeros(len(x)), bright, draws)
    assert (found.change, found.random) == (0, 0)
    with pytest.raises(UserError, match="on 11 points; accepted: 12"):
        arithmetic(Bars(), random(11, 6), None, width, bright, draws[:11])
