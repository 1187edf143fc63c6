"""The diagnostics of the page: what each one means, and what it found on every system."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from robustbench_lite.results.fates import SYSTEM
from robustbench_lite.results.page.tables import initials
from robustbench_lite.results.thresholds import THRESHOLDS, Threshold

STATUSES = ("fired", "unchecked", "clear")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One diagnostic in words; texts are those of the table of thresholds."""

    name: str
    letters: str
    measures: str
    why: str
    limit: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one diagnostic found on one system."""

    name: str
    value: str
    limit: str
    status: str
    told: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All findings on one system under one threat, fired ones first."""

    title: str
    dataset: str
    threat: str
    counts: str
    flagged: bool
    findings: tuple[Finding, ...]


def explanations() -> list[Explanation]:
    """Every diagnostic there is, in the order of the table of thresholds."""
    return [
        Explanation(
            name=name,
            letters=initials(name),
            measures=f"{one.quantity[:1].upper()}{one.quantity[1:]}.",
            why=f"{one.why[:1].upper()}{one.why[1:]}.",
            limit=one.limit_text,
            source=one.source,
        )
        for name, one in THRESHOLDS.items()
    ]


def checked(diagnostics: pd.DataFrame) -> list[Checked]:
    """A system and threat after the other, as they come; none where nothing was checked."""
    if not len(diagnostics):
        return []
    return [
        Checked(
            title=", ".join(map(str, system[1:])),
            dataset=str(system[0]),
            threat=str(system[3]),
            counts=", ".join(f"{(own['status'] == status).sum()} {status}" for status in STATUSES),
            flagged=bool((own["status"] == "fired").any()),
            findings=tuple(_findings(own)),
        )
        for system, own in diagnostics.groupby(list(SYSTEM), sort=False)
    ]


def _findings(own: pd.DataFrame) -> Iterator[Finding]:
    rank = {status: place for place, status in enumerate(STATUSES)}
    for row in sorted(own.to_dict("records"), key=lambda row: rank.get(row["status"], len(rank))):
        known = THRESHOLDS.get(row["diagnostic"])
        why = f"{known.why[:1].upper()}{known.why[1:]}." if known and row["status"] == "fired" else ""
        detail = str(row["detail"])
        yield Finding(
            name=str(row["diagnostic"]),
            value=_value(float(row["value"]), known),
            limit=known.limit_text if known else "",
            status=str(row["status"]),
            told=" ".join(part for part in (why, detail) if part),
        )


def _value(value: float, known: Threshold | None) -> str:
    """As its limit is written: a share in percent, or a number."""
    if math.isnan(value):
        return "-"
    if known is not None and ("%" in known.limit_text or known.quantity.startswith(("share", "robust"))):
        return f"{100 * value:.3g} %"
    return f"{value:.3g}"
