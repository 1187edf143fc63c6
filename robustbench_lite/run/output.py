"""What a run leaves in its folder, and how it is read back."""

import contextlib
import json
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from robustbench_lite import __version__
from robustbench_lite.cache import atomic_savez, atomic_write, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.escaping import csv_text, printable
from robustbench_lite.results import curve as curves
from robustbench_lite.results import physical as physics
from robustbench_lite.results import plots, tables
from robustbench_lite.results import reconstruction as reconstructions
from robustbench_lite.results.detection import detection, roc
from robustbench_lite.results.detection_plot import plot_detection
from robustbench_lite.results.stages import both
from robustbench_lite.results.sweep import plot_sweep
from robustbench_lite.run.cell import Cell
from robustbench_lite.run.parquet import read_table, write_table
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.records import Records
from robustbench_lite.run.run_folder import read_environment as read_environment
from robustbench_lite.run.run_folder import read_examples, read_timings
from robustbench_lite.run.run_folder import read_physical as read_physical
from robustbench_lite.run.run_folder import read_reconstruction as read_reconstruction
from robustbench_lite.run.run_folder import read_run as read_run
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.threads import most_threads
from robustbench_lite.run.treatment import hides, treatment

#: a hidden file older than this many seconds is no longer being written by anybody
_LEFT = 3600
#: what a clock tells of the work, and the units that were measured beside it
_MEASURED = ("seconds", "busy_seconds", "unit_forward", "unit_gradient")
#: the folder of what the checks found
_CHECKS = "checks"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "pyarrow", "scikit-learn")


