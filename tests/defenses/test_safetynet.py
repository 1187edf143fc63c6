"""SafetyNet: codes that are what they say, a machine that is scikit-learn's, and what breaks it."""

import numpy as np
import pytest
import torch
from guarded import THREAT, attacked, digits, guarded, learned, passes_wrongly
from sklearn.svm import SVC
from torch import Tensor

from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.safetynet import Coder, Machine, _machine, _thresholds, potentials
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.results.detection import auc

TEXT = "safetynet:attacks=fgsm"


def coder(levels: int = 5, layers: int = 1) -> Coder:
    train = digits()[0]
    units = potentials(learned().model, train.batch(range(len(train))), layers)
    return Coder(learned().model, _thresholds(units, levels), layers, slope=5.0)


def codes(count: int, shift: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.integers(0, 5, (count, 6)) / 4 + shift * (random.random((count, 6)) < 0.4)).clip(0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_the_decision_function_of_scikit_learn(seed):
    good, bad = codes(60, 0.0, seed), codes(50, 0.5, seed + 10)
    fitted = _machine(good, bad, seed)
    rows = np.concatenate((good, bad))
    theirs = SVC(C=float(fitted["cost"]), gamma=float(fitted["gamma"]), class_weight="balanced")
    theirs.fit(rows, np.repeat((0, 1), (60, 50)))
    asked = codes(200, 0.2, seed + 20)
    found = Machine(torch.nn.Identity(), fitted).decide(torch.from_numpy(asked))
    assert float((found - torch.from_numpy(theirs.decision_function(asked))).abs().max()) < 1e-6


def test_labels_without_meaning_teach_nothing():
    areas = []
    for seed in range(4):
        fitted = _machine(codes(120, 0.0, seed), codes(120, 0.0, seed + 50), seed)
        machine = Machine(torch.nn.Identity(), fitted)
        fresh = [machine.decide(torch.from_numpy(codes(200, 0.0, seed + place))).numpy() for place in (100, 200)]
        areas.append(auc(*fresh))
    assert 0.4 < float(np.mean(areas)) < 0.6


@pytest.mark.parametrize("levels", [2, 5])
def test_codes_count_the_thresholds_that_a_unit_exceeds(levels):
    code, (_, x, _) = coder(levels), digits()
    units = learned().model[:3](x).detach().double()
    found = code(x)
    assert torch.equal(found, (units[:, :, None] > code.thresholds).double().mean(2))
    assert torch.equal(found, code(x))
    assert set((found * (levels - 1)).round().unique().tolist()) <= set(range(levels))
    assert bool(((found == 0) == (units <= 0)).all())
    for unit in range(0, 64, 7):  # monotone in the unit
        order = units[:, unit].argsort()
        assert bool((found[order, unit].diff() >= 0).all())


def test_thresholds_are_zero_and_quantiles_of_what_is_positive():
    units = torch.cat((torch.arange(1.0, 101.0), -torch.ones(50)))[:, None].double()
    fitted = _thresholds(torch.cat((units, -units.abs()), 1), 5)
    positive = np.arange(1.0, 101.0)
    assert np.allclose(fitted["thresholds"][0], [0, *np.quantile(positive, (0.25, 0.5, 0.75))])
    assert fitted["thresholds"][1].tolist() == [0, 0, 0, 0]  # never on
    assert fitted["unit"].tolist() == [50.5, 1.0]


def test_the_code_is_flat_in_value_and_not_in_gradient():
    """A small step changes no code, and yet its gradient is that of the sigmoids, also of units that are off."""
    code, (_, x, _) = coder(), digits()
    leaf = x[:8].clone().requires_grad_(True)
    value = code(leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    assert bool((slope.flatten(1) != 0).any(1).all())
    nudged = code(x[:8] + 1e-7)
    assert float((nudged != value).double().mean()) < 0.001
    off = Coder(learned().model, {"thresholds": code.thresholds, "unit": code.unit}, 1, 5.0)
    unit = int((learned().model[:3](x[:1]) == 0).nonzero()[0, 1])
    leaf = x[:1].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(off(leaf)[:, unit].sum(), leaf)
    assert bool((slope != 0).any())


def test_the_gradient_survives_a_kernel_that_is_too_narrow():
    fitted = _machine(codes(40, 0.0, 0), codes(40, 0.5, 1), 0) | {"gamma": torch.tensor(1e5).double()}
    asked = torch.full((3, 6), 0.43, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Machine(torch.nn.Identity(), fitted).decide(asked).sum(), asked)
    assert bool(slope.isfinite().all() and (slope != 0).any(1).all())


def test_noise_is_no_alarm():
    """Noise as long as the attacks' is rejected about as often as clean images, or it is a noise detector."""
    system, (_, x, y) = guarded("safetynet"), digits()
    noise = THREAT.geometry.random_direction(x, Draws.for_images(9, x, y))
    noisy = THREAT.project(x + THREAT.radius * noise, x)
    right = system(noisy).prediction() == y
    clean, rejected = (float((~system(image).accepted())[right].float().mean()) for image in (x, noisy))
    assert rejected < clean + 0.15


def test_it_tells_attacks_that_it_has_not_seen_and_falls_to_whoever_knows_it():
    system, (_, x, y) = guarded("safetynet"), digits()
    rows = ((system(x).prediction() == y) & system(x).accepted()).nonzero().squeeze(1)[:80]
    x, y = x[rows], y[rows]

    def share(adv: Tensor) -> float:
        return float(passes_wrongly(system, adv, y).float().mean())

    plain = attacked(system.without_detector(), "pgd:restarts=1,steps=20", x, y)
    wrong = system(plain).prediction() != y
    assert float(wrong.float().mean()) > 0.9
    type_one = share(plain)
    assert type_one < 0.7
    for text in (
        "orthogonal:restarts=1,steps=60",
        "selective:restarts=1,steps=60",
        "pgd:restarts=1,steps=60,momentum=0.9",
    ):
        assert share(attacked(system, text, x, y)) > max(0.85, type_one + 0.2)


def test_the_same_seed_makes_the_same_detector_and_options_another():
    one, other = guarded(TEXT), guarded(f"{TEXT},levels=3")
    assert one.digest != other.digest
    assert one.detector is not None
    assert one.detector.name == TEXT


@pytest.mark.parametrize("option", ["layers=0", "levels=1", "slope=0", "examples=1", "attacks=nothing", "fpr=2"])
def test_bad_options_are_refused(option):
    with pytest.raises(UserError):
        resolve_defense(f"safetynet:{option}")
