"""`rbl evaluate` and `rbl report`, as a user runs them: small, but real."""

import io
import json
import re
import runpy
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from waiting import PATIENCE, until

from robustbench_lite import plugins
from robustbench_lite.run.plan import Plan

Start = Callable[..., "subprocess.Popen[str]"]
Here = Callable[..., int]
Rbl = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ("evaluate", "--model", "linear", "--defense", "none", "--samples", "first:50", "--no-diagnostics")
FIRST = (
    *("dataset", "model", "defense", "threat", "attack", "needs", "adaptive", "n", "clean_acc", "robust_acc"),
    *("robust_acc_low", "robust_acc_high", "success_rate", "targeted_success", "median_norm", "invalid"),
    *("forwards", "backwards", "seconds", "flags"),
)


def test_a_run_leaves_its_files_and_says_where(rbl: Rbl, tmp_path: Path) -> None:
    done = rbl("evaluate", "--model", "linear", "--defense", "none", "--attack", "fgsm", "--samples", "first:50")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("rbl: training ")]  # or from the cache
    assert len(told) == 1
    assert re.fullmatch(r"rbl: fgsm on linear, Linf:0\.2: robust accuracy [\d.]+ %, \d+/50 broken, [\d.]+ s", told[0])
    (folder,) = (tmp_path / "rbl-runs").iterdir()
    plan = Plan.load(folder / "plan.toml")
    assert (plan.models, plan.attacks, plan.samples) == (("linear",), ("fgsm",), "first:50")
    assert folder.name == plan.digest
    assert {"plan.toml", "environment.json", "timings.parquet", "summary.csv", "examples.png", "records"} <= {
        path.name for path in folder.iterdir()
    }
    assert "digits · Linf:0.2 · n = 50 test images" in done.stdout
    assert f"rbl report rbl-runs/{folder.name} --details" in done.stdout
    assert "Checks: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.fixture
def run_folder(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert here(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    return tmp_path / "run"


def test_csv_is_alone_on_stdout_and_is_the_summary(
    run_folder: Path, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run", "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert out == (run_folder / "summary.csv").read_text(encoding="utf-8")
    table = pd.read_csv(io.StringIO(out))
    assert tuple(table.columns[: len(FIRST)]) == FIRST
    assert list(table["attack"]) == ["fgsm", "noise", "worst-case"]
    assert "Files are in run" in err


def test_report_tells_the_same_from_the_folder_alone(
    run_folder: Path, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run_folder.rename(run_folder.with_name("moved"))
    before = _times(moved)

    def report(*options: str) -> str:
        assert here("report", "moved", *options) == 0
        return capsys.readouterr().out

    assert report("--format", "csv") == (moved / "summary.csv").read_text(encoding="utf-8")
    assert [row["attack"] for row in json.loads(report("--format", "json"))] == ["fgsm", "noise", "worst-case"]
    assert report("--format", "markdown").startswith("**digits · Linf:0.2")
    assert "by attack" in report("--details")
    assert _times(moved) == before


def test_report_prints_the_table_of_the_run(run_folder: Path, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here("report", str(run_folder))
    report = capsys.readouterr().out
    here(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run")
    assert capsys.readouterr().out.startswith(report.rstrip())


def test_options_override_the_plan_file(run_folder: Path, here: Here, tmp_path: Path) -> None:
    given = ("--out", "run2", "--samples", "first:20", "--attack", "fgsm", "--batch-size", "auto", "--diagnostics")
    assert here("evaluate", "--config", "run/plan.toml", *given) == 0
    first, second = Plan.load(run_folder / "plan.toml"), Plan.load(tmp_path / "run2/plan.toml")
    assert second == replace(first, samples="first:20", attacks=("fgsm",), diagnostics=True)


@pytest.fixture
def breaks() -> Iterator[None]:
    """An attack that raises in the middle."""
    plugins.register("attack", "breaks", runpy.run_path(str(Path(__file__).with_name("rbl_with_plugins.py")))["Breaks"])
    yield
    plugins.unregister("attack", "breaks")


@pytest.mark.usefixtures("breaks")
def test_a_failing_attack_costs_its_cell_and_exit_code_3(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(*SMALL, "--attack", "fgsm", "--attack", "breaks", "--out", "run") == 3
    out, err = capsys.readouterr()
    assert "rbl: 1 cell of 2 failed" in err
    assert "breaks on linear, Linf:0.2: RuntimeError: no luck" in err
    assert "digits · Linf:0.2 · n = 50 test images" in out
    assert here(*SMALL, "--attack", "breaks", "--out", "run", "--quiet") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[1:] == ["rbl:   breaks on linear, Linf:0.2: RuntimeError: no luck"]


def test_a_full_disk_is_told_in_one_sentence(cache: Path, tmp_path: Path, start: Start, here: Here) -> None:
    assert here(*SMALL, "--attack", "noise", "--out", "elsewhere", "--quiet") == 0  # the model is in the cache now
    process = start(*SMALL, "--attack", "fgsm", "--out", "run", largest_file=8)
    assert process.communicate(timeout=PATIENCE) == ("", "rbl: cannot write to 'run': File too large\n")
    assert process.returncode == 2


def test_ctrl_c_keeps_what_was_computed_and_the_same_command_goes_on(
    rbl: Rbl, start: Start, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (*SMALL, "--attack", "noise", "--attack", "slow", "--out", "run")
    process = start(*command, plugins=True, env={"RBL_TEST_NAP": "0.5"})
    _wait_for(lambda: (tmp_path / "run/timings.parquet").is_file(), process)  # noise is done, slow goes on
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    told = [line for line in err.splitlines() if not line.startswith("rbl: training ")]
    assert told[0].startswith("rbl: noise on linear, Linf:0.2: robust accuracy ")
    assert told[1:] == [
        "rbl: stopped by Ctrl-C; what was computed is kept in run, and the same command goes on from there"
    ]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/records").rglob("*.parquet")}
    assert kept
    here("report", "run", "--format", "csv")
    out, err = capsys.readouterr()
    assert list(pd.read_csv(io.StringIO(out))["attack"]) == ["noise", "worst-case"]
    assert "unfinished: slow on linear, Linf:0.2: " in err
    done = rbl(*command, "--format", "csv", plugins=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path.name == "rows.parquet")
    whole = rbl(*command[:-1], "whole", "--format", "csv", plugins=True)
    clocks = ["seconds", "setup_seconds"]
    resumed, straight = (pd.read_csv(io.StringIO(text)).drop(columns=clocks) for text in (done.stdout, whole.stdout))
    pd.testing.assert_frame_equal(resumed, straight)


def test_a_closed_pipe_is_no_error(start: Start) -> None:
    process = start("list", "models", "--format", "json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=PATIENCE)) == ("", 0)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until(lambda: happened() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
