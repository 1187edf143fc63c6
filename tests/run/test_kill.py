"""A run that was killed, at whatever moment, ends in the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
#: in each of this many chains a run is killed again and again until it ends
CHAINS, KILLS = 4, 8


def drive(folder: Path, seed: int, kills: int) -> dict[str, int]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "kill_driver.py"), str(folder), str(seed), str(kills)]
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
    return {**found, "summary": summary.to_csv().encode()}


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    drive(tmp_path / "whole", 0, 0)
    expected = contents(tmp_path / "whole")
    assert len(expected) == 5  # two attacks under two threats, and the summary
    killed = 0
    for chain in range(CHAINS):
        folder = tmp_path / f"chain{chain}"
        killed += drive(folder, chain, KILLS)["killed"]
        assert contents(folder) == expected
        left = [path for path in folder.rglob("*.tmp") if not path.name.startswith(".")]
        assert not left  # a killed run may leave hidden files, which nobody reads and a later run deletes
    assert killed >= 20, f"only {killed} of the runs were killed in the middle"
