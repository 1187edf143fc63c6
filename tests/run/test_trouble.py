"""Plugins that misbehave, memory that ends, files that are half there: found in review, each red once."""

import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from reviewing import LINF, QUIET, Around, module_and_images
from torch import Tensor
from toys import Climb

import robustbench_lite as rbl
from robustbench_lite.attack import Attack, State
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Oracle
from robustbench_lite.results import plots
from robustbench_lite.run import output, probes
from robustbench_lite.run.reporter import Silent


@dataclass(frozen=True, kw_only=True)
class Odd(Climb):
    """Climb that does something else at its third step."""

    name: ClassVar[str] = "odd"
    what: Any = None

    def step(self, state: State, oracle: Oracle) -> State:
        state = super().step(state, oracle)
        return self.what(state) if int(state.k.max()) == 2 else state


def leave(state: State) -> State:
    raise SystemExit(0)


@pytest.mark.parametrize(
    "what, reason",
    [
        (leave, "SystemExit: 0"),
        (lambda state: replace(state, adv=state.adv.double()), "PluginError: odd made points"),
        (lambda state: replace(state, adv=state.adv[:, :, :1]), "PluginError: odd made points"),
    ],
    ids=["exit", "double", "shape"],
)
def test_a_plugin_that_misbehaves_fails_alone(what: Any, reason: str) -> None:
    model, x, y = module_and_images()
    result = rbl.evaluate(model, x, y, attacks=[Odd(what=what), Climb(restarts=1)], threat=LINF, **QUIET)
    assert [why[: len(reason)] for why in result.failed.values()] == [reason]
    assert result.table.set_index("attack").loc["climb:restarts=1", "robust_acc"] > 0


def test_points_that_are_not_numbers_are_invalid_and_nothing_breaks() -> None:
    model, x, y = module_and_images()
    attack = Odd(restarts=1, steps=3, what=lambda state: replace(state, adv=state.adv * torch.nan))
    result = rbl.evaluate(model, x, y, attacks=attack, threat="Linf:0.0001", **QUIET)
    assert result.table.iloc[0]["invalid"] == len(x)
    assert result.table.iloc[0]["robust_acc"] == 1


class Bar(Silent):
    """Counts as a bar does."""

    def __init__(self) -> None:
        self.done = 0

    def begin(self, text: str, total: int) -> None:
        self.done = 0

    def advance(self, done: int, broken: int) -> None:
        self.done += done


@dataclass(frozen=True, kw_only=True)
class Hungry(Climb):
    """Climb that runs out of memory once some samples have ended."""

    name: ClassVar[str] = "hungry"
    eaten: list[int] = field(default_factory=list, compare=False)

    def step(self, state: State, oracle: Oracle) -> State:
        self.eaten.append(len(state))
        if len(self.eaten) == 15:
            raise torch.OutOfMemoryError("enough")
        return super().step(state, oracle)


def test_after_out_of_memory_the_bar_begins_again() -> None:
    model, x, y = module_and_images(200)
    bar = Bar()
    rbl.evaluate(model, x, y, attacks=Hungry(restarts=1), threat=LINF, batch_size=64, reporter=bar, **QUIET)
    assert bar.done == len(x)


def test_a_model_that_has_memory_for_few_images_is_measured_in_small_batches() -> None:
    model, x, y = module_and_images(100)

    def few(images: Tensor) -> Tensor:
        if len(images) > 16:
            raise torch.OutOfMemoryError("no more than 16")
        return images

    result = rbl.evaluate(Around(model, before=few), x, y, attacks="fgsm", threat=LINF, batch_size=64)
    assert not result.failed
    assert result.timings["batch_size"].tolist() == [16]


def test_a_check_that_fails_is_no_clean_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = module_and_images()

    def broken(attack: str) -> Attack:
        return Odd(what=leave, restarts=1)

    monkeypatch.setattr(probes, "resolve_attack", broken)
    result = rbl.evaluate(model, x, y, attacks="pgd:steps=5,restarts=1", threat=LINF)
    status = result.diagnostics.set_index("diagnostic")["status"]
    assert status["survives-unbounded-eps"] == "unchecked"


def test_a_run_killed_before_its_parts_were_joined_ends_in_the_same_files(tmp_path: Path) -> None:
    model, x, y = module_and_images()
    run = partial(rbl.evaluate, model, x, y, attacks=Climb(restarts=1), threat=LINF, out=tmp_path, **QUIET)
    (whole,) = sorted((tmp_path / "records").rglob("*.parquet")) if run() else ()
    before = whole.read_bytes()
    whole.rename(whole.with_name("part-00000000-000060-00000000.parquet"))
    run()
    assert [path.read_bytes() for path in whole.parent.glob("*.parquet")] == [before]
    assert whole.exists()


def test_examples_that_are_asked_for_later_are_made_later(tmp_path: Path) -> None:
    model, x, y = module_and_images(20)
    run = partial(rbl.evaluate, model, x, y, attacks=Climb(restarts=1), threat=LINF, out=tmp_path, **QUIET)
    few, every = run(examples="3"), run(examples="all")
    pd.testing.assert_frame_equal(few.records, every.records)
    (kept,) = every.examples.values()
    assert sorted(kept) == list(range(20))
    fresh = rbl.evaluate(model, x, y, attacks=Climb(restarts=1), threat=LINF, examples="all", **QUIET)
    assert all(np.array_equal(kept[index], adv) for index, adv in next(iter(fresh.examples.values())).items())


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = module_and_images(20)
    run = partial(rbl.evaluate, model, x, y, attacks="fgsm", threat=LINF, out=tmp_path, **QUIET)
    run()
    before = (tmp_path / "bars.png").read_bytes()

    def half(summary: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(plots, "plot_bars", half)
    with pytest.raises(UserError, match="No space left"):
        run()
    assert (tmp_path / "bars.png").read_bytes() == before


def test_what_another_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    new, old = tmp_path / ".rows.parquet.1.tmp", tmp_path / ".rows.parquet.2.tmp"
    for path in (new, old):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 2 * output._LEFT,) * 2)
    model, x, y = module_and_images(8)
    rbl.evaluate(model, x, y, attacks="fgsm", threat=LINF, out=tmp_path, **QUIET)
    assert new.exists()
    assert not old.exists()


def test_every_cell_failing_leaves_a_table_without_robust_accuracy() -> None:
    model, x, y = module_and_images(20)
    result = rbl.evaluate(model, x, y, attacks=Odd(what=leave, restarts=1), threat="Linf:0.0001")
    assert result.table["robust_acc"].isna().all()
