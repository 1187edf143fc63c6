"""How many processors a process may use, and how its threads wait."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from robustbench_lite import cores

INF = float("inf")


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_max", ".max").replace("cfs", "cpu.cfs")).write_text(text)


@pytest.mark.parametrize(
    "mine, above, expected",
    [
        ("max 100000", "max 100000", INF),
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "200000 100000", 2.0),
        ("400000 100000", "300000 100000", 3.0),
        ("nonsense", "", INF),
        ("100 0", "max 100000", INF),
    ],
)
def test_the_tightest_quota_of_the_groups_counts(tmp_path: Path, mine: str, above: str, expected: float) -> None:
    group(tmp_path / "a" / "b", cpu_max=mine)
    group(tmp_path / "a", cpu_max=above)
    assert cores._quota(tmp_path, "0::/a/b\n") == expected


@pytest.mark.parametrize("quota, expected", [("-1", INF), ("250000", 2.5)])
def test_quotas_of_the_first_kind_of_groups_count_too(tmp_path: Path, quota: str, expected: float) -> None:
    group(tmp_path / "cpu,cpuacct" / "job", cfs_quota_us=quota, cfs_period_us="100000")
    assert cores._quota(tmp_path, "3:memory:/job\n4:cpu,cpuacct:/job\n") == expected


@pytest.mark.parametrize("quota, expected", [(INF, 3), (0.5, 1), (1.9, 1), (2.0, 2), (64.0, 3)])
def test_affinity_and_quota_both_limit(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(cores, "_quota", lambda top: quota)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize("text, expected", [("", None), ("4", 4), ("4,2", 4), ("0", None), ("many", None)])
def test_the_user_may_say_how_many_threads(monkeypatch: pytest.MonkeyPatch, text: str, expected: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores.asked_threads() == expected


def says(code: str, **environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        check=True,
        timeout=120,
    )
    return done.stdout.split()


POLICY = "import os; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    "code, environment, policy, late",
    [
        ("import robustbench_lite", {}, "PASSIVE", "False"),
        ("import robustbench_lite", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", "False"),
        ("import sys; sys.modules['torch'] = sys; import robustbench_lite", {}, "None", "True"),
        (
            "import sys; sys.modules['torch'] = sys; import robustbench_lite",
            {"OMP_WAIT_POLICY": "passive"},
            "passive",
            "False",
        ),
    ],
)
def test_threads_wait_asleep_unless_torch_was_first_or_the_user_wants_otherwise(
    code: str, environment: dict[str, str], policy: str, late: str
) -> None:
    told = says(f"{code}; {POLICY}; from robustbench_lite import cores; print(cores._late)", **environment)
    assert told == [policy, late]


def test_whoever_loads_torch_first_is_warned_once_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    cores._warn.cache_clear()
    monkeypatch.setattr(cores, "_late", True)
    cores.warn_if_spinning(1)
    with pytest.warns(UserWarning, match="OMP_WAIT_POLICY=PASSIVE"):
        cores.warn_if_spinning(2)
    with warnings.catch_warnings(action="error"):
        cores.warn_if_spinning(2)
    cores._warn.cache_clear()
