"""From a run to rows of a leaderboard: what its records say of every system under every threat."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import (
    BESIDE,
    CHECKS,
    CLEAN,
    KEY,
    SAMPLES,
    TIMINGS,
    WORST,
    marks,
)
from robustbench_lite.leaderboard.plan import plan_digest
from robustbench_lite.leaderboard.samples import packed
from robustbench_lite.leaderboard.slices import slice_digest
from robustbench_lite.results.claims import base_of
from robustbench_lite.results.detection import detection
from robustbench_lite.results.fates import Cell, Expected, Trial, trials, worst_case
from robustbench_lite.results.metrics import flags_of
from robustbench_lite.results.statistics import clopper_pearson
from robustbench_lite.run.evaluate import expected_of
from robustbench_lite.run.output import read_environment, read_physical, read_run
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.run_folder import lost
from robustbench_lite.zoo import architecture_of

_DIGITS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a run says, as frames: rows without ranks, samples, clocks and checks; see `columns`."""

    rows: pd.DataFrame
    samples: pd.DataFrame
    timings: pd.DataFrame
    checks: pd.DataFrame
    beside: Mapping[str, pd.DataFrame]
    images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    data: str = ""

    def ranked(self) -> Board:
        """The same as a leaderboard."""
        board = Board.of(self.rows, self.samples, self.timings, self.beside)
        return replace(board, checks=self.checks, images=self.images, data=self.data)


def found_in(folder: Path) -> Found:
    """The rows of a run that `rbl evaluate --out` wrote, from its records alone.

    Raises:
        UserError: the folder holds no run, or one without a verdict on the clean images.
    """
    records, timings, diagnostics = read_run(folder)
    data, images = data_of(folder), images_of(folder)
    if not data:
        raise lost(folder / "environment.json", "which weights and data were evaluated")
    digest = slice_digest(data, images)
    told = Told(
        environment=read_environment(folder), slice=digest, plan=_plan(folder), timings=timings,
        physical=read_physical(folder),
    )  # fmt: skip
    found = found_of(records, told, diagnostics, expected=expected_of(timings))
    return replace(found, images={digest: tuple(images)}, data=data)


