"""`rbl evaluate` and `rbl report`, as a user runs them: small, but real."""

import io
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from robustbench_lite.run.plan import Plan

Start = Callable[..., "subprocess.Popen[str]"]
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
    assert done.stderr == ""
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
def run_folder(rbl: Rbl, tmp_path: Path) -> Path:
    done = rbl(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return tmp_path / "run"


def test_csv_is_alone_on_stdout_and_is_the_summary(rbl: Rbl, run_folder: Path) -> None:
    done = rbl(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run", "--format", "csv")
    assert done.returncode == 0
    assert done.stdout == (run_folder / "summary.csv").read_text(encoding="utf-8")
    table = pd.read_csv(io.StringIO(done.stdout))
    assert tuple(table.columns[: len(FIRST)]) == FIRST
    assert list(table["attack"]) == ["fgsm", "noise", "worst-case"]
    assert "Files are in run" in done.stderr


def test_report_tells_the_same_from_the_folder_alone(rbl: Rbl, run_folder: Path) -> None:
    moved = run_folder.rename(run_folder.with_name("moved"))
    before = _times(moved)
    summary = (moved / "summary.csv").read_text(encoding="utf-8")
    assert rbl("report", "moved", "--format", "csv").stdout == summary
    rows = json.loads(rbl("report", "moved", "--format", "json").stdout)
    assert [row["attack"] for row in rows] == ["fgsm", "noise", "worst-case"]
    assert rbl("report", "moved", "--format", "markdown").stdout.startswith("**digits · Linf:0.2")
    assert "by attack" in rbl("report", "moved", "--details").stdout
    assert _times(moved) == before


def test_report_prints_the_table_of_the_run(rbl: Rbl, run_folder: Path) -> None:
    again = rbl(*SMALL, "--attack", "fgsm", "--attack", "noise", "--out", "run").stdout
    assert again.startswith(rbl("report", "run").stdout.rstrip())


def test_options_override_the_plan_file_and_the_plan_comes_back(rbl: Rbl, run_folder: Path, tmp_path: Path) -> None:
    done = rbl("evaluate", "--config", "run/plan.toml", "--out", "run2", "--samples", "first:20", "--attack", "fgsm")
    assert done.returncode == 0, done.stderr
    first, second = Plan.load(run_folder / "plan.toml"), Plan.load(tmp_path / "run2/plan.toml")
    assert first.with_options({"samples": "first:20", "attacks": ("fgsm",)}) == second


def test_a_failing_attack_costs_its_cell_and_exit_code_3(rbl: Rbl) -> None:
    done = rbl(*SMALL, "--attack", "fgsm", "--attack", "breaks", "--out", "run", plugins=True)
    assert done.returncode == 3, done.stderr
    assert "rbl: 1 cell of 2 failed" in done.stderr
    assert "breaks on linear, none, Linf:0.2: RuntimeError: no luck" in done.stderr
    assert "Traceback" not in done.stderr
    assert "digits · Linf:0.2 · n = 50 test images" in done.stdout


def test_quiet_still_tells_what_failed(rbl: Rbl) -> None:
    done = rbl(*SMALL, "--attack", "breaks", "--out", "run", "--quiet", plugins=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[1:] == ["rbl:   breaks on linear, none, Linf:0.2: RuntimeError: no luck"]


def test_ctrl_c_keeps_what_was_computed_and_the_same_command_goes_on(rbl: Rbl, start: Start, tmp_path: Path) -> None:
    command = (*SMALL, "--attack", "noise", "--attack", "slow", "--out", "run")
    process = start(*command, plugins=True, env={"RBL_TEST_NAP": "0.5"})
    _wait_for(lambda: (tmp_path / "run/timings.parquet").is_file(), process)  # noise is done, slow goes on
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "rbl: stopped by Ctrl-C; what was computed is kept in run, and the same command goes on from there\n"
    )
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/records").rglob("*.parquet")}
    assert kept
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
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
