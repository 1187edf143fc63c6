"""The targeted attack: whom it climbs towards, and what it climbs."""

import pytest
import torch
from torch import Tensor, nn
from toys import run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import choose_targets, log_odds
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

EVERYWHERE = Threat(norm="Linf", eps=1)


def probabilities(system: System, x: Tensor, label: Tensor) -> Tensor:
    return system(x).scores.softmax(1)[torch.arange(len(x)), label]


def test_the_slope_of_the_log_odds_is_that_of_the_difference_of_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    z = (4 * torch.randn((20, 6), generator=generator, dtype=torch.float64)).requires_grad_()
    y, target, rows = torch.arange(20) % 6, (torch.arange(20) + 2) % 6, torch.arange(20)
    p = z.log_softmax(1)
    (by_definition,) = torch.autograd.grad((p[rows, target] - p[rows, y]).sum(), z, retain_graph=True)
    (ours,) = torch.autograd.grad(log_odds(Outputs(scores=z), Goal(y=y, target=target)).sum(), z)
    torch.testing.assert_close(ours, by_definition, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    ["", ",objective=ce", ",objective=squared", ",raw=true,step_size=0.1", ",objective=squared,image_weight=1"],
)
def test_one_small_step_raises_the_chance_of_the_target(options: str) -> None:
    system = two_layers()
    x, y, draws = samples(system, 20)
    goal = Goal(y=y, target=(y + 1) % 5)
    attack = resolve_attack(f"targeted:steps=1{options}")
    adv = craft(attack, system, x, goal, Threat(norm="Linf", eps=0.002), draws)
    assert (probabilities(system, adv, goal.target) > probabilities(system, x, goal.target)).all()


@pytest.mark.parametrize("rule", ["least-likely", "random", "next", "second", "3"])
def test_it_climbs_towards_the_class_that_the_rule_chose(rule: str) -> None:
    system, threat = two_layers(), Threat(norm="L2", eps=0.3)
    x, y, draws = samples(system, 30)
    attack = resolve_attack(f"targeted:steps=3,target={rule}")
    lane = torch.zeros(len(x), dtype=torch.int64)
    target = choose_targets(rule, system(x).scores, y, draws.uniform((), "target").view(-1), lane)
    explicit = craft(attack, system, x, Goal(y=y, target=target), threat, draws)
    assert attack.target_rule == rule
    assert torch.equal(craft(attack, system, x, Goal(y=y), threat, draws), explicit)


def test_all_targets_break_what_any_single_one_does() -> None:
    system, threat = two_layers(), Threat(norm="Linf", eps=0.03)
    x, y, _ = samples(system, 80)
    broken = {
        rule: run(resolve_attack(f"targeted:steps=5,target={rule}"), system, x, y, threat).verdict.broken
        for rule in ("all", "least-likely", "next", "second")
    }
    for rule in ("least-likely", "next", "second"):
        assert (broken[rule] <= broken["all"]).all()
    assert broken["least-likely"].sum() < broken["all"].sum() < len(x)


def test_an_image_of_the_target_class_is_left_alone() -> None:
    system, threat = two_layers(), Threat(norm="Linf", eps=0.3)
    x, y, draws = samples(system, 40)
    adv = craft(resolve_attack("targeted:steps=3,target=2"), system, x, Goal(y=y), threat, draws)
    moved = (adv != x).flatten(1).any(1)
    assert (y == 2).any()
    assert torch.equal(moved, y != 2)


def test_a_goal_without_a_target_is_refused() -> None:
    system = two_layers()
    x, y, draws = samples(system, 2)
    attack = resolve_attack("targeted")
    with pytest.raises(UserError, match="targeted: the goal has no target"):
        attack.start(x, Goal(y=y), EVERYWHERE, draws, oracle=None)


@pytest.mark.parametrize(
    "spec, threat, message",
    [
        ("targeted:target=5", "Linf:0.1", r"target=5 is not a class; accepted: 0 to 4"),
        ("targeted:target=next", "Linf:0.1,goal=targeted,target=random", r"has a target of its own"),
        ("targeted:target=all", "Linf:0.1,goal=targeted", r"has a target of its own"),
        ("targeted", "L0:3", r"does not support L0; it supports Linf, L2, L1"),
        ("targeted", "L2", r"does not work on L2; it needs L2:EPS"),
    ],
)
def test_what_does_not_fit_the_threat_is_refused(spec: str, threat: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec).check(Threat.parse(threat), 5)


@pytest.mark.parametrize("threat", ["Linf:0.1,goal=targeted", "Linf:0.1,goal=targeted,target=least-likely", "Linf:0.1"])
def test_the_defaults_fit_every_threat_with_a_radius(threat: str) -> None:
    resolve_attack("targeted").check(Threat.parse(threat), 5)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_squared_form_ends_where_its_two_slopes_cancel(weight: float) -> None:
    # The image is allowed to go anywhere, and stays off the walls: then, at the end, grad |p - e|^2 / 2 = -2 w (x' - x).
    system, x = soft(), 0.35 + 0.3 * torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    y = system(x).prediction()
    goal = Goal(y=y, target=(y + 1) % 3)
    attack = resolve_attack(f"targeted:steps=400,objective=squared,image_weight={weight},raw=true,step_size=0.1")
    adv = craft(attack, system, x, goal, EVERYWHERE, Draws.for_images(0, x, y))
    leaf = adv.double().requires_grad_()
    p = system.model(leaf).softmax(1)
    distance = (p - nn.functional.one_hot(goal.target, 3)).square().sum() / 2
    (slope,) = torch.autograd.grad(distance, leaf)
    assert ((adv > 0) & (adv < 1)).all()
    assert (adv - x).abs().max() > 0.01
    torch.testing.assert_close(slope, -2 * weight * (leaf - x).detach(), rtol=0, atol=1e-5)


def test_a_heavy_image_term_holds_the_image() -> None:
    system, x = soft(), torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    y = system(x).prediction()
    goal, draws = Goal(y=y, target=(y + 1) % 3), Draws.for_images(0, x, y)
    far = []
    for weight, step in ((0, 0.1), (1, 0.1), (100, 0.001)):
        spec = f"targeted:steps=50,objective=squared,image_weight={weight},raw=true,step_size={step}"
        far.append((craft(resolve_attack(spec), system, x, goal, EVERYWHERE, draws) - x).abs().max().item())
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.01


def soft() -> System:
    """A softmax regression with small weights, which is never sure."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return System(model=InDoubles(net.double()), num_classes=3, input_shape=(1, 4, 4))


class InDoubles(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())


def test_the_squared_form_stalls_where_the_model_is_sure_and_the_log_odds_do_not() -> None:
    plain = two_layers()
    sure = plain.with_model(Louder(plain.model))
    x, y, _ = samples(sure, 60)
    best, second = sure(x).scores.topk(2).values.T
    x, y = x[best - second > 200], y[best - second > 200]
    goal, draws = Goal(y=y, target=(y + 1) % 5), Draws.for_images(0, x, y)
    assert len(x) > 10
    moved = {
        objective: craft(resolve_attack(f"targeted:steps=3,objective={objective}"), sure, x, goal, EVERYWHERE, draws)
        != x
        for objective in ("squared", "log-odds")
    }
    assert not moved["squared"].any()
    assert moved["log-odds"].flatten(1).any(1).all()


class Louder(nn.Module):
    """The same answers, surer by far."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * self.net(x)
