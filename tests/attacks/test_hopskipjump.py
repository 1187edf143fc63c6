"""HopSkipJump: near the exact distance, never off the broken side, counted to the last query."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Attack, Goal, Setup, State, craft, resolve_attack
from robustbench_lite.attacks.hopskipjump import HopSkipJump
from robustbench_lite.attacks.starts import noise
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

NORMS = ["L2", "Linf"]


class Counter(nn.Module):
    """A model that counts the images it was shown, and keeps the last batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images, self.last = model, 0, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.images, self.last = self.images + len(x), x.detach().clone()
        return self.model(x)


def walk(
    attack: Attack, system: System, x: Tensor, goal: Goal, threat: Threat, draws: Draws
) -> Iterator[tuple[State, Ledger]]:
    """The state and the ledger after the start and after each step, until all rows are done."""

    def oracle(ledger: Ledger) -> Oracle:
        return Oracle(system, Needs.LABELS, x, goal, threat, draws, ledger=ledger, budget=attack.budget)

    asked = oracle(Ledger.new(x))
    state = attack.start(x, goal, threat, draws, asked)
    yield state, asked.ledger
    while not bool(state.done.all()) and int(state.k.max()) < attack.length():
        asked = oracle(asked.ledger)
        state = attack.step(state, asked)
        state = replace(state, k=state.k + 1)
        yield state, asked.ledger


