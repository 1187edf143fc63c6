"""Processes that compute cells ahead: no number depends on them, and whatever happens to one, the run goes on."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from waiting import PATIENCE, until

from robustbench_lite.cli.app import main
from robustbench_lite.errors import UserError
from robustbench_lite.run import workers
from robustbench_lite.run.evaluate import Result, run
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.reporter import Silent
from robustbench_lite.run.setting import Setting

PLAN = Plan(
    models=("linear",), defenses=("none", "bit-depth:bits=2"), attacks=("noise:draws=3", "pgd:steps=5"), samples="40"
)


class Listening(Silent):
    """Notes what the workers report."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []
        self.notes: list[str] = []

    def together(self, done: int, total: int, text: str) -> None:
        self.told.append((done, total, text))

    def note(self, text: str) -> None:
        self.notes.append(text)


def records(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "records").rglob("*.parquet"))
    }


Done = tuple[Path, Result, Result, Listening]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The plan run by one process in DIR/alone, and by others ahead of it in DIR/shared; and what was told of those."""
    folder, heard = tmp_path_factory.mktemp("done"), Listening()
    return folder, run(PLAN, out=folder / "alone"), run(PLAN, out=folder / "shared", jobs=2, reporter=heard), heard


def test_shared_work_leaves_the_same_bytes(done: Done) -> None:
    folder, alone, shared, heard = done
    assert records(folder / "alone") == records(folder / "shared")
    pd.testing.assert_frame_equal(alone.records, shared.records)
    pd.testing.assert_frame_equal(alone.table.drop(columns="seconds"), shared.table.drop(columns="seconds"))
    assert heard.told[0][:2] == (0, 6)
    assert heard.told[-1] == (6, 6, "")
    assert (shared.timings["seconds"] > 0).all()
    for name in ("alone", "shared"):
        assert sorted(path.name for path in (folder / name / "examples").iterdir()) == sorted(
            f"{key}.npz" for key in shared.timings["key"]
        )


def test_what_is_there_is_not_given_out_again_and_keeps_its_clock(tmp_path: Path, done: Done) -> None:
    folder, _, first, _ = done
    shutil.copytree(folder / "shared", tmp_path / "run")
    heard = Listening()
    again = run(PLAN, out=tmp_path / "run", jobs=2, reporter=heard)
    assert heard.told == []
    pd.testing.assert_series_equal(first.timings["seconds"], again.timings["seconds"])
    fresh = run(PLAN, out=tmp_path / "run", jobs=2, reporter=heard, fresh=True)
    assert heard.told[-1] == (6, 6, "")
    pd.testing.assert_frame_equal(first.records, fresh.records)


def test_a_process_that_dies_is_no_loss(tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(self: Listening, done: int, total: int, text: str) -> None:
        self.told.append((done, total, text))
        if len(self.told) == 2:
            for child in workers.multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

    monkeypatch.setattr(Listening, "together", kill)
    whole = run(PLAN, out=tmp_path / "killed", jobs=2, reporter=Listening())
    pd.testing.assert_frame_equal(whole.records, done[1].records)
    assert not whole.failed


def test_a_mistake_that_shows_when_a_system_is_built_is_told(tmp_path: Path) -> None:
    plan = replace(PLAN, defenses=("none", "safetynet"), attacks=("deepfool",), threats=("L2",))
    with pytest.raises(UserError, match="safetynet learns from adversarial examples and needs a threat with a radius"):
        run(plan, out=tmp_path, jobs=2)


def test_how_many_there_are_unasked() -> None:
    setting = Setting.of(PLAN)
    few, many = workers.tasks_of(PLAN), workers.tasks_of(Plan())
    assert len(few) == 6
    assert [str(task) for task in few[:3]] == [
        *("training linear", "training linear, bit-depth:bits=2"),
        "pgd:steps=5 on linear",
    ]
    assert workers.usual_jobs(setting, few) == 1
    assert 1 <= workers.usual_jobs(setting, many) <= workers.MOST
    left = workers.tasks_of(PLAN, [("linear", "none", *PLAN.threats, attack) for attack in PLAN.attacks])
    assert {task.defense for task in left} == {"bit-depth:bits=2"}
    two = replace(PLAN, threats=(*PLAN.threats, "Linf:0.3"))
    assert len(workers.tasks_of(two, [("linear", "none", *PLAN.threats, attack) for attack in PLAN.attacks])) == 6


@pytest.mark.parametrize("given", ["0", "two", "-1"])
def test_the_number_must_be_one(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--jobs", given]) == 2
    assert capsys.readouterr().err == f"rbl: jobs={given}; accepted: auto, or 1 and more\n"


def test_ctrl_c_stops_everybody_and_what_was_computed_is_kept(tmp_path: Path) -> None:
    slow = ("--attack", "noise:draws=2", "--attack", "square:queries=200000", "--threat", "Linf:0.01")
    call = ["-m", "robustbench_lite", "evaluate", "--model", "linear", "--defense", "none", *slow, "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-P", *call, "--out", str(tmp_path / "run"), "--samples", "20"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RBL_CACHE": str(tmp_path / "cache")},
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,
    )
    until(lambda: len(list((tmp_path / "run").rglob("rows.parquet"))) == 1 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "what was computed is kept" in err
    assert "Traceback" not in err
    until(lambda: not _alive(process.pid))


def _hears_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
