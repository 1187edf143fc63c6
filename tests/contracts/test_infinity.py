"""Infinite slopes are directions, NaN is asked about again beside the point, and a logit of -inf is a class nobody answers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reviewing import Around
from torch import Tensor, nn
from toys import Scripted, affine, run, samples, two_layers

from robustbench_lite.attack import resolve_attack
from robustbench_lite.objectives import Goal, choose_targets, cross_entropy, dlr, log_odds, margin, towards
from robustbench_lite.oracle import NUDGE, STEEP, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.run.answers import Answers
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

RULES = ("least-likely", "random", "next", "second", "all")
LINF = Threat(norm="Linf", eps=0.3)


def around(system: System, **parts: object) -> System:
    return System(model=Around(system.model, **parts), num_classes=system.num_classes, input_shape=system.input_shape)


def asked(system: System, x: Tensor, y: Tensor, budget: int | None = None) -> Oracle:
    return Oracle(system, Needs.GRADIENTS, x, Goal(y=y), LINF, Draws.for_images(0, x, y), budget=budget)


def half_black(count: int = 6) -> tuple[System, Tensor, Tensor]:
    """Images whose first half of pixels is 0."""
    system = two_layers()
    x, y, _ = samples(system, count)
    x[..., :4] = 0
    return system, x, y


def test_an_infinite_slope_is_a_steep_one_of_its_sign() -> None:
    system, x, y = half_black()
    (found,) = asked(around(system, before=torch.sqrt), x, y).query(x, margin).grads
    (even,) = asked(system, x.sqrt(), y).query(x.sqrt(), margin).grads
    black, rest = found[..., :4], found[..., 4:]
    assert bool(found.isfinite().all())
    assert torch.equal(black.sign(), even[..., :4].sign())
    steepest = STEEP * rest.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    assert torch.allclose(black.abs(), torch.where(black == 0, 0, steepest.expand_as(black)))
    assert torch.allclose(rest, even[..., 4:] / (2 * x[..., 4:].sqrt()))


def roots(x: Tensor) -> Tensor:
    """|x| as the root of a square: at 0 its slope is infinity times zero."""
    return (x * x).sqrt()


def test_a_row_whose_gradient_is_nan_asks_again_beside_its_point_and_pays_for_it() -> None:
    system, x, y = half_black()
    x[3:, :, :, :4] = 0.5
    oracle = asked(around(system, before=roots), x, y)
    answer = oracle.query(x, margin, cross_entropy)
    assert oracle.ledger.forwards.tolist() == [2, 2, 2, 1, 1, 1]
    assert oracle.ledger.backwards.tolist() == [4, 4, 4, 2, 2, 2]
    assert oracle.undefined.tolist() == [True, True, True, False, False, False]
    plain = asked(system, x, y).query(x, margin, cross_entropy)
    assert torch.equal(answer.values, plain.values)
    assert torch.allclose(answer.grads[:, 3:], plain.grads[:, 3:])
    beside = x + torch.where(x == 0, NUDGE / 2, 0)
    near = asked(system, beside, y).query(beside, margin).grads[0]
    assert torch.allclose(answer.grads[0, :3], near[:3], atol=0.05 * float(near.abs().max()))


def test_a_nudge_is_the_samples_own() -> None:
    system, x, y = half_black(40)
    wild = around(system, before=roots)
    together = asked(wild, x, y).query(x, margin).grads[0]
    for rows in (torch.arange(39, -1, -1), torch.arange(0, 40, 3).repeat(3)[:40]):
        alone = asked(wild, x[rows], y[rows]).query(x[rows], margin).grads[0]
        assert torch.equal(alone, together[rows])


def test_a_row_without_budget_for_a_second_query_makes_none() -> None:
    system, x, y = half_black()
    oracle = asked(around(system, before=roots), x, y, budget=1)
    (found,) = oracle.query(x, margin).grads
    assert oracle.ledger.forwards.tolist() == [1] * len(x)
    assert bool((found[..., :4] == 0).all())  # NaN leads nowhere
    assert bool((found[..., 4:] != 0).any())


def test_the_point_beside_lies_in_ball_and_box() -> None:
    system, x, y = half_black()
    oracle = asked(system, x, y)
    edge = (x + LINF.radius * (1 - 1e-6)).clamp(0, 1)
    beside = oracle._beside(edge, oracle.ledger.forwards)
    assert bool(LINF.contains(beside, x).all())
    assert 0 <= float(beside.min()) <= float(beside.max()) <= 1
    assert bool((beside != edge).flatten(1).any(1).all())
    assert float((beside - edge).abs().max()) <= NUDGE * 1.01


def test_classes_masked_by_the_logarithm_of_zero_take_no_gradient_along() -> None:
    """Backwards, log(0 p) is 0 times infinity; the other classes have their slopes all the same."""
    system, x, labels = half_black()
    mask = torch.tensor([1.0, 1, 1, 0, 0])
    y = labels % 3
    masked = around(system, after=lambda scores: (scores.softmax(1) * mask).log())
    oracle = asked(masked, x, y)
    answer = oracle.query(x, margin)
    limited = around(system, after=lambda scores: scores.masked_fill(mask == 0, -torch.inf))
    beside = oracle._beside(x, torch.zeros_like(oracle.ledger.forwards))
    wanted = asked(limited, beside, y).query(beside, margin).grads[0]
    assert torch.allclose(answer.grads[0], wanted, atol=1e-5)


@pytest.mark.parametrize("threat", ["Linf:0.05", "L2:0.3", "L1:1"])
@pytest.mark.parametrize("attack", ["pgd:restarts=1,steps=10", "apgd:restarts=1,steps=10"])
def test_an_infinite_gradient_is_no_shelter(threat: str, attack: str) -> None:
    """Of the same network behind sqrt(x), whose slope at 0 is infinite, and behind sqrt(x + 1e-6)."""
    system, x, _ = half_black(60)
    left = []
    for shift in (0.0, 1e-6):
        rooted = around(system, before=lambda images, shift=shift: (images + shift).sqrt())
        labels = rooted(x).prediction()
        outcome = run(resolve_attack(attack), rooted, x, labels, Threat.parse(threat))
        left.append(1 - float(outcome.verdict.broken.double().mean()))
    assert left[0] <= left[1] + 0.06
    assert left[1] < 1, "there must be something to break"


def infinite(k: int, masked: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (30, k) of which some classes are never answered, labels among the others, and which classes those are."""
    draw = torch.Generator().manual_seed(seed)
    open_ = torch.randperm(k, generator=draw)[: k - masked].sort().values
    scores = torch.full((30, k), -torch.inf)
    scores[:, open_] = torch.randn((30, len(open_)), generator=draw)
    return scores, open_[torch.randint(len(open_), (30,), generator=draw)], open_


