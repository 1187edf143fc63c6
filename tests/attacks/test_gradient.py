"""FGSM, BIM, PGD and MI-FGSM do what their papers say, and stay where they may be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import affine, run, samples, two_layers

from robustbench_lite.attack import Attack, Goal, craft, resolve_attack
from robustbench_lite.attacks.gradient import PGD
from robustbench_lite.oracle import Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import concat
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

ITERATIVE = ["bim:steps=4", "pgd:steps=4,restarts=1", "mifgsm:steps=4", "targeted:steps=4,target=next"]
GRADIENT = ["fgsm", *ITERATIVE]
ALL = [*GRADIENT, "noise:draws=3", "noise:draws=3,kind=gaussian,sigma=0.3", "noise:draws=3,kind=sign"]
BALLS = [("Linf", 0.1), ("L2", 0.5), ("L1", 2.0)]


def smooth(seed: int = 0) -> System:
    """A network without corners."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).double()
    return System(model=AsFloat(net), num_classes=5, input_shape=(1, 8, 8), name="smooth")


class AsFloat(nn.Module):
    """Doubles inside, so that float dust of a sum does not decide a sign."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double()).float()


def slope_of(system: System, adv: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy, (n, c, h, w)."""
    leaf = adv.detach().requires_grad_()
    loss = nn.functional.cross_entropy(system(leaf).scores, y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_eps_zero_changes_no_bit(norm: str, spec: str) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=0)
    x, y, draws = samples(system, 6)
    assert torch.equal(craft(resolve_attack(spec), system, x, Goal(y=y), threat, draws), x)


@pytest.mark.parametrize("spec", ["fgsm", "bim:steps=3", "mifgsm:steps=3", "pgd:steps=3,random_start=false"])
@pytest.mark.parametrize("norm, eps", BALLS)
def test_without_a_gradient_nothing_moves(norm: str, eps: float, spec: str) -> None:
    blind = System(model=Constant(), num_classes=3, input_shape=(1, 4, 4))
    x, y, draws = samples(blind, 6)
    assert torch.equal(craft(resolve_attack(spec), blind, x, Goal(y=y), Threat(norm=norm, eps=eps), draws), x)


@pytest.mark.parametrize("norm, eps", BALLS)
def test_momentum_outlives_a_point_without_a_gradient(norm: str, eps: float) -> None:
    # Divided by their mean size, as in torchattacks, gradients of zero make a momentum that is no number ever after.
    blind, seeing = System(model=Constant(), num_classes=3, input_shape=(1, 4, 4)), affine()
    x, y, draws = samples(seeing, 6)
    attack, threat, goal = resolve_attack("mifgsm:steps=3"), Threat(norm=norm, eps=eps), Goal(y=y)
    state = attack.start(x, goal, threat, draws, None)  # type: ignore[arg-type]  # it asks nothing
    for system in (blind, seeing):
        state = attack.step(state, Oracle(system, Needs.GRADIENTS, x, goal, threat, draws))
    assert bool((state.adv != x).flatten(1).any(1).all())


