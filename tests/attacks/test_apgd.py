"""Auto-PGD: exact on affine models, its own pace in every row, and the slips of other implementations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers
from worst_case import margins_to, points, scaled, worst_margins

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.auto_ascent import PACES, Climb, Halved, Sparse, Way, _course
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import dlr
from robustbench_lite.oracle import Ledger, Oracle
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

NORMS = [("Linf", 0.1), ("Linf", 0.4), ("L2", 0.5), ("L2", 1.5), ("L1", 0.6), ("L1", 4.0)]
SMALL = [("Linf", 0.03), ("L2", 0.12), ("L1", 0.3)]
#: the share of the worst case's gain that may be left; in L1 the last steps are still eps / 10 long
SHORT_OF = {"Linf": 1e-4, "L2": 1e-3, "L1": 0.04}


def checkpoints(norm: str, steps: int) -> list[int]:
    return [k for k, window in enumerate(PACES[norm].windows(steps)) if window]


# -- the course --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps, expected",
    [
        (20, [4, 7, 9, *range(10, 21)]),
        (50, [11, 21, 30, 38, 45]),
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (1000, [220, 410, 570, 700, 800, 870, 930, 990]),
    ],
)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_checkpoints_grow_denser(norm: str, steps: int, expected: list[int]) -> None:
    assert checkpoints(norm, steps) == expected


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 100, 1000])
@pytest.mark.parametrize("norm", list(PACES))
def test_a_window_reaches_back_to_the_last_checkpoint_and_no_further(norm: str, steps: int) -> None:
    windows, last = PACES[norm].windows(steps), 0
    assert len(windows) == steps + 1
    for k in checkpoints(norm, steps):
        assert windows[k] == k - last
        last = k


def test_in_l1_there_is_a_checkpoint_after_every_4_percent() -> None:
    assert checkpoints("L1", 100) == list(range(4, 101, 4))
    assert checkpoints("L1", 30) == list(range(1, 31))


@pytest.mark.parametrize("steps, parts", [(100, (30, 30, 40)), (10, (3, 3, 4)), (5, (2, 2, 1)), (1, (1, 0, 0))])
def test_large_eps_takes_30_30_and_40_percent_of_the_steps(steps: int, parts: tuple[int, ...]) -> None:
    attack = resolve_attack(f"apgd:steps={steps},large_eps=true")
    assert attack.length() == steps + 3
    radius = _course("L1", tuple(attack._radii())).radius.tolist()
    assert radius == [3.0] * parts[0] + [2.0] * (parts[1] + 1) + [1.0] * (parts[2] + 2)


# -- affine models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["ce", "dlr"])
@pytest.mark.parametrize("norm, eps", NORMS)
def test_it_reaches_the_worst_case_of_two_classes(norm: str, eps: float, objective: str) -> None:
    system, threat = affine(classes=2), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 16)
    attack = resolve_attack(f"apgd:objective={objective},steps=100")
    adv = craft(attack, system, x, Goal(y=y), threat, draws)
    exact, clean = worst_margins(system, x, y, threat).max(1), margins_to(system, x, y, 1 - y)
    missed = (exact - margins_to(system, adv, y, 1 - y)) / (exact - clean)
    assert missed.max() < SHORT_OF[norm]


@pytest.mark.parametrize("norm, eps", NORMS)
def test_towards_a_target_it_reaches_the_worst_case_of_that_target(norm: str, eps: float) -> None:
    system, threat = affine(classes=4), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 16)
    target = (y + 2) % 4
    way = points(resolve_attack("apgd-t:objective=log-odds"), system, x, Goal(y=y, target=target), threat, draws)
    best = np.max([margins_to(system, adv, y, target) for adv in way], axis=0)
    exact, clean = worst_margins(system, x, y, threat)[np.arange(16), target], margins_to(system, x, y, target)
    assert ((exact - best) / (exact - clean)).max() < SHORT_OF[norm]


@pytest.mark.parametrize(
    "spec, classes", [("apgd", 2), ("apgd:objective=dlr", 2), ("apgd-t", 2), ("apgd-t", 3), ("apgd-t", 10)]
)
@pytest.mark.parametrize("norm, eps", SMALL)
def test_robust_accuracy_is_the_exact_one(spec: str, classes: int, norm: str, eps: float) -> None:
    system, threat = affine(classes=classes), Threat(norm=norm, eps=eps)
    x, y, _ = samples(system, 32)
    exact = worst_margins(system, x, y, threat).max(1)
    outcome = run(resolve_attack(f"{spec}{',' if ':' in spec else ':'}steps=30"), system, x, y, threat)
    clear = abs(exact) > 0.02
    assert (outcome.verdict.broken.numpy() == (exact > 0))[clear].all()


@pytest.mark.parametrize("spec", ["apgd:objective=dlr,steps=40", "apgd-t:steps=40"])
def test_it_does_not_feel_the_scale_of_the_logits(spec: str) -> None:
    plain, threat = affine(classes=4), Threat(norm="L2", eps=0.3)
    x, y, _ = samples(plain, 40)
    one, other = (run(resolve_attack(spec), system, x, y, threat) for system in (plain, scaled(plain, 1024)))
    assert one.verdict.broken.any()
    assert one.verdict.broken.tolist() == other.verdict.broken.tolist()


def test_the_ratio_knows_neither_scale_nor_shift() -> None:
    scores = torch.randn((6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(6) % 5
    for goal in (Goal(y=y), Goal(y=y, target=(y + 1) % 5)):
        plain, changed = (dlr(Outputs(scores=z), goal) for z in (scores, 7 * scores - 3))
        torch.testing.assert_close(changed, plain)
    right = scores.argmax(1)
    assert (
        (dlr(Outputs(scores=scores), Goal(y=right)) <= 0) & (dlr(Outputs(scores=scores), Goal(y=right)) >= -1)
    ).all()


@pytest.mark.parametrize("norm, eps", [("Linf", 0.05), ("L2", 0.25), ("L1", 0.6)])
@pytest.mark.parametrize("classes", [2, 10])
def test_no_weaker_than_pgd_at_the_same_cost(norm: str, eps: float, classes: int) -> None:
    threat = Threat(norm=norm, eps=eps)
    for system in (affine(classes=classes), two_layers(classes=classes)):
        x, y, _ = samples(system, 32)
        held, by_pgd = (
            int((~run(resolve_attack(f"{name}:steps=50,restarts=1"), system, x, y, threat).verdict.broken).sum())
            for name in ("apgd", "pgd")
        )
        assert held <= by_pgd + 1  # another random start may lose one


class Waves(nn.Module):
    """Scores that go up and down: some rows climb steadily, others do not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x)
        return scores + 2 * torch.sin(5 * scores)