class Output:
    """The folder of a run; with `folder` None everything stays in memory.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, plan: Plan, *, fresh: bool = False) -> None:
        self.folder, self._plan, self._fresh = folder, plan, fresh
        self.records = Records(None if folder is None else folder / "records", fresh=fresh)
        self._clocks: list[dict[str, Any]] = []
        self._before: dict[str, dict[str, Any]] = {}
        self._environment: dict[str, Any] = {}
        self._slice: dict[str, Any] = {}
        if folder is not None and not fresh:
            self._before = {
                str(row["key"]): {str(name): value for name, value in row.items()}
                for row in read_timings(folder).to_dict("records")
            }

    @property
    def checks(self) -> Path | None:
        """Where it is kept what the checks found; see `run.checks`."""
        return None if self.folder is None else self.folder / _CHECKS

    @property
    def threads(self) -> int | None:
        """How many threads an earlier run there has chosen, if this machine has as many; its keys tell of them."""
        found = None if self.folder is None else read_environment(self.folder).get("threads")
        return found if type(found) is int and 1 <= found <= most_threads() else None

    def begin(self, data: Dataset, indices: np.ndarray, device: torch.device) -> None:
        """Write what is known before the run: the plan, the environment, the slice."""
        self._environment = environment(data, device)
        if self.folder is None:
            return
        self._slice = {"dataset": data.name, "split": data.split, "indices": indices.tolist()}
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _sweep(self.folder)
            if self._fresh:
                shutil.rmtree(self.folder / _CHECKS, ignore_errors=True)
            self._state()

    def _state(self) -> None:
        """What is run, where, and on which images."""
        self._text("plan.toml", self._plan.to_toml())
        self._json("environment.json", self._environment)
        self._json("slice.json", self._slice)

    def plan_cells(self, subject: Subject, threat_text: str, cells: Iterable[Cell]) -> None:
        """Write which cells are about to run on a system, so that those are known that never end, and their records."""
        told = [[printable(cell.attack_text), cell.adaptive, cell.key] for cell in cells]
        self._know(subject)["planned"][threat_text] = told
        if self.folder is not None:
            with writing(self.folder):
                self._json("environment.json", self._environment)

    def _know(self, subject: Subject) -> dict[str, Any]:
        """What is told of a system, as it is now."""
        systems = self._environment.setdefault("systems", {})
        name = f"{subject.model} | {subject.defense}"
        systems[name] = {**_facts(subject), "planned": systems.get(name, {}).get("planned", {})}
        found: dict[str, Any] = systems[name]
        return found

    def clock(self, clock: dict[str, Any], subject: Subject | None) -> dict[str, Any]:
        """Add the seconds that earlier runs spent on the cell, and write the clocks so far.

        Args:
            subject: what was attacked; None where it could not be built.
        """
        clock = self._added(
            {name: printable(value) if isinstance(value, str) else value for name, value in clock.items()}
        )
        self._clocks.append(clock)
        if subject is not None:
            self._know(subject)
        if self.folder is not None:
            frame = pd.DataFrame(self._clocks)
            with writing(self.folder):
                atomic_write(self.folder / "timings.parquet", lambda path: frame.to_parquet(path, index=False))
        return clock

    def computed(self, clock: dict[str, Any]) -> None:
        """Another process has computed this cell for this run, in so many seconds."""
        self._before[clock["key"]] = self._added(clock)
        self.records.trust(clock["key"])

    def finished(self, count: int) -> frozenset[tuple[str, str, str, str]]:
        """(model, defense, threat, attack) of the cells of so many samples that an earlier run has come to the end of."""
        rows = [row for row in self._before.values() if row["failed"] == "" and row["expected"] >= count]
        return frozenset((row["model"], row["defense"], row["threat"], row["attack"]) for row in rows)

    def _added(self, clock: dict[str, Any]) -> dict[str, Any]:
        """The clock with what was spent on its cell before."""
        before = self._before.get(clock["key"]) if clock["key"] else None
        if before is None:
            return clock
        now = clock["seconds"]
        clock = clock | {name: clock[name] + float(before.get(name, math.nan)) for name in ("seconds", "busy_seconds")}
        if now < 1.0 and before["failed"] == clock["failed"]:  # nothing was computed, only looked up
            clock |= {name: float(before.get(name, math.nan)) for name in _MEASURED}
        return clock | {"stages": both(clock["stages"], str(before.get("stages") or ""))}

    def held(self, key: str) -> frozenset[int]:
        """Indices of the examples of a cell that an earlier run has kept."""
        return frozenset() if self.folder is None else frozenset(read_examples(self.folder / "examples" / f"{key}.npz"))

    def examples(self, key: str, found: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Keep the adversarial examples of a cell, together with those that an earlier run kept."""
        if self.folder is None:
            return found
        path = self.folder / "examples" / f"{key}.npz"
        kept = {**read_examples(path), **found}
        if found:
            index = np.array(sorted(kept), dtype=np.int64)
            images = np.stack([kept[place] for place in index.tolist()])
            with writing(self.folder):
                atomic_savez(path, index=index, adv=images)
        return kept

    def measured(self, name: str, measure: Callable[[], pd.DataFrame], kind: str = "physical") -> pd.DataFrame:
        """What was measured under this name, by this run or an earlier one; `kind` is the folder that it is kept in."""
        if self.folder is None:
            return measure()
        path = self.folder / kind / f"{name}.parquet"
        held = read_table(path, name)
        if held is not None:
            found: pd.DataFrame = held.to_pandas()
            return found
        frame = measure()
        with writing(self.folder):
            write_table(path, pa.Table.from_pandas(frame, preserve_index=False), name)
        return frame

    def end(self, result: Any) -> None:
        """Write the results: summary, diagnostics, curve, pictures."""
        result.environment, result.out = self._environment, self.folder
        if self.folder is None:
            return
        with writing(self.folder):
            self._state()  # again: somebody may have deleted the folder meanwhile
            self._text("diagnostics.csv", csv_text(result.diagnostics))
            if len(result.records):
                for key, rows in result.records.groupby("key", sort=False):
                    self.records.restore(str(key), rows)
                write_results(self.folder, result.table, result.records)
                write_physical(self.folder, result.physical, result.sweep, result.records)
                write_reconstruction(self.folder, result.reconstruction, result.panel)
                write_detection(self.folder, result.records)
                if len(pairs := result.comparisons):
                    self._text("comparisons.csv", csv_text(pairs))
                if len(found := result.claims):
                    self._text("claims.csv", csv_text(found))
                if len(stages := result.stages):
                    self._text("stages.csv", csv_text(stages))
                _picture(result, self.folder / "examples.png")

    def _text(self, name: str, text: str) -> None:
        assert self.folder is not None
        atomic_write(self.folder / name, text.encode())

    def _json(self, name: str, value: Any) -> None:
        self._text(name, json.dumps(value, indent=2, default=str) + "\n")


def _facts(subject: Subject) -> dict[str, Any]:
    """What is told of a system beside its numbers."""
    system = subject.system
    return {
        "digest": system.digest,
        "parameters": system.parameters,
        **system.notes.get("checkpoint", {}),
        **{name: system.notes[name] for name in ("loading", "told", "random") if name in system.notes},
        "hides": hides(system),
        "audited": subject.adaptive or subject.defense == "none",
        "adaptive attacks": treatment(system),
    }


