"""JSMA: the pair that a search over all pairs finds, and no other."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.attacks.jsma import best_pair
from robustbench_lite.errors import UserError
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


def slowly(system: System, x: Tensor, target: int, steps: int, sign: int) -> list[np.ndarray]:
    """The points of Papernot's algorithm 3 for one image (c, h, w), by the whole Jacobian and a loop over all pairs."""
    point, wall, found = x.clone(), 1.0 if sign > 0 else 0.0, []
    for _ in range(steps):
        scores = system(point[None]).scores[0]
        if int(scores.argmax()) == target:
            break
        leaf = point.clone().requires_grad_(True)
        jacobian = torch.autograd.functional.jacobian(lambda at: system(at[None]).scores[0], leaf).flatten(1)
        rise = sign * jacobian[target]
        others = sign * (jacobian.sum(0) - jacobian[target])
        best, pair = 0.0, None
        for p, q in combinations(range(point.numel()), 2):
            if wall in (float(point.view(-1)[p]), float(point.view(-1)[q])):
                continue
            up, down = float(rise[p] + rise[q]), float(others[p] + others[q])
            if up > 0 and down < 0 and -up * down > best:
                best, pair = -up * down, (p, q)
        if pair is None:
            break
        point = point.clone()
        point.view(-1)[list(pair)] = wall
        found.append(point.numpy())
    return found


@pytest.mark.parametrize("theta", [1, -1])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_takes_the_pairs_of_a_search_over_the_whole_jacobian(classes: int, theta: int) -> None:
    system = two_layers(classes=classes, side=5)
    x, y, draws = samples(system, 6)
    x = torch.where(x > 0.85, 1.0, torch.where(x < 0.15, 0.0, x))
    y = system(x).prediction()
    goal, threat = Goal(y=y, target=(y + 1) % classes, success="targeted"), Threat(norm="L0", goal="targeted")
    lengths = set()
    for row in range(6):
        way = slowly(system, x[row], int(goal.target[row]), 8, theta)
        one = slice(row, row + 1)
        for steps in (1, 2, 8):
            attack = resolve_attack(f"jsma:theta={theta},steps={steps}")
            adv = craft(attack, system, x[one], goal[one], threat, draws[one])
            wanted = way[min(steps, len(way)) - 1] if way else x[row].numpy()
            np.testing.assert_array_equal(adv[0].numpy(), wanted)
        lengths.add(len(way))
    assert len(lengths) > 1


def test_the_best_pair_is_found_across_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (2, 3, 7, 300):  # 300 places are searched in two blocks
        rise, fall = (torch.randn(5, width, generator=generator) for _ in range(2))
        free = torch.rand(5, width, generator=generator) > 0.2
        first, second = best_pair(rise, fall, free)
        for row in range(5):
            places = free[row].nonzero().squeeze(1)
            up = rise[row, places, None] + rise[row, places]
            down = fall[row, places, None] + fall[row, places]
            worth = torch.where((up > 0) & (down > 0), up * down, 0.0).triu(1)
            if not bool((worth > 0).any()):
                assert int(first[row]) == int(second[row]) == -1
                continue
            p, q = divmod(int(worth.argmax()), len(places))
            assert (int(first[row]), int(second[row])) == (int(places[p]), int(places[q]))


class Slopes(nn.Module):
    """Two classes, z = (0, <w, x> - 9): class 0 wherever the sum is below 9."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = torch.tensor(w)

    def forward(self, x: Tensor) -> Tensor:
        other = (x.flatten(1) * self.w).sum(1) - 9
        return torch.stack((torch.zeros_like(other), other), 1)


@pytest.mark.parametrize("w", [[-1.0, -1, -1, -1], [0.0, 0, 0, 0]])
def test_without_a_pair_that_helps_it_stops_and_changes_nothing(w: list[float]) -> None:
    # Where no pair is admissible, the largest of all zero products is no pair either.
    system = System(model=Slopes(w), num_classes=2, input_shape=(1, 2, 2))
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    outcome = run(resolve_attack("jsma"), system, x, y, Threat(norm="L0"))
    assert torch.equal(outcome.adv, x)
    assert outcome.forwards.tolist() == [1] * 3
    assert outcome.backwards.tolist() == [2] * 3


class Both(nn.Module):
    """Two classes, z = (-<w, x>, <w, x> - 9): what lifts one lowers the other."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = torch.tensor(w)

    def forward(self, x: Tensor) -> Tensor:
        lift = (x.flatten(1) * self.w).sum(1)
        return torch.stack((-lift, lift - 9), 1)


def test_values_at_the_wall_are_left_alone() -> None:
    system = System(model=Both([0.5, 0.4, 0.3, 0.2]), num_classes=2, input_shape=(1, 2, 2))
    x = torch.tensor([1.0, 0.0, 0.1, 0.1]).view(1, 1, 2, 2)
    goal, threat = Goal(y=torch.tensor([0]), target=torch.tensor([1])), Threat(norm="L0")
    _, _, draws = samples(system, 1)
    adv = craft(resolve_attack("jsma:steps=1"), system, x, goal, threat, draws)
    assert torch.equal(adv.flatten(), torch.tensor([1.0, 1.0, 1.0, 0.1]))


@pytest.mark.parametrize("eps", [0, 1, 2, 5, 6])
def test_no_more_values_change_than_may(eps: int) -> None:
    system, threat = affine(classes=4, side=8), Threat(norm="L0", eps=eps)
    x, y, draws = samples(system, 20)
    adv = craft(resolve_attack("jsma"), system, x, Goal(y=y, target=(y + 1) % 4), threat, draws)
    changed = threat.distance(adv, x)
    assert bool((changed <= eps).all())
    assert float(changed.max()) == eps // 2 * 2


def test_small_steps_may_change_the_same_values_again() -> None:
    system, threat = affine(classes=3), Threat(norm="L0", eps=4)
    x, y, draws = samples(system, 20)
    adv = craft(resolve_attack("jsma:theta=0.25,steps=12"), system, x, Goal(y=y, target=(y + 1) % 3), threat, draws)
    moved = (adv - x).flatten(1)
    assert bool((threat.distance(adv, x) <= 4).all())
    assert bool((moved >= 0).all())
    assert bool((moved > 0.26).any())


def test_the_cost_is_two_gradients_a_pair_whatever_the_number_of_classes() -> None:
    system = affine(classes=10, side=8)
    x, y, _ = samples(system, 20)
    outcome = run(resolve_attack("jsma:target=next"), system, x, y, Threat(norm="L0"))
    broken = outcome.verdict.broken
    assert bool(broken.any())
    assert torch.equal(outcome.backwards, 2 * outcome.forwards)
    pairs = Threat(norm="L0").distance(outcome.adv, x)[broken] / 2
    assert torch.equal(outcome.forwards[broken].double(), pairs + 1)


@pytest.mark.parametrize("spec", ["theta=0", "theta=1.5", "theta=-2", "steps=0", "target=cat"])
def test_options_without_meaning_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="accepted"):
        resolve_attack(f"jsma:{spec}")
