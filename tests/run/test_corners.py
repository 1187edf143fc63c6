"""Corners of an evaluation that no other test visits, and attacks that learn first."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.skeletons.substitute import Substitute
from reviewing import LINF, QUIET, keys, module_and_images
from torch import Tensor
from toys import Climb, Scripted, affine, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Attack, State
from robustbench_lite.data import outside
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.hashing.values import hash_value
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import Threat


@pytest.mark.parametrize(
    "attacks", ["noise:draws=3", "fgsm", "pgd:steps=3,objective=dlr", "targeted:target=all,steps=3"]
)
def test_two_classes(attacks: str) -> None:
    system = affine(classes=2)
    x, y, _ = samples(system, 40)
    y[0], y[1] = 0, 1
    result = rbl.evaluate(system, x, y, attacks=attacks, threat="Linf:0.1")
    assert not result.failed


def test_one_sample() -> None:
    model, x, y = module_and_images(5)
    result = rbl.evaluate(model, x, y, samples="first:1", attacks=["fgsm", "pgd:steps=3"], threat="Linf:0.5")
    assert result.table["n"].tolist() == [1, 1, 1]


def test_all_samples_wrong_on_their_clean_images() -> None:
    model, x, y = module_and_images(20)
    result = rbl.evaluate(model, x, (y + 1) % 5, attacks=["noise:draws=3", "pgd:steps=3"], threat=LINF)
    row = result.table.iloc[0]
    assert (row["clean_acc"], row["robust_acc"]) == (0, 0)
    assert result.records["forwards"].sum() == 0
    assert not result.failed


def test_a_targeted_threat_end_to_end() -> None:
    model, x, y = module_and_images(80)
    for rule in ("least-likely", "second", "random", "next", "2"):
        threat = f"Linf:0.15,goal=targeted,target={rule}"
        result = rbl.evaluate(model, x, y, attacks="pgd:steps=10,restarts=2", threat=threat)
        rows = result.records[result.records["reason"] == ""]
        assert (rows["broken"] == rows["target_hit"]).all()
        assert rows["broken"].any()
        assert (rows["target"] != rows["label"]).all()


@pytest.mark.parametrize("rule", ["nonsense", "99", "all"])
def test_a_target_that_is_none_is_refused_before_anything_is_attacked(rule: str) -> None:
    model, x, y = module_and_images(8)
    with pytest.raises(UserError, match=f"target={rule}"):
        rbl.evaluate(model, x, y, attacks="pgd", threat=f"Linf:0.1,goal=targeted,target={rule}", **QUIET)


@dataclass(frozen=True, kw_only=True)
class Nearing(Climb):
    """Climb that walks off and comes back as soon as it is across: a small norm, not the smallest."""

    name: ClassVar[str] = "nearing"
    aims: ClassVar = ("fixed-eps", "minimum-norm")

    def start(self, x: Tensor, goal: Any, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        answer = oracle.query(state.adv, margin)
        assert answer.grads is not None
        away = torch.where(answer.adversarial, -0.5, 1.0)[:, None, None, None]
        return replace(state, adv=(state.adv + 0.01 * away * state.threat.steepest(answer.grads[0])).clamp(0, 1))


@pytest.mark.parametrize("more", [{}, {"precision": "bfloat16"}, {"early_exit": False}])
def test_minimum_norms_end_to_end(tmp_path: Path, more: dict[str, Any]) -> None:
    model, x, y = module_and_images(60)
    run = partial(rbl.evaluate, model, x, y, attacks=Nearing(steps=40, restarts=1), threat="Linf", out=tmp_path, **more)
    part, whole = run(samples="first:20"), run()
    assert whole.table.iloc[0]["robust_acc"] < 0.2
    plain = rbl.evaluate(model, x, y, attacks=Nearing(steps=40, restarts=1), threat="Linf", **QUIET)
    assert whole.table.iloc[0]["median_norm"] == plain.table.iloc[0]["median_norm"]
    same = ["index", "linf", "broken", "forwards", "margin"]
    pd.testing.assert_frame_equal(part.records[same], whole.records[same][:20])


@dataclass(frozen=True, kw_only=True)
class Cascade(Climb):
    """A weak stage and a strong one."""

    name: ClassVar[str] = "cascade"
    aims: ClassVar = ("fixed-eps", "minimum-norm")

    def stages(self) -> tuple[Attack, ...]:
        return Climb(steps=1, restarts=1), Climb(steps=10, restarts=2, side_by_side=2)


def test_a_cascade_counts_what_its_stages_cost() -> None:
    model, x, y = module_and_images(100)
    result = rbl.evaluate(model, x, y, attacks=[Cascade(), Climb(steps=1, restarts=1)], threat=LINF, **QUIET)
    rows, first = (frame for _, frame in result.records.groupby("attack", sort=False))
    by_first = first["broken"].to_numpy()
    assert (rows["broken"].to_numpy() >= by_first).all()
    assert (rows["forwards"].to_numpy()[by_first] == 1).all()
    assert set(rows.loc[~rows["broken"], "forwards"]) == {21}


def test_a_cascade_is_refused_without_a_radius() -> None:
    model, x, y = module_and_images(4)
    with pytest.raises(UserError, match="cascade"):
        rbl.evaluate(model, x, y, attacks=Cascade(), threat="Linf", **QUIET)


def test_an_attack_that_learns_first_is_given_what_is_not_evaluated(tmp_path: Path) -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 120)
    run = partial(rbl.evaluate, system, x, y, attacks=Substitute(rounds=2), threat="Linf:0.1", out=tmp_path, **QUIET)
    result = run(samples="first:40")
    row = result.table.iloc[0]
    assert not result.failed
    assert row["setup_queries"] == 80 * 2**2  # three labellings of 80, 80 and 160 images
    assert row["setup_seconds"] > 0
    assert row["forwards"] == 0
    assert row["success_rate"] > 0.3
    again = run(samples="first:40")  # nothing is computed, and nothing is forgotten
    assert again.table.iloc[0]["setup_queries"] == row["setup_queries"]
    pd.testing.assert_frame_equal(again.records, result.records)
    assert keys(run(samples="first:50")) != keys(result)  # it learns from other samples there


def test_without_a_sample_to_learn_from_it_is_refused() -> None:
    system = affine(classes=3)
    x, y, _ = samples(system, 20)
    with pytest.raises(UserError, match="none is left to learn from"):
        rbl.evaluate(system, x, y, attacks=Substitute(rounds=1), threat="Linf:0.1", **QUIET)


def test_samples_to_learn_from_are_balanced_and_not_evaluated() -> None:
    y = np.repeat(np.arange(4), 25)
    data = from_tensors(np.zeros((100, 1, 2, 2), dtype=np.float32), y)
    chosen = outside(data, np.arange(10), 40, seed=3)
    assert not np.isin(chosen, np.arange(10)).any()
    assert np.bincount(y[chosen]).tolist() == [10, 10, 10, 10]
    assert (np.diff(chosen) > 0).all()


def test_blocks_do_not_change_what_an_asker_says_or_counts() -> None:
    system = two_layers()
    x, y, _ = samples(system, 50)
    whole, cut = (Asker(Climb(), system, Threat(norm="Linf", eps=0.1), block=block) for block in (None, 16))
    one, other = whole(x, margin, y=y), cut(x, margin, y=y)
    assert (whole.forwards, whole.backwards) == (cut.forwards, cut.backwards) == (50, 50)
    assert one.grads is not None
    assert other.grads is not None
    torch.testing.assert_close(one.grads, other.grads)
    torch.testing.assert_close(one.values, other.values)
    assert torch.equal(one.adversarial, other.adversarial)


def test_scripted_points_have_a_key() -> None:
    attack = Scripted(points=lambda x, k: x)
    assert hash_value(attack) == hash_value(attack)
