"""How the engine judges where the norm is sought: the nearest points lie on the boundary itself."""

import torch
from torch import Tensor, nn
from toys import Scripted, affine, run, samples

from robustbench_lite.attack import Goal, resolve_attack
from robustbench_lite.oracle import Ledger, Needs, Oracle
from robustbench_lite.rows import along
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

L2 = Threat(norm="L2")


def across(system: System, x: Tensor, share: float) -> Tensor:
    """The point at this share of the way from each image to the boundary of two classes, and on."""
    weight, bias = system.model.weight.detach(), system.model.bias.detach()
    slope = (weight[1] - weight[0]).view(1, *x.shape[1:])
    height = (x.double() * slope).flatten(1).sum(1) + bias[1] - bias[0]
    return (x.double() - along(share * height / slope.square().sum(), x) * slope).float()


def grey(system: System, count: int) -> tuple[Tensor, Tensor]:
    """Images so far from the walls that the box does not bind, but not on the boundary."""
    x, _, _ = samples(system, 4 * count)
    x = x * 0.4 + 0.3
    scores = system(x).scores
    x = x[(scores[:, 0] - scores[:, 1]).abs() > 0.2][:count]
    return x, system(x).prediction()


def test_a_nearest_point_that_only_the_fast_copy_breaks_is_judged_a_little_further_out() -> None:
    system = affine(classes=2)
    x, y = grey(system, 12)

    class Eager(nn.Module):
        """The same system, but a hair before the boundary it gives way."""

        def forward(self, images: Tensor) -> Tensor:
            scores = system.model(images)
            away = (scores[:, 1] - scores[:, 0]).abs() < 3e-4
            return torch.where(away[:, None], scores.flip(1), scores)

    def shown(image: Tensor, k: int) -> Tensor:
        return across(system, image, 0.9998) if k == 0 else image

    gaps = (system(across(system, x, 0.9998)).scores.diff(dim=1)).abs()
    assert (gaps < 3e-4).any()
    outcome = run(Scripted(points=shown, steps=3), system, x, y, L2, fast=system.with_model(Eager()))
    certain = (gaps < 3e-4).squeeze(1)
    assert outcome.verdict.broken[certain].all()
    exact = (across(system, x, 1.0).double() - x.double()).flatten(1).norm(dim=1)
    assert (outcome.verdict.norms[certain, 1] <= 1.002 * exact[certain]).all()


def test_what_is_no_nearer_than_the_confirmed_point_is_not_noted() -> None:
    system = affine(classes=2)
    x, y = grey(system, 8)
    _, _, draws = samples(system, 8)
    ledger = Ledger.new(x)

    def noted(ledger: Ledger, share: float) -> Ledger:
        oracle = Oracle(system, Needs.LABELS, x, Goal(y=y), L2, draws, ledger=ledger)
        oracle.query(across(system, x, share))
        return oracle.ledger

    first = noted(ledger, 1.2)
    assert first.found.all()
    confirmed, denied = first.forget(first.found, first.found), first.forget(first.found)
    assert not noted(confirmed, 1.3).found.any()
    assert noted(confirmed, 1.1).found.all()
    assert noted(denied, 1.3).found.all()


def test_rows_that_are_judged_on_the_way_keep_in_step() -> None:
    # A row that waits for judgement until all others have ended flies the rest of its way alone, in a block of copies.
    system = affine(classes=3)
    x, y, _ = samples(system, 39)
    seen: list[int] = []

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return system.model(images)

    outcome = run(resolve_attack("fmn:steps=60"), system, x, y, L2, fast=system.with_model(Counted()))
    assert (outcome.forwards == 60).all()
    assert sum(seen) < 1.1 * 39 * 60


def test_the_order_of_the_samples_changes_nothing() -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 70)
    attack = resolve_attack("fmn:steps=40")
    one = run(attack, system, x, y, L2)
    other = run(attack, system, x, y, L2, order=torch.arange(70).flip(0))
    assert torch.equal(one.adv, other.adv)
    assert torch.equal(one.forwards, other.forwards)