def found_of(
    records: pd.DataFrame, told: "Told", diagnostics: pd.DataFrame | None = None, *, expected: Expected | None = None
) -> Found:
    """The same of records in memory.

    Raises:
        UserError: as `metrics.summarise`.
    """
    every = list(trials(records, expected))
    rows = [_row(trial, told, flags_of(trial.system, diagnostics)) for trial in every]
    samples = [sample for trial in every for sample in lines_of(trial)]
    clocks = [_clock(trial, told) for trial in every]
    return Found(
        rows=pd.DataFrame(rows),
        samples=pd.DataFrame(samples, columns=list(SAMPLES)),
        timings=pd.DataFrame(clocks, columns=list(TIMINGS)),
        checks=pd.DataFrame(columns=list(CHECKS)) if diagnostics is None else diagnostics.reindex(columns=list(CHECKS)),
        beside={"detection": _beside("detection", detection(records)), "physical": _beside("physical", told.physical)},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What stands in a run's folder beside the records."""

    environment: Mapping[str, Any]
    slice: str
    plan: str
    timings: pd.DataFrame
    physical: pd.DataFrame = field(default_factory=pd.DataFrame)

    def of(self, trial: Trial) -> Mapping[str, Any]:
        """What is told of the trial's system."""
        _, model, defense, _ = trial.system
        found: Mapping[str, Any] = self.environment.get("systems", {}).get(f"{model} | {defense}", {})
        return found


def _row(trial: Trial, told: Told, flags: str) -> dict[str, Any]:
    system = told.of(trial)
    plain, adaptive = ([cell for cell in trial.cells if _adaptive(cell) is wanted] for wanted in (False, True))
    hides = bool(system.get("hides")) or not system.get("audited", True)
    worst, clean = trial.worst["robust"], trial.worst["right"]
    share, low, high = _interval(worst)
    right, clean_low, clean_high = _interval(clean)
    fired = ";".join(flag for flag in flags.split(";") if not flag.endswith("?"))
    return {
        **_key(trial),
        "mark": marks(fired, unfinished=math.isnan(share), not_adaptive=hides and not adaptive),
        "training": system.get("defense", ""),
        "architecture": system.get("architecture", architecture_of(trial.system[1])),
        "parameters": system.get("parameters", ""),
        "n": len(trial.worst),
        **{"clean": right, "clean_low": clean_low, "clean_high": clean_high},
        **_by_attack(trial),
        "claimed": _together(trial, plain) if hides else share,
        "adaptive": _together(trial, adaptive) if hides else share,
        **{"worst_case": share, "worst_low": low, "worst_high": high},
        **{"best_known": share, "best_known_source": "" if math.isnan(share) else "here"},
        "flags": fired,
        "queries": _queries(trial, trial.cells),
        **{"seeds": 1, "seed_spread": math.nan},
        **{"digest": system.get("digest", ""), "slice": told.slice, "plan": told.plan},
    }


def _by_attack(trial: Trial) -> dict[str, float]:
    """Robust accuracy by attack; of several forms of one (plain, adaptive, averaged), together."""
    forms: dict[str, list[Cell]] = {}
    for cell in trial.cells:
        forms.setdefault(base_of(cell.key[4]), []).append(cell)
    return {attack: _together(trial, cells) for attack, cells in forms.items()}


def _together(trial: Trial, cells: Sequence[Cell]) -> float:
    """Robust accuracy under all of these attacks; NaN without any."""
    return _share(worst_case([cell.fates for cell in cells], trial.worst.index)["robust"]) if cells else math.nan


def lines_of(trial: Trial) -> Iterator[dict[str, Any]]:
    """A line for the clean images, the worst case, and every attack; none where a sample has no verdict."""
    worst = trial.worst
    if worst["right"].notna().all():
        yield _sample(trial, CLEAN, False, worst["right"])
    if worst["robust"].notna().all():
        yield _sample(trial, WORST, any(_adaptive(cell) for cell in trial.cells), worst["robust"])
    for cell in trial.cells:
        # An attack that leaves some images out is about others; its own share is in the row.
        fates = cell.fates["robust"]
        if len(fates) == len(worst) and not cell.fates["left_out"].any() and fates.notna().all():
            line = _sample(trial, cell.key[4], _adaptive(cell), fates.reindex(worst.index))
            yield line | {"queries": _queries(trial, [cell])}


def _sample(trial: Trial, attack: str, adaptive: bool, kept: pd.Series) -> dict[str, Any]:
    left = (kept == 1).to_numpy(dtype=bool)
    told = {"attack": attack, "adaptive": str(adaptive).lower(), "n": len(left), "left": packed(left)}
    return {**_key(trial), **told, "queries": math.nan}


def _beside(what: str, found: pd.DataFrame) -> pd.DataFrame:
    """Figures of detectors or of a camera in the columns and to the digits that a leaderboard keeps."""
    names = BESIDE[what]
    told = found.reindex(columns=list(names)).copy()
    for name in names[len(KEY) + 2 :]:
        told[name] = pd.to_numeric(told[name], errors="coerce").round(_DIGITS)
    return told.assign(adaptive=told["adaptive"].astype(str).str.lower())


def _clock(trial: Trial, told: Told) -> dict[str, Any]:
    dataset, model, defense, threat = trial.system
    names = told.timings[["dataset", "model", "defense", "threat"]]
    own = told.timings[(names == [dataset, model, defense, threat]).all(axis=1)]
    seconds = float(own["seconds"].sum())
    each = round(seconds / len(trial.worst), _DIGITS)
    clock = {"seconds": round(seconds, 2), "seconds_per_sample": each, "cost": _cost(trial, own)}
    return {**_key(trial), **clock, "device": told.environment.get("device", "")}


def _cost(trial: Trial, timings: pd.DataFrame) -> float:
    """The work of the attacks in units of the bare forwards and gradients that they asked for; NaN where it was not measured.

    Attacks that learn first are left out: what that takes is counted apart, and no query of a sample.
    """
    work = bare = 0.0
    if "unit_forward" not in timings:  # a run of before they were measured
        return math.nan
    for row in timings.to_dict("records"):
        rows = [cell.rows[cell.rows["key"] == row["key"]] for cell in trial.cells]
        forwards, backwards = (float(sum(one[name].sum() for one in rows)) for name in ("forwards", "backwards"))
        if not float(row["setup_queries"]) and forwards:
            gradients = backwards * float(row["unit_gradient"]) if backwards else 0.0
            work += float(row["busy_seconds"])
            bare += forwards * float(row["unit_forward"]) + gradients
    return round(work / bare, 3) if bare > 0 and math.isfinite(work) else math.nan


def _key(trial: Trial) -> dict[str, str]:
    dataset, model, defense, threat = trial.system
    return dict(zip(KEY, (dataset, threat, model, defense), strict=True))


def _adaptive(cell: Cell) -> bool:
    return bool(cell.rows["adaptive"].astype(bool).any()) if len(cell.rows) else False


def _queries(trial: Trial, cells: Sequence[Cell]) -> float:
    """Forwards and backwards a sample, over these attacks; those that were not attacked had none."""
    rows = pd.concat([cell.rows for cell in cells])
    total = float(rows["forwards"].sum() + rows["backwards"].sum())
    return round(total / max(1, len(trial.worst)), 1)


def _share(values: pd.Series) -> float:
    return round(float((values == 1).mean()), _DIGITS) if len(values) and values.notna().all() else math.nan


def _interval(values: pd.Series) -> tuple[float, float, float]:
    if not len(values) or values.isna().any():
        return math.nan, math.nan, math.nan
    low, high = clopper_pearson(int((values == 1).sum()), len(values))
    return _share(values), round(low, _DIGITS), round(high, _DIGITS)


def data_of(folder: Path) -> str:
    """The digest of the run's dataset."""
    return str(read_environment(folder).get("data", {}).get("digest", ""))


def images_of(folder: Path) -> list[int]:
    """Positions of the run's images, in the order of its samples.

    Raises:
        UserError: the folder holds no run.
    """
    try:
        chosen = json.loads((folder / "slice.json").read_text(encoding="utf-8"))["indices"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{str(folder)!r} holds no run; give the folder that rbl evaluate --out wrote") from None
    return [int(index) for index in chosen]


def _plan(folder: Path) -> str:
    """`plan_digest` of the run; nothing where its plan cannot be read."""
    try:
        return plan_digest(Plan.load(folder / "plan.toml"))
    except UserError:
        return ""
