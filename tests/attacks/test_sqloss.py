"""Squared error and distance: its minimum has a closed form, its search finds the largest lambda, its warm-up is needed."""

import pytest
import torch
from torch import Tensor, nn
from toys import run, samples, two_layers

from robustbench_lite.attack import Attack, Goal, State, craft, resolve_attack
from robustbench_lite.attacks.sqloss import Fitting
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

L2 = Threat(norm="L2")


class Linear(nn.Module):
    """Logits ln(W x + b), whose probabilities are W x + b exactly: the columns of W add up to 0, b to 1."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() @ self.w.T + self.b).log().float()


def linear(classes: int = 3, pixels: int = 16, seed: int = 0) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn((classes, pixels), generator=generator, dtype=torch.float64)
    w = (w - w.mean(0)) * 0.02
    return Linear(w, torch.full((classes,), 1 / classes, dtype=torch.float64) - w.sum(1) / 2)


@pytest.mark.parametrize("weight", [0.05, 0.1, 1.0])
def test_the_minimum_is_the_closed_form(weight: float) -> None:
    model = linear()
    system = System(model=model, num_classes=3, input_shape=(1, 4, 4))
    generator = torch.Generator().manual_seed(1)
    x = 0.4 + 0.2 * torch.rand((6, 1, 4, 4), generator=generator)
    y = torch.zeros(6, dtype=torch.int64)
    target = torch.tensor([1, 2, 1, 2, 1, 2])
    attack = resolve_attack(f"sqloss:searches=1,steps=800,warm_up=0,weight={weight},target=1")
    found = _end(attack, system, x, Goal(y=y, target=target)).adv
    w, b = model.w.detach(), model.b.detach()
    right = (nn.functional.one_hot(target, 3).double() - b) @ w + 2 * weight * x.flatten(1).double()
    wanted = torch.linalg.solve(w.T @ w + 2 * weight * torch.eye(16, dtype=torch.float64), right.T).T
    assert ((wanted > 0) & (wanted < 1)).all()  # the box does not bind
    assert torch.allclose(found.flatten(1).double(), wanted, atol=2e-4)


def _end(attack: Attack, system: System, x: Tensor, goal: Goal) -> State:
    """After the last step."""
    draws = Draws.for_images(0, x, goal.y)
    oracle = Oracle(system, attack.needs, x, goal, L2, draws, watch=False)
    state = attack.start(x, goal, L2, draws, oracle)
    while not bool(state.done.all()):
        state = attack.step(state, oracle)
    return state


def test_a_large_lambda_stays_at_the_image() -> None:
    system = two_layers()
    x, y, _ = samples(system, 5)
    goal = Goal(y=y, target=(y + 1) % 5)
    attack = resolve_attack("sqloss:searches=1,steps=300,warm_up=0,weight=1e6")
    assert (_end(attack, system, x, goal).adv - x).abs().max() < 1e-3


def test_the_search_comes_near_the_smallest_perturbation() -> None:
    system = two_layers()
    x, y, _ = samples(system, 8)
    found = run(resolve_attack("sqloss:steps=80,searches=4"), system, x, y, L2)
    near = run(resolve_attack("ddn:steps=100"), system, x, y, L2)
    assert found.verdict.broken.all()
    ours, theirs = (outcome.verdict.norms[:, 1].median() for outcome in (found, near))
    assert theirs * 0.999 < ours < theirs * 1.3


def test_the_search_closes_in_on_the_largest_lambda_whose_minimum_breaks() -> None:
    system = two_layers()
    x, y, _ = samples(system, 8)
    goal = Goal(y=y, target=system(x).scores.argsort(1)[:, -2])
    state = _end(resolve_attack("sqloss:searches=7,steps=80,warm_up=20"), system, x, goal)
    assert isinstance(state, Fitting)
    low, high = 1 / state.weights.high, 1 / state.weights.low  # of lambda: known to break, known not to
    assert ((low > 0) & (high < torch.inf)).all()
    assert (high / low).median() < 1.3
    for weight, hits in ((low * 0.8, True), (high * 1.25, False)):
        for row in range(8):
            one = slice(row, row + 1)
            spec = f"sqloss:searches=1,steps=80,warm_up=20,weight={float(weight[row])!r}"
            adv = _end(resolve_attack(spec), system, x[one], goal[one]).adv
            assert bool(system(adv).prediction() != y[one]) is hits


def test_from_a_sure_model_it_stalls_without_the_warm_up() -> None:
    plain = two_layers()
    layer = plain.model[-1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight *= 400
        layer.bias *= 400
    x, y, _ = samples(plain, 20)
    goal = Goal(y=y, target=plain(x).scores.argsort(1)[:, -2])
    draws = Draws.for_images(0, x, y)
    broken = []
    for warm_up in (0, 50):
        attack = resolve_attack(f"sqloss:searches=1,steps=150,weight=1e-3,warm_up={warm_up}")
        adv = craft(attack, plain, x, goal, L2, draws)
        broken.append(int((plain(adv).prediction() != y).sum()))
    assert broken[0] < 10 < broken[1]


@pytest.mark.parametrize(
    "spec, said",
    [
        ("sqloss:weight=0", "weight=0; accepted: more than 0"),
        ("sqloss:searches=0", "searches=0; accepted: 1 and more"),
        ("sqloss:target=iguana", "target=iguana; accepted: least-likely"),
    ],
)
def test_bad_options_are_refused(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve_attack(spec)