def crooked() -> System:
    system = two_layers()
    return system.with_model(Waves(system.model))


# -- its own pace ------------------------------------------------------------------------------------------------------


def follow(spec: str, system: Any, x: Tensor, y: Tensor, threat: Threat, draws: Any, steps: int) -> list[Climb]:
    """The states of a run of so many steps."""
    attack, goal, ledger, found = resolve_attack(spec), Goal(y=y), Ledger.new(x), list[Climb]()
    oracle = Oracle(system, attack.needs, x, goal, threat, draws, ledger=ledger)
    state = attack.start(x, goal, threat, draws, oracle)
    for _ in range(steps):
        state = attack.step(state, oracle)
        state = replace(state, k=state.k + 1)
        found.append(state)
    return found


def test_every_row_halves_its_own_step_and_goes_back_to_its_own_best_point() -> None:
    system, threat = crooked(), Threat(norm="L2", eps=0.5)
    x, y, draws = samples(system, 32)
    way = follow("apgd", system, x, y, threat, draws, 71)
    chosen = torch.zeros(32, dtype=torch.int64)
    for k in (22, 41, 57, 70):
        before, at = way[k - 1], way[k]
        halved = at.memory.stride < before.memory.stride
        chosen += halved
        assert torch.equal(at.before[halved], at.best[halved])  # `before` is where the step began
        assert torch.equal(at.before[~halved], before.at[~halved])
    assert len(chosen.unique()) > 1
    assert torch.equal(way[-1].memory.stride, 2.0 * 0.5**chosen)


