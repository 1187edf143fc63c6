"""What the comparative table says, before it is drawn: summary in, titles, cells and notes out."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from robustbench_lite.results.compare import lines
from robustbench_lite.results.metrics import WORST_CASE
from robustbench_lite.results.sources import source_lines
from robustbench_lite.results.thresholds import THRESHOLDS

INTERVALS = "Intervals are 95% Clopper-Pearson over test images only (not over training seeds)."
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defended model: the texts of its cells by column."""

    model: str
    defense: str
    clean: str
    attacks: tuple[str, ...]
    lowest: tuple[bool, ...]
    worst: str
    flags: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One comparative table: a dataset under a threat."""

    title: str
    attacks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def grids(summary: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> Iterator[Grid]:
    """A table for each dataset and threat, in the order of the summary."""
    for (dataset, threat), part in summary.groupby(["dataset", "threat"], sort=False):
        paired = () if comparisons is None else lines(comparisons, str(dataset), str(threat))
        yield _grid(f"{dataset}", f"{threat}", part, paired)


def percent(value: float) -> str:
    """A share in percent with one digit after the point; `-` for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def amount(value: float) -> str:
    """A count or seconds: a digit after the point below 100; `-` for NaN."""
    return "-" if math.isnan(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def interval(row: pd.Series) -> str:
    """Robust accuracy of a summary row with its interval; only the bounds where samples have no verdict."""
    bounds = f"[{percent(row['robust_acc_low'])}, {percent(row['robust_acc_high'])}]"
    if not math.isnan(row["robust_acc"]):
        return f"{percent(row['robust_acc'])} {bounds}"
    return "-" if math.isnan(row["robust_acc_low"]) else f"{bounds}!"


def distance(value: float) -> str:
    """A median norm with three digits; `inf` where more than half of the samples were not broken."""
    return "-" if math.isnan(value) else "inf" if math.isinf(value) else f"{value:.3g}"


def _grid(dataset: str, threat: str, part: pd.DataFrame, paired: Sequence[str]) -> Grid:
    nearest = bool(part["eps"].isna().all() and (part["norm"] != "").any())
    attacks = tuple(dict.fromkeys(part["attack"][part["attack"] != WORST_CASE]))
    letters = _letters(part["flags"])
    rows = tuple(_rows(part, attacks, letters, nearest))
    norm = "/".join(sorted(set(part["norm"]) - {""}))
    what = f"median {norm} norm that breaks (correctly classified images)" if nearest else "robust accuracy in %"
    return Grid(
        title=f"{dataset} · {threat} · n = {_span(part['n'][part['attack'] == WORST_CASE])} test images · {what}",
        attacks=attacks,
        rows=rows,
        notes=(*_notes(part, rows, letters, nearest), *paired),
    )


def _rows(part: pd.DataFrame, attacks: tuple[str, ...], letters: dict[str, str], nearest: bool) -> Iterator[Row]:
    for model, defense, own in systems(part):
        worst = own[own["attack"] == WORST_CASE].iloc[0]
        by_attack = dict(iter(own.groupby("attack")))
        values = [_value(by_attack.get(attack), nearest) for attack in attacks]
        yield Row(
            model=str(model),
            defense=str(defense),
            clean=percent(worst["clean_acc"]),
            attacks=tuple(text for text, _ in values),
            lowest=_lowest([value for _, value in values]),
            worst=distance(worst["median_norm"]) if nearest else interval(worst),
            flags=_marks(worst["flags"], letters),
        )


def _value(rows: pd.DataFrame | None, nearest: bool) -> tuple[str, float]:
    """Text and number of one attack's cell; the lower of two where it ran plain and adaptive, bounds where one has not ended."""
    if rows is None:
        return "", math.nan
    name, text = ("median_norm", distance) if nearest else ("robust_acc", percent)
    known, open_ = rows[name].dropna(), rows[rows["robust_acc"].isna()]
    if len(known) and (nearest or not len(open_)):
        return text(float(known.min())), float(known.min())
    low, high = open_["robust_acc_low"].min(), min(open_["robust_acc_high"].max(), known.min() if len(known) else 1.0)
    return ("-!" if nearest or math.isnan(low) else f"{100 * low:.0f}-{100 * high:.0f}!"), math.nan


def systems(part: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of each model and defense; models in the order of first appearance, each with all its defenses."""
    for model, same in part.groupby("model", sort=False):
        for defense, own in same.groupby("defense", sort=False):
            yield str(model), str(defense), own


def _lowest(values: Sequence[float]) -> tuple[bool, ...]:
    """Which attack found most, where they differ."""
    known = {value for value in values if not math.isnan(value)}
    return tuple(len(known) > 1 and value == min(known) for value in values)


def _letters(flags: pd.Series) -> dict[str, str]:
    """A letter for each diagnostic that is mentioned, fired ones first."""
    marks = [mark for text in flags.unique() for mark in text.split(";") if mark]
    fired = [mark for mark in marks if not mark.endswith("?")]
    names = dict.fromkeys(mark.rstrip("?") for mark in [*fired, *marks])
    return {name: _LETTERS[place] if place < 26 else f"f{place}" for place, name in enumerate(names)}


def _marks(flags: str, letters: dict[str, str]) -> str:
    marks = [mark for mark in flags.split(";") if mark]
    texts = sorted(letters[mark.rstrip("?")] + "?" * mark.endswith("?") for mark in marks)
    return " ".join(texts)


def _notes(part: pd.DataFrame, rows: Sequence[Row], letters: dict[str, str], nearest: bool) -> Iterator[str]:
    fired = {mark for text in part["flags"] for mark in text.split(";")}
    for name, letter in letters.items():
        why = THRESHOLDS[name].why if name in THRESHOLDS else ""
        if name in fired:
            yield f"{letter} {name}" + (f": {why}." if why else "")
    open_ = [f"{letter}? {name}" for name, letter in letters.items() if f"{name}?" in fired]
    if open_:
        yield f"Not checked: {', '.join(open_)}."
    yield from _counts(part)
    if any(any(row.lowest) for row in rows):
        yield "* strongest attack of the row." if nearest else "* strongest attack of the row (lowest robust accuracy)."
    if not nearest:
        yield INTERVALS


def _counts(part: pd.DataFrame) -> Iterator[str]:
    if (part["failed"] > 0).any():
        yield "! some samples have no verdict (a crash or an unfinished run): not a robust accuracy, only its bounds."
    for _, row in part[part["failure"] != ""].iterrows():
        yield f"! {row['attack']} on {row['model']}, {row['defense']}: {row['failure']}"
    for _, rows in part[part["source_agreement"].notna()].groupby("attack", sort=False):
        yield from source_lines(rows)
    for attack, rows in part[(part["left_out"] > 0) & (part["attack"] != WORST_CASE)].groupby("attack", sort=False):
        yield f"{attack}: {_span(rows['left_out'])} left out, whose label is the target."
    for attack, rows in part[(part["invalid"] > 0) & (part["attack"] != WORST_CASE)].groupby("attack", sort=False):
        yield f"{attack}: {rows['invalid'].sum()} invalid, which counts as not broken."


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"


def header_lines(attack: str, width: int = 12) -> list[str]:
    """An attack's text as the lines of a narrow column head: the name, then an option a line."""
    return [line for part in re.split(r"(?<=[:,;])", attack) for line in folded(part, width)]


def folded(text: str, width: int) -> list[str]:
    """A spec's text in lines of at most that width, broken after `: , ; + = -` where there is one; nothing is lost."""
    lines = [""]
    for part in re.split(r"(?<=[:,;+=-])", text):
        if len(lines[-1]) + len(part) > width and lines[-1]:
            lines.append("")
        cut = [part[at : at + width] for at in range(0, len(part), width)]
        lines[-1:] = [lines[-1] + "".join(cut[:1]), *cut[1:]]
    return lines
