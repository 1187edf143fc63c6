"""Foreign attacks without any library: a homemade one stands for it."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite import plugins
from robustbench_lite.attack import Goal, Needs, State, craft, resolve_attack
from robustbench_lite.attacks.foreign.base import Foreign, Kind
from robustbench_lite.attacks.foreign.constructors import options_of, told, values
from robustbench_lite.describe import describe
from robustbench_lite.errors import CapabilityError, UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.run.evaluate import Result
from robustbench_lite.threat import Threat


class Sign:
    """A library's attack: plain steps along the sign, on whatever generator is global."""

    def __init__(self, model: nn.Module, eps: float = 0.3, steps: int = 4, start: bool = True) -> None:
        self.model, self.eps, self.steps, self.start = model, eps, steps, start

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        adv = x + (torch.rand_like(x) * 2 - 1) * self.eps * self.start
        for _ in range(self.steps):
            adv = adv.detach().clamp(0, 1).requires_grad_(True)
            loss = nn.functional.cross_entropy(self.model(adv), y)
            adv = adv + self.eps / 2 * torch.autograd.grad(loss, adv)[0].sign()
            adv = x + (adv - x).clamp(-self.eps, self.eps)
        return adv.clamp(0, 1)


class Blind(Sign):
    """It asks for a gradient, and was said not to."""


class Crash(Sign):
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("cannot do this")


class Leaves(Sign):
    """It ends far outside the ball."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + 3 * self.eps).clamp(0, 1)


class Dust(Sign):
    """It ends outside by what rounding makes."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.eps * (1 + 5e-6) * torch.where(x < 0.5, 1, -1)


class Few(Sign):
    """It shows two images a row, then a single one, five times."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.model(torch.cat((x, x)))
        for _ in range(5):
            self.model(x[:1])
        return x


class Chance(Sign):
    """It draws from every generator that it finds, and prints."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        print("hello")
        own = np.random.RandomState().rand() + np.random.default_rng().random()
        step = (torch.rand(1).item() + np.random.rand() + random.random() + own) / 5
        return (x + self.eps * step).clamp(0, 1)


TOOL = object()
KNOWN = {kind.__name__: kind for kind in (Sign, Blind, Crash, Leaves, Dust, Few, Chance)}


@dataclass(frozen=True, kw_only=True)
class Homemade(Foreign):
    """Attacks of no library."""

    name: ClassVar[str] = "homemade"
    module: ClassVar[str] = "no_such_library"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    called: ClassVar[str] = "Homemade"
    example: ClassVar[str] = "homemade:Sign;steps=4"
    given: ClassVar[tuple[str, ...]] = ("model", "eps")

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        return KNOWN

    def _values(self, eps: float | None) -> dict[str, Any]:
        return values(KNOWN[self.attack], dict(self.options), who=str(self), eps=eps, given=self.given)

    def kind(self) -> Kind:
        self._values(1.0)
        return Kind(("Linf",), needs=Needs.SCORES if self.attack == "Blind" else Needs.GRADIENTS)

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        eps = state.threat.radius
        adv: Tensor = KNOWN[self.attack](network, eps=eps, **self._values(eps))(state.x.clone(), state.goal.y)
        return adv


@pytest.fixture(autouse=True)
def homemade() -> Iterator[None]:
    plugins.register("attack", "homemade", Homemade)
    yield
    plugins.unregister("attack", "homemade")


def evaluated(*attacks: str, eps: float = 0.1, count: int = 40, **options: Any) -> Result:
    system = two_layers()
    x, y, _ = samples(system, count)
    return rbl.evaluate(system, x, y, attacks=list(attacks), threat=f"Linf:{eps}", diagnostics=False, **options)


def test_a_spec_is_read_and_printed_back() -> None:
    attack = resolve_attack("homemade:sign; steps=7 ;budget=20")
    assert str(attack) == "homemade:Sign;steps=7;budget=20"
    assert resolve_attack(str(attack)) == attack
    assert (attack.budget, attack.foreign, attack.needs) == (20, True, Needs.GRADIENTS)
    assert resolve_attack("homemade:Blind").needs is Needs.SCORES


