"""AutoAttack: the published components and budgets, on survivors alone, and told apart in the records."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor
from toys import Climb, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Attack, Cost, craft, resolve_attack
from robustbench_lite.attacks.autoattack import AutoAttack
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.results import tables
from robustbench_lite.results.stages import by_stage
from robustbench_lite.testing import attacks as laws
from robustbench_lite.threat import Threat

QUIET = {"diagnostics": False, "examples": 0}
SMALL = "steps=8,queries=30"
#: the published budget; side by side its targets fill the batches
FAB_T = "fab-t:targets_in_flight=9"


def stages(spec: str, norm: str = "Linf", classes: int = 10) -> list[str]:
    attack = resolve_attack(spec)
    return [str(stage) for stage in attack.under(Threat(norm=norm, eps=0.1), classes).stages()]


# -- what is run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_standard_has_the_published_components_and_budgets(norm: str) -> None:
    assert stages("autoattack", norm) == ["apgd", "apgd-t", FAB_T, "square"]
    parts = AutoAttack().under(Threat(norm=norm, eps=0.1), 10).stages()
    assert [part.cost(10).forwards for part in parts] == [101, 9 * 101, 9 * 100, 5000]
    assert [part.lanes(10) for part in parts] == [1, 9, 9, 1]


def test_standard_in_l1_restarts_and_begins_at_three_eps() -> None:
    large = "large_eps=true"
    expected = [f"apgd:{large},restarts=5", f"apgd-t:{large},targets=5", FAB_T, "square"]
    assert [set_of(one) for one in stages("autoattack", "L1")] == [set_of(one) for one in expected]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_plus_and_rand_are_alike_in_all_norms(norm: str) -> None:
    plus = ["apgd:restarts=5", "apgd:objective=dlr,restarts=5", "fab:restarts=5", "square", "apgd-t", FAB_T]
    rand = ["apgd:eot_draws=20", "apgd:eot_draws=20,objective=dlr"]
    assert [set_of(one) for one in stages("autoattack:version=plus", norm)] == [set_of(one) for one in plus]
    assert [set_of(one) for one in stages("autoattack:version=rand", norm)] == [set_of(one) for one in rand]


def set_of(spec: str) -> tuple[str, frozenset[str]]:
    """A spec without the order of its options."""
    name, _, options = spec.partition(":")
    return name, frozenset(options.split(",")) - {""}


@pytest.mark.parametrize(
    "classes, ratio, towards", [(2, "margin", "log-odds"), (3, "dlr", "log-odds"), (4, "dlr", "dlr")]
)
def test_few_classes_have_fewer_targets_and_say_what_stands_for_the_ratio(
    classes: int, ratio: str, towards: str
) -> None:
    parts = resolve_attack("autoattack:version=plus").under(Threat(norm="L2", eps=0.1), classes).stages()
    assert parts[1].objective == ratio
    assert parts[4].objective == towards
    assert [part.lanes(classes) for part in parts[4:]] == [classes - 1] * 2
    assert [part.lanes(100) for part in parts[4:]] == [9, 9]


def test_changed_budgets_and_components_show_in_its_name() -> None:
    assert str(resolve_attack("autoattack")) == "autoattack"
    text = "autoattack:components=(square+apgd-ce),queries=7,steps=5"
    attack = resolve_attack(text)
    assert resolve_attack(str(attack)) == attack
    assert set_of(str(attack)) == set_of(text)
    assert stages(text) == ["square:queries=7", "apgd:steps=5"]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_it_declares_what_its_stages_cost(norm: str) -> None:
    attack = resolve_attack("autoattack")
    costs = [stage.cost(10) for stage in attack.under(Threat(norm=norm, eps=0.1), 10).stages()]
    total = Cost(sum(cost.forwards for cost in costs), sum(cost.backwards for cost in costs))
    declared = attack.cost(10)
    assert declared.forwards >= total.forwards
    assert declared.backwards >= total.backwards
    if norm == "Linf":
        assert (total.forwards, total.backwards) == (101 + 909 + 900 + 5000, 101 + 909 + 900)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("autoattack:version=standrad", "did you mean standard"),
        ("autoattack:components=(apgd-ce+fabt)", "unknown component 'fabt'"),
        ("autoattack:steps=0", "steps=0; accepted: 1 and more"),
        ("autoattack:queries=0", "queries=0; accepted: 1 and more"),
    ],
)
def test_bad_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)


def test_it_keeps_the_laws_of_declarations_itself() -> None:
    for law in laws.ON_THE_PLUGIN:
        law(resolve_attack("autoattack"))


def test_targets_of_the_users_own_and_single_use_are_refused() -> None:
    system = affine(classes=4)
    x, y, draws = samples(system, 4)
    with pytest.raises(UserError, match="has a target"):
        rbl.evaluate(system.model, x, y, attacks="autoattack", threat="Linf:0.1,goal=targeted", **QUIET)
    with pytest.raises(UserError, match="is a cascade"):
        craft(resolve_attack("autoattack"), system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws)


# -- how it runs -------------------------------------------------------------------------------------------------------


def victim(classes: int = 10, count: int = 24) -> tuple[torch.nn.Module, Tensor, Tensor]:
    system = two_layers(classes=classes)
    x, y, _ = samples(system, count)
    return system.model, x, y


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm, eps", [("Linf", 0.03), ("L2", 0.15), ("L1", 0.3)])
def test_it_leaves_no_more_than_its_components_alone(norm: str, eps: float, classes: int) -> None:
    model, x, y = victim(classes)
    threat = f"{norm}:{eps}"
    alone = stages(f"autoattack:{SMALL}", norm, classes)
    records = rbl.evaluate(model, x, y, attacks=[f"autoattack:{SMALL}", *alone], threat=threat, **QUIET).records
    broken = {name: set(own.loc[own["broken"], "index"]) for name, own in records.groupby("attack")}
    cascade = broken.pop(f"autoattack:{SMALL}")
    assert cascade == set.union(*broken.values())


def test_each_stage_sees_only_what_is_left_and_records_tell_which_one_broke_what(tmp_path: Path) -> None:
    model, x, y = victim(count=40)
    spec = f"autoattack:{SMALL}"
    result = rbl.evaluate(model, x, y, attacks=[spec], threat="Linf:0.03", out=tmp_path / "run", **QUIET)
    rows, table = result.records, result.stages
    names = stages(spec)
    left = len(x)
    assert table["stage"].tolist() == names[: len(table)]
    for _, stage in table.iterrows():
        assert stage["attacked"] == left
        left -= stage["broken"]
        assert stage["robust_acc"] == pytest.approx(left / len(x))
        assert (rows["stage"] == stage["stage"]).sum() == stage["broken"]
    assert left == (~rows["broken"]).sum()
    assert 0 < left < len(x)
    assert (rows.loc[~rows["broken"], "stage"] == "").all()
    paid = table["attacked"] * table["forwards"]
    assert rows["forwards"].sum() == pytest.approx(paid.sum())
    assert (table["seconds"] >= 0).all()
    written = pd.read_csv(tmp_path / "run" / "stages.csv")
    assert written["stage"].tolist() == table["stage"].tolist()
    assert "square:queries=30" in tables.text(tables.components(table))


def test_an_ordinary_attack_has_no_stages() -> None:
    model, x, y = victim(count=8)
    result = rbl.evaluate(model, x, y, attacks=["apgd:steps=4"], threat="Linf:0.03", **QUIET)
    assert (result.records[["stage", "stages"]] == "").all().all()
    assert not len(result.stages)


def test_a_slice_and_a_run_that_goes_on_have_the_same_rows(tmp_path: Path) -> None:
    model, x, y = victim()
    given = {"attacks": [f"autoattack:{SMALL}"], "threat": "Linf:0.03", "out": tmp_path / "run", **QUIET}
    first = rbl.evaluate(model, x, y, samples="first:9", **given)
    then, whole = rbl.evaluate(model, x, y, **given), rbl.evaluate(model, x, y, **{**given, "out": None})
    pd.testing.assert_frame_equal(then.records, whole.records)
    pd.testing.assert_frame_equal(first.records, whole.records[:9])
    assert (then.stages["seconds"] >= first.stages["seconds"].reindex(then.stages.index).fillna(0)).all()


def test_another_order_of_components_is_another_cell_with_the_same_samples_broken() -> None:
    model, x, y = victim()
    specs = [f"autoattack:components={parts},{SMALL}" for parts in ("(apgd-ce+apgd-t)", "(apgd-t+apgd-ce)")]
    records = rbl.evaluate(model, x, y, attacks=specs, threat="Linf:0.03", **QUIET).records
    one, other = (own for _, own in records.groupby("attack", sort=False))
    assert one["broken"].tolist() == other["broken"].tolist()
    assert one["key"].iloc[0] != other["key"].iloc[0]


def test_what_a_stage_is_made_of_is_in_the_key() -> None:
    model, x, y = victim(count=4)

    def key(attack: Attack) -> str:
        return str(rbl.evaluate(model, x, y, attacks=[attack], threat="Linf:0.03", **QUIET).records["key"].iloc[0])

    assert key(Chosen(first=Climb(steps=1))) != key(Chosen(first=Climb(steps=2)))


@dataclass(frozen=True, kw_only=True)
class Chosen(Climb):
    """A cascade that is chosen by the threat."""

    name: ClassVar[str] = "chosen"
    first: Attack
    parts: tuple[Attack, ...] = ()

    def under(self, threat: Threat, num_classes: int) -> Attack:
        return replace(self, parts=(self.first, Climb(steps=num_classes)))

    def stages(self) -> tuple[Attack, ...]:
        return self.parts or (self.first,)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_seconds_come_from_all_runs_of_the_cell() -> None:
    names = {"dataset": "d", "model": "m", "defense": "none", "threat": "Linf:0.1", "attack": "a", "key": "k"}
    rows = [("", True), ("x 3+3", True), ("x 9+9 > y 2+0", True), ("x 9+9 > y 50+0", False)]
    records = pd.DataFrame([names | {"adaptive": False, "stages": path, "broken": broken} for path, broken in rows])
    clocks = [names | {"stages": json.dumps({"0 x": 1.5, "1 y": 2.0})}, names | {"stages": json.dumps({"0 x": 0.5})}]
    table = by_stage(records, pd.DataFrame(clocks))
    assert table["stage"].tolist() == ["x", "y"]
    assert table["attacked"].tolist() == [3, 2]
    assert table["broken"].tolist() == [1, 1]
    assert table["robust_acc"].tolist() == [0.5, 0.25]
    assert table["forwards"].tolist() == [7, 26]
    assert table["seconds"].tolist() == [2.0, 2.0]
