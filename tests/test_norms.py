"""The geometry of the balls against independent solvers: SLSQP, linear programs, exhaustive search."""

import itertools
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from torch import Tensor
from torch.testing import assert_close

from robustbench_lite.errors import UserError
from robustbench_lite.norms import NORMS, Norm, norm
from robustbench_lite.norms.rowwise import pour, row_sum

Vector = NDArray[np.float64]
INSIDE = 1 - 1e-6  # where a projection lands
WIDTH = 6
UNIT = st.floats(0, 1, width=32)
pixels = hnp.arrays(np.float64, WIDTH, elements=UNIT)
wishes = hnp.arrays(np.float64, WIDTH, elements=st.floats(-2, 2, width=32))
# Slopes too small to matter for a solver's stopping rule would be compared with its own tolerance.
slopes = hnp.arrays(np.float64, WIDTH, elements=st.floats(-3, 3, width=32).filter(lambda g: g == 0 or abs(g) > 1e-2))
radii = st.floats(0.01, 2.5)
many = settings(max_examples=60, deadline=None, derandomize=True)


def rows(*vectors: Vector) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(vector).view(1, 1, 2, WIDTH // 2) for vector in vectors)


def flat(image: Tensor) -> Vector:
    return image.reshape(-1).double().numpy()


def size(name: str, delta: Vector) -> float:
    return float(np.linalg.norm(delta, {"Linf": np.inf, "L2": 2, "L1": 1, "L0": 0}[name]))


def nearest(name: str, wish: Vector, x: Vector, eps: float) -> Vector:
    """The perturbation nearest to a wish in ball and box, by a general solver that knows nothing of its structure."""
    if name == "L0":
        kept = np.clip(x + wish, 0, 1) - x
        masks = [np.array(mask) for mask in itertools.product((0, 1), repeat=WIDTH) if sum(mask) <= int(eps)]
        return min((kept * mask for mask in masks), key=lambda delta: float(np.sum((wish - delta) ** 2)))
    if name == "Linf":
        return np.clip(wish, np.maximum(-x, -eps), np.minimum(1 - x, eps))
    split = np.vstack([np.eye(WIDTH), -np.eye(WIDTH)])  # delta = up - down, both >= 0
    ball: dict[str, Any] = {
        "L1": {"type": "ineq", "fun": lambda z: eps - z.sum(), "jac": lambda z: -np.ones(2 * WIDTH)},
        "L2": {
            "type": "ineq",
            "fun": lambda z: eps**2 - np.sum((z @ split) ** 2),
            "jac": lambda z: -2 * split @ (z @ split),
        },
    }[name]
    inside = np.clip(wish * min(1, eps / max(1e-9, np.abs(wish).sum())), -x, 1 - x)
    found: Any = minimize(  # type: ignore[call-overload]
        lambda z: 0.5 * np.sum((z @ split - wish) ** 2),
        np.concatenate([np.maximum(inside, 0), np.maximum(-inside, 0)]),
        jac=lambda z: split @ (z @ split - wish),
        bounds=[(0, high) for high in np.concatenate([1 - x, x])],
        constraints=[ball],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return np.asarray(found.x @ split)


def largest_gain(name: str, x: Vector, grad: Vector, eps: float) -> float:
    """max <grad, delta> over ball and box."""
    gains = np.abs(grad) * np.where(grad > 0, 1 - x, x)
    if name == "L0":
        return float(np.sort(gains)[::-1][: int(eps)].sum())
    if name == "L2":
        return float(grad @ _fill_l2(grad, x, eps))
    costs, bounds = np.concatenate([-grad, grad]), [(0, h) for h in np.concatenate([1 - x, x])]
    if name == "L1":
        best: Any = linprog(costs, A_ub=np.ones((1, 2 * WIDTH)), b_ub=[eps], bounds=bounds)
    else:
        best = linprog(-grad, bounds=list(zip(np.maximum(-x, -eps), np.minimum(1 - x, eps), strict=True)))
    return -float(best.fun)


def _fill_l2(grad: Vector, x: Vector, eps: float) -> Vector:
    """The longest clip(t * grad) within the radius, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        short = np.linalg.norm(np.clip(middle * grad, -x, 1 - x)) < eps
        low, high = (middle, high) if short else (low, middle)
    return np.clip(low * grad, -x, 1 - x)


@many
@given(wish=wishes, x=pixels, eps=radii)
@pytest.mark.parametrize("name", NORMS)
def test_a_projection_is_the_nearest_point_of_ball_and_box(name: str, wish: Vector, x: Vector, eps: float) -> None:
    eps = float(int(eps * 2)) if name == "L0" else eps
    start, clean = rows(x + wish, x)
    wish = x + wish - x  # as it is rounded
    ours = flat(norm(name).project(start, clean, eps)) - x
    assert size(name, ours) <= eps * (1 + 1e-12)
    assert ((x + ours >= 0) & (x + ours <= 1)).all()
    theirs = nearest(name, wish, x, eps if name == "L0" else INSIDE * eps)
    further = np.sum((theirs - wish) ** 2) - np.sum((ours - wish) ** 2)
    assert further >= -1e-6 * (1 + eps)
    if name == "L0":  # there may be several
        assert further <= 1e-9
        return
    if further < 1e-12:  # the solver did not get stuck on its way
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * (1 + eps))
    rest = wish - ours  # at the nearest point of a convex set no other gains along what is left of the wish
    assert largest_gain(name, x, rest, eps) - rest @ ours <= 1e-7 + (2e-6 * eps + 1e-7) * np.abs(rest).sum()


@many
@given(grad=slopes, x=pixels, eps=radii)
@pytest.mark.parametrize("name", NORMS)
def test_an_extreme_point_gains_what_a_linear_program_gains(name: str, grad: Vector, x: Vector, eps: float) -> None:
    eps = float(int(eps * 2)) if name == "L0" else eps
    clean, slope = rows(x, grad)
    delta = flat(norm(name).extreme(clean, slope, eps)) - x
    assert size(name, delta) <= eps * (1 + 1e-12)
    assert ((x + delta >= 0) & (x + delta <= 1)).all()
    assert (delta[grad == 0] == 0).all()
    assert grad @ delta == pytest.approx(largest_gain(name, x, grad, eps), rel=1e-5, abs=1e-6)


@settings(many, max_examples=25)
@given(w=slopes, p=pixels, shift=st.floats(-4, 4))
@pytest.mark.parametrize("name", ["Linf", "L2", "L1"])
def test_the_point_on_a_hyperplane_is_the_nearest_in_its_norm(name: str, w: Vector, p: Vector, shift: float) -> None:
    offset = float(w @ p) + shift
    place, normal = rows(p, w)
    found = flat(norm(name).hyperplane(place, normal, torch.tensor([offset], dtype=torch.float64)))
    assert ((found >= 0) & (found <= 1)).all()
    corner = np.where(w * shift > 0, 1.0, np.where(w * shift < 0, 0.0, p))
    if abs(w @ (corner - p)) <= abs(shift):  # out of reach
        np.testing.assert_allclose(found, corner, atol=1e-9)
        return
    assert w @ found == pytest.approx(offset, abs=1e-7)
    assert size(name, found - p) == pytest.approx(_distance_to_plane(name, p, w, shift), abs=1e-6)


def _distance_to_plane(name: str, p: Vector, w: Vector, shift: float) -> float:
    """By duality: the largest gain within a radius grows with it; the distance is where it reaches the shift."""
    towards, low, high = w * np.sign(shift), 0.0, float(WIDTH)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if largest_gain(name, p, towards, middle) < abs(shift) else (low, middle)
    return high


@pytest.mark.parametrize("name", ["Linf", "L2", "L1"])
@many
@given(first=wishes, second=wishes, x=pixels, eps=radii)
def test_a_projection_brings_no_two_points_further_apart(
    name: str, first: Vector, second: Vector, x: Vector, eps: float
) -> None:
    clean = rows(x)[0]
    a, b = (flat(norm(name).project(rows(x + wish)[0], clean, eps)) for wish in (first, second))
    assert np.linalg.norm(a - b) <= np.linalg.norm(first - second) + 2 * (1 - INSIDE) * eps + 1e-7


@pytest.mark.parametrize("name, keep", [("Linf", 0.01), ("L2", 0.01), ("L1", 0.01), ("L1", 0.5)])
@many
@given(grad=slopes)
def test_the_steepest_direction_has_norm_one_and_gains_the_dual_norm(name: str, keep: float, grad: Vector) -> None:
    geometry, slope = norm(name), rows(grad)[0]
    direction = geometry.steepest(slope, keep=keep)
    if not grad.any():
        assert not direction.any()
        return
    assert_close(geometry.distance(direction), torch.ones(1, dtype=torch.float64), rtol=1e-7, atol=0)
    gain = (slope * direction).sum().item()
    if keep < 1 / WIDTH or name != "L1":
        assert gain == pytest.approx(geometry.dual(slope).item(), rel=1e-7)
    else:
        assert 0 < gain <= geometry.dual(slope).item() * (1 + 1e-7)


@pytest.mark.parametrize("name", ["L1", "L0"])
def test_a_sparse_step_does_not_push_against_a_wall(name: str) -> None:
    grad = torch.tensor([3.0, -2.0, 1.0, -0.5]).view(1, 1, 2, 2)
    at = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    step = norm(name).steepest(grad, at, keep=0.5)
    assert step.flatten().tolist() == [0, 0, 0, -1]
    assert not norm(name).steepest(-grad, 1 - at).flatten()[:3].any()


@pytest.mark.parametrize("name", ["L1", "L0"])
def test_equal_slopes_are_taken_from_the_lowest_index(name: str) -> None:
    grad = torch.tensor([1.0, 2.0, 2.0, 2.0, -2.0, 1.0, 1.0, 1.0, 1.0, 1.0]).view(1, 1, 2, 5)
    keep = torch.tensor([0.3])
    assert norm(name).steepest(grad, keep=keep).flatten().nonzero().flatten().tolist() == [1, 2, 3]
    one = norm("L0").project(grad.new_full((1, 1, 2, 5), 0.7), grad.new_full((1, 1, 2, 5), 0.5), 2)
    assert (one != 0.5).flatten().nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("name, covering", [("Linf", 1), ("L2", 12**0.5), ("L1", 12), ("L0", 12)])
def test_a_covering_ball_leaves_only_the_box(name: str, covering: float) -> None:
    geometry, x = norm(name), torch.zeros(1, 3, 2, 2)
    wish = torch.linspace(-1, 3, 12).view_as(x)
    assert geometry.covers((3, 2, 2)) == pytest.approx(covering)
    for eps in (geometry.covers((3, 2, 2)), 1e6, torch.inf):
        assert torch.equal(geometry.project(wish, x, eps), wish.clamp(0, 1))
    assert geometry.distance(torch.ones_like(x)).item() == pytest.approx(covering)


@pytest.mark.parametrize("geometry", NORMS.values(), ids=str)
def test_distances_are_those_of_numpy(geometry: Norm) -> None:
    delta = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).relu()
    expected = torch.tensor([size(geometry.name, flat(row)) for row in delta], dtype=torch.float64)
    assert_close(geometry.distance(delta), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "text, name", [("linf", "Linf"), ("l_inf", "Linf"), ("INF", "Linf"), ("2", "L2"), ("l-1", "L1")]
)
def test_a_norm_is_found_however_it_is_written(text: str, name: str) -> None:
    assert str(norm(text)) == name
    assert norm(text) == norm(name)


@pytest.mark.parametrize("text", ["L3", "", "euclid", "l"])
def test_an_unknown_norm_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown norm"):
        norm(text)


def test_l0_has_no_hyperplane() -> None:
    with pytest.raises(UserError, match="L0 has no projection"):
        norm("L0").hyperplane(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.zeros(1))


@pytest.mark.parametrize("width", [5, 128, 1000, 3072])
@pytest.mark.parametrize("levels", [2, 40, 10**6])
def test_pouring_into_the_best_is_pouring_in_the_whole_order_also_among_ties(width: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(width)
    score = torch.randint(0, levels, (12, width), generator=generator).double() / levels
    cap = torch.rand((12, width), generator=generator).double()
    total = cap.sum(1) * torch.tensor([0.0, 1e-4, 3e-3, 0.01, 0.02, 0.1, 0.5, 0.9, 1.0, 2.0, 1e-3, 0.015]).double()
    order = score.argsort(dim=1, descending=True, stable=True)
    spent, left = torch.zeros_like(cap), total.clone()
    for place in order.T:
        part = torch.minimum(cap.gather(1, place[:, None])[:, 0], left)
        spent.scatter_(1, place[:, None], part[:, None])
        left = left - part
    assert_close(pour(score, cap, total), spent, rtol=0, atol=1e-9)


@pytest.mark.parametrize("width", [1, 7, 3072, 40_000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_sum_of_a_row_has_the_same_bits_in_any_company(width: int, threads: int) -> None:
    values = torch.randn((9, width), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = row_sum(values)
        for rows in (slice(0, 1), slice(8, 9), slice(3, 5), slice(1, 9)):
            assert torch.equal(row_sum(values[rows]), together[rows])
        assert torch.equal(row_sum(torch.cat((values, values), 1)[:, :width]), together)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(together.numpy(), values.double().numpy().sum(1), rtol=1e-9, atol=1e-9)
