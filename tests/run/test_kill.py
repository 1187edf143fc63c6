"""A run that was killed, at whatever moment, ends in the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

HERE = Path(__file__).parent
#: in each of this many chains a run is killed again and again until it ends; RBL_KILLS=8 is more thorough
CHAINS, KILLS = 3, int(os.environ.get("RBL_KILLS", "4"))


def drive(folder: Path, seed: int, kills: int, work: str = "attacks") -> dict[str, int]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "kill_driver.py"), str(folder), str(seed), str(kills), work]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert report["exit"] == 0, done.stderr
    return report


def contents(folder: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "records").rglob("*.parquet"))
    }
    summary = pd.read_csv(folder / "summary.csv").drop(columns=["seconds", "setup_seconds"])
    examples = {path.name: examples_of(path) for path in sorted((folder / "examples").glob("*.npz"))}
    return {**found, **examples, "summary": summary.to_csv().encode()}


def examples_of(path: Path) -> bytes:
    """The kept adversarial images of a cell, and whose they are."""
    with np.load(path) as held:
        return bytes(held["index"].tobytes() + held["adv"].tobytes())


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    drive(tmp_path / "whole", 0, 0)
    expected = contents(tmp_path / "whole")
    assert len(expected) == 9  # rows and examples of two attacks under two threats, and the summary
    killed = 0
    for chain in range(CHAINS):
        folder = tmp_path / f"chain{chain}"
        killed += drive(folder, chain, KILLS)["killed"]
        assert contents(folder) == expected
        left = [path for path in folder.rglob("*.tmp") if not path.name.startswith(".")]
        assert not left  # a killed run may leave hidden files, which nobody reads and a later run deletes
    assert killed >= 2 * KILLS, f"only {killed} of the runs were killed in the middle"


@pytest.mark.parametrize("work", ["cascade", "random"])
def test_a_killed_cascade_goes_on_at_the_next_stage_and_ends_in_the_same_bytes(tmp_path: Path, work: str) -> None:
    drive(tmp_path / "whole", 0, 0, work)
    expected, straight = contents(tmp_path / "whole"), rows_of_stages(tmp_path / "whole.log")
    folder = tmp_path / "killed"
    killed = drive(folder, 10, KILLS, work)["killed"]
    assert killed >= KILLS - 1, f"only {killed} of the runs were killed in the middle"
    assert contents(folder) == expected
    assert not list(folder.rglob("stages.safetensors")), "what a cascade keeps while it runs is there no longer"
    again = rows_of_stages(tmp_path / "killed.log")
    # a kill loses what was under way, two micro-batches on a busy machine; without the file of finished stages the first would
    # begin anew, each time, for all that it has not broken
    for stage, rows in straight.items():
        assert again[stage] <= rows + 64 * killed, (stage, straight, again)


def rows_of_stages(log: Path) -> dict[str, int]:
    """How many rows each stage has begun with, all together."""
    found: dict[str, int] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        stage, rows = line.split()
        found[stage] = found.get(stage, 0) + int(rows)
    return found
