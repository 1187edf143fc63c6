"""The minimiser of L-BFGS against SciPy's, and the attack around it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from toys import affine, run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.quasi_newton import Minimiser
from robustbench_lite.errors import UserError
from robustbench_lite.rows import where
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

Function = Callable[[Tensor], tuple[Tensor, Tensor]]


def minimum(ask: Function, x: Tensor, most: int = 400) -> tuple[Minimiser, Tensor]:
    """The ended searches from x, and how much each has asked."""
    search, asked = Minimiser.begin(x, 10), torch.zeros(len(x))
    for _ in range(most):
        if bool(search.ended.all()):
            break
        asked += ~search.ended
        value, slope = ask(search.proposal)
        search = where(search.ended, search, search.told(search.proposal, value, slope)[0])
    assert search.ended.all()
    return search, asked


def scipys(ask: Function, x: Tensor, row: int) -> tuple[float, int]:
    def one(z: np.ndarray) -> tuple[float, np.ndarray]:
        points = x.clone()
        points[row] = torch.from_numpy(z).view_as(x[row])
        value, slope = ask(points)
        return float(value[row]), slope[row].double().flatten().numpy()

    start = x[row].double().flatten().numpy()
    found = minimize(one, start, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(start))
    return float(found.fun), int(found.nfev)


@pytest.mark.parametrize("seed", [0, 1])
def test_quadratics_in_the_box_have_scipys_minimum_at_scipys_price(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, d = 12, 40
    root = torch.randn((n, d, d), generator=generator, dtype=torch.float64) * torch.logspace(0, -1.5, d)[:, None]
    bend = root @ root.mT / d + 0.02 * torch.eye(d)
    wish = torch.randn((n, d), generator=generator, dtype=torch.float64)  # most of it outside the box

    def ask(x: Tensor) -> tuple[Tensor, Tensor]:
        away = x.double().flatten(1) - wish
        push = (bend @ away[..., None])[..., 0]
        return (away * push).sum(1) / 2, push.float().view_as(x)

    x = torch.rand((n, 1, 5, 8), generator=generator)
    search, asked = minimum(ask, x)
    theirs = [scipys(ask, x, row) for row in range(n)]
    np.testing.assert_allclose(search.value, [value for value, _ in theirs], rtol=1e-6)
    assert float(asked.mean()) <= 1.5 * np.mean([price for _, price in theirs])
    assert ((search.at == 0) | (search.at == 1)).any()


def penalty(system: System, x: Tensor, target: Tensor, c: float) -> Function:
    """|x' - x|^2 - c ln p_target, in double precision but for the network."""

    def ask(point: Tensor) -> tuple[Tensor, Tensor]:
        leaf = point.clone().requires_grad_()
        missing = torch.nn.functional.cross_entropy(system(leaf).scores, target, reduction="none")
        (slope,) = torch.autograd.grad(missing.sum(), leaf)
        delta = point.double() - x.double()
        return delta.square().flatten(1).sum(1) + c * missing.detach().double(), (2 * delta + c * slope).float()

    return ask


@pytest.mark.parametrize("c", [0.03, 1.0])
def test_the_attacks_function_has_scipys_minimum(c: float) -> None:
    system = two_layers()
    x, y, _ = samples(system, 8)
    ask = penalty(system, x, (y + 1) % 5, c)
    search, _ = minimum(ask, x)
    np.testing.assert_allclose(search.value, [scipys(ask, x, row)[0] for row in range(8)], rtol=1e-3)


def test_a_function_that_is_not_finite_somewhere_does_not_lead_astray() -> None:
    def ask(x: Tensor) -> tuple[Tensor, Tensor]:
        far = (x < 0.2).flatten(1).any(1)
        return (x.double() - 0.3).square().flatten(1).sum(1).masked_fill(far, torch.nan), 2 * (x - 0.3)

    search, _ = minimum(ask, torch.full((3, 1, 2, 2), 0.9))
    torch.testing.assert_close(search.at, torch.full((3, 1, 2, 2), 0.3), rtol=0, atol=1e-3)


def test_rows_search_by_themselves() -> None:
    # One search over a whole batch shares its steps, its memory and its end among all images.
    system = affine(classes=4, side=6)
    x, y, _ = samples(system, 20)
    attack, threat = resolve_attack("lbfgs"), Threat(norm="L2")
    together, alone = run(attack, system, x, y, threat), run(attack, system, x[7:8], y[7:8], threat)
    assert torch.equal(together.adv[7], alone.adv[0])
    assert len(together.forwards.unique()) > 1
    assert together.forwards.max() < 1000  # of 5000: a minimum ends its search


def test_all_targets_come_nearer_than_one() -> None:
    system = affine(classes=4, side=6)
    x, y, _ = samples(system, 16)
    one, best = (
        run(resolve_attack(f"lbfgs:searches=8,target={target}"), system, x, y, Threat(norm="L2")).verdict
        for target in ("least-likely", "all")
    )
    assert (best.norms[:, 1] <= one.norms[:, 1] + 1e-6).all()
    assert best.norms[:, 1].median() < 0.9 * one.norms[:, 1].median()


def test_a_goal_without_a_target_is_refused() -> None:
    system = affine()
    x, y, draws = samples(system, 2)
    attack = resolve_attack("lbfgs")
    oracle = object()
    with pytest.raises(UserError, match="no target"):
        attack.start(x, Goal(y=y), Threat(norm="L2"), draws, oracle)
    assert craft(attack, system, x, Goal(y=y), Threat(norm="L2"), draws).shape == x.shape  # craft chooses one