@given(k=st.integers(3, 10), masked=st.integers(1, 7), seed=st.integers(0, 99))
def test_what_is_climbed_is_what_it_is_without_the_classes_that_are_never_answered(
    k: int, masked: int, seed: int
) -> None:
    scores, y, open_ = infinite(k, min(masked, k - 2), seed)
    place = torch.searchsorted(open_, y)
    other = open_[(place + 1) % len(open_)]
    for objective in (margin, dlr, cross_entropy, log_odds):
        for target in (None, other):
            goal = Goal(y=y, target=target)
            few = Goal(y=place, target=None if target is None else torch.searchsorted(open_, target))
            assert torch.allclose(
                objective(Outputs(scores=scores), goal), objective(Outputs(scores=scores[:, open_]), few)
            )


@given(k=st.integers(3, 10), masked=st.integers(1, 7), seed=st.integers(0, 99), rule=st.sampled_from(RULES))
def test_a_class_that_is_never_answered_is_never_a_target(k: int, masked: int, seed: int, rule: str) -> None:
    scores, y, open_ = infinite(k, min(masked, k - 2), seed)
    uniform = torch.rand(30, generator=torch.Generator().manual_seed(seed))
    for lane in range(k - 1):
        target = choose_targets(rule, scores, y, uniform, torch.full_like(y, lane))
        assert bool((target != y).all())
        assert bool(torch.isin(target, open_).all())
        rank = torch.full_like(y, lane % (len(open_) - 1))
        few = choose_targets(rule, scores[:, open_], torch.searchsorted(open_, y), uniform, rank)
        assert torch.equal(target, open_[few])