class Constant(nn.Module):
    """Says the same of every image, with a gradient of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * 0


@pytest.mark.parametrize(
    "spec", [*ALL, "pgd:steps=3,restarts=1,step_size=1.7", "targeted:steps=3,raw=true,step_size=9"]
)
@given(eps=st.floats(0, 1), norm=st.sampled_from(["Linf", "L2", "L1"]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_no_point_leaves_ball_or_box(spec: str, eps: float, norm: str, seed: int) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=eps * {"Linf": 1, "L2": 3, "L1": 20}[norm])
    x, y, draws = samples(system, 4, seed)
    x[0], x[1] = x[0].round(), 0.0  # at the walls
    adv = craft(resolve_attack(spec), system, x, Goal(y=y), threat, draws)
    far = torch.linalg.vector_norm((adv.double() - x.double()).flatten(1), float(norm[1:]), dim=1)
    assert (far <= threat.eps * (1 + 1e-6) + 1e-7).all()
    assert ((adv >= 0) & (adv <= 1)).all()


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("norm, eps", BALLS)
def test_a_sample_alone_and_in_a_batch_ends_in_the_same_bits(norm: str, eps: float, spec: str) -> None:
    # The toy's sums run over one row at a time in any batch, so that what is seen is the attack, not the BLAS.
    system, threat = affine(), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 9)
    attack = resolve_attack(spec)
    together = craft(attack, system, x, Goal(y=y), threat, draws)
    alone = [craft(attack, system, x[i], Goal(y=y[i]), threat, draws[i]) for i in torch.arange(9)[:, None]]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("spec", ITERATIVE)
def test_rows_of_different_ages_share_a_batch(spec: str) -> None:
    system, threat, attack = affine(), Threat(norm="L2", eps=0.5), resolve_attack(spec)
    x, y, draws = samples(system, 6)
    goal = Goal(y=y, target=(y + 1) % 3)

    def ask(state: object) -> Oracle:
        return Oracle(system, Needs.GRADIENTS, state.x, state.goal, threat, state.draws)

    young = attack.start(x, goal, threat, draws, Oracle(system, Needs.GRADIENTS, x, goal, threat, draws))
    old = attack.step(young, ask(young))
    old = type(old)(**{**vars(old), "k": old.k + 1})
    mixed = concat([young[torch.tensor([0, 1])], old[torch.tensor([2, 3, 4])]])
    after = attack.step(mixed, ask(mixed)).adv
    assert torch.equal(after[:2], attack.step(young, ask(young)).adv[:2])
    assert torch.equal(after[2:], attack.step(old, ask(old)).adv[2:5])


@pytest.mark.parametrize("eps, steps", [(4, 5), (8, 10), (16, 20)])
def test_bim_goes_one_level_a_step_as_published(eps: int, steps: int) -> None:
    system, threat = smooth(), Threat(norm="Linf", eps=eps / 255)
    x, y, draws = samples(system, 8)
    adv = x
    for _ in range(steps):
        adv = (adv + slope_of(system, adv, y).sign() / 255).clamp(x - eps / 255, x + eps / 255).clamp(0, 1)
    ours = craft(resolve_attack(f"bim:steps={steps}"), system, x, Goal(y=y), threat, draws)
    torch.testing.assert_close(ours, adv, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_momentum_adds_gradients_of_l1_norm_one(norm: str, decay: float) -> None:
    system, eps = smooth(), 0.06 if norm == "Linf" else 0.5
    x, y, draws = samples(system, 8)
    adv, velocity = x, torch.zeros_like(x)
    for _ in range(5):
        grad = slope_of(system, adv, y)
        velocity = decay * velocity + grad / grad.abs().sum((1, 2, 3), keepdim=True)
        unit = velocity.sign() if norm == "Linf" else velocity / velocity.square().sum((1, 2, 3), keepdim=True).sqrt()
        adv = (adv + eps / 5 * unit).clamp(0, 1)  # five steps of eps / 5 cannot leave the ball
    attack = resolve_attack(f"mifgsm:steps=5,momentum={decay}")
    ours = craft(attack, system, x, Goal(y=y), Threat(norm=norm, eps=eps), draws)
    torch.testing.assert_close(ours, adv, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm, eps", BALLS)
def test_mifgsm_without_momentum_is_bim(norm: str, eps: float) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 8)
    without = craft(resolve_attack("mifgsm:momentum=0,step_size=1/8"), system, x, Goal(y=y), threat, draws)
    assert torch.equal(without, craft(resolve_attack("bim:step_size=1/8"), system, x, Goal(y=y), threat, draws))


@pytest.mark.parametrize("norm, eps", BALLS)
def test_pgd_in_one_step_from_the_image_is_fgsm(norm: str, eps: float) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=eps)
    x, y, draws = samples(system, 8)
    one_step = craft(resolve_attack("pgd:steps=1,random_start=false"), system, x, Goal(y=y), threat, draws)
    assert torch.equal(one_step, craft(resolve_attack("fgsm"), system, x, Goal(y=y), threat, draws))


def test_steps_shrink_evenly_from_the_width_of_the_ball() -> None:
    k = torch.arange(4)
    assert PGD(steps=4).reach(k).tolist() == [2.0, 1.5, 1.0, 0.5]
    assert PGD(steps=4, step_size=0.25).reach(k).tolist() == [0.25] * 4


@pytest.mark.parametrize("norm, eps", [("Linf", 0.04), ("L2", 0.25), ("L1", 1.2)])
def test_more_restarts_break_what_fewer_do_and_more(norm: str, eps: float) -> None:
    system, threat = two_layers(), Threat(norm=norm, eps=eps)
    x, y, _ = samples(system, 150)
    found = [
        run(resolve_attack(f"pgd:steps=2,step_size=1/4,restarts={restarts}"), system, x, y, threat).verdict.broken
        for restarts in (1, 2, 6)
    ]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    assert found[0].sum() < found[2].sum() < len(x)


@pytest.mark.parametrize("flight", [2, 3, 6])
def test_restarts_side_by_side_break_the_same_samples(flight: int) -> None:
    system, threat = two_layers(), Threat(norm="Linf", eps=0.04)
    x, y, _ = samples(system, 60)
    one, many = (
        run(PGD(steps=3, step_size=0.5, restarts=6, restarts_in_flight=side), system, x, y, threat).verdict.broken
        for side in (1, flight)
    )
    assert torch.equal(one, many)


@pytest.mark.parametrize("spec", [*GRADIENT[:-1], "pgd:steps=4,restarts=1,objective=margin"])
def test_climbing_lowers_the_chance_of_the_label(spec: str) -> None:
    system, threat = smooth(), Threat(norm="Linf", eps=0.02)
    x, y, draws = samples(system, 20)
    adv = craft(resolve_attack(spec), system, x, Goal(y=y), threat, draws)
    rows = torch.arange(20)
    assert (system(adv).scores.softmax(1)[rows, y] < system(x).scores.softmax(1)[rows, y]).all()


@pytest.mark.parametrize("spec", [*GRADIENT, "fgsm:objective=log-odds", "fgsm:objective=margin", "fgsm:objective=dlr"])
def test_under_a_targeted_threat_the_chance_of_the_target_rises(spec: str) -> None:
    system, threat = smooth(), Threat(norm="Linf", eps=0.02, goal="targeted", target="next")
    x, y, draws = samples(system, 20)
    goal = Goal(y=y, target=(y + 1) % 5, success="targeted")
    adv, rows = craft(resolve_attack(spec), system, x, goal, threat, draws), torch.arange(20)
    assert (system(adv).scores.softmax(1)[rows, goal.target] > system(x).scores.softmax(1)[rows, goal.target]).all()


@pytest.mark.parametrize(
    "spec, lanes, forwards, backwards",
    [
        ("fgsm", 1, 1, 1),
        ("bim", 1, 10, 10),
        ("mifgsm", 1, 10, 10),
        ("pgd", 5, 500, 500),
        ("pgd:steps=7,restarts=3", 3, 21, 21),
        ("pgd:steps=7,random_start=false", 1, 7, 7),
        ("targeted", 1, 100, 100),
        ("targeted:target=all,steps=6", 9, 54, 54),
        ("noise", 1, 100, 0),
    ],
)
def test_the_declared_cost_is_what_an_unbroken_sample_pays(
    spec: str, lanes: int, forwards: int, backwards: int
) -> None:
    attack = resolve_attack(spec)
    cost = attack.cost(10)
    assert (attack.lanes(10), cost.forwards, cost.backwards) == (lanes, forwards, backwards)


@pytest.mark.parametrize("spec", ["fgsm", "bim", "mifgsm:steps=3", "pgd:steps=3,restarts=2", "noise:draws=5"])
def test_the_oracle_counts_what_was_declared(spec: str) -> None:
    system, attack = two_layers(), resolve_attack(spec)
    x, y, _ = samples(system, 12)
    outcome = run(attack, system, x, y, Threat(norm="Linf", eps=0.001))
    held = ~outcome.verdict.broken
    assert held.any()
    assert outcome.forwards[held].unique().tolist() == [attack.cost(5).forwards]
    assert outcome.backwards[held].unique().tolist() == [attack.cost(5).backwards]


def test_every_draw_of_a_restart_is_its_own() -> None:
    system, threat, attack = two_layers(), Threat(norm="Linf", eps=0.1), PGD(steps=1, step_size=1e-6)
    x, y, draws = samples(system, 4)
    starts = [first_point(attack, system, x, y, threat, draws.in_lane(lane)) for lane in range(3)]
    assert len({start.numpy().tobytes() for start in starts}) == 3


def first_point(attack: Attack, system: System, x: Tensor, y: Tensor, threat: Threat, draws: Draws) -> Tensor:
    goal = Goal(y=y)
    return attack.start(x, goal, threat, draws, Oracle(system, attack.needs, x, goal, threat, draws)).adv
