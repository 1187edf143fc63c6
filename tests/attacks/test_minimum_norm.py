"""DDN, FMN, C&W and L-BFGS where the smallest norm has a closed form, the box included, and what they share."""

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Affine, affine, run, samples
from worst_case import weights

from robustbench_lite.attack import resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.run.outcomes import Outcome
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

COLUMN = {"Linf": 0, "L2": 1, "L1": 2, "L0": 3}


def least(slope: np.ndarray, x: np.ndarray, missing: float, norm: str) -> float:
    """The smallest norm of a move in the box that gains what is missing along the slope (d,)."""
    room = np.where(slope > 0, 1 - x, x)
    gain = abs(slope) * room
    if gain.sum() < missing:
        return np.inf
    if norm == "L0":
        return float((np.cumsum(np.sort(gain)[::-1]) < missing).sum() + 1)
    if norm == "L1":
        order = np.argsort(-abs(slope))
        before = np.cumsum(gain[order]) - gain[order]
        spent = np.clip(missing - before, 0, gain[order]) / abs(slope[order])
        return float(spent.sum())
    rate, low, high = (abs(slope) if norm == "L2" else np.ones_like(slope)), 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        enough = abs(slope) @ np.minimum(middle * rate, room) >= missing
        low, high = (low, middle) if enough else (middle, high)
    return float(np.linalg.norm(np.minimum(high * rate, room), {"L2": 2, "Linf": np.inf}[norm]))


def closest(system: System, x: Tensor, y: Tensor, norm: str) -> np.ndarray:
    """The distance of every sample to the nearest boundary in the box, (n,)."""
    w, b = weights(system)
    found = []
    for image, label in zip(x.double().flatten(1).numpy(), y.tolist(), strict=True):
        z = w @ image + b
        others = set(range(len(w))) - {label}
        found.append(min(least(w[k] - w[label], image, z[label] - z[k], norm) for k in others))
    return np.array(found)


def norms(outcome: Outcome, norm: str) -> np.ndarray:
    """What was found, infinite where nothing was."""
    found = outcome.verdict.norms[:, COLUMN[norm]].numpy()
    return np.where(outcome.verdict.broken.numpy(), found, np.inf)


@pytest.mark.parametrize(
    "spec, norm, tolerance",
    [
        ("ddn:steps=300", "L2", 1.05),
        ("fmn:steps=300", "Linf", 1.02),
        ("fmn:steps=300", "L2", 1.02),
        ("fmn:steps=300", "L1", 1.02),
        ("fmn:steps=200", "L0", 1.0),
        ("cw:searches=6,steps=200,c=0.1", "L2", 1.02),
        pytest.param("cw", "L2", 1.02, marks=pytest.mark.slow),
        ("lbfgs:searches=12", "L2", 1.02),
    ],
)
def test_the_norm_is_the_closed_form_of_two_classes_in_the_box(spec: str, norm: str, tolerance: float) -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 24)
    exact, found = closest(system, x, y, norm), norms(run(resolve_attack(spec), system, x, y, Threat(norm=norm)), norm)
    assert (found >= exact * (1 - 1e-4)).all()
    assert (found <= exact * tolerance).all()


@pytest.mark.parametrize(
    "spec, norm",
    [("ddn:steps=200", "L2"), ("fmn:steps=200", "L2"), ("fmn:steps=200", "Linf"), ("lbfgs:searches=12", "L2")],
)
def test_pixels_at_the_walls_are_used_as_far_as_they_can(spec: str, norm: str) -> None:
    system = affine(classes=2)
    x, _, _ = samples(system, 24)
    x = torch.where(x < 0.3, 0.0, torch.where(x > 0.7, 1.0, x))
    y = system(x).prediction()
    exact, found = closest(system, x, y, norm), norms(run(resolve_attack(spec), system, x, y, Threat(norm=norm)), norm)
    assert (found >= exact * (1 - 1e-4)).all()
    assert (found <= exact * 1.05).all()


@pytest.mark.parametrize(
    "spec, norm",
    [
        ("fmn:steps=200", "L2"),
        ("fmn:steps=200", "Linf"),
        ("fmn:steps=200", "L1"),
        ("cw:searches=5,steps=100,c=1", "L2"),
    ],
)
def test_of_many_classes_nearly_always_the_nearest_is_found(spec: str, norm: str) -> None:
    system = affine(classes=5, side=6)
    x, y, _ = samples(system, 32)
    exact, found = closest(system, x, y, norm), norms(run(resolve_attack(spec), system, x, y, Threat(norm=norm)), norm)
    assert (found >= exact * (1 - 1e-4)).all()
    assert (found <= exact * 1.05).mean() >= 0.9


@pytest.mark.parametrize("spec", ["ddn:steps=60", "fmn:steps=60", "cw:searches=4,steps=60,c=1", "lbfgs:searches=8"])
def test_a_target_is_reached_and_nothing_else_counts(spec: str) -> None:
    system, threat = affine(classes=4, side=6), Threat.parse("L2:goal=targeted,target=next")
    x, y, _ = samples(system, 16)
    outcome = run(resolve_attack(spec), system, x, y, threat)
    assert outcome.verdict.broken.all()
    assert (system(outcome.adv).prediction() == (y + 1) % 4).all()
    w, b = weights(system)
    for i, image in enumerate(x.double().flatten(1).numpy()):
        k, label = int((y[i] + 1) % 4), int(y[i])
        at_least = least(w[k] - w[label], image, (w[label] - w[k]) @ image + b[label] - b[k], "L2")
        assert outcome.verdict.norms[i, 1] >= at_least * (1 - 1e-4)


@pytest.mark.parametrize("spec", ["ddn:steps=30", "fmn:steps=30", "cw:searches=3,steps=30,c=1", "lbfgs:searches=6"])
@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_a_constant_added_to_all_logits_changes_little(spec: str, shift: float) -> None:
    # Where the label's logit is masked by a product with 0, logits that are all negative have 0 as their best other one.
    plain = affine(classes=4, side=6)
    x, y, _ = samples(plain, 16)
    moved = plain.with_model(Affine(plain.model.weight.detach(), plain.model.bias.detach() + shift))
    one, other = (norms(run(resolve_attack(spec), system, x, y, Threat(norm="L2")), "L2") for system in (plain, moved))
    np.testing.assert_allclose(one, other, rtol=0.02)


@pytest.mark.parametrize("spec", ["ddn:steps=40", "fmn:steps=40", "cw:searches=3,steps=40", "lbfgs"])
def test_a_system_that_never_errs_is_not_broken(spec: str) -> None:
    system = affine(classes=3)
    sure = system.with_model(Affine(torch.zeros(3, 16), torch.tensor([1.0, 0.0, 0.0])))
    x, _, _ = samples(system, 8)
    outcome = run(resolve_attack(spec), sure, x, torch.zeros(8, dtype=torch.int64), Threat(norm="L2"))
    assert not outcome.verdict.broken.any()


@pytest.mark.parametrize(
    "spec",
    [
        "ddn:gamma=0",
        "ddn:levels=1",
        "fmn:first_gamma=1",
        "fmn:last_step=0",
        "cw:lr=0",
        "cw:c=-1",
        "cw:steps=9,warm_up=9",
        "lbfgs:memory=0",
        "lbfgs:target=nearest",
        "ddn:steps=0",
    ],
)
def test_an_option_without_meaning_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match="accepted"):
        resolve_attack(spec)