@pytest.mark.parametrize("attack", ["apgd-t:steps=10", "fab-t:steps=10", "targeted:target=all,steps=10", "deepfool"])
def test_attacks_with_targets_break_as_much_where_some_classes_are_never_answered(attack: str) -> None:
    system, threat = affine(classes=3, side=4), Threat(norm="Linf", eps=0.05)
    padded = around(system, after=lambda scores: nn.functional.pad(scores, (0, 7), value=-torch.inf))
    wide = System(model=padded.model, num_classes=10, input_shape=system.input_shape)
    x, y, _ = samples(system, 60)
    few, many = (run(resolve_attack(attack), one, x, y, threat).verdict.broken for one in (system, wide))
    assert 0 < float(few.double().mean()) < 1
    assert int((few & ~many).sum()) <= 1


def constant(*logits: float) -> System:
    """A system that answers these logits to every image."""
    return around(affine(classes=3), after=lambda scores: 0 * scores + torch.tensor(logits))


@pytest.mark.parametrize(
    "searched, count",
    [
        ((0.999, 1.0, -9.0), 0),  # dust: apart by 0.0002 of the spread
        ((0.0, 1.0, -9.0), 3),
        ((1.0, 0.999, -9.0), 0),  # the search breaks nothing
    ],
)
def test_a_break_that_the_verdict_denies_by_more_than_dust_is_counted(searched: tuple[float, ...], count: int) -> None:
    system = constant(1.0, 0.999, -9.0)
    x, y, _ = samples(system, 40)
    attack = Scripted(points=lambda image, k: (image + 1e-2 * (k + 1)).clamp(0, 1), steps=3)
    outcome = run(attack, system, x, y, LINF, fast=constant(*searched))
    assert not bool(outcome.verdict.broken.any())
    assert outcome.denied.tolist() == [count] * len(x)


def test_a_denied_break_does_not_depend_on_the_load() -> None:
    system = two_layers()
    x, y, _ = samples(system, 60)
    liar = around(system, before=lambda images: (images * 4).round() / 4)
    first = run(resolve_attack("noise:draws=5"), system, x, y, LINF, fast=liar)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    again = run(resolve_attack("noise:draws=5"), system, x, y, LINF, fast=liar, order=order)
    assert torch.equal(first.denied, again.denied)
    assert int(first.denied.sum()) > 0


def test_towards_a_class_that_is_never_answered_there_is_no_nan() -> None:
    scores, y, open_ = infinite(6, 3, 0)
    closed = torch.tensor([c for c in range(6) if c not in open_.tolist()])[torch.zeros_like(y)]
    leaf = torch.where(scores == -torch.inf, 0, scores).requires_grad_(True)
    masked = leaf.masked_fill(scores == -torch.inf, -torch.inf)
    for objective in (log_odds, margin, dlr, cross_entropy):
        value = towards(objective, closed)(Outputs(scores=masked), Goal(y=y))
        (slope,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
        assert not bool(slope.isnan().any()), objective


def test_rounding_is_no_other_answer_where_one_logit_alone_is_finite() -> None:
    scores = torch.full((3, 4), -torch.inf)
    scores[:, 1] = torch.tensor([3.0, 5.0, 40.0])
    one, other = Answers(scores=scores), Answers(scores=scores * (1 + 1e-6))
    assert float(one.apart(other).max()) < 1e-5
    assert float(one.apart(Answers(scores=scores * 1.5)).min()) > 0.1