def climb(values: list[float]) -> Halved:
    """The memory of one row of 100 steps whose objective takes these values."""
    pace, x = PACES["Linf"], torch.zeros((1, 1, 1, 1))
    system = affine(classes=2)
    state = Climb.begin(
        x, Goal(y=torch.zeros(1, dtype=torch.int64)), Threat(norm="Linf", eps=0.1), samples(system, 1)[2], x,
        at=x, before=x, best=x, slope=x, height=torch.tensor([values[0]]), memory=None,
    )  # fmt: skip
    state = replace(state, memory=pace.begin(state, torch.tensor([values[0]]), anywhere=True))
    course = _course("Linf", ((1.0, 100),))
    for k, value in enumerate(values[1:], start=1):
        now = torch.tensor([value])
        state = replace(state, height=torch.maximum(state.height, now))
        way: Way = course[torch.tensor([k])]
        state = replace(state, memory=pace.look(state, now, way, 0.75)[0])
    memory = state.memory
    assert isinstance(memory, Halved)
    return memory


def test_the_first_window_compares_with_the_starting_point() -> None:
    # 22 steps, of which 17 go up: more than 0.75 * 22 = 16.5, so the step stays. The first one is among them, and only
    # against the starting point, which is not 0: counted against a 0 it is a fall, and the step is halved.
    values = [-9.0, *(-8.0 + 0.1 * k for k in range(17))]
    values = values[:18] + [values[17] - 0.01 * k for k in range(1, 6)]
    assert len(values) == 23
    assert climb(values).stride.item() == 2.0
    assert climb([-9.0, -9.5, *values[2:]]).stride.item() == 1.0


def test_without_anything_better_in_two_windows_the_step_is_halved() -> None:
    rising = [float(k) for k in range(23)]
    assert climb(rising).stride.item() == 2.0
    below = [*rising, *(-100.0 + k for k in range(19))]  # it goes up all the time, but far below the best
    assert climb(below).stride.item() == 1.0
    assert (
        climb([*below, *(-50.0 + k for k in range(16))]).stride.item() == 1.0
    )  # halved just before: it has another window


def test_in_l1_every_row_has_a_sparsity_of_its_own() -> None:
    system, threat = two_layers(), Threat(norm="L1", eps=2.0)
    x, y, draws = samples(system, 32)
    memory = follow("apgd", system, x, y, threat, draws, 40)[-1].memory
    assert isinstance(memory, Sparse)
    assert len(memory.share.unique()) > 1
    assert ((memory.stride >= 0.1) & (memory.stride <= 1)).all()


def test_with_large_eps_the_end_is_inside_and_breaks_no_more_than_can_be_broken() -> None:
    system, threat = affine(classes=3), Threat(norm="L1", eps=0.3)
    x, y, draws = samples(system, 60)
    attack = resolve_attack("apgd:large_eps=true,objective=margin")
    breakable = worst_margins(system, x, y, threat).max(1) > 0
    broken = run(attack, system, x, y, threat).verdict.broken.numpy()
    assert not (broken & ~breakable).any()
    assert (breakable & ~broken).sum() <= 2
    way = follow("apgd:large_eps=true,steps=10", system, x, y, threat, draws, 13)
    assert all(threat.contains(state.adv, x).all() for state in way)
    assert not threat.contains(way[1].at, x).all()


# -- slips of other implementations ------------------------------------------------------------------------------------


def test_the_exact_projection_in_l1_is_stronger_than_cutting_at_the_box_after_the_ball() -> None:
    system, threat = affine(classes=2, side=6), Threat(norm="L1", eps=6.0)
    x, y, draws = samples(system, 24)
    x = (x > 0.5).float() * 0.8 + 0.1  # near the walls, as digits are
    y = system(x).prediction()
    exact = worst_margins(system, x, y, threat).max(1)
    clean = margins_to(system, x, y, 1 - y)

    def missed(adv: Tensor) -> np.ndarray:
        return (exact - margins_to(system, adv, y, 1 - y)) / (exact - clean)

    ours = missed(craft(resolve_attack("apgd"), system, x, Goal(y=y), threat, draws))
    assert ours.max() < 0.04
    w = system.model.weight.detach()
    slope = (w[1] - w[0])[None] * torch.where(y == 0, 1.0, -1.0)[:, None].double()
    delta = torch.zeros_like(slope)
    for k in range(200):  # the same ascent with the ball first and the box second
        step = threat.geometry.steepest(slope.view_as(x).float(), keep=0.2).flatten(1).double() * 6.0 / (1 + k / 10)
        delta = soft(delta + step, 6.0)
        delta = (x.flatten(1) + delta).clamp(0, 1) - x.flatten(1)
    assert missed((x.flatten(1) + delta).view_as(x).float()).max() > 0.05


