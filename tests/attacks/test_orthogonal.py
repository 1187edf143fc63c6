"""Attacks on classifier and detector at once: on affine ones the best that can be had is known."""

from dataclasses import replace

import pytest
import torch
from guarded import attacked, opposed, passes_wrongly
from toys import affine, run, samples

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Objective, cross_entropy, dlr, knowing, margin, rejection
from robustbench_lite.oracle import Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

JOINT = (
    "orthogonal:restarts=1",
    "selective:restarts=1",
    "orthogonal:restarts=1,both=true",
    "selective:restarts=1,momentum=0",
)
CLIMBERS = ("pgd:restarts=1,momentum=0.9", "pgd:restarts=1,objective=margin", "apgd:steps=100", "apgd:objective=margin")


def with_threshold(system: System, threshold: float) -> System:
    assert system.detector is not None
    return system.with_detector(replace(system.detector, threshold=threshold))


@pytest.mark.parametrize("text", [*JOINT, *CLIMBERS])
@pytest.mark.parametrize("seed", [0, 1])
def test_whoever_knows_an_affine_detector_reaches_the_joint_optimum(text, seed):
    system, x, y, radius, best = opposed(seed=seed)
    threat = Threat(norm="L2", eps=radius)
    for share, wanted in ((0.9, True), (1.1, False)):  # of the lowest score, which is below 0
        known = with_threshold(system, share * best)
        adv = attacked(known, text, x, y, threat)
        broken = passes_wrongly(known, adv, y)
        assert bool(threat.contains(adv, x).all())
        assert bool(broken.all()) if wanted else not bool(broken.any())


@pytest.mark.parametrize("text", ["orthogonal:restarts=1", "selective:restarts=1"])
def test_the_end_is_the_point_that_is_wrong_with_the_lowest_score(text):
    """Where nothing passes, records tell how near it came: within a tenth of the optimum."""
    system, x, y, radius, best = opposed()
    assert system.detector is not None
    known, threat = with_threshold(system, 2 * best), Threat(norm="L2", eps=radius)
    adv = craft(resolve_attack(text), known, x, Goal(y=y), threat, Draws.for_images(0, x, y))
    assert bool((known(adv).prediction() != y).all())
    score = system.detector.score(adv)
    assert float(score.max()) < 0.9 * best
    assert float(score.min()) > 1.02 * best  # the margin may be anything above 0.05


def test_a_step_at_right_angles_leaves_the_margin_alone():
    one, other = torch.randn((2, 5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    attack = resolve_attack("orthogonal")
    wrong = torch.tensor([True, True, True, False, False])
    slope = attack.towards(wrong, one, other)
    inner = (slope * one).flatten(1).sum(1)
    assert torch.allclose(inner[:3], torch.zeros(3), atol=1e-5)
    assert torch.equal(slope[3:], one[3:])
    assert torch.equal(attack.towards(wrong, one, torch.zeros_like(other)), one)


@pytest.mark.parametrize("text", ["orthogonal:momentum=0", "selective:momentum=0"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_a_detector_it_is_the_margin_ascent_of_pgd(text, norm):
    system = affine(classes=3)
    x, y, _ = samples(system, 20)
    threat = Threat(norm=norm, eps=0.05)
    own = run(resolve_attack(f"{text},steps=20,restarts=2"), system, x, y, threat)
    pgd = run(resolve_attack("pgd:objective=margin,steps=20,restarts=2"), system, x, y, threat)
    assert torch.equal(own.verdict.broken, pgd.verdict.broken)
    assert torch.equal(own.adv[own.verdict.broken], pgd.adv[pgd.verdict.broken])


def test_bad_options_are_refused():
    for text in ("orthogonal:restarts=0", "selective:momentum=-1", "orthogonal:steps=0"):
        with pytest.raises(UserError, match="accepted"):
            resolve_attack(text)
    with pytest.raises(UserError, match="does not support L1"):
        resolve_attack("orthogonal").check(Threat(norm="L1", eps=1), 10)


# -- the objective of an adversary who knows -----------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [cross_entropy, margin, dlr])
def test_wrong_is_worth_more_than_right_and_less_suspicious_more_than_suspicious(objective: Objective):
    sure, torn, wrong = [9.0, 0.0, 1.0], [1.0, 0.99, 0.0], [0.0, 30.0, 1.0]
    scores = torch.tensor([sure, torn, wrong, wrong, wrong, [0.0, 1.0, 0.5]])
    reject = torch.tensor([-1.0, -1.0, 900.0, 2.0, -3.0, -3.0])
    goal = Goal(y=torch.zeros(6, dtype=torch.int64))
    value = knowing(objective)(Outputs(scores=scores, reject=reject), goal)
    assert bool((value[1:5] > value[:4]).all())
    assert value[4] == value[5]  # confidence buys nothing
    assert torch.equal(value[:2], objective(Outputs(scores=scores), goal)[:2])


@pytest.mark.parametrize("objective", [cross_entropy, margin, dlr])
def test_without_a_detector_nothing_changes(objective: Objective):
    outputs = Outputs(scores=torch.randn((6, 4), generator=torch.Generator().manual_seed(0)))
    goal = Goal(y=torch.zeros(6, dtype=torch.int64))
    assert torch.equal(knowing(objective)(outputs, goal), objective(outputs, goal))
    assert torch.equal(rejection(outputs, goal), torch.zeros(6))


def test_a_plain_oracle_shows_the_classifier_alone():
    """Who does not know of a detector sees no rejection: not in labels, success, values or gradients."""
    system, x, y, radius, _ = opposed()
    silent = with_threshold(system, -1e6)  # rejects everything
    threat, draws = Threat(norm="L2", eps=radius), Draws.for_images(0, x, y)
    adv = attacked(system.without_detector(), "pgd:objective=margin", x, y, threat)

    def ask(shown: System, adaptive: bool) -> Oracle:
        return Oracle(shown, Needs.GRADIENTS, x, Goal(y=y), threat, draws, adaptive=adaptive)

    plain, knows, bare = ask(silent, False), ask(silent, True), ask(system.without_detector(), True)
    one, two, three = (oracle.query(adv, margin, cross_entropy) for oracle in (plain, knows, bare))
    assert torch.equal(one.values, three.values)
    assert torch.equal(one.grads, three.grads)
    assert bool((one.labels == 1).all())
    assert bool(one.adversarial.all() and plain.ledger.found.all())
    assert bool((two.labels == -1).all())
    assert not bool(two.adversarial.any() or knows.ledger.found.any())


def test_an_attack_that_asks_for_the_rejection_weighs_it_itself():
    system, x, y, radius, _ = opposed()
    oracle = Oracle(system, Needs.SCORES, x, Goal(y=y), Threat(norm="L2", eps=radius), Draws.for_images(0, x, y))
    said = oracle.query(1 - x, margin, rejection)
    outputs = system(1 - x)
    assert torch.equal(said.values[0], margin(outputs, Goal(y=y)))
    assert outputs.reject is not None
    assert torch.equal(said.values[1], -outputs.reject.float())
