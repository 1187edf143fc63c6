"""The tables of the page: what `results` computed, as cells of text. All of them can be sorted and filtered."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from robustbench_lite.results.claimed import Claimed, knows
from robustbench_lite.results.grid import amount, distance, header_lines, interval, percent, systems
from robustbench_lite.results.metrics import WORST_CASE
from robustbench_lite.results.run_data import RunData

Cell = str | Markup


@dataclass(frozen=True, kw_only=True)
class Column:
    """A head: its text, and whether what stands below is numbers."""

    name: Cell
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cells, the first one naming the row, and what filters ask of it."""

    cells: tuple[Cell, ...]
    dataset: str = ""
    threat: str = ""
    flagged: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `counted`: its rows are what the page says to be shown."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    counted: bool = False


def compared(run: RunData) -> list[Table]:
    """The comparative tables: a row a system and threat; robust accuracies and median norms apart."""
    nearest = run.summary["eps"].isna() & (run.summary["norm"] != "")
    parts = ((~nearest, "Robust accuracy in %"), (nearest, "Median norm that breaks, over the images that were right"))
    return [_compared(run, run.summary[chosen], caption) for chosen, caption in parts if chosen.any()]


def by_attack(run: RunData) -> Table:
    """A row an attack on a system: intervals, success rates, costs."""
    columns: dict[str, Callable[[Mapping[Any, Any]], str]] = {
        "n": lambda row: f"{row['n']}",
        "success %": lambda row: percent(row["success_rate"]),
        "target hit %": lambda row: percent(row["targeted_success"]),
        "median norm": lambda row: distance(row["median_norm"]),
        "broken in 8 bits %": lambda row: percent(row["broken_8bit"]),
        "invalid": lambda row: f"{row['invalid']}",
        "forwards": lambda row: amount(row["forwards"]),
        "backwards": lambda row: amount(row["backwards"]),
        "setup queries": lambda row: amount(row["setup_queries"]),
        "seconds": lambda row: amount(row["seconds"]),
    }
    every = [row for row in run.summary.to_dict("records") if row["attack"] != WORST_CASE]
    texts = [[form(row) for form in columns.values()] for row in every]
    used = [place for place in range(len(columns)) if {text[place] for text in texts} - {"-", "0.0"}]
    claimed = run.claimed
    rows = tuple(
        Row(
            cells=(
                system_of(row),
                *(row["threat"], spec(row["attack"]), _adversary(row, claimed), _robust(row, claimed)),
                *(text[place] for place in used),
            ),
            **_asked(row),
        )
        for row, text in zip(every, texts, strict=True)
    )
    words = [Column(name=name, number=False) for name in ("system", "threat", "attack", "adversary")]
    numbers = [Column(name=name) for name in ("robust % [95 %]", *(list(columns)[place] for place in used))]
    return Table(caption="By attack", columns=(*words, *numbers), rows=rows)


def spec(text: object) -> Markup:
    """A spec's text that may be broken after `: , ;`."""
    return Markup("<wbr>").join(header_lines(str(text), 200))


def _compared(run: RunData, summary: pd.DataFrame, caption: str) -> Table:
    nearest = bool(summary["eps"].isna().all() and (summary["norm"] != "").any())
    attacks = [attack for attack in summary["attack"].unique() if attack != WORST_CASE]
    several, claimed = summary["dataset"].nunique() > 1, run.claimed
    rows = []
    for (dataset, threat), part in summary.groupby(["dataset", "threat"], sort=False):
        for _, _, own in systems(part):
            (worst,) = own[own["attack"] == WORST_CASE].to_dict("records")
            by_name = {str(attack): rows for attack, rows in own.groupby("attack")}
            values = [_attacked(by_name.get(str(attack)), claimed, nearest) for attack in attacks]
            least = min((value for *_, value in values if not math.isnan(value)), default=math.nan)
            cells = [_marked(text, value == least and len(attacks) > 1) + claim for text, claim, value in values]
            last = distance(worst["median_norm"]) if nearest else interval(pd.Series(worst))
            rows.append(
                Row(
                    cells=(
                        system_of(worst),
                        *((str(dataset),) if several else ()),
                        *(str(threat), percent(worst["clean_acc"]), *cells),
                        Markup("<b>{}</b>{}").format(last, _CLAIMED if claimed.only(worst) else ""),
                        _flags(str(worst["flags"])),
                    ),
                    **_asked(worst),
                )
            )
    words = ["system", *(["dataset"] if several else []), "threat"]
    columns = [*(Column(name=name, number=False) for name in words), Column(name="clean")]
    columns += [*(Column(name=spec(attack)) for attack in attacks), Column(name="worst case [95 %]")]
    columns.append(Column(name="flags", number=False))
    return Table(caption=caption, columns=tuple(columns), rows=tuple(rows), counted=True)


