"""How many processors this process may use, and how threads wait for each other. Importing this does not import torch."""

import os
import sys
import warnings
from functools import lru_cache
from pathlib import Path

#: threads of OpenMP that wait spin, unless they are told to sleep: two runs side by side then keep each other from working
_POLICY = "OMP_WAIT_POLICY"
_CGROUPS = Path("/sys/fs/cgroup")


#: torch was loaded first, with nothing said of how its threads wait
_late = "torch" in sys.modules and _POLICY not in os.environ


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait, unless the user wants otherwise; torch reads it when it is loaded."""
    if not _late:
        os.environ.setdefault(_POLICY, "PASSIVE")


def warn_if_spinning(threads: int) -> None:
    """Say once where several threads will spin while they wait, since torch was loaded before this package."""
    if threads > 1 and _late:
        _warn()


@lru_cache(maxsize=1)
def _warn() -> None:
    warnings.warn(
        "torch was imported before robustbench_lite, so its threads spin while they wait, and runs side by side slow each"
        f" other down; import robustbench_lite first, or set {_POLICY}=PASSIVE (or ACTIVE, to have no warning)",
        stacklevel=3,
    )


def usable_cores() -> int:
    """How many processors this process may keep busy: by its affinity and by the quotas of its control groups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(count, _quota(_CGROUPS))))


def asked_threads() -> int | None:
    """The number of threads that the user wants, by OMP_NUM_THREADS; None where nobody says."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(text) if text.isdecimal() and int(text) else None


def _quota(top: Path, groups: str | None = None) -> float:
    """The processors that the control groups allow; infinite without a limit."""
    try:
        lines = (Path("/proc/self/cgroup").read_text() if groups is None else groups).splitlines()
    except OSError:
        return float("inf")
    found = [float("inf")]
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            found += [_limit(folder / "cpu.max") for folder in _upwards(top, place)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                found += [_limit_v1(folder) for folder in _upwards(top / name, place)]
    return min(found)


def _upwards(top: Path, place: str) -> list[Path]:
    folder = top / place.lstrip("/")
    return [folder, *(one for one in folder.parents if one == top or top in one.parents)]


def _limit(file: Path) -> float:
    """Of `cpu.max`: quota and period in microseconds, or `max`."""
    try:
        quota, period = file.read_text().split()
        return float("inf") if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")


def _limit_v1(folder: Path) -> float:
    try:
        quota, period = (float((folder / f"cpu.cfs_{what}_us").read_text()) for what in ("quota", "period"))
        return quota / period if quota > 0 else float("inf")
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")
