"""NES and SPSA: what they estimate, how they move, what they pay."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.nes import NES, SPSA, Drift, Estimated
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import EOT, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

BOTH = [NES(objective="margin"), SPSA()]


def estimate(
    attack: Estimated, system: System, x: Tensor, y: Tensor, threat: Threat, **given: object
) -> tuple[Tensor, Oracle]:
    """The first estimate at x, and the oracle that paid for it."""
    goal, draws = Goal(y=y), Draws.for_images(0, x, y)
    oracle = Oracle(system, attack.needs, x, goal, threat, draws, **given)  # type: ignore[arg-type]
    return attack.slope(attack.start(x, goal, threat, draws, oracle), oracle), oracle


def slope_of(system: System, y: Tensor, like: Tensor) -> Tensor:
    """The gradient of the margin of an affine system of two classes."""
    weight = system.model.weight.float()
    return (weight[1 - y] - weight[y]).view_as(like)


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
def test_many_probes_find_the_gradient(attack: Estimated) -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 6)
    x = x * 0.5 + 0.25
    slope, _ = estimate(replace(attack, samples=1000, sigma=0.05), system, x, y, Threat(norm="Linf", eps=0.1))
    truth = slope_of(system, y, x)
    assert (nn.functional.cosine_similarity(slope.flatten(1), truth.flatten(1)) > 0.96).all()
    torch.testing.assert_close(slope.flatten(1).norm(dim=1), truth.flatten(1).norm(dim=1), rtol=0.1, atol=0)


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
def test_one_pair_of_probes_measures_the_slope_along_its_direction(attack: Estimated) -> None:
    system, threat = affine(classes=2), Threat(norm="Linf", eps=0.1)
    x, y, draws = samples(system, 6)
    x = x * 0.5 + 0.25
    slope, _ = estimate(replace(attack, samples=2, sigma=0.01), system, x, y, threat)
    state = attack.start(x, Goal(y=y), threat, type(draws).for_images(0, x, y), None)  # type: ignore[arg-type]
    noise, truth = attack.noise(state, 0), slope_of(system, y, x)
    along = (noise * truth).flatten(1).sum(1).view(-1, 1, 1, 1)
    torch.testing.assert_close(slope, along * noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
def test_probes_are_images_and_no_candidates(attack: Estimated) -> None:
    class Jumpy(nn.Module):
        """Any image but the clean ones is answered wrongly."""

        def __init__(self, clean: Tensor) -> None:
            super().__init__()
            self.clean = clean

        def forward(self, x: Tensor) -> Tensor:
            assert ((x >= 0) & (x <= 1)).all()
            return torch.eye(2)[(x != self.clean).flatten(1).any(1).long()]

    x, y = torch.rand(4, 1, 5, 5).round(), torch.zeros(4, dtype=torch.int64)
    system = System(model=Jumpy(x), num_classes=2, input_shape=(1, 5, 5))
    _, oracle = estimate(replace(attack, samples=10), system, x, y, Threat(norm="Linf", eps=0.5))
    assert (oracle.ledger.forwards == 10).all()
    assert not oracle.ledger.found.any()


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
def test_on_an_affine_model_it_reaches_the_corner(attack: Estimated) -> None:
    system, threat = affine(classes=2), Threat(norm="Linf", eps=0.05)
    x, y, draws = samples(system, 10)
    attack = replace(attack, queries=1212, samples=100)
    adv = craft(attack, system, x, Goal(y=y), threat, draws)
    slope = slope_of(system, y, x)
    gain, best = (((point - x) * slope).flatten(1).sum(1) for point in (adv, threat.extreme(x, slope)))
    assert (gain > 0.9 * best).all()


@pytest.mark.parametrize("norm, eps", [("L2", 0.4), ("L1", 1.5)])
def test_nes_climbs_in_other_norms_too(norm: str, eps: float) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 10)
    adv = craft(NES(queries=1212, samples=100, objective="margin"), system, x, Goal(y=y), threat, draws)
    slope = slope_of(system, y, x)
    gain, best = (((point - x) * slope).flatten(1).sum(1) for point in (adv, threat.extreme(x, slope)))
    assert (gain > 0.9 * best).all()


def test_steps_halve_where_the_objective_is_below_that_of_some_points_before() -> None:
    system, threat = affine(), Threat(norm="Linf", eps=0.1)
    x, y, draws = samples(system, 3)
    attack = NES(step_size=0.4, least=0.1, plateau=3)
    state = attack.start(x, Goal(y=y), threat, draws, None)  # type: ignore[arg-type]
    assert isinstance(state, Drift)
    reach = []
    for value in (
        [3, 1, 5],
        [2, 2, 4],
        [1, 3, 3],
        [0, 4, 2],
        [-1, 5, 1],
        [-2, 6, 0],
        [-3, 7, -1],
        [-4, 8, -2],
        [-5, 9, -3],
    ):
        state = attack.noted(state, torch.tensor(value).float())
        reach.append(state.reach.tolist())
    assert [row[0] for row in reach] == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert all(row[1] == pytest.approx(0.4) for row in reach)
    assert [row[2] for row in reach] == [row[0] for row in reach]


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
@pytest.mark.parametrize("queries, spent", [(1, 1), (2, 1), (3, 3), (6, 5), (7, 7), (8, 8), (23, 22), (24, 24)])
def test_the_last_step_takes_what_is_left(queries: int, spent: int, attack: Estimated) -> None:
    # Seven queries a step: six probes and a look; a pair of probes needs a third query, for the look.
    system = affine()
    x, y, _ = samples(system, 6)
    attack = replace(attack, queries=queries, samples=6, restarts=2)
    found = run(attack, system, x, y, Threat(norm="Linf", eps=1e-6))
    assert (found.forwards == 2 * spent).all()
    assert attack.cost(3).forwards == 2 * queries


@pytest.mark.parametrize("attack", BOTH, ids=lambda attack: attack.name)
def test_an_average_over_draws_leaves_the_last_step_its_look(attack: Estimated) -> None:
    # 40 images pay for 13 queries of three draws: seven of the first step, then two pairs and a look.
    system, threat = affine(), Threat(norm="Linf", eps=1e-6)
    x, y, draws = samples(system, 4)
    attack, goal = replace(attack, queries=40, samples=6), Goal(y=y)

    class Counted(Oracle):
        looks = 0

        def query(self, x: Tensor, *objectives: object, probe: bool = False, **more: object) -> object:
            Counted.looks += not probe and not bool(self.exhausted.any())
            return super().query(x, *objectives, probe=probe, **more)  # type: ignore[arg-type]

    oracle = Counted(system, attack.needs, x, goal, threat, draws, eot=EOT(draws=3), budget=attack.budget)
    state = attack.start(x, goal, threat, draws, oracle)
    for _ in range(2):
        state = attack.step(state, oracle)
        state = replace(state, k=state.k + 1)
    assert (oracle.ledger.forwards == 3 * (7 + 5)).all()
    assert Counted.looks == 2


def test_nothing_is_counted_after_the_first_break() -> None:
    system = affine()
    x, y, _ = samples(system, 40)
    found = run(NES(queries=400, samples=20, step_size=0.5), system, x, y, Threat(norm="Linf", eps=0.3))
    broken = found.verdict.broken
    assert broken.float().mean() > 0.9
    assert torch.equal(found.forwards[broken], found.break_forward[broken])
    assert (found.forwards[broken] % 21 == 0).all()


@pytest.mark.parametrize(
    "spec, message",
    [
        ("nes:samples=7", "nes: samples=7; accepted: an even number"),
        ("nes:samples=0", "nes: samples=0; accepted: 2 and more"),
        ("nes:momentum=1", "nes: momentum=1; accepted: 0 up to, but not including, 1"),
        ("nes:plateau=1", "nes: plateau=1; accepted: 2 and more"),
        ("spsa:sigma=0", "spsa: sigma=0; accepted: more than 0"),
        ("spsa:objective=dlr", "spsa: objective=dlr; accepted: ce, margin"),
    ],
)
def test_bad_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)


def test_spsa_is_made_for_linf() -> None:
    with pytest.raises(UserError, match="spsa does not support L2; it supports Linf"):
        SPSA().check(Threat(norm="L2", eps=1), 10)
