"""Nine attacks of nine kinds, written against the contracts alone: they fit, obey the laws, meet their closed forms."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contracts.skeletons.apgd_t import APGDT, windows
from contracts.skeletons.cw import CW
from contracts.skeletons.deepfool import DeepFool
from contracts.skeletons.eot_pgd import EOTPGD
from contracts.skeletons.fab import FAB
from contracts.skeletons.hopskipjump import HopSkipJump
from contracts.skeletons.orthogonal import Orthogonal
from contracts.skeletons.square import Square
from contracts.skeletons.substitute import Substitute
from torch import Tensor

from robustbench_lite.attack import Asker, Attack, Goal, Setup, craft
from robustbench_lite.oracle import Ledger, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Detector, System
from robustbench_lite.testing import check_attack
from robustbench_lite.testing.bench import Affine
from robustbench_lite.threat import Threat

SHAPE = (1, 4, 4)
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": float("inf")}


class Affines:
    """A random affine system, images near grey (no wall in reach), and the exact distances to its boundaries."""

    def __init__(self, classes: int = 5, count: int = 12) -> None:
        random = np.random.default_rng(5)
        weight = torch.from_numpy(random.normal(size=(classes, 16))).float()
        self.classes = classes
        self.system = System(model=Affine(weight, -weight.sum(1) / 2), num_classes=classes, input_shape=SHAPE)
        x = torch.from_numpy(random.uniform(0.44, 0.56, size=(8 * count, *SHAPE))).float()
        gap = self.system(x).scores.topk(2).values
        self.x = x[gap[:, 0] - gap[:, 1] > 0.1][:count]  # not on the boundary itself
        self.scores = self.system(self.x).scores
        self.y = self.scores.argmax(1)
        self.slopes = weight[None, :] - weight[self.y][:, None]  # (n, k, d)

    def distance(self, norm: str) -> Tensor:
        """min over k of (z_y - z_k) / ||w_k - w_y||_q, (n,)."""
        gaps = self.scores.gather(1, self.y[:, None]) - self.scores
        away = gaps / self.slopes.norm(p=DUAL[norm], dim=2).clamp(min=1e-12)
        return away.scatter(1, self.y[:, None], torch.inf).amin(1)

    def craft(self, attack: Attack, threat: Threat, system: System | None = None) -> Tensor:
        goal, draws = Goal(y=self.y), Draws.for_images(0, self.x, self.y)
        return craft(attack, self.system if system is None else system, self.x, goal, threat, draws)

    def broken(self, adv: Tensor) -> Tensor:
        return self.system(adv).prediction() != self.y


@pytest.mark.parametrize(
    "attack, norms",
    [
        (APGDT(steps=20, targets=2), ("Linf",)),
        (FAB(steps=8), ("L2", "L1")),
        (CW(outer=3, inner=20), None),
        (DeepFool(), ("L2",)),
        (HopSkipJump(steps=2, probes=4), ("L2",)),
        (Square(queries=60), None),
        (EOTPGD(steps=5, draws=3), ("Linf", "L1")),
        (Substitute(rounds=2), ("Linf",)),
        (Orthogonal(steps=10), ("Linf",)),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else "",
)
def test_every_kind_of_attack_obeys_the_laws(attack: Attack, norms: tuple[str, ...] | None) -> None:
    check_attack(attack, norms=norms)


@pytest.mark.parametrize(
    "attack, norm, classes, tolerance",
    [
        (DeepFool(), "L2", 5, 0.05),
        (DeepFool(), "Linf", 5, 0.05),
        (FAB(steps=10), "L2", 5, 0.01),
        (FAB(steps=10), "Linf", 5, 0.01),
        (FAB(steps=10), "L1", 5, 0.01),
        # With more classes these two may end at the boundary of one that is not the nearest.
        (CW(outer=6, inner=150, rate=0.01), "L2", 2, 0.05),
        (HopSkipJump(steps=12, probes=40), "L2", 2, 0.15),
        (HopSkipJump(steps=12, probes=40), "Linf", 2, 0.15),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else str(value),
)
def test_minimum_norm_attacks_find_the_exact_distance_on_an_affine_model(
    attack: Attack, norm: str, classes: int, tolerance: float
) -> None:
    affine, threat = Affines(classes), Threat(norm=norm)
    adv = affine.craft(attack, threat)
    ratio = threat.distance(adv, affine.x) / affine.distance(norm)
    assert bool(affine.broken(adv).all())
    assert float(ratio.min()) > 1 - 1e-4
    assert float(ratio.max()) < 1 + tolerance, ratio


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_breaks_exactly_what_an_affine_model_allows(norm: str) -> None:
    affine = Affines(count=40)
    exact = affine.distance(norm)
    threat = Threat(norm=norm, eps=float(exact.median()))
    clear = (exact / threat.radius - 1).abs() > 0.01
    broken = affine.broken(affine.craft(APGDT(steps=50), threat))
    assert int(clear.sum()) >= 36
    assert torch.equal(broken[clear], (exact < threat.radius)[clear])


def test_apgd_checkpoints_come_sooner_and_sooner() -> None:
    found = windows(100)
    assert [step for step, gap in enumerate(found) if gap] == [22, 41, 57, 70, 80, 87, 93, 99]


def test_apgd_rows_have_their_own_step_sizes() -> None:
    affine, threat = Affines(), Threat(norm="Linf", eps=0.03)
    goal = Goal(y=affine.y, target=(affine.y + 1) % affine.classes)
    state, _ = walked(APGDT(steps=50), affine, threat, goal, steps=50)
    assert len(state.eta.unique()) > 1


def test_square_needs_no_gradient_and_breaks_what_is_well_inside_the_ball() -> None:
    affine = Affines(count=40)
    exact, threat = affine.distance("Linf"), Threat(norm="Linf", eps=0.05)

    class NoGradient(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not x.requires_grad
            return affine.system.model((x * 4096).round() / 4096)

    system = System(model=NoGradient(), num_classes=affine.classes, input_shape=SHAPE)
    broken = affine.broken(affine.craft(Square(queries=300), threat, system))
    assert bool(broken[exact < 0.5 * threat.radius].all())
    assert int((exact < 0.5 * threat.radius).sum()) >= 5
    assert not bool(broken[exact > 1.01 * threat.radius].any())


def test_eot_averages_over_the_systems_own_randomness_and_counts_every_draw() -> None:
    def shaken(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        assert draws is not None
        return (x + 0.05 * draws.normal(SHAPE, "defense", index)).clamp(0, 1)

    affine, threat = Affines(classes=2), Threat(norm="Linf", eps=0.04)
    noisy, attack = affine.system.with_random_purifier(shaken, name="noise"), EOTPGD(steps=10, draws=6)
    state, oracle = walked(attack, affine, threat, Goal(y=affine.y), steps=10, system=noisy)
    assert oracle.ledger.forwards.tolist() == oracle.ledger.backwards.tolist() == [60] * len(affine.x)
    rise = affine.system(state.adv).scores - affine.scores
    climbed = (rise.sum(1) - 2 * rise.gather(1, affine.y[:, None]).squeeze(1)).double()
    exact = threat.radius * affine.slopes.abs().sum((1, 2))  # the other class's slope; the label's own is zero
    torch.testing.assert_close(climbed, exact.double(), rtol=0.01, atol=0)


def test_under_a_transformation_a_lucky_draw_is_no_break() -> None:
    class Blinded(EOTPGD):
        """Every draw shows the system another sample's image."""

        transform = staticmethod(lambda x, draws, index: x.roll(1, 0))

    affine, threat = Affines(), Threat(norm="Linf", eps=0.05)
    everything_breaks = Goal(y=(affine.y + 1) % affine.classes)
    _, oracle = walked(Blinded(steps=2), affine, threat, everything_breaks, steps=2)
    assert not bool(oracle.ledger.found.any())