def write_results(folder: Path, summary: pd.DataFrame, records: pd.DataFrame) -> None:
    """summary.csv, and curve.csv with curve.png where several radii, or a minimum norm, make a curve."""
    atomic_write(folder / "summary.csv", tables.to_csv(summary).encode())
    if bool(summary["eps"].notna().any()):
        atomic_write(folder / "bars.png", partial(plots.plot_bars, summary))
    curve = curves.security_curve(records)
    if len(curve) and curve.groupby(["model", "defense", "norm", "attack"])["eps"].nunique().max() > 1:
        atomic_write(folder / "curve.csv", csv_text(curve).encode())
        atomic_write(folder / "curve.png", partial(plots.plot_curve, curve))


def write_physical(folder: Path, physical: pd.DataFrame, sweep: pd.DataFrame, records: pd.DataFrame) -> None:
    """survival.csv of systems that are random; behind a camera physical.csv, sweep.csv and sweep.png as well."""
    lives = physics.survival(records)
    for name, frame in (("survival", lives), ("physical", physical), ("sweep", sweep)):
        if len(frame):
            atomic_write(folder / f"{name}.csv", csv_text(frame).encode())
    if len(sweep):
        atomic_write(folder / "sweep.png", partial(plot_sweep, sweep))


def write_reconstruction(folder: Path, found: pd.DataFrame, panel: Sequence[reconstructions.Strip]) -> None:
    """reconstruction.csv and reconstruction.png, where reconstructions were attacked."""
    if len(found):
        text = csv_text(found)
        atomic_write(folder / "reconstruction.csv", text.encode())
    if panel:
        atomic_write(folder / "reconstruction.png", partial(reconstructions.plot_strips, panel))


def write_detection(folder: Path, records: pd.DataFrame) -> None:
    """detection.csv, roc.csv and roc.png, where some system has a detector."""
    found = detection(records)
    if not len(found):
        return
    corners = roc(records)
    for name, frame in (("detection", found), ("roc", corners)):
        atomic_write(folder / f"{name}.csv", csv_text(frame).encode())
    atomic_write(folder / "roc.png", partial(plot_detection, records))


def environment(data: Dataset, device: torch.device) -> dict[str, Any]:
    """Versions, machine, commit and digests: what somebody needs who wants the same numbers."""
    return {
        "robustbench-lite": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "git commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            **{"name": data.name, "split": data.split, "digest": data.digest(), "n": len(data.labels)},
            **({"provenance": dict(data.provenance)} if data.provenance else {}),
        },
    }


def _sweep(folder: Path) -> None:
    """Delete what runs that were killed while they wrote have left, but nothing that another may be writing now."""
    for left in folder.rglob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if left.is_file() and time.time() - left.stat().st_mtime > _LEFT:
                left.unlink()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str | None:
    """The commit of the folder that the run was started in, where it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _picture(result: Any, path: Path) -> None:
    """A grid of broken examples: for each system and attack the first kept one that broke."""
    rows = []
    for (model, defense, threat, attack), kept in result.examples.items():
        own = result.records
        own = own[
            (own["model"] == model)
            & (own["defense"] == defense)
            & (own["threat"] == threat)
            & (own["attack"] == attack)
        ]
        own = own[own["index"].isin(kept) & (own["reason"] == "") & own["index"].isin(result.clean_images)]
        best = own.sort_values(["broken", "index"], ascending=[False, True], kind="stable").head(1)
        rows += [(f"{attack}\n{defense}", row, kept[row["index"]]) for row in best.to_dict("records")]
    rows = rows[:10]
    if not rows or rows[0][2].shape[0] not in (1, 3):
        return
    draw = partial(
        plots.plot_examples,
        clean=np.stack([result.clean_images[row["index"]] for _, row, _ in rows]),
        adversarial=np.stack([adv for _, _, adv in rows]),
        labels=[row["label"] for _, row, _ in rows],
        clean_predictions=[row["clean_prediction"] for _, row, _ in rows],
        predictions=[row["prediction"] for _, row, _ in rows],
        class_names=result.class_names,
        rows=[text for text, _, _ in rows],
        title=f"{result.records['dataset'].iloc[0]}, {', '.join(result.plan.models)}, {', '.join(result.plan.threats)}",
    )
    atomic_write(path, draw)