@pytest.mark.parametrize(
    "text, said",
    {
        "homemade": "write homemade:NAME;key=value, such as homemade:Sign;steps=4",
        "homemade:steps=3": "write homemade:NAME;key=value",
        "homemade:Sing": "unknown Homemade attack 'Sing'; did you mean 'Sign'",
        "homemade:Sign;step=3": "has no option 'step'; it has steps, start; did you mean steps?",
        "homemade:Sign;eps=3": "eps is not for you to say",
        "homemade:Sign;steps=many": "steps=many is not a whole number",
        "homemade:Sign;budget=0": "budget=0; accepted: 1 and more",
        "homemade:Sign;start=eps/0": "start=eps/0 divides by 0",
    }.items(),
)
def test_a_mistake_is_told_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError, match="(?s)" + said.replace("?", r"\?")):
        resolve_attack(text)


def test_a_missing_library_is_told_with_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"^homemade needs Homemade: pip install 'robustbench-lite\[peers\]' \("):
        Homemade.library()


def test_a_threat_that_it_is_not_made_for_is_refused() -> None:
    attack = resolve_attack("homemade:Sign")
    with pytest.raises(UserError, match="homemade:Sign is for Linf, not for L2"):
        attack.check(Threat(norm="L2", eps=1), 10)
    with pytest.raises(UserError, match="homemade:Sign needs a radius; write Linf:EPS"):
        attack.check(Threat(norm="Linf"), 10)


def test_it_stands_in_the_table_beside_ours_with_true_counts() -> None:
    result = evaluated("pgd:steps=4,restarts=1", "homemade:Sign;steps=9")
    own = result.records[result.records["attack"] == "homemade:Sign;steps=9"]
    assert (own["forwards"] == 9).all()
    assert (own["backwards"] == 9).all()
    assert own["broken"].any()
    assert not own["broken"].all()
    assert (own["linf"] <= 0.1 + 1e-6).all()
    assert "homemade:Sign;steps=9" in list(result.table["attack"])


def test_images_that_are_no_micro_batch_are_shared_evenly_and_none_is_lost() -> None:
    system = affine()
    x, y, draws = samples(system, 7)
    oracle = Oracle(system, Needs.GRADIENTS, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)
    with oracle.open() as network:
        for count in (1, 3, 7, 14, 2, 5):
            leaf = x[torch.arange(count) % 7].requires_grad_(True)
            network(leaf).sum().backward()
            network(leaf.detach())
    forwards, backwards = oracle.ledger.forwards, oracle.ledger.backwards
    assert (int(forwards.sum()), int(backwards.sum())) == (64, 32)
    assert int(forwards.max() - forwards.min()) <= 1
    assert int(backwards.max() - backwards.min()) <= 1


def test_every_image_is_counted_in_a_run() -> None:
    records = evaluated("homemade:Few", count=32).records
    assert int(records["forwards"].sum()) == 2 * 32 + 5


def test_a_budget_that_is_exceeded_ends_the_cell_and_the_others_go_on() -> None:
    result = evaluated("homemade:Sign;steps=9;budget=8", "homemade:Sign;steps=8;budget=8", "homemade:Crash")
    assert [text.partition(" on ")[0] for text in result.failed] == ["homemade:Sign;steps=9;budget=8", "homemade:Crash"]
    assert "more than its budget of 8 queries" in next(iter(result.failed.values()))
    assert list(result.failed.values())[1] == "ValueError: cannot do this"
    assert result.table.set_index("attack")["robust_acc"].notna()["homemade:Sign;steps=8;budget=8"]


def test_what_is_declared_blind_gets_no_gradient() -> None:
    (why,) = evaluated("homemade:Blind").failed.values()
    assert "an attack that needs scores asked for a gradient" in why


def test_labels_are_all_that_a_label_attack_sees() -> None:
    system = affine()
    x, y, draws = samples(system, 5)
    oracle = Oracle(system, Needs.LABELS, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)
    with oracle.open() as network:
        shown = network(x)
    assert torch.equal(shown, nn.functional.one_hot(y, 3).float())


def test_a_point_outside_is_invalid_and_dust_is_swept() -> None:
    records = evaluated("homemade:Leaves", "homemade:Dust").records.set_index("attack")
    assert (records.loc["homemade:Leaves", "reason"] == "outside-threat").all()
    assert not records.loc["homemade:Leaves", "broken"].any()
    assert (records.loc["homemade:Dust", "reason"] == "").all()
    assert records.loc["homemade:Dust", "linf"].max() == pytest.approx(0.1, rel=1e-5)