#: beside a number that only says what plain attacks leave, where no attack knew the defense
_CLAIMED = Markup(' <small class="warn">claimed only</small>')


def _attacked(rows: pd.DataFrame | None, claimed: Claimed, nearest: bool) -> tuple[str, Markup, float]:
    """The cell of one attack: the lower of two ways, beside it what the plain one claims, and the number."""
    if rows is None:
        return "-", Markup(), math.nan
    name, text = ("median_norm", distance) if nearest else ("robust_acc", percent)
    known = rows[rows[name].notna()]
    if not len(known):
        return "-!" if nearest else interval(rows.iloc[0]), Markup(), math.nan
    value = float(known[name].min())
    claims = [row for row in known.to_dict("records") if claimed.plain(row)]
    if not claims:
        return text(value), Markup(), value
    if claimed.only(claims[0]):
        return text(value), _CLAIMED, value
    told = min(float(row[name]) for row in claims)
    if len(claims) < len(known):
        return text(value), Markup(' <small class="claim">claimed {}</small>').format(text(told)), value
    actual = text(claimed.actual(claims[0], name))  # its adaptive way averages, and has a column of its own
    return text(value), Markup(' <small class="claim">claimed; actual {}</small>').format(actual), value


def _marked(text: str, lowest: bool) -> Markup:
    """The strongest attack of a row is marked."""
    return Markup('<span class="low">{}*</span>' if lowest else "{}").format(text)


def _robust(row: Mapping[Any, Any], claimed: Claimed) -> Markup:
    """A row's robust accuracy; a claimed one never without the actual one."""
    said = interval(pd.Series(row))
    if not claimed.plain(row):
        return Markup("{}").format(said)
    if claimed.only(row):
        return Markup("{}{}").format(said, _CLAIMED)
    actual = percent(claimed.actual(row, "robust_acc"))
    return Markup('{} <small class="claim">claimed; actual {}</small>').format(said, actual)


def _adversary(row: Mapping[Any, Any], claimed: Claimed) -> str:
    return "knows the defense" if knows(row["adaptive"]) else "plain" if claimed.plain(row) else ""


def system_of(row: Mapping[Any, Any]) -> Markup:
    return Markup("{}<small>{}</small>").format(spec(row["defense"]), spec(row["model"]))


def _asked(row: Mapping[Any, Any]) -> dict[str, Any]:
    fired = [mark for mark in str(row["flags"]).split(";") if mark and not mark.endswith("?")]
    return {"dataset": str(row["dataset"]), "threat": str(row["threat"]), "flagged": bool(fired)}


def _flags(flags: str) -> Markup:
    """The diagnostics of a row by their letters, fired ones first; each leads to its explanation."""
    marks = sorted((mark for mark in flags.split(";") if mark), key=lambda mark: mark.endswith("?"))
    return Markup(" ").join(
        Markup('<a href="#check-{n}" class="{c}" title="{n}: {s}">{i}<span class="vh"> {n} {s}</span></a>').format(
            n=mark.rstrip("?"),
            c="quiet" if mark.endswith("?") else "warn",
            s="unchecked" if mark.endswith("?") else "fired",
            i=initials(mark.rstrip("?")) + "?" * mark.endswith("?"),
        )
        for mark in marks
    )


def initials(name: str) -> str:
    """`ZG` of zero-gradients."""
    return "".join(word[0] for word in name.split("-") if word).upper()
