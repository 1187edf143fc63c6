"""What the charts of the page show: tables of a run in, charts with their legends and numbers out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from robustbench_lite.results.fates import SYSTEM
from robustbench_lite.results.grid import percent
from robustbench_lite.results.metrics import WORST_CASE
from robustbench_lite.results.page.charts import Axis, Bar, Line, bar_chart, line_chart, number, thinned
from robustbench_lite.results.run_data import RunData

#: charts of a kind, lines of a chart, and rows of numbers beside it; of more the page would be a book
MOST, LINES, _ROWS = 24, 12, 200
_LEAST_ALARM = 1e-3


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A chart, its legend (colour, dashed, name), its numbers as a table, and what is not drawn."""

    title: str
    svg: Markup
    legend: tuple[tuple[int, bool, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def claimed_and_actual(run: RunData) -> list[Panel]:
    """A panel a dataset and threat with a robust accuracy: every system's, and what it claims."""
    told = {tuple(row[name] for name in SYSTEM): float(row["claimed"]) for row in run.claims.to_dict("records")}
    known = run.claimed
    worst = run.summary[(run.summary["attack"] == WORST_CASE) & ~_nearest(run.summary)]
    panels = []
    for place, ((dataset, threat), own) in enumerate(worst.groupby(["dataset", "threat"], sort=False)):
        bars = [_bar(row, told, known.only(row), own["model"].nunique() > 1) for row in own.to_dict("records")]
        title = f"{dataset}, {threat}: claimed and actual robust accuracy"
        panels.append(
            Panel(
                title=title,
                svg=bar_chart(title, bars, f"claimed-{place}"),
                legend=(),
                head=("system", "clean %", "claimed %", "actual %", "from", "to"),
                rows=tuple(
                    (bar.name, *map(percent, (bar.clean, bar.claimed, bar.actual, bar.low, bar.high))) for bar in bars
                ),
            )
        )
    return panels


def security_curves(run: RunData) -> list[Panel]:
    """A panel a dataset, model and norm: a line a defense, the worst case over the attacks; all attacks in the numbers."""
    panels, known = [], run.claimed
    for place, ((dataset, model, norm), part) in enumerate(run.curve.groupby(["dataset", "model", "norm"], sort=False)):
        worst = part[part["attack"] == WORST_CASE]
        lines = []
        for colour, (defense, own) in enumerate(worst.groupby("defense", sort=False)):
            band = [(float(row["eps"]), float(row["low"]), float(row["high"])) for row in own.to_dict("records")]
            name = f"{defense}{known.mark(dataset, model, defense)}"
            points = _points(own, "eps")
            lines.append(Line(name=name, points=points, colour=colour, step=len(own) > 20, band=band))
        title = f"{dataset}, {model}, {norm}: robust accuracy over eps"
        axis = Axis(label=f"eps ({norm}, of an image in [0, 1])", most=float(part["eps"].max()))
        columns = ["defense", "attack", "eps", "robust_acc", "low", "high"]
        rows = [
            (str(d), str(a), number(float(e)), *map(percent, shares))
            for d, a, e, *shares in part[columns].itertuples(index=False)
        ]
        head = ("defense", "attack", "eps", "robust %", "from", "to")
        panels.append(_lines(title, lines, axis, f"curve-{place}", head, rows))
    return panels


def over_queries(run: RunData) -> list[Panel]:
    """A panel a system and threat, a line an attack: what is left after so many queries a sample."""
    panels, known = [], run.claimed
    for place, (system, part) in enumerate(run.queries.groupby(list(SYSTEM), sort=False)):
        groups = list(part.groupby(["attack", "adaptive"], sort=False))
        who = dict(zip(SYSTEM, system, strict=True))
        lines, rows = [], []
        attacks = list(part["attack"].unique())
        for (attack, adaptive), own in groups:
            plain = known.plain({**who, "attack": attack, "adaptive": adaptive})
            points = _points(own, "forwards")
            name = _named(attack, plain)
            lines.append(Line(name=name, points=points, colour=attacks.index(attack), dashed=plain, step=True))
            rows += [(name, number(x), percent(y)) for x, y in thinned(points, 20)]
        axis = Axis(
            label="queries of a sample (forwards)", most=max(2.0, float(part["forwards"].max())), log=True, least=1
        )
        head = ("attack", "queries", "not broken %")
        panels.append(_lines(_of(system, "accuracy over queries"), lines, axis, f"queries-{place}", head, rows))
    return panels


def over_time(run: RunData) -> list[Panel]:
    """A panel a dataset, model and threat, a line a defense: what is left after so many seconds of attacks."""
    panels, known = [], run.claimed
    for place, (who, part) in enumerate(run.time.groupby(["dataset", "model", "threat"], sort=False)):
        dataset, model, threat = map(str, who)
        lines, rows = [], []
        for colour, (defense, own) in enumerate(part.groupby("defense", sort=False)):
            name = f"{defense}{known.mark(dataset, model, defense, threat)}"
            lines.append(Line(name=name, points=_points(own, "seconds"), colour=colour, step=True))
            for row in own.to_dict("records"):
                told = f"after {_named(row['attack'], known.plain(row))}" if row["attack"] else "before any attack"
                rows.append((name, told, f"{row['seconds']:.2f}", percent(row["robust_acc"])))
        spent = part.loc[part["seconds"] > 0, "seconds"]
        least = 10.0 ** math.floor(math.log10(float(spent.min()))) if len(spent) else 0.1
        axis = Axis(
            label="seconds of attacks", most=max(2 * least, float(part["seconds"].max())), log=True, least=least
        )
        head = ("defense", "when", "seconds", "not broken %")
        title = f"{dataset}, {model}, {threat}: accuracy over time"
        panels.append(_lines(title, lines, axis, f"time-{place}", head, rows))
    return panels


def detectors(run: RunData) -> list[Panel]:
    """A panel a system with a detector: its ROC curves, an attack a line."""
    panels: list[Panel] = []
    for place, (system, part) in enumerate(run.roc.groupby(list(SYSTEM), sort=False)):
        groups = list(part.groupby(["attack", "adaptive"], sort=False))
        attacks = list(part["attack"].unique())
        lines, rows = [], []
        for (attack, adaptive), own in groups:
            plain = not adaptive
            name = _named(attack, plain)
            points = [(float(x), float(y)) for x, y in own[["fpr", "tpr"]].itertuples(index=False)]
            lines.append(Line(name=name, points=points, colour=attacks.index(attack), dashed=plain, step=True))
            rows += [(name, percent(x), percent(y)) for x, y in thinned(points, 15)]
        axis = Axis(label="clean images above the threshold, as a share", most=1.0, log=True, least=_LEAST_ALARM)
        head = ("attack", "clean above %", "examples above %")
        panels.append(_lines(_of(system, "ROC of the detector"), lines, axis, f"roc-{place}", head, rows))
    return panels


def _lines(
    title: str, lines: Sequence[Line], axis: Axis, identity: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> Panel:
    drawn = lines[:LINES]
    return Panel(
        title=title,
        svg=line_chart(title, drawn, axis, identity),
        legend=tuple((line.colour, line.dashed, line.name) for line in drawn),
        note=f"The first {LINES} of {len(lines)} lines are drawn." if len(lines) > LINES else "",
        head=head,
        rows=tuple(rows) if len(rows) <= _ROWS else tuple(_every(rows)),
    )


def _every(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    step = len(rows) / _ROWS
    yield from (rows[int(k * step)] for k in range(_ROWS))


def _bar(row: Mapping[Any, Any], told: Mapping[tuple[Any, ...], float], only: bool, with_model: bool) -> Bar:
    """The worst case of one system; where `only` plain attacks ran, it is what the defense claims."""
    name = f"{row['model']}, {row['defense']}" if with_model else str(row["defense"])
    clean, value = float(row["clean_acc"]), float(row["robust_acc"])
    if only:
        return Bar(name=name, clean=clean, actual=math.nan, low=math.nan, high=math.nan, claimed=value)
    claim = told.get(tuple(row[name] for name in SYSTEM), math.nan)
    low, high = float(row["robust_acc_low"]), float(row["robust_acc_high"])
    return Bar(name=name, clean=clean, actual=value, low=low, high=high, claimed=claim)


def _points(own: pd.DataFrame, x: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in own[[x, "robust_acc"]].itertuples(index=False)]


def _nearest(frame: pd.DataFrame) -> pd.Series:
    """Rows of a norm without an eps: they have a median norm, and no robust accuracy."""
    return frame["eps"].isna() & (frame["norm"] != "")


def _named(attack: object, plain: bool) -> str:
    """The attack, and whether it did not know of a defense that hides something."""
    return f"{attack} (plain)" if plain else f"{attack}"


def _of(system: tuple[object, ...], what: str) -> str:
    dataset, model, defense, threat = system
    return f"{dataset}, {model}, {defense}, {threat}: {what}"
