"""Noise: its distribution, its lengths, its streams."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import affine, run, samples

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

KINDS = ["uniform", "gaussian", "sign"]
BALLS = [("Linf", 0.1), ("L2", 0.5), ("L1", 2.0)]


class Difference(nn.Module):
    """Two classes, z = (0, w . (x - 1/2) - m): the label 0 holds where w . delta < m."""

    def __init__(self, w: Tensor, m: float) -> None:
        super().__init__()
        self.w, self.m = w.double(), m

    def forward(self, x: Tensor) -> Tensor:
        other = ((x.double() - 0.5).flatten(1) * self.w).sum(1) - self.m
        return torch.stack((torch.zeros_like(other), other), 1).float()


def one_point(spec: str, threat: Threat, count: int, w: Tensor, m: float) -> tuple[Tensor, System]:
    """A point of noise for each of `count` grey images, every one with streams of its own."""
    system = System(model=Difference(w, m), num_classes=2, input_shape=(1, 4, 4))
    x, y = torch.full((count, 1, 4, 4), 0.5), torch.zeros(count, dtype=torch.int64)
    draws = Draws.of(0, [index.to_bytes(8, "little") for index in range(count)])
    return craft(resolve_attack(spec), system, x, Goal(y=y), threat, draws), system


def slope() -> Tensor:
    return torch.linspace(-1, 2, 16)


def assert_binomial(hits: int, count: int, chance: float) -> None:
    """`hits` of `count` is within the middle 99.9 % of what the chance gives."""
    low, high = stats.binom.interval(0.999, count, chance)
    assert low <= hits <= high


@pytest.mark.parametrize("sigma, m", [(0.05, 0.2), (0.08, 0.1), (0.02, 0.0)])
def test_gaussian_noise_flips_as_often_as_the_normal_distribution_says(sigma: float, m: float) -> None:
    adv, system = one_point(f"noise:kind=gaussian,draws=1,sigma={sigma}", Threat(norm="L2", eps=50), 4000, slope(), m)
    chance = stats.norm.cdf(-m / (sigma * slope().norm().item()))
    assert_binomial(int((system(adv).prediction() == 1).sum()), 4000, chance)


def test_stretched_gaussian_noise_flips_as_often_as_a_cap_of_the_sphere_is_large() -> None:
    w, eps, m = slope(), 0.4, 0.5
    adv, system = one_point("noise:kind=gaussian,draws=1", Threat(norm="L2", eps=eps), 4000, w, m)
    height = m / (eps * w.norm().item())
    cap = stats.beta.cdf(1 - height**2, (16 - 1) / 2, 0.5) / 2  # Li 2011, Asian J. Math. Stat. 4, eq. 1
    assert_binomial(int((system(adv).prediction() == 1).sum()), 4000, cap)


def test_a_random_corner_moves_the_margin_by_mean_zero_and_the_slope_s_variance() -> None:
    w, eps = slope(), 0.1
    adv, _ = one_point("noise:kind=sign,draws=1", Threat(norm="Linf", eps=eps), 4000, w, 1.0)
    change = ((adv - 0.5).flatten(1).double() @ w.double()).numpy()
    spread = eps * w.norm().item()
    assert abs(change.mean()) < 4 * spread / math.sqrt(4000)
    assert change.std() == pytest.approx(spread, rel=0.05)
    assert np.allclose((adv - 0.5).abs(), eps, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "sign"])
@pytest.mark.parametrize("norm, eps", BALLS)
def test_off_the_walls_noise_has_the_full_length(norm: str, eps: float, kind: str) -> None:
    threat = Threat(norm=norm, eps=eps)
    adv, _ = one_point(f"noise:kind={kind},draws=1", threat, 50, slope(), 9.0)
    assert np.allclose(threat.distance(adv, torch.full_like(adv, 0.5)), eps, rtol=1e-5)


@pytest.mark.parametrize("norm, eps", BALLS)
def test_sign_noise_has_the_full_length_at_the_walls_too(norm: str, eps: float) -> None:
    system, threat = affine(), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 20)
    x = (x > 0.5).float() * 0.98 + 0.01  # a hundredth from a wall everywhere
    adv = craft(resolve_attack("noise:kind=sign,draws=1"), system, x, Goal(y=y), threat, draws)
    assert np.allclose(threat.distance(adv, x), eps, rtol=1e-4)


@pytest.mark.parametrize("kind", ["uniform", "sign", "gaussian,sigma=0.5"])
def test_in_l0_as_many_values_change_as_may(kind: str) -> None:
    threat = Threat(norm="L0", eps=5)
    adv, _ = one_point(f"noise:kind={kind},draws=1", threat, 50, slope(), 9.0)
    assert (threat.distance(adv, torch.full_like(adv, 0.5)) == 5).all()
    assert len({tuple(row) for row in (adv != 0.5).flatten(1).tolist()}) > 25
    if kind == "sign":
        assert set(adv.unique().tolist()) == {0.0, 0.5, 1.0}


class Recorder(nn.Module):
    """A model that remembers every image that it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.model(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm, eps", BALLS)
def test_few_draws_are_the_first_of_many(norm: str, eps: float, kind: str) -> None:
    system = affine()
    x, y, draws = samples(system, 5)
    shown = []
    for count in (3, 8):
        recorder = Recorder(system.model)
        attack = resolve_attack(f"noise:kind={kind},draws={count}")
        craft(attack, system.with_model(recorder), x, Goal(y=y), Threat(norm=norm, eps=eps), draws)
        shown.append(torch.stack(recorder.seen))
    assert torch.equal(shown[0], shown[1][:3])
    assert len({point.numpy().tobytes() for point in shown[1]}) == 8


def test_more_draws_break_what_fewer_do_and_more() -> None:
    system, threat = affine(classes=4), Threat(norm="Linf", eps=0.1)
    x, y, _ = samples(system, 150)
    found = [run(resolve_attack(f"noise:kind=sign,draws={count}"), system, x, y, threat) for count in (1, 10, 60)]
    broken = [outcome.verdict.broken for outcome in found]
    assert (broken[0] <= broken[1]).all()
    assert (broken[1] <= broken[2]).all()
    assert broken[0].sum() < broken[1].sum() < broken[2].sum()


def test_the_worst_draw_is_kept_where_all_are_tried() -> None:
    system, threat = affine(classes=4), Threat(norm="Linf", eps=0.1)
    x, y, _ = samples(system, 100)
    margin = [
        run(resolve_attack(f"noise:kind=sign,draws={count}"), system, x, y, threat, stop_early=False).verdict.margin
        for count in (5, 40)
    ]
    both = (margin[0] > 0) & (margin[1] > 0)
    assert (margin[0] <= margin[1])[both].all()
    assert (margin[0] < margin[1])[both].any()


def test_l0_has_no_length_to_stretch_to() -> None:
    with pytest.raises(UserError, match="L0 has no length to stretch kind=gaussian to; give sigma"):
        resolve_attack("noise:kind=gaussian").check(Threat(norm="L0", eps=3), 10)
    resolve_attack("noise:kind=gaussian,sigma=0.5").check(Threat(norm="L0", eps=3), 10)