def test_global_generators_are_forked_and_seeded_from_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    before, kinds = state(), (np.random.RandomState, np.random.default_rng)
    runs = [evaluated("homemade:Chance", seed=seed, examples="all") for seed in (0, 0, 1)]
    assert state() == before
    assert (np.random.RandomState, np.random.default_rng) == kinds
    assert capsys.readouterr().out == ""
    first, again, other = (run.records["linf"].to_numpy() for run in runs)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_bare_network_is_closed_afterwards_and_holds_nothing_of_the_system() -> None:
    system = affine()
    x, y, draws = samples(system, 4)
    oracle = Oracle(system, Needs.GRADIENTS, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)
    with oracle.open() as network:
        assert torch.equal(network(x.double()), system(x).scores)
        network.train()
        assert next(network.parameters()).device == x.device
        assert sum(item.numel() for item in network.parameters()) == 0
    assert not system.model.training
    with pytest.raises(RuntimeError, match="closed"):
        network(x)


def test_a_random_system_draws_from_the_rows_own_streams() -> None:
    def noisy(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
        return x if draws is None else x + 0.1 * draws.normal(x.shape[1:], "noisy", index)

    system = affine().with_random_purifier(noisy, name="noisy")
    x, y, draws = samples(affine(), 6)

    def shown(rows: Draws) -> list[Tensor]:
        oracle = Oracle(system, Needs.SCORES, x, Goal(y=y), Threat(norm="Linf", eps=0.1), rows)
        with oracle.open() as network:
            return [network(x), network(x), network(x[:4]), network(torch.cat((x, x)))]

    one, again = shown(draws), shown(draws)
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[3][:6], one[3][6:])


def test_a_budget_holds_before_the_question_is_asked() -> None:
    system = affine()
    x, y, draws = samples(system, 4)
    oracle = Oracle(system, Needs.SCORES, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws, budget=2)
    with oracle.open() as network:
        network(torch.cat((x, x)))
        with pytest.raises(CapabilityError, match="budget of 2"):
            network(x[:1])
    assert (oracle.ledger.forwards == 2).all()


def test_radius_zero_asks_nothing() -> None:
    system = affine()
    x, y, draws = samples(system, 4)
    threat = Threat(norm="Linf", eps=0.0)
    assert torch.equal(craft(resolve_attack("homemade:Crash"), system, x, Goal(y=y), threat, draws), x)


def test_options_are_read_by_annotation_by_default_and_by_words() -> None:
    class Loose:
        def __init__(self, model, alpha=2 / 255, steps=10, name="a", *, both: "int | np.ndarray" = 1, tool=TOOL):  # type: ignore[no-untyped-def]
            pass

    texts = {"alpha": "eps/4", "steps": "3", "name": "eps", "both": "2"}
    found = values(Loose, texts, who="loose", eps=0.2, given=("model",))
    assert found == {"alpha": 0.05, "steps": 3, "name": "eps", "both": 2}
    assert list(options_of(Loose)) == ["model", "alpha", "steps", "name", "both", "tool"]
    rows = {name: (kind, default) for name, kind, default in told(Loose, ("model",))}
    assert rows["alpha"] == ("float", "2/255")
    assert rows["both"] == ("int", "1")
    with pytest.raises(UserError, match="but the threat has no eps"):
        values(Loose, {"alpha": "eps/4"}, who="loose", eps=None, given=("model",))


def test_one_of_a_library_is_described_by_its_constructor() -> None:
    found = describe("attack", "homemade:sign")
    assert [option.name for option in found.options] == ["steps", "start", "budget"]
    assert found.facts["foreign"]
    assert describe("attack", "homemade").example == "homemade:Sign;steps=4"
    with pytest.raises(UserError, match="did you mean 'Sign'"):
        describe("attack", "homemade:Sing")


def test_gradients_lie_in_memory_as_images_do() -> None:
    """A fast copy may compute with colours last; libraries flatten what they get with `view`."""

    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.mean((2, 3))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            wide = grads[0][:, :, None, None].expand(-1, -1, 4, 4)
            return wide.contiguous(memory_format=torch.channels_last)

    class ColoursLast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, Turned.apply(x))

    system = rbl.System(model=ColoursLast(), num_classes=3, input_shape=(3, 4, 4))
    x, y, draws = samples(system, 2)
    oracle = Oracle(system, Needs.GRADIENTS, x, Goal(y=y), Threat.parse("Linf:0.1"), draws)
    with oracle.open() as network:
        leaf = x.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(network(leaf).sum(), leaf)
    assert grad.is_contiguous()
    assert grad.view(2, -1).shape == (2, 48)