def soft(delta: Tensor, eps: float) -> Tensor:
    """The projection onto the L1 ball alone (Duchi et al. 2008)."""
    size = delta.abs()
    ranked = size.sort(1, descending=True).values
    threshold = (ranked.cumsum(1) - eps) / torch.arange(1, size.shape[1] + 1)
    count = (ranked > threshold).sum(1, keepdim=True)
    cut = threshold.gather(1, count - 1).clamp(min=0)
    return delta.sign() * (size - cut).clamp(min=0)


def test_targets_are_ranked_by_the_clean_scores_and_the_label_is_none_of_them() -> None:
    system, threat = affine(classes=6), Threat(norm="Linf", eps=1e-4)
    x, y, _ = samples(system, 40)
    wanted = system(x).scores.argsort(dim=1, descending=True)[:, 1:]
    for lanes in (1, 3, 9):
        attack = resolve_attack(f"apgd-t:steps=2,targets={lanes},targets_in_flight=1")
        outcome = run(attack, system, x, y, threat)
        held = ~outcome.verdict.broken
        assert attack.lanes(6) == min(lanes, 5)
        assert (outcome.target == wanted.gather(1, outcome.lane[:, None]).squeeze(1))[held].all()
        assert (outcome.forwards[held] == 3 * min(lanes, 5)).all()


def test_any_wrong_answer_on_the_way_to_a_target_breaks() -> None:
    system, threat = affine(classes=3), Threat(norm="Linf", eps=0.3)
    x, y, _ = samples(system, 60)
    outcome = run(resolve_attack("apgd-t:steps=20,targets_in_flight=1"), system, x, y, threat)
    broken = outcome.verdict.broken
    assert broken.any()
    assert (outcome.verdict.prediction != outcome.target)[broken].any()


def test_how_many_targets_run_side_by_side_decides_no_accuracy() -> None:
    system, threat = two_layers(classes=10), Threat(norm="Linf", eps=0.03)
    x, y, _ = samples(system, 24)
    broken = [
        run(resolve_attack(f"apgd-t:steps=12,targets_in_flight={count}"), system, x, y, threat).verdict.broken.tolist()
        for count in (1, 4, 9)
    ]
    assert broken[0] == broken[1] == broken[2]
    assert 0 < sum(broken[0]) < len(x)


@pytest.mark.parametrize("count", [11, 36])
def test_the_targets_of_few_samples_fill_the_batches(count: int) -> None:
    system, threat, shown = two_layers(classes=10), Threat(norm="Linf", eps=1e-4), list[int]()
    x, y, _ = samples(system, count)
    system.model.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    outcome = run(resolve_attack("apgd-t:steps=20"), system, x, y, threat)
    assert not outcome.verdict.broken.any()
    assert outcome.forwards.sum() > 0.85 * sum(shown)  # the rest is padding, and the verdict's own passes
    assert set(shown) <= {32, 64}


def test_the_answers_of_a_random_system_are_averaged_and_each_is_paid() -> None:
    system, threat = affine(classes=3), Threat(norm="Linf", eps=1e-4)
    x, y, _ = samples(system, 8)
    attack = resolve_attack("apgd:steps=4,eot_draws=5")
    assert (run(attack, system, x, y, threat).forwards == 25).all()
    assert attack.cost(3).forwards == 25


def test_a_targeted_threat_is_climbed_by_apgd_and_refused_by_apgd_t() -> None:
    system, threat = affine(classes=5), Threat(norm="Linf", eps=0.3, goal="targeted", target="next")
    x, y, _ = samples(system, 40)
    broken = run(resolve_attack("apgd:objective=dlr,steps=40"), system, x, y, threat).verdict.broken.numpy()
    exact = worst_margins(system, x, y, threat)
    reachable = exact[np.arange(40), (y + 1) % 5] > 0  # above the label at least
    assert broken.any()
    assert not (broken & ~reachable).any()
    with pytest.raises(UserError, match="write apgd:objective=dlr"):
        resolve_attack("apgd-t").check(threat, 5)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("apgd:objective=dlt", "did you mean dlr"),
        ("apgd:rho=0", "rho=0; accepted: more than 0, up to 1"),
        ("apgd:rho=1.5", "rho=1.5"),
        ("apgd:restarts=0", "restarts=0; accepted: 1 and more"),
        ("apgd:eot_draws=0", "eot_draws=0; accepted: 1 and more"),
        ("apgd-t:targets=0", "targets=0; accepted: 1 and more"),
    ],
)
def test_bad_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)
