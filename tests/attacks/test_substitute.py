"""Substitutes: what is bought, from whom, by which rule, and what becomes of it when a run is killed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import chisquare
from torch import Tensor, nn
from toys import affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import (
    Answer,
    Architecture,
    Asker,
    Attack,
    Cost,
    Learned,
    Needs,
    Setup,
    State,
    craft,
    resolve_attack,
)
from robustbench_lite.attacks.substitute import Substitute, Trained, _Bought
from robustbench_lite.errors import CapabilityError, UserError
from robustbench_lite.objectives import Goal, margin
from robustbench_lite.randomness import Draws
from robustbench_lite.results import tables
from robustbench_lite.run import engine
from robustbench_lite.run import records as store
from robustbench_lite.run.records import Records
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

LINF = Threat(norm="Linf", eps=0.1)
QUICK: dict[str, Any] = {"seeds": 10, "rounds": 3, "epochs": 1, "steps": 3}
QUIET: dict[str, Any] = {"diagnostics": False}


def linear(system: System) -> Architecture:
    width = system.input_shape[1] * system.input_shape[2]
    return Architecture("linear", build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(width, system.num_classes)))


def made(system: System, **options: Any) -> Substitute:
    return Substitute(model=linear(system), **{"attack": resolve_attack("mifgsm:steps=4"), **options})


@dataclass
class Kit:
    """An asker, and what is shown to it."""

    system: System
    attack: Attack
    shown: list[Tensor] = field(default_factory=list)

    def setup(self, count: int = 40, *, y: Tensor | None = None) -> Setup:
        self.asker = Asker(self.attack, self.system, LINF)
        x, labels, draws = samples(self.system, count)
        classes = self.system.num_classes
        return Setup(x=x, y=labels if y is None else y, draws=draws, threat=LINF, num_classes=classes, ask=self.ask)

    def ask(self, x: Tensor, *objectives: Any, **more: Any) -> Answer:
        self.shown.append(x)
        assert not objectives
        return self.asker(x, *objectives, **more)

    def prepared(self, count: int = 40, **more: Any) -> Trained:
        attack = self.attack.prepare(self.setup(count, **more))
        assert isinstance(attack, Trained)
        return attack


def weights(attack: Trained) -> list[Tensor]:
    return [value.clone() for value in attack.learned.tensors.values()]


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_a_linear_substitute_of_a_linear_system_agrees_with_it_and_its_examples_transfer() -> None:
    system = affine(classes=3)
    attack = made(system, seeds=200, rounds=4, alternate=1, steps=400, learning_rate=0.03)
    trained = Kit(system, attack).prepared(200)
    x, y, draws = samples(system, 300, seed=9)
    assert float((trained.copy(x).prediction() == y).float().mean()) > 0.95
    adv = craft(trained, system, x, Goal(y=y), LINF, draws)
    broken = system(adv).prediction() != y
    steepest = craft(resolve_attack("pgd:steps=20,objective=margin"), system, x, Goal(y=y), LINF, draws)
    reachable = system(steepest).prediction() != y
    assert float(broken[reachable].float().mean()) > 0.85
    assert str(trained) == str(attack)


def test_only_labels_are_seen_and_no_true_one_is_looked_at() -> None:
    system = two_layers()
    attack = made(system, **QUICK)
    assert attack.needs is Needs.LABELS
    with pytest.raises(CapabilityError):
        Asker(attack, system, LINF)(torch.rand((2, 1, 8, 8)), margin)
    answer = Asker(attack, system, LINF)(torch.rand((2, 1, 8, 8)))
    assert (answer.scores, answer.grads, len(answer.values)) == (None, None, 0)
    kit = Kit(system, attack)
    told = [weights(kit.prepared(y=y)) for y in (None, torch.zeros(40, dtype=torch.int64))]
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, labels",
    [
        ({}, 10 * 2**3),
        ({"rounds": 1}, 20),
        ({"rounds": 5, "full": 2, "sample": 15}, 10 * 2**2 + 15 * (5 - 2)),
        ({"labels": 35}, 35),
        ({"labels": 40}, 40),
        ({"labels": 7}, 7),
        ({"rounds": 5, "full": 2, "sample": 15, "labels": 60}, 60),
    ],
)
def test_the_labels_that_are_bought_are_those_of_the_formula(options: dict[str, int], labels: int) -> None:
    system = two_layers()
    kit = Kit(system, made(system, **{**QUICK, **options}))
    trained = kit.prepared()
    assert (kit.asker.forwards, kit.asker.backwards) == (labels, 0)
    assert sum(map(len, kit.shown)) == labels
    assert trained.told["labels"] == labels


def test_the_asker_pays_for_no_more_than_the_budget() -> None:
    system = two_layers()
    x, y, _ = samples(system, 30)
    for block in (None, 8):
        asker = Asker(made(system, labels=20), system, LINF, block=block)
        first, second, third = asker(x[:14]), asker(x[14:]), asker(x)
        assert torch.equal(first.labels, y[:14])  # type: ignore[arg-type]  # labels are shown
        assert second.labels is not None
        assert torch.equal(second.labels[:6], y[14:20])
        assert (second.labels[6:] == -1).all()
        assert third.labels is not None
        assert (third.labels == -1).all()
        assert asker.forwards == 20


# -- which images ------------------------------------------------------------------------------------------------------


def test_a_neighbour_lies_up_the_bought_label_and_down_after_the_turn() -> None:
    system = affine(classes=3)
    attack, kit = made(system, alternate=2, reach=0.2), Kit(system, made(system))
    setup = kit.setup()
    bought = _Bought.of(setup, setup.x, setup.draws)
    slope = system.model.weight.float()[bought.y].sign().view_as(setup.x)  # type: ignore[union-attr]  # a parameter
    for number, sign in enumerate([1, 1, -1, -1, 1]):
        expected = (setup.x + sign * 0.2 * slope).clamp(0, 1)
        torch.testing.assert_close(attack._neighbours(system.model, bought, number), expected)
    straight = replace(attack, alternate=0)._neighbours(system.model, bought, 2)
    torch.testing.assert_close(straight, (setup.x + 0.2 * slope).clamp(0, 1))
    rejected = replace(bought, y=torch.full_like(bought.y, -1))
    assert torch.equal(attack._neighbours(system.model, rejected, 0), setup.x)


def test_every_image_is_as_likely_to_be_sampled() -> None:
    system, counts = two_layers(), torch.zeros(40)
    attack = made(system, full=1, sample=10)
    x, y, _ = samples(system, 40)
    for seed in range(400):
        bought = _Bought(x=x, y=y, draws=Draws.for_images(seed, x, y))
        chosen = attack._parents(bought, 1)
        assert len(chosen.unique()) == 10
        counts[chosen] += 1
    assert float(counts.sum()) == 4000
    assert chisquare(counts.numpy()).pvalue > 0.001
    assert not torch.equal(attack._parents(bought, 1), attack._parents(bought, 2))
    assert torch.equal(attack._parents(bought, 0), torch.arange(40))


def test_what_the_system_rejects_is_paid_and_teaches_nothing() -> None:
    plain = two_layers()
    alarm = Detector(score=lambda x: x.flatten(1).mean(1), threshold=0.5)
    kit = Kit(plain.with_detector(alarm), made(plain, **QUICK))
    trained = kit.prepared()
    assert kit.asker.forwards == 80
    assert all(bool(value.isfinite().all()) for value in trained.learned.tensors.values())
    silent = Kit(plain.with_detector(replace(alarm, threshold=-1.0)), made(plain, **QUICK)).prepared()
    assert all(bool(value.isfinite().all()) for value in silent.learned.tensors.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"full": 3}, "full and sample go together"),
        ({"reach": 0.0}, "reach=0; accepted: more than 0"),
        ({"labels": 0}, "labels=0; accepted: 1 and more"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Substitute(**options)


def test_too_few_images_to_begin_with_are_refused() -> None:
    system = two_layers()
    x, y, _ = samples(system, 60)
    with pytest.raises(UserError, match="seeds=50, but there are 30 images that are not evaluated"):
        rbl.evaluate(system, x, y, attacks=made(system, seeds=50), threat=str(LINF), samples="first:30", **QUIET)


# -- what is told, and kept --------------------------------------------------------------------------------------------


def test_what_was_learned_is_told() -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 120)
    attack = made(system, **QUICK | {"seeds": 40, "rounds": 1, "steps": 300, "learning_rate": 0.01})
    table = rbl.evaluate(system, x, y, attacks=attack, threat=str(LINF), samples="first:60", **QUIET).table
    row = table.iloc[0]
    assert row["setup_queries"] == 80
    assert row["forwards"] == 0
    assert row["source_agreement"] == row["source_acc"] > 0.6
    assert 0 < row["transfer"] <= row["source_success"]
    shown = " ".join(tables.text(tables.comparative(table)).split())
    assert "agrees with the system on" in shown
    assert "80 queries to learn it" in shown


def run_of(folder: Path, attack: Attack, system: System) -> Callable[..., Any]:
    x, y, _ = samples(system, 80)
    return partial(
        rbl.evaluate, system, x, y, attacks=attack, threat=str(LINF), samples="first:40", out=folder, **QUIET
    )


def rows(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "records").rglob("*.parquet"))]


def test_a_run_that_was_stopped_after_the_learning_does_not_learn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = two_layers()
    attack = made(system, **QUICK)
    whole = run_of(tmp_path / "whole", attack, system)()
    again = run_of(tmp_path / "again", attack, system)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_fitting", _stop)  # not the attack's own code, which is part of its key
        with pytest.raises(KeyboardInterrupt):
            again()
    (kept,) = (tmp_path / "again").rglob("learned.safetensors")
    note = json.loads((kept.parent / "setup.json").read_text())
    assert note["labels"] == note["queries"] == 80
    monkeypatch.setattr(Asker, "__call__", _never)
    result = again()
    assert rows(tmp_path / "again") == rows(tmp_path / "whole")
    assert result.table.iloc[0]["setup_queries"] == 80
    assert not result.failed
    assert not whole.failed


def test_a_run_that_was_stopped_while_it_kept_what_was_learned_learns_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = two_layers()
    attack = made(system, **QUICK)
    run_of(tmp_path / "whole", attack, system)()
    again = run_of(tmp_path / "again", attack, system)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save", _stop)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert not list((tmp_path / "again").rglob("*.safetensors*"))
    assert again().table.iloc[0]["setup_queries"] == 80
    assert rows(tmp_path / "again") == rows(tmp_path / "whole")


def test_a_damaged_file_is_learned_again_and_fresh_forgets_it(tmp_path: Path) -> None:
    system = two_layers()
    attack = made(system, **QUICK)
    run = run_of(tmp_path, attack, system)
    run()
    before = rows(tmp_path)
    (kept,) = tmp_path.rglob("learned.safetensors")
    good = kept.read_bytes()
    for part in tmp_path.rglob("*.parquet"):
        part.unlink()
    for damaged in (good[: len(good) // 2], b"", good[:-1] + bytes([good[-1] ^ 1])):
        kept.write_bytes(damaged)
        run()
        assert kept.read_bytes() == good
        assert rows(tmp_path) == before
        for part in (tmp_path / "records").rglob("*.parquet"):
            part.unlink()
    save_file({"0.1.weight": torch.zeros((5, 64)), "0.1.bias": torch.zeros(5)}, kept)
    run(fresh=True)
    assert kept.read_bytes() == good


def test_what_several_stages_have_learned_is_one_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    learned = [
        Learned(tensors={"a.b": torch.arange(3.0)}, figures={"x": 0.5}),
        Learned(tensors={"a": torch.ones((2, 3)).T}),
    ]
    records.keep("key", learned)
    assert records.learned("key") == []  # without what it cost it does not count
    records.note("key", {"queries": 1.0})
    one, other = records.learned("key")
    assert dict(one.figures) == {"x": 0.5}
    assert torch.equal(one.tensors["a.b"], torch.arange(3.0))
    assert torch.equal(other.tensors["a"], torch.ones((3, 2)))
    assert Records(None).learned("key") == []


def test_an_attack_that_keeps_nothing_learns_again(tmp_path: Path) -> None:
    system = two_layers()
    Forgetful.lessons_taken = 0
    run = run_of(tmp_path, Forgetful(), system)
    run()
    for part in tmp_path.rglob("*.parquet"):
        part.unlink()
    run()
    assert Forgetful.lessons_taken == 2
    assert not list(tmp_path.rglob("learned.safetensors"))


@dataclass(frozen=True, kw_only=True)
class Forgetful(Attack):
    """Learns nothing that could be kept."""

    name = "forgetful"
    needs = Needs.NOTHING
    lessons_taken = 0

    def prepare(self, setup: Setup) -> Attack:
        Forgetful.lessons_taken += 1
        return self

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Any) -> State:
        return State.begin(x, goal, threat, draws, x)

    def step(self, state: State, oracle: Any) -> State:
        return state

    def length(self) -> int:
        return 1

    def cost(self, num_classes: int) -> Cost:
        return Cost(0)


def _stop(*args: Any, **more: Any) -> Any:
    raise KeyboardInterrupt


def _never(*args: Any, **more: Any) -> Any:
    raise AssertionError("it learns again")
