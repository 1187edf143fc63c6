"""What DDN and FMN do in a step, and what others' versions of them do not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import Affine, affine, run, samples, two_layers
from worst_case import points

from robustbench_lite.attack import Goal, State, resolve_attack
from robustbench_lite.norms import norm as find_norm
from robustbench_lite.oracle import Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


def flat(side: int = 4) -> System:
    """A system without a gradient."""
    system = affine(classes=3, side=side)
    return system.with_model(Affine(torch.zeros(3, side * side), torch.tensor([1.0, 0.0, 0.0])))


def begun(spec: str, system: System, x: Tensor, y: Tensor, draws: Draws, norm: str) -> tuple[State, Oracle]:
    threat, goal = Threat(norm=norm), Goal(y=y)
    oracle = Oracle(system, Needs.GRADIENTS, x, goal, threat, draws, ledger=Ledger.new(x))
    return resolve_attack(spec).start(x, goal, threat, draws, oracle), oracle


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L0"])
def test_fmn_projects_every_point_onto_its_ball(norm: str) -> None:
    # A projection by min(1, norm / norm) does nothing: its points stay where the first steps of length 1 led.
    system, attack = two_layers(), resolve_attack("fmn:steps=40")
    x, y, draws = samples(system, 16)
    state, oracle = begun("fmn:steps=40", system, x, y, draws, norm)
    for _ in range(40):
        state = attack.step(state, oracle)
        state = replace(state, k=state.k + 1)
        assert (state.threat.distance(state.adv, x) <= state.radius * (1 + 1e-6) + 1e-7).all()
    assert (state.best < state.most).all()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L0"])
def test_more_steps_of_fmn_come_nearer(norm: str) -> None:
    system = two_layers()
    x, y, _ = samples(system, 24)
    column = ("Linf", "L2", "L1", "L0").index(norm)
    few, many = (
        run(resolve_attack(f"fmn:steps={steps}"), system, x, y, Threat(norm=norm)).verdict for steps in (10, 100)
    )
    assert few.broken.all()
    assert many.broken.all()
    assert many.norms[:, column].mean() < few.norms[:, column].mean()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_fmn_does_not_stretch_a_point_that_is_inside(norm: str) -> None:
    # A projection by norm / eps without a minimum stretches it to the surface.
    system, attack = flat(), resolve_attack("fmn")
    x, _, draws = samples(affine(), 8)
    state, oracle = begun("fmn", system, x, torch.zeros(8, dtype=torch.int64), draws, norm)
    near = torch.where(x > 0.5, x - 0.01, x + 0.01)
    after = attack.step(replace(state, adv=near), oracle)
    assert (state.threat.distance(near, x) < after.radius / 2).any()
    assert torch.equal(after.adv, near)


def test_the_radius_of_l0_is_a_whole_number_and_never_stays() -> None:
    l0, radius = find_norm("L0"), torch.arange(0.0, 60.0, dtype=torch.float64)
    for factor in (0.5, 0.95, 0.999, 1.001, 1.05, 2.0):
        next_one = l0.resized(radius, radius * factor)[radius > 0]
        assert (next_one == next_one.round()).all()
        assert (next_one >= 0).all()
        assert ((next_one < radius[1:]) if factor < 1 else (next_one > radius[1:])).all()


def test_ddn_shortens_a_breaking_perturbation_and_lengthens_another() -> None:
    system, attack = two_layers(), resolve_attack("ddn:steps=30,gamma=0.1")
    x, y, draws = samples(system, 16)
    state, oracle = begun("ddn:steps=30", system, x, y, draws, "L2")
    for _ in range(30):
        broken, before = system(state.adv).prediction() != y, state.radius
        state = attack.step(state, oracle)
        state = replace(state, k=state.k + 1)
        assert torch.allclose(state.radius, torch.minimum(before * torch.where(broken, 0.9, 1.1), state.most))
        assert (state.threat.distance(state.adv, x) <= state.radius * (1 + 1e-5)).all()  # the box may cut it


def test_a_row_without_a_gradient_turns_at_random_and_by_itself() -> None:
    # Divided by a norm of 0 it would be NaN, left alone it would stand still.
    x, _, draws = samples(affine(side=16), 8)
    x, y = x * 0.5 + 0.25, torch.zeros(8, dtype=torch.int64)
    state, oracle = begun("ddn", flat(16), x, y, draws, "L2")
    after = resolve_attack("ddn").step(state, oracle).adv
    assert ((after - x).flatten(1).norm(dim=1) - 1.05).abs().max() < 1e-4
    again, oracle = begun("ddn", flat(16), x[3:4], y[:1], draws[torch.tensor([3])], "L2")
    assert torch.equal(resolve_attack("ddn").step(again, oracle).adv[0], after[3])


def test_ddn_with_levels_asks_about_images_that_can_be_saved() -> None:
    system, threat = two_layers(), Threat(norm="L2")
    x, y, draws = samples(system, 16)
    x = (x * 255).round() / 255
    y = system(x).prediction()
    way = points(resolve_attack("ddn:steps=30,levels=256"), system, x, Goal(y=y), threat, draws) * 255
    assert (way - way.round()).abs().max() < 1e-4
    outcome = run(resolve_attack("ddn:steps=100,levels=256"), system, x, y, threat)
    assert (outcome.verdict.broken == outcome.verdict.broken_8bit).all()
