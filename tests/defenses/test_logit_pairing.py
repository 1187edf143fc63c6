"""Logit pairing: the penalties on paper, which branch learns, and who is paired with whom."""

import numpy as np
import pytest
import torch
from learners import SHAPE, blobs, lively, plain, same, system_of, weights
from torch import nn
from torch.nn.functional import cross_entropy

from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Defense, Workshop, resolve_defense
from robustbench_lite.defenses.logit_pairing import (
    AdversarialLogitPairing,
    CleanLogitPairing,
    LogitSqueezing,
    size,
)
from robustbench_lite.errors import UserError
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.1)
ONE_STEP = resolve_attack("pgd:steps=1,step_size=1,random_start=false,restarts=1")
GAP = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (THREAT,), "seed": 3, **options})  # type: ignore[arg-type]


def alp(**options: object) -> AdversarialLogitPairing:
    return AdversarialLogitPairing(**{"attack": ONE_STEP, "epochs": 1, "early_stopping": False, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "norm, classes, expected",
    [("squared", "sum", 12.5), ("squared", "mean", 3.125), ("plain", "sum", 2.5), ("plain", "mean", 1.25)],
)
def test_a_penalty_is_the_mean_over_the_batch_of_what_its_options_say(norm, classes, expected):
    assert float(size(GAP, norm, classes)) == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_where_logits_agree_the_penalty_and_its_gradient_are_zero(norm):
    gap = torch.zeros((5, 4), requires_grad=True)
    value = size(gap, norm, "sum")
    value.backward()
    assert float(value.detach()) == 0
    assert gap.grad is not None
    assert not bool(gap.grad.any())


@pytest.mark.parametrize("form", ["mixed", "plain"])
def test_the_loss_is_the_one_on_paper(form):
    """Two classes, z = W x: the worst case of every image is known, and so is the loss of the first epoch's one step."""
    random = np.random.default_rng(0)
    w, labels = random.normal(size=(2, 64)), np.arange(12) % 2
    x = random.uniform(0.3, 0.7, size=(12, 64))
    adv = x + 0.1 * np.sign(np.where(labels == 0, 1, -1)[:, None] * (w[1] - w[0]))

    def learned(points: np.ndarray) -> float:
        z = points @ w.T
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(12), labels]).mean())

    pairing = 0.7 * float((((x - adv) @ w.T) ** 2).sum(1).mean())
    expected = {"mixed": (learned(x) + learned(adv)) / 2, "plain": learned(x)}[form] + pairing
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    model[1].load_state_dict({"weight": torch.from_numpy(w)})
    data = from_tensors(x.reshape(12, *SHAPE).astype(np.float32), labels)
    system = alp(form=form, weight=0.7).defend(system_of(model, classes=2), shop(train=data))
    assert system.notes["training"]["last"]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["mixed", "plain"])
def test_at_radius_zero_nothing_is_left_to_pair(form):
    told = [
        alp(form=form, weight=weight)
        .defend(system_of(plain()), shop(threats=(Threat(norm="Linf", eps=0),)))
        .notes["training"]["last"]["loss"]
        for weight in (0.0, 5.0)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("form", ["mixed", "plain"])
def test_the_gradient_reaches_both_branches(form):
    y = torch.arange(6) % 4
    clean, adv = (torch.randn((6, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    clean.requires_grad_(True)
    adv.requires_grad_(True)
    alp(form=form, weight=0.3).paired(clean, adv, y).backward()
    pull = 2 * 0.3 * (clean - adv).detach() / 6
    share = 0.5 if form == "mixed" else 1.0
    slope = [(z.detach().softmax(1) - nn.functional.one_hot(y, 4)) / 6 for z in (clean, adv)]
    torch.testing.assert_close(clean.grad, share * slope[0] + pull)
    torch.testing.assert_close(adv.grad, (0.5 * slope[1] if form == "mixed" else 0) - pull)


def test_random_pairs_are_halves_of_the_batch_and_an_odd_one_has_no_partner():
    logits = torch.arange(14.0).view(7, 2)
    torch.testing.assert_close(CleanLogitPairing().gap(logits), logits[:3] - logits[3:6])
    assert CleanLogitPairing().gap(logits[:1]).shape == (0, 2)
    assert float(CleanLogitPairing().penalty(CleanLogitPairing().gap(logits[:1]))) == 0


def test_squeezing_is_of_the_logits_themselves():
    assert float(LogitSqueezing(weight=2).penalty(LogitSqueezing().gap(GAP))) == pytest.approx(25)


def test_without_noise_and_weight_only_the_cross_entropy_is_left():
    data, model = blobs(), plain().requires_grad_(False)
    expected = cross_entropy(model(data.batch(range(96))), data.labels_at(range(96)))
    told = LogitSqueezing(weight=0, noise=0, epochs=1, batch_size=96).defend(system_of(model), shop(threats=())).notes
    assert told["training"]["last"]["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", [CleanLogitPairing, LogitSqueezing])
def test_a_penalty_keeps_logits_small(kind):
    spread = []
    for weight in (0.0, 1.0):
        model = kind(weight=weight, epochs=20, batch_size=32).defend(system_of(plain()), shop(threats=())).model
        spread.append(float(model(blobs().batch(range(96))).std()))
    assert spread[1] < 0.7 * spread[0]


@pytest.mark.parametrize("spec", ["alp:epochs=2", "clp:epochs=2", "lsq:epochs=2,early_stopping=true"])
def test_one_seed_gives_the_same_bits_and_another_seed_others(spec):
    (defense,) = resolve_defense(spec)
    bits = [weights(defense.defend(system_of(lively()), shop(seed=seed)).model) for seed in (3, 3, 4)]
    assert same(bits[0], bits[1])
    assert not same(bits[0], bits[2])


@pytest.mark.parametrize(
    "spec, told",
    [
        ("alp:form=other", "form"),
        ("clp:weight=-1", "weight=-1; accepted: 0 and more"),
        ("lsq:noise=-0.1", "noise=-0.1; accepted: 0 and more"),
        ("lsq:norm=l3", "norm"),
    ],
)
def test_options_out_of_range_are_refused(spec, told):
    with pytest.raises(UserError, match=told):
        resolve_defense(spec)


@pytest.mark.parametrize("defense", [alp(), CleanLogitPairing(early_stopping=True)], ids=str)
def test_a_training_that_looks_at_a_threat_needs_one(defense: Defense):
    with pytest.raises(UserError, match="needs a threat with a radius"):
        defense.defend(system_of(plain()), shop(threats=(Threat(norm="L2"),)))


def test_a_training_that_looks_at_none_needs_none():
    defense = CleanLogitPairing(epochs=1)
    assert defense.recipe(shop(threats=())) == defense.recipe(shop())
    assert defense.defend(system_of(plain()), shop(threats=())).notes["training"]["last"]["epoch"] == 1