def exact(system: System, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The distance to the boundary of an affine system of two classes, in the box, (n,)."""
    weight, bias = system.model.weight, system.model.bias
    w = (weight[1] - weight[0]).view(1, *x.shape[1:]).expand(len(x), -1, -1, -1).float()
    b = (bias[0] - bias[1]).expand(len(x)).float()
    threat = Threat(norm=norm)
    return threat.distance(threat.geometry.hyperplane(x, w, b), x)


@pytest.mark.parametrize("norm, queries, worst", [("L2", 1500, 1.05), ("Linf", 2500, 1.1)])
def test_it_comes_within_five_percent_of_the_exact_distance_to_a_half_space(
    norm: str, queries: int, worst: float
) -> None:
    system, threat = affine(classes=2), Threat(norm=norm)
    x, y, _ = samples(system, 24)
    outcome = run(resolve_attack(f"hopskipjump:queries={queries}"), system, x, y, threat)
    ratio = threat.distance(outcome.adv, x) / exact(system, x, y, norm)
    assert bool(outcome.verdict.broken.all())
    assert float(ratio.median()) < 1.05
    assert float(ratio.max()) < worst
    assert float(ratio.min()) > 0.999


def test_the_normal_points_where_the_answers_turn() -> None:
    system, threat = affine(classes=2, side=8), Threat(norm="L2")
    x, y, draws = samples(system, 12)
    attack, goal = HopSkipJump(), Goal(y=y)
    oracle = Oracle(system, Needs.LABELS, x, goal, threat, draws)
    state = attack.start(x, goal, threat, draws, oracle)
    width = (state.before / 64).float()
    found = attack.normal(state, torch.full((12,), 4 * 64), width, oracle).flatten(1).double()
    slope = system.model.weight[1] - system.model.weight[0]
    up = torch.where(y == 0, 1.0, -1.0).double()
    assert bool((torch.cosine_similarity(found, up[:, None] * slope[None]) > 0.5).all())


def test_a_point_off_the_boundary_does_no_harm_to_the_normal() -> None:
    # Nine probes of ten break there; without the mean sign taken off, their own mean would be most of the estimate.
    system, threat = affine(classes=2, side=8), Threat(norm="L2")
    x, y, draws = samples(system, 12)
    attack, goal = HopSkipJump(), Goal(y=y)
    oracle = Oracle(system, Needs.LABELS, x, goal, threat, draws)
    state = attack.start(x, goal, threat, draws, oracle)
    slope = (system.model.weight[1] - system.model.weight[0]).float()
    up = torch.where(y == 0, 1.0, -1.0)[:, None] * slope / slope.norm()
    inside = state.point + 0.16 * 0.1 * up.view_as(x)  # 1.28 standard deviations of a probe's height
    found = attack.normal(replace(state, point=inside), torch.full((12,), 8 * 64), torch.full((12,), 0.1), oracle)
    assert bool((torch.cosine_similarity(found.flatten(1), up) > 0.5).all())


@pytest.mark.parametrize("norm", NORMS)
def test_every_point_of_the_walk_breaks_and_no_row_overdraws(norm: str) -> None:
    system, threat = two_layers(), Threat(norm=norm)
    x, y, draws = samples(system, 8)
    last = None
    for state, ledger in walk(HopSkipJump(queries=700), system, x, Goal(y=y), threat, draws):
        assert bool((system(state.point).prediction() != y).all())
        assert bool((ledger.forwards <= 700).all())
        if last is not None:
            assert bool((state.nearest <= last).all())
        last = state.nearest
    assert bool((ledger.forwards > 600).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("row", range(3))
def test_every_image_that_the_system_sees_of_a_lone_row_is_counted(norm: str, row: int) -> None:
    system = two_layers()
    x, y, draws = (part[row : row + 1] for part in samples(system, 3))
    counter = Counter(system.model)
    for _, ledger in walk(
        HopSkipJump(queries=400), replace(system, model=counter), x, Goal(y=y), Threat(norm=norm), draws
    ):
        assert int(ledger.forwards) == counter.images
    assert counter.images <= 400


@pytest.mark.parametrize("norm, power", [("L2", 1.5), ("Linf", 2)])
def test_the_search_ends_at_the_paper_s_theta(norm: str, power: float) -> None:
    system = affine(classes=2)
    x, y, draws = samples(system, 8)
    asked = Oracle(system, Needs.LABELS, x, Goal(y=y), Threat(norm=norm), draws)
    HopSkipJump().start(x, Goal(y=y), Threat(norm=norm), draws, asked)
    tries = asked.ledger.forwards - math.ceil(power * math.log2(16))
    assert bool((tries >= 1).all())
    assert int(tries.min()) == 1


def test_the_first_probes_are_a_tenth_away_and_later_ones_a_part_of_the_distance() -> None:
    system, threat = affine(classes=2), Threat(norm="L2")
    x, y, draws = (part[:1] for part in samples(system, 1))
    counter = Counter(system.model)
    watched, attack = replace(system, model=counter), HopSkipJump(probes=2)
    oracle = Oracle(watched, Needs.LABELS, x, Goal(y=y), threat, draws)
    state = attack.start(x, Goal(y=y), threat, draws, oracle)
    for width in (0.1, None):
        wanted = width or float(state.before) / 16
        attack.normal(state, torch.tensor([1]), torch.tensor([wanted]), oracle)
        assert float((counter.last - state.point).norm()) == pytest.approx(wanted, rel=1e-3)
        state = replace(attack.step(state, oracle), k=state.k + 1)


def test_a_row_steps_as_far_alone_as_beside_others() -> None:
    # Divided by the norm of the whole batch, steps would shrink with its size.
    system, threat = two_layers(), Threat(norm="L2")
    x, y, draws = samples(system, 16)
    attack = HopSkipJump(queries=300)
    together = craft(attack, system, x, Goal(y=y), threat, draws, block=16)
    alone = craft(attack, system, x[3:4], Goal(y=y[3:4]), threat, draws[3:4], block=16)
    assert torch.equal(together[3:4], alone)


def test_few_images_do_not_make_small_batches() -> None:
    # Three rows in blocks of 32: most of a block is probes, not copies.
    system = two_layers()
    x, y, _ = samples(system, 3)
    counter = Counter(system.model)
    outcome = run(HopSkipJump(queries=1000), replace(system, model=counter), x, y, Threat(norm="L2"))
    assert int(outcome.forwards.sum()) > 2800
    assert counter.images < 4 * int(outcome.forwards.sum())


def test_where_nothing_breaks_the_norm_is_infinite_and_few_queries_are_lost() -> None:
    x, _, _ = samples(two_layers(), 6)
    always = System(model=Always(), num_classes=5, input_shape=(1, 8, 8))
    outcome = run(HopSkipJump(), always, x, torch.zeros(6, dtype=torch.int64), Threat(norm="L2"))
    assert not bool(outcome.verdict.broken.any())
    assert torch.equal(outcome.adv, x)
    assert outcome.forwards.tolist() == [100] * 6


class Always(nn.Module):
    """Class 0, whatever it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(5)[0].expand(len(x), 5)


def test_noise_comes_in_blocks_of_every_size() -> None:
    x, _, draws = samples(two_layers(), 2)
    for attempt, block in enumerate((1, 2, 4, 8, 1)):
        found = noise(x, draws, attempt)
        assert found.shape == x.shape
        assert len(found[0].unique()) == (8 // block) ** 2
    odd = noise(torch.zeros(2, 3, 5, 7), draws, 1)
    assert odd.shape == (2, 3, 5, 7)


def prepared(attack: Attack, system: System, threat: Threat) -> Attack:
    """The attack, taught on other images than `samples` gives."""
    x, y, draws = samples(system, 100, seed=7)
    asker = Asker(attack, system, threat)
    return attack.prepare(Setup(x=x, y=y, draws=draws, threat=threat, num_classes=system.num_classes, ask=asker))


@pytest.mark.parametrize("norm", NORMS)
def test_a_targeted_walk_starts_from_an_image_of_the_target(norm: str) -> None:
    system, threat = affine(classes=3), Threat(norm=norm, goal="targeted", target="next")
    x, y, draws = samples(system, 10)
    goal = Goal(y=y, target=(y + 1) % 3, success="targeted")
    attack = prepared(HopSkipJump(queries=600), system, threat)
    assert HopSkipJump().learns(threat)
    assert not HopSkipJump().learns(Threat(norm=norm))
    assert str(attack) == "hopskipjump:queries=600"
    for state, _ in walk(attack, system, x, goal, threat, draws):
        assert torch.equal(system(state.point).prediction(), goal.target)


def test_a_targeted_threat_is_refused_where_no_image_is_left_to_start_from() -> None:
    system = two_layers()
    x, y, _ = samples(system, 12)
    with pytest.raises(UserError, match="none is left to learn from"):
        rbl.evaluate(system.model, x, y, attacks=["hopskipjump"], threat="L2:goal=targeted", diagnostics=False)
    found = rbl.evaluate(system.model, x, y, attacks=["hopskipjump:queries=60"], threat="L2", diagnostics=False).records
    assert (found["forwards"] <= 60).all()
    assert found["broken"].all()


@pytest.mark.parametrize("norm, eps", [("L2", 0.3), ("Linf", 0.08)])
def test_at_a_fixed_eps_it_breaks_what_is_well_within_reach_and_nothing_else(norm: str, eps: float) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, _ = samples(system, 40)
    outcome, radius = run(resolve_attack("hopskipjump:queries=1500"), system, x, y, threat), exact(system, x, y, norm)
    assert bool(outcome.verdict.broken[radius < 0.9 * eps].all())
    assert not bool(outcome.verdict.broken[radius > eps].any())
    assert bool((outcome.forwards[radius < eps / 4] < 1500).all())


def test_the_last_point_survives_another_rounding() -> None:
    system, threat = two_layers(), Threat(norm="L2")
    x, y, draws = samples(system, 8)
    *_, (state, _) = walk(HopSkipJump(queries=300), system, x, Goal(y=y), threat, draws)
    far = threat.distance(state.adv, x) / state.nearest
    assert bool((far > 1).all())
    assert bool((far < 1.0011).all())
    shaken = state.adv + 1e-6 * along(torch.ones(8), x)
    assert bool((system(shaken).prediction() != y).all())


@pytest.mark.parametrize("spec", ["probes=1", "queries=0", "steps=0", "gamma=0", "gamma=-1"])
def test_options_without_meaning_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="accepted"):
        resolve_attack(f"hopskipjump:{spec}")
