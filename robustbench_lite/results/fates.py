"""What became of each sample: records in, one small frame per attack out. All counting in `results` is over these.

A *fate* frame is indexed by the sample's position in the test split and has the columns
    right     1.0 right and accepted on the clean image, 0.0 not, NaN not known
    robust    1.0 right and broken by no valid example, 0.0 not, NaN no verdict (a crash, an unfinished run)
    left_out  the attack had nothing to do with this sample (its label is the target)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from robustbench_lite.errors import UserError

SYSTEM = ("dataset", "model", "defense", "threat")
CELL = (*SYSTEM, "attack")
NEEDED = (
    *CELL,
    *("adaptive", "index", "label", "clean_prediction", "broken", "valid", "reason", "linf", "l2", "l1", "l0"),
    *("forwards", "backwards", "norm", "eps", "target", "target_hit", "clean_score", "broken_8bit"),
    *("seed", "break_forward", "key"),
)
FAILED, LEFT_OUT, CLEAN_WRONG, NAN_SCORES = "failed", "target-is-label", "clean-wrong", "nan-scores"

System = tuple[str, str, str, str]
CellKey = tuple[str, str, str, str, str]
Expected = Mapping[CellKey, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One attack on one system under one threat: its records, and its fates with unfinished samples filled in."""

    key: CellKey
    rows: pd.DataFrame
    fates: pd.DataFrame

    @property
    def counted(self) -> pd.DataFrame:
        """The fates of the samples that this attack was about."""
        return self.fates[~self.fates["left_out"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One system under one threat: every attack on it, and each sample's worst case over them."""

    system: System
    cells: tuple[Cell, ...]
    worst: pd.DataFrame


def check(records: pd.DataFrame, expected: Expected | None = None) -> None:
    """Refuse what is not a table of records; there may be no rows where some were expected and none came.

    Raises:
        UserError: no rows, columns missing, or a sample that occurs twice in a cell.
    """
    missing = [name for name in NEEDED if name not in records.columns]
    if missing:
        raise UserError(f"these are not records: the columns {', '.join(missing)} are missing")
    if records.empty and not expected:
        raise UserError("there are no records; run an evaluation first")
    twice = records.duplicated([*CELL, "adaptive", "index"])
    if twice.any():
        row = records[twice].iloc[0]
        raise UserError(
            f"sample {row['index']} occurs twice for {row['attack']} on {row['model']} with {row['defense']};"
            " give the records of one run, with one seed"
        )


def trials(records: pd.DataFrame, expected: Expected | None = None) -> Iterator[Trial]:
    """Every system and threat, in the order of first appearance (of the plan, where `expected` is given).

    Args:
        records: one row a sample and cell.
        expected: how many samples each cell was to have. A cell that has fewer, or none, is unfinished.

    Raises:
        UserError: as `check`.
    """
    check(records, expected)
    expected = expected or {}
    found = [(_key(key), rows) for key, rows in records.groupby([*CELL, "adaptive"], sort=False)]
    have = {key for key, _ in found}
    every = [*found, *((key, records.iloc[:0]) for key in expected if key not in have)]
    place = {key: number for number, key in enumerate(expected)}
    every.sort(key=lambda cell: place.get(cell[0], len(place)))  # stable: what was not expected comes as it came
    for system in dict.fromkeys(key[:4] for key, _ in every):
        yield _trial(system, [cell for cell in every if cell[0][:4] == system], expected)


def fates_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The fates of one cell's records. An invalid example has broken nothing, whatever its row says."""
    reason = rows["reason"].fillna("").to_numpy(dtype=str)
    failed, left_out = reason == FAILED, reason == LEFT_OUT
    right = _right(rows, reason)
    broken = rows["broken"].to_numpy(dtype=bool) & rows["valid"].to_numpy(dtype=bool)
    robust = np.where(right == 0, 0.0, np.where(failed, np.nan, (~broken).astype(float)))
    index = pd.Index(rows["index"].to_numpy(dtype=np.int64), name="index")
    return pd.DataFrame({"right": right, "robust": robust, "left_out": left_out}, index=index)


def worst_case(fates: Sequence[pd.DataFrame], samples: pd.Index) -> pd.DataFrame:
    """Per sample over several attacks: robust where none broke it, no verdict where one is missing and none broke it.

    A sample that every attack left out is not there.
    """
    aligned = [frame.reindex(samples) for frame in fates]
    left_out = np.stack([frame["left_out"].reindex(samples, fill_value=False).to_numpy(dtype=bool) for frame in fates])
    robust = np.stack([frame["robust"].to_numpy(dtype=float) for frame in aligned])
    right = np.stack([frame["right"].to_numpy(dtype=float) for frame in aligned])
    robust = np.where(left_out, 1.0, robust)
    lost, open_ = (robust == 0).any(axis=0), np.isnan(robust).any(axis=0)
    known = np.isfinite(right).any(axis=0)
    worst = np.where(lost, 0.0, np.where(open_, np.nan, 1.0))
    clean = np.where((right == 0).any(axis=0), 0.0, np.where(known, 1.0, np.nan))
    frame = pd.DataFrame({"right": clean, "robust": worst, "left_out": left_out.all(axis=0)}, index=samples)
    return frame[~frame["left_out"]]


def _right(rows: pd.DataFrame, reason: np.ndarray) -> np.ndarray:
    clean = rows["clean_prediction"].to_numpy(dtype=np.int64)
    wrong = (reason == CLEAN_WRONG) | (clean != rows["label"].to_numpy(dtype=np.int64))
    # NaN at norm 0 is NaN on the clean image, where the prediction means nothing.
    wrong |= (reason == NAN_SCORES) & (rows["linf"].to_numpy(dtype=float) == 0)
    # A crash may have come before the clean answer, or before the detector's.
    unknown = (reason == FAILED) & ((clean < 0) | (~wrong & rows["clean_score"].notna().to_numpy()))
    return np.where(unknown, np.nan, (~wrong).astype(float))


def _trial(system: System, cells: list[tuple[CellKey, pd.DataFrame]], expected: Expected) -> Trial:
    raw = [fates_of(rows) for _, rows in cells]
    everyone = _union(raw, max((expected.get(key, 0) for key, _ in cells), default=0))
    known = _known(raw).reindex(everyone)
    filled = []
    for (key, rows), fates in zip(cells, raw, strict=True):
        short = expected.get(key, 0) - len(fates)
        samples = fates.index.append(everyone.difference(fates.index, sort=False)[: max(0, short)])
        filled.append(Cell(key=key, rows=rows, fates=_fill(fates, samples, known)))
    return Trial(system=system, cells=tuple(filled), worst=worst_case([cell.fates for cell in filled], everyone))


def _key(group: object) -> CellKey:
    dataset, model, defense, threat, attack, _ = cast("tuple[str, ...]", group)
    return dataset, model, defense, threat, attack


def _union(fates: Sequence[pd.DataFrame], at_least: int) -> pd.Index:
    """All samples of a system, in order; negative numbers stand for those of which not even the index is known."""
    index = np.unique(np.concatenate([frame.index.to_numpy() for frame in fates]))
    unseen = np.arange(-1, -1 - max(0, at_least - len(index)), -1)
    return pd.Index(np.concatenate([index, unseen]).astype(np.int64), name="index")


def _known(fates: Sequence[pd.DataFrame]) -> pd.Series:
    """What any attack's records say of a sample's clean image."""
    every = pd.concat([frame["right"] for frame in fates]).dropna()
    return every.groupby(level=0).min()


def _fill(fates: pd.DataFrame, samples: pd.Index, known: pd.Series) -> pd.DataFrame:
    """Add the samples that a cell lacks, and what other attacks tell of the clean images."""
    right = fates["right"].reindex(samples).fillna(known)
    robust = fates["robust"].reindex(samples).mask(right == 0, 0.0)
    left_out = fates["left_out"].reindex(samples, fill_value=False)
    return pd.DataFrame({"right": right, "robust": robust, "left_out": left_out})
