"""Who works in a run's folder: one plan, however many processes run it at once or one after the other."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robustbench_lite.cache import writing
from robustbench_lite.errors import UserError
from robustbench_lite.run.plan import PLURAL, Plan

try:
    import fcntl
except ImportError:  # a system without these locks: nobody is kept out
    fcntl = None  # type: ignore[assignment]

#: what a running process holds a lock on, and says its plan in
_CLAIM = ".claim.json"
#: how often, and how many seconds apart, a claim is read that is just being written
_AGAIN, _PAUSE = 50, 0.02
#: fields of a plan that say where and how it runs, and nothing of what is in its tables
_ASIDE = frozenset(
    {"device", "batch_size", "data_root", "download", "allow_pickle", "allow_code", "diagnostics", "examples"}
)


@contextmanager
def claimed(folder: Path | None, plan: Plan, *, fresh: bool = False) -> Iterator[None]:
    """Inside, the folder is this plan's: a run of the same plan shares it, one of another plan is refused.

    An earlier run there may have had more or fewer models, defenses, attacks and threats, and other samples: what both have is
    looked up.

    Args:
        folder: of the run; None claims nothing. fresh: what the folder holds of an earlier run is forgotten.

    Raises:
        UserError: another plan is running there, or has its results there.
    """
    if folder is None:
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not fresh:
        _check_results(folder, plan)
    if fcntl is None:
        yield
        return
    with writing(folder):
        place = os.open(folder / _CLAIM, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(place, folder, plan)
        yield
    finally:
        os.close(place)  # and the lock with it; a process that is killed loses it too


def _check_results(folder: Path, plan: Plan) -> None:
    """Refuse a plan that is another one than the folder's, and no part or extension of it."""
    if not (folder / "timings.parquet").is_file():
        return
    try:
        text = (folder / "plan.toml").read_text(encoding="utf-8")
        if not text.strip():  # cut off; as a plan it would be the default one
            return
        held = Plan.from_toml(text)
    except (OSError, UnicodeDecodeError, UserError):  # without a plan there are no tables that could be spoilt
        return
    lost = [name for name in _differences(asdict(held), asdict(plan)) if not _nested(name, held, plan)]
    if lost:
        raise UserError(
            f"{str(folder)!r} holds the results of another plan ({_told(lost, asdict(held), asdict(plan))});"
            " give this one a folder of its own with --out, or --fresh to forget the other"
        )


def _nested(name: str, held: Plan, plan: Plan) -> bool:
    """Whether what differs is only how much of the same is run."""
    if name in PLURAL:
        one, other = set(getattr(held, name)), set(getattr(plan, name))
        return one <= other or other <= one
    return name in ("samples", "slice_seed")


def _lock(place: int, folder: Path, plan: Plan) -> None:
    """Hold the claim together with all runs of the same plan.

    Raises:
        UserError: a run of another plan holds it.
    """
    own = asdict(plan)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody is at work there
        pass
    else:
        os.ftruncate(place, 0)
        os.pwrite(place, json.dumps({"process": os.getpid(), "plan": own}).encode(), 0)
    fcntl.flock(place, fcntl.LOCK_SH)
    claim = _read(place)
    lost = _differences(claim.get("plan", own), json.loads(json.dumps(own)))
    if lost:
        raise UserError(
            f"{str(folder)!r} is in use: process {claim.get('process')} runs another plan there"
            f" ({_told(lost, claim['plan'], own)}); give this one a folder of its own with --out, or wait for the other"
        )


def _read(place: int) -> dict[str, Any]:
    """What the claim says; nothing where nobody can read it."""
    for _ in range(_AGAIN):
        try:
            told = json.loads(os.pread(place, 1 << 20, 0))
            return told if isinstance(told, dict) and isinstance(told.get("plan"), dict) else {}
        except ValueError:  # it is just being written
            time.sleep(_PAUSE)
    return {}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in other if name not in _ASIDE and one.get(name) != other[name]]


def _told(names: list[str], held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The fields that differ, such as `threats: Linf:0.1, not Linf:0.2`."""
    return "; ".join(f"{name}: {_words(held.get(name))}, not {_words(now[name])}" for name in names)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
