"""DeepFool against closed forms, and against the mistakes that others have made in it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite import UserError
from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.norms import norm as find_norm
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

NORMS = ("L2", "Linf")


def unboxed(system: System, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """(n,): the distance to the nearest boundary of an affine model, as if there were no box."""
    w, b = system.model.weight.detach(), system.model.bias.detach()
    z = x.double().flatten(1) @ w.T + b
    rows = torch.arange(len(x))
    slope = (w[None] - w[y][:, None]).unflatten(2, (1, 1, -1)).flatten(0, 1)
    far = (z[rows, y][:, None] - z) / find_norm(norm).dual(slope).view(len(x), -1).clamp(min=1e-12)
    return far.masked_fill(torch.nn.functional.one_hot(y, z.shape[1]).bool(), torch.inf).amin(1)


def grey(system: System, count: int) -> tuple[Tensor, Tensor, Draws]:
    """Images in the middle of the box, so that it does not bind."""
    x, _, _ = samples(system, count)
    x = 0.4 + 0.2 * x
    y = system(x).prediction()
    return x, y, Draws.for_images(0, x, y)


@pytest.mark.parametrize("classes", [2, 3, 10, 30])
@pytest.mark.parametrize("norm", NORMS)
def test_one_step_crosses_the_nearest_boundary_of_an_affine_model(norm: str, classes: int) -> None:
    system = affine(classes=classes, side=6)
    x, y, _ = grey(system, 40)
    outcome = run(resolve_attack("deepfool:classes=30"), system, x, y, Threat(norm=norm))
    nearest = unboxed(system, x, y, norm)
    assert outcome.verdict.broken.all()
    found = outcome.verdict.norms[:, ("Linf", "L2").index(norm)]
    torch.testing.assert_close(found, 1.02 * (nearest + 1e-4), rtol=1e-4, atol=1e-6)
    assert outcome.forwards.tolist() == [2] * 40  # the gradients, and the question whether it broke
    assert outcome.backwards.tolist() == [classes - 1] * 40


class Bent(nn.Module):
    """One pixel v; class 1 where ln(v / 0.7) > 0. Tangents fall short of the boundary, so several steps are needed."""

    def forward(self, x: Tensor) -> Tensor:
        rise = (x.flatten(1)[:, 0].clamp(min=1e-3) / 0.7).log()
        return torch.stack((torch.zeros_like(rise), rise), 1)


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("norm", NORMS)
def test_the_overshoot_stretches_the_whole_way_from_the_clean_image(norm: str, overshoot: float) -> None:
    system = System(model=Bent(), num_classes=2, input_shape=(1, 1, 1))
    x, y = torch.full((1, 1, 1, 1), 0.1), torch.zeros(1, dtype=torch.int64)
    here, total, steps = 0.1, 0.0, 0
    while here < 0.7:
        total += -math.log(here / 0.7) * here + 1e-4
        here, steps = 0.1 + (1 + overshoot) * total, steps + 1
    attack = resolve_attack(f"deepfool:overshoot={overshoot}")
    outcome = run(attack, system, x, y, Threat(norm=norm))
    assert float(outcome.adv) == pytest.approx(here, abs=1e-5)
    assert steps > 1
    assert outcome.forwards.tolist() == [2 * steps]


@pytest.mark.parametrize("norm", NORMS)
def test_no_example_is_left_on_the_boundary(norm: str) -> None:
    system = affine(classes=5, side=6)
    x, y, _ = samples(system, 100)
    outcome = run(resolve_attack("deepfool"), system, x, y, Threat(norm=norm))
    assert outcome.verdict.broken.all()
    assert (outcome.verdict.margin > 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_it_follows_the_label_and_not_the_answer(norm: str) -> None:
    system = affine(classes=3, side=6)
    x, y, draws = samples(system, 12)
    wrong = (y + 1) % 3
    adv = craft(resolve_attack("deepfool"), system, x, Goal(y=wrong), Threat(norm=norm), draws)
    assert torch.equal(adv, x)
    report = rbl.evaluate(system.model, x, wrong, attacks=["deepfool"], threat=norm, diagnostics=False)
    assert report.records["broken"].all()
    assert (report.records[norm.lower()] == 0).all()
    assert (report.records["forwards"] == 0).all()


def test_one_run_without_eps_gives_the_median_and_the_whole_curve(tmp_path: Path) -> None:
    system = two_layers()
    x, y, _ = samples(system, 40)
    y = torch.where(torch.arange(40) < 4, (y + 1) % 5, y)  # four are wrong at first
    report = rbl.evaluate(system.model, x, y, attacks=["deepfool"], threat="L2", diagnostics=False, out=tmp_path)
    far = np.sort(report.records["l2"].to_numpy())
    row = pd.read_csv(tmp_path / "summary.csv").query("attack == 'deepfool'").iloc[0]
    assert row["median_norm"] == pytest.approx(np.median(far[4:]), rel=1e-6)
    curve = pd.read_csv(tmp_path / "curve.csv").query("attack == 'deepfool'")
    assert curve["eps"].to_numpy() == pytest.approx(far[3:], rel=1e-9)
    assert curve["robust_acc"].to_numpy() == pytest.approx(np.arange(36, -1, -1) / 40)
    assert (tmp_path / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("norm", NORMS)
def test_points_are_cut_at_the_box_and_asked_about_there(norm: str) -> None:
    system = two_layers()
    x, y, draws = samples(system, 30)
    x = x.round()  # every pixel stands at a wall
    y = system(x).prediction()
    adv = craft(resolve_attack("deepfool"), system, x, Goal(y=y), Threat(norm=norm), draws)
    assert ((adv >= 0) & (adv <= 1)).all()
    assert (system(adv).prediction() != y).float().mean() > 0.9


def test_with_many_classes_the_likeliest_are_looked_at() -> None:
    system = affine(classes=30, side=6)
    x, y, _ = grey(system, 20)
    outcome = run(resolve_attack("deepfool:classes=4"), system, x, y, Threat(norm="L2"))
    steps = outcome.backwards // 3
    assert (outcome.forwards == 1 + 2 * steps).all()  # one to rank the classes
    rank = system(x).scores.argsort(dim=1, descending=True)[:, 1:4]
    assert (system(outcome.adv).prediction()[:, None] == rank).any(1).float().mean() > 0.9


def test_rows_leave_when_their_answer_changes() -> None:
    system = two_layers(classes=4)
    x, y, _ = samples(system, 60)
    outcome = run(resolve_attack("deepfool"), system, x, y, Threat(norm="L2"))
    assert outcome.verdict.broken.all()
    assert outcome.forwards.max() < 20
    assert len(outcome.forwards.unique()) > 1  # each after its own number of steps


@pytest.mark.parametrize("norm", NORMS)
def test_at_an_eps_what_is_found_inside_breaks(norm: str) -> None:
    system = affine(classes=5, side=6)
    x, y, draws = grey(system, 60)
    nearest = unboxed(system, x, y, norm)
    eps = float(nearest.median())
    clear = abs(nearest - eps) > 0.03 * eps + 2e-4
    attack, threat = resolve_attack("deepfool"), Threat(norm=norm, eps=eps)
    broken = run(attack, system, x, y, threat).verdict.broken
    assert (broken == (nearest < eps))[clear].all()
    adv = craft(attack, system, x, Goal(y=y), threat, draws)
    assert bool(threat.contains(adv, x).all())


def test_a_targeted_threat_is_met_at_the_target() -> None:
    system = affine(classes=5, side=6)
    x, y, draws = grey(system, 30)
    target = (y + 2) % 5
    goal = Goal(y=y, target=target, success="targeted")
    adv = craft(resolve_attack("deepfool"), system, x, goal, Threat(norm="L2", goal="targeted"), draws)
    assert torch.equal(system(adv).prediction(), target)


def test_threats_and_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(UserError, match="deepfool does not support L1; it supports L2, Linf"):
        resolve_attack("deepfool").check(Threat(norm="L1"), 3)
    for bad in ("classes=1", "overshoot=-0.1", "steps=0"):
        with pytest.raises(UserError, match=f"deepfool: {bad.partition('=')[0]}="):
            resolve_attack(f"deepfool:{bad}")


def test_a_random_direction_of_a_flat_model_is_none() -> None:
    system = System(model=nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_classes=3, input_shape=(1, 2, 2))
    with torch.no_grad():
        for part in system.model.parameters():
            part.zero_()
        list(system.model.parameters())[1][0] = 1.0
    x = torch.rand(8, 1, 2, 2)
    outcome = run(resolve_attack("deepfool:steps=3"), system, x, torch.zeros(8, dtype=torch.int64), Threat(norm="L2"))
    assert not outcome.verdict.broken.any()
    assert np.isfinite(outcome.adv.numpy()).all()
