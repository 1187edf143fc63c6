"""Evasion: exact on linear models without the pull; with it, towards the samples of the target class."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Goal, Setup, craft, resolve_attack
from robustbench_lite.attacks.evasion import Density, Evasion
from robustbench_lite.attacks.starts import Examples
from robustbench_lite.errors import UserError
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


@pytest.mark.parametrize("norm, eps", [("Linf", 0.08), ("L2", 0.4), ("L1", 1.5)])
def test_without_the_pull_it_is_the_worst_case_of_an_affine_model(norm: str, eps: float) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 20)
    slope = (system.model.weight[1] - system.model.weight[0]).view(1, 1, 4, 4).float()
    up = torch.where(y == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    exact = threat.extreme(x, up * slope)
    adv = craft(Evasion(mimicry=0, steps=20), system, x, Goal(y=y, target=1 - y), threat, draws)
    reached, best = ((up * slope * (point - x)).flatten(1).sum(1) for point in (adv, exact))
    torch.testing.assert_close(reached, best, rtol=1e-4, atol=1e-5)


def density(x: Tensor, labels: list[int], width: float | None = None) -> Density:
    return Density.of(Examples(x=x, labels=torch.tensor(labels)), 3, width)


def test_the_pull_is_the_gradient_of_the_kernel_density() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, x = (torch.rand(6, 2, 3, 3, generator=generator) for _ in range(2))
    found = density(seen, [0, 0, 0, 0, 1, 1], 0.7)
    label = torch.tensor([0, 1, 0, 1, 2, 0])
    leaf = x.double().requires_grad_(True)
    square = ((leaf[:, None] - seen.double()) ** 2).flatten(2).sum(2)
    kernel = (-square / (2 * 0.7**2)).exp()
    heights = torch.stack((kernel[:, :4].mean(1), kernel[:, 4:].mean(1), 0 * kernel[:, 0]), 1)
    (wanted,) = torch.autograd.grad(heights.gather(1, label[:, None]).sum(), leaf)
    torch.testing.assert_close(found.slope(x, label).double(), wanted, rtol=1e-5, atol=1e-7)
    assert bool((found.slope(x, label)[4] == 0).all())  # nobody has seen class 2


def test_the_width_is_the_median_distance_between_a_class_s_samples() -> None:
    x = torch.tensor([0.0, 0.1, 0.4, 0.9]).view(4, 1, 1, 1)
    found = density(x, [0, 0, 0, 1])
    assert found.width.tolist() == pytest.approx([0.3, 1, 1])
    assert found.count.tolist() == [3, 1, 0]


class Flat(nn.Module):
    """Always class 0 by the same margin: its own slope leads nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3) + 0 * x.flatten(1).sum(1)[:, None]


@pytest.mark.parametrize("norm, eps", [("L2", 0.5), ("Linf", 0.1)])
def test_where_the_margin_is_flat_it_goes_straight_to_the_target_s_samples(norm: str, eps: float) -> None:
    system = System(model=Flat(), num_classes=3, input_shape=(1, 4, 4))
    x, y, draws = samples(system, 8)
    seen = torch.stack((torch.full((1, 4, 4), 0.9), torch.full((1, 4, 4), 0.1)))
    attack, threat = taught(Evasion(steps=10), density(seen, [1, 2], 3.0)), Threat(norm=norm, eps=eps)
    for target, goal_point in ((1, 0.9), (2, 0.1)):
        goal = Goal(y=y, target=torch.full_like(y, target))
        adv = craft(attack, system, x, goal, threat, draws)
        exact = threat.project(x + 100 * (goal_point - x), x)
        if norm == "L2":
            torch.testing.assert_close(adv, exact, rtol=0, atol=2e-3)
        away, before = ((goal_point - point).flatten(1).norm(dim=1) for point in (adv, x))
        assert bool((away < before).all())


def test_the_pull_ends_nearer_to_the_target_s_samples_than_the_margin_alone() -> None:
    system, threat = two_layers(classes=3), Threat(norm="L2", eps=0.8)
    x, y, draws = samples(system, 16)
    seen = torch.full((1, 1, 8, 8), 0.7)
    goal = Goal(y=y, target=(y + 1) % 3)
    found = density(seen.expand(3, -1, -1, -1), [0, 1, 2], 2.0)
    ends = [
        craft(taught(Evasion(mimicry=pull, steps=10), found), system, x, goal, threat, draws) for pull in (0, 1, 100)
    ]
    away = [(end - seen).flatten(1).norm(dim=1).mean() for end in ends]
    assert away[0] > away[1] > away[2]


def taught(attack: Evasion, found: Density) -> Evasion:
    """The attack with this density."""
    object.__setattr__(attack, "density", found)
    return attack


def test_it_learns_from_what_the_system_gets_right_and_asks_once_for_each() -> None:
    system = affine(classes=3)
    x, y, draws = samples(system, 90)
    wrong = torch.arange(90) % 5 == 0
    labels = torch.where(wrong, (y + 1) % 3, y)
    attack, threat = Evasion(samples=10), Threat(norm="L2", eps=0.5)
    asker = Asker(attack, system, threat)
    learned = attack.prepare(Setup(x=x, y=labels, draws=draws, threat=threat, num_classes=3, ask=asker))
    asked = [min(10, int((labels == label).sum())) for label in range(3)]
    assert asker.forwards == sum(asked)
    assert asker.backwards == 0
    for label in range(3):
        first = (labels == label).nonzero().squeeze(1)[:10]
        kept = x[first[~wrong[first]]]
        assert torch.equal(learned.density.samples[label, : len(kept)], kept)
        assert int(learned.density.count[label]) == len(kept)
    assert attack.density is None
    assert str(learned) == str(attack) == "evasion:samples=10"


def test_what_it_learns_from_is_not_evaluated() -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 12)
    more = {"threat": "L2:0.3", "diagnostics": False}
    with pytest.raises(UserError, match="none is left to learn from"):
        rbl.evaluate(system.model, x, y, attacks=["evasion"], **more)
    assert len(rbl.evaluate(system.model, x, y, attacks=["evasion:mimicry=0,steps=3"], **more).records) == 12
    records = rbl.evaluate(system.model, x, y, attacks=["evasion:steps=3"], samples="first:6", **more).records
    assert len(records) == 6


def test_without_samples_it_refuses_to_mimic() -> None:
    system = affine(classes=2)
    x, y, draws = samples(system, 2)
    with pytest.raises(UserError, match="there are no samples to mimic"):
        craft(Evasion(), system, x, Goal(y=y, target=1 - y), Threat(norm="L2", eps=0.1), draws)


def test_all_targets_find_what_one_misses() -> None:
    system, threat = affine(classes=5), Threat(norm="L2", eps=0.25)
    x, y, _ = samples(system, 60)
    found = [
        run(resolve_attack(f"evasion:mimicry=0,steps=5,target={rule}"), system, x, y, threat).verdict.broken
        for rule in ("least-likely", "all")
    ]
    assert bool((found[0] <= found[1]).all())
    assert int(found[0].sum()) < int(found[1].sum())
    assert replace(Evasion(), target="all").lanes(5) == 4


@pytest.mark.parametrize("spec", ["mimicry=-1", "width=0", "samples=0", "steps=0", "target=cat"])
def test_options_without_meaning_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="accepted"):
        resolve_attack(f"evasion:{spec}")