def test_a_substitute_is_bought_with_counted_labels_and_its_examples_transfer() -> None:
    affine = Affines(count=40)
    threat, attack = Threat(norm="Linf", eps=0.1), Substitute(rounds=3)
    asker = Asker(attack, affine.system, threat)
    seed = torch.from_numpy(np.random.default_rng(7).uniform(size=(60, *SHAPE))).float()
    y = affine.system(seed).prediction()
    draws = Draws.for_images(0, seed, y)
    trained = attack.prepare(Setup(x=seed, y=y, draws=draws, threat=threat, num_classes=affine.classes, ask=asker))
    broken = affine.broken(affine.craft(trained, threat))
    near = affine.distance("Linf") < 0.5 * threat.radius
    assert (asker.forwards, asker.backwards) == (60 * 2**3, 0)
    assert int(near.sum()) >= 20
    assert float(broken[near].float().mean()) > 0.9
    assert str(trained) == str(attack)


def test_orthogonal_steps_pass_a_detector_that_catches_plain_ones() -> None:
    affine, threat = Affines(classes=2), Threat(norm="Linf", eps=0.1)
    towards = affine.slopes.sum(1).view_as(affine.x)

    def score(x: Tensor) -> Tensor:
        """How far the upper half of the image has moved along the steepest way to the other class."""
        return ((x - affine.x) * towards)[:, :, :2].flatten(1).sum(1)

    guarded = affine.system.with_detector(Detector(score=score, threshold=0.02))
    plain = affine.craft(EOTPGD(steps=20, draws=1), threat)
    quiet = affine.craft(Orthogonal(steps=40), threat, guarded)
    assert bool(affine.broken(plain).all())
    assert not bool(guarded(plain).accepted().any())
    assert bool((affine.broken(quiet) & guarded(quiet).accepted()).all())


def walked(
    attack: Attack, affine: Affines, threat: Threat, goal: Goal, *, steps: int, system: System | None = None
) -> tuple[Any, Oracle]:
    """State and oracle after some steps."""
    system = affine.system if system is None else system
    draws = Draws.for_images(0, affine.x, affine.y)
    oracle = Oracle(system, attack.needs, affine.x, goal, threat, draws, ledger=Ledger.new(affine.x), eot=attack.eot)
    state = attack.start(affine.x, goal, threat, draws, oracle)
    for _ in range(steps):
        state = attack.step(state, oracle)
        state = replace(state, k=state.k + 1)
    return state, oracle
