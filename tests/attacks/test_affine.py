"""On affine models the worst case in ball and box has a closed form, worked out here without the package's geometry."""

import numpy as np
import pytest
from toys import affine, run, samples
from worst_case import margins_to, points, scaled, worst_margins

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

NORMS = [("Linf", 0.1), ("Linf", 0.4), ("L2", 0.5), ("L2", 1.5), ("L1", 0.6), ("L1", 4.0)]


@pytest.mark.parametrize("norm, eps", [*NORMS, ("L0", 3)])
def test_one_step_is_the_worst_case_of_two_classes(norm: str, eps: float) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 40)
    adv = craft(resolve_attack("fgsm"), system, x, Goal(y=y), threat, draws)
    exact = worst_margins(system, x, y, threat).max(1)
    np.testing.assert_allclose(margins_to(system, adv, y, 1 - y), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("spec", ["fgsm:objective=log-odds", "targeted:steps=1", "targeted:steps=12"])
@pytest.mark.parametrize("norm, eps", NORMS)
def test_the_log_odds_reach_the_worst_case_of_every_target(norm: str, eps: float, spec: str) -> None:
    system, threat = affine(classes=4), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 16)
    exact = worst_margins(system, x, y, threat)
    for shift in (1, 2, 3):
        target = (y + shift) % 4
        way = points(resolve_attack(spec), system, x, Goal(y=y, target=target), threat, draws)
        best = np.max([margins_to(system, adv, y, target) for adv in way], axis=0)
        np.testing.assert_allclose(best, exact[np.arange(16), target], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("norm, eps", NORMS)
def test_pgd_ends_in_the_worst_case_from_a_random_start(norm: str, eps: float) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 16)
    adv = craft(resolve_attack("pgd:steps=40,restarts=1"), system, x, Goal(y=y), threat, draws)
    exact = worst_margins(system, x, y, threat).max(1)
    np.testing.assert_allclose(margins_to(system, adv, y, 1 - y), exact, rtol=1e-5, atol=2e-5)


def test_equal_steps_of_two_and_a_half_eps_in_all_stop_short_of_it() -> None:
    system, threat = affine(classes=2), Threat(norm="L2", eps=0.5)
    x, y, draws = samples(system, 16)
    clean, exact = margins_to(system, x, y, 1 - y), worst_margins(system, x, y, threat).max(1)
    adv = craft(resolve_attack("pgd:steps=40,step_size=1/16,restarts=1"), system, x, Goal(y=y), threat, draws)
    missed = (exact - margins_to(system, adv, y, 1 - y)) / (exact - clean)
    assert missed.max() > 0.01


def test_equal_steps_in_l1_come_near_it_where_walls_bind() -> None:
    # Steps of one pixel, as ART's, miss half of it; the gradient divided by its L1 norm, as Foolbox's, a fifth.
    system, threat = affine(classes=2, side=8), Threat(norm="L1", eps=4)
    x, y, draws = samples(system, 16)
    clean, exact = margins_to(system, x, y, 1 - y), worst_margins(system, x, y, threat).max(1)
    spec = "pgd:steps=40,step_size=1/10,restarts=1,objective=margin"
    adv = craft(resolve_attack(spec), system, x, Goal(y=y), threat, draws)
    missed = (exact - margins_to(system, adv, y, 1 - y)) / (exact - clean)
    assert missed.max() < 0.03


SMALL = [("Linf", 0.03), ("L2", 0.12), ("L1", 0.1), ("L1", 0.3)]


@pytest.mark.parametrize(
    "spec, classes",
    [
        ("fgsm", 2),
        ("pgd:steps=20", 2),
        ("pgd:steps=20,objective=margin", 2),
        ("targeted:target=all,steps=2", 2),
        ("targeted:target=all,steps=2", 3),
        ("targeted:target=all,steps=2", 10),
    ],
)
@pytest.mark.parametrize("norm, eps", SMALL)
def test_robust_accuracy_is_the_exact_one(spec: str, classes: int, norm: str, eps: float) -> None:
    system, threat = affine(classes=classes), Threat(norm=norm, eps=eps)
    x, y, _ = samples(system, 120)
    robust = worst_margins(system, x, y, threat).max(1) < 0
    outcome = run(resolve_attack(spec), system, x, y, threat)
    assert 0.05 < robust.mean() < 0.95
    assert (~outcome.verdict.broken).tolist() == robust.tolist()


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("norm, eps", SMALL)
def test_the_margin_misses_at_most_a_sample_in_a_hundred_of_many_classes(norm: str, eps: float, classes: int) -> None:
    # The largest of several slopes has a top for each class; from near one, the slope does not show the others.
    system, threat = affine(classes=classes), Threat(norm=norm, eps=eps)
    x, y, _ = samples(system, 200)
    breakable = worst_margins(system, x, y, threat).max(1) > 0
    broken = run(resolve_attack("pgd:steps=20,objective=margin"), system, x, y, threat).verdict.broken.numpy()
    assert not (broken & ~breakable).any()
    assert (breakable & ~broken).sum() <= 2


@pytest.mark.parametrize("objective, finds", [("ce", False), ("margin", True), ("dlr", True)])
def test_very_confident_models_stop_cross_entropy_and_not_margin_or_dlr(objective: str, finds: bool) -> None:
    plain, threat = affine(classes=3), Threat(norm="Linf", eps=0.05)
    sure = scaled(plain, 1000)
    x, y, _ = samples(plain, 200)
    best, second = plain(x).scores.topk(2).values.T
    x, y = x[best - second > 0.2], y[best - second > 0.2]  # 200 logits apart: float32 has no gradient left at 104
    breakable = worst_margins(plain, x, y, threat).max(1) > 0
    attack = resolve_attack(f"pgd:objective={objective},steps=20,random_start=false")
    broken = run(attack, sure, x, y, threat).verdict.broken.numpy()
    assert breakable.any()
    assert (broken == breakable).all() if finds else not broken.any()


@pytest.mark.parametrize("norm, eps", [("Linf", 0.05), ("L2", 0.3), ("L1", 0.8)])
def test_dlr_does_not_feel_the_scale_of_the_logits(norm: str, eps: float) -> None:
    plain, threat = affine(classes=4), Threat(norm=norm, eps=eps)
    x, y, draws = samples(plain, 20)
    attack = resolve_attack("pgd:objective=dlr,steps=5,restarts=1")
    one, other = (craft(attack, system, x, Goal(y=y), threat, draws) for system in (plain, scaled(plain, 1024)))
    assert (along((one - other).flatten(1).abs().amax(1), one) < 1e-5).all()
