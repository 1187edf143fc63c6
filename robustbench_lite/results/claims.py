"""What a defense claims and what it is worth: robust accuracy under adversaries who do not know it, and under all."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.results.fates import SYSTEM, Expected, Trial, trials, worst_case
from robustbench_lite.results.grid import percent
from robustbench_lite.results.statistics import claimed_minus_actual, clopper_pearson, mcnemar

#: what an attack that averages over draws is called besides
_AVERAGED = r"[:,]eot=\d+$"
NOTES = (
    "Claimed: the worst case over plain attacks, by who does not know the defense; where it rejects, their best point is"
    " judged once. Actual: over all attacks. =: nothing is hidden, so plain attacks know the defense.",
    "Gap: paired by image, with its exact one-sided 95% bound; p of the exact McNemar test. Furthest apart: the attack that"
    " leaves most more to who does not know the defense (first) than to who does.",
)
_LABEL = 30  # columns of a defense's name before it is folded
COLUMNS = (
    *SYSTEM,
    *("n", "clean_acc", "claimed", "claimed_low", "claimed_high", "claimed_by"),
    *("actual", "actual_low", "actual_high", "gap", "gap_at_least", "p"),
    *("widest_by", "widest_plain", "widest_adaptive"),
)


def claims(records: pd.DataFrame, *, expected: Expected | None = None) -> pd.DataFrame:
    """Columns `COLUMNS`, a row a system and threat, if any system of the run hides something; else empty.

    `claimed` is the worst case over the plain attacks, `claimed_by` the one that found most; `actual` is that over all
    attacks. `gap` is the difference over the same images, `gap_at_least` its exact one-sided 95 % bound, `p` of the exact
    McNemar test. `widest_by` is the attack that leaves most more to who does not know the defense (`widest_plain`) than to who
    does (`widest_adaptive`): where some plain attack breaks a defense, the claim is gone, and the gap with it. Where a defense
    hides nothing, plain attacks are adaptive ones, and nothing is between the two. Where a sample has no verdict there is no
    figure.

    Raises:
        UserError: as `metrics.summarise`.
    """
    every = [trial for trial in trials(records, expected) if trial.worst["robust"].notna().all()]
    if not any(_plain(trial) and len(_plain(trial)) < len(trial.cells) for trial in every):
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.DataFrame([_row(trial) for trial in every], columns=list(COLUMNS))


def base_of(attack: str) -> str:
    """What an attack is called, however many draws it averages over.

    >>> base_of("pgd:steps=10,eot=10")
    'pgd:steps=10'
    """
    return re.sub(_AVERAGED, "", attack)


def known(records: pd.DataFrame) -> pd.DataFrame:
    """The records without those of plain attacks that ran adaptively as well; an attack may be the same for all."""
    if not len(records):
        return records
    base = records["attack"].map(base_of)
    both = records.groupby([*(records[name] for name in SYSTEM), base], sort=False)["adaptive"].transform("any")
    return records[records["adaptive"].astype(bool) | ~both.astype(bool)]


def table(found: pd.DataFrame, treatments: Mapping[str, Mapping[str, str]] | None = None) -> Group:
    """The claims as tables, one a dataset and threat, and what adaptive attacks do about each part.

    Args:
        treatments: `MODEL | DEFENSE` -> part -> what is done about it.
    """
    notes = [*NOTES, *_told(found, treatments or {})]
    return Group(*_tables(found), *(Padding(Text(note), (0, 0, 0, 1)) for note in notes), Text())


def _tables(found: pd.DataFrame) -> Iterator[Text | Table]:
    for (dataset, threat), own in found.groupby(["dataset", "threat"], sort=False):
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        longest = max(len(str(name)) for name in own["defense"]) + 2
        grid.add_column("", min_width=min(longest, _LABEL), overflow="fold")
        for name in ("clean", "claimed", "actual", "gap", "at least", "p"):
            grid.add_column(name, justify="right", no_wrap=True)
        grid.add_column("furthest apart", overflow="fold")
        for model, rows in own.groupby("model", sort=False):
            grid.add_row(Text(str(model), style="bold"))
            for _, row in rows.iterrows():
                grid.add_row(*map(Text, _cells(row)))
        yield Text(f"{dataset} · {threat} · claimed and actual robust accuracy in %", style="bold")
        yield grid


def _cells(row: pd.Series) -> tuple[str, ...]:
    name, clean, actual = f"  {row['defense']}", percent(row["clean_acc"]), percent(row["actual"])
    if math.isnan(row["claimed"]):
        return name, clean, "=", actual, "", "", "", ""
    p = "< 0.0001" if row["p"] < 1e-4 else f"{row['p']:.2g}"
    widest = (
        f"{row['widest_by']} {percent(row['widest_plain'])} → {percent(row['widest_adaptive'])}"
        if row["widest_by"]
        else ""
    )
    return name, clean, percent(row["claimed"]), actual, percent(row["gap"]), percent(row["gap_at_least"]), p, widest


def _told(found: pd.DataFrame, treatments: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    ways: dict[str, str] = {}
    for row in found[["model", "defense"]].drop_duplicates().itertuples():
        ways |= treatments.get(f"{row.model} | {row.defense}", {})
    if ways:
        yield "Who knows the defense, of " + "; of ".join(f"{part}: {way}" for part, way in ways.items()) + "."


def _plain(trial: Trial) -> list[int]:
    """Places of the cells whose attack did not know the defense, where others did."""
    knows = [bool(cell.rows["adaptive"].any()) for cell in trial.cells]
    return [place for place, one in enumerate(knows) if not one] if any(knows) else []


def _row(trial: Trial) -> dict[str, object]:
    n, plain = len(trial.worst), _plain(trial)
    actual, right = trial.worst["robust"] == 1, trial.worst["right"] == 1
    low, high = clopper_pearson(int(actual.sum()), n)
    row: dict[str, object] = {
        **dict(zip(SYSTEM, trial.system, strict=True)),
        **{"n": n, "clean_acc": float(right.mean()), "actual": float(actual.mean())},
        **{"actual_low": low, "actual_high": high, "claimed_by": "", "widest_by": ""},
        **dict.fromkeys(("claimed", "claimed_low", "claimed_high", "gap", "gap_at_least", "p"), math.nan),
        **dict.fromkeys(("widest_plain", "widest_adaptive"), math.nan),
    }
    if not plain:
        return row
    cells = [trial.cells[place] for place in plain]
    claimed = worst_case([cell.fates for cell in cells], trial.worst.index)["robust"].reindex(trial.worst.index) == 1
    low, high = clopper_pearson(int(claimed.sum()), n)
    gap, at_least = claimed_minus_actual(claimed, actual)
    strongest = min(cells, key=lambda cell: float((cell.fates["robust"] == 1).sum()))
    return row | {
        **{"claimed": float(claimed.mean()), "claimed_low": low, "claimed_high": high, "claimed_by": strongest.key[4]},
        **{
            "gap": gap,
            "gap_at_least": at_least,
            "p": mcnemar(claimed, actual).p,
        },
        **_widest(trial, plain),
    }


def _widest(trial: Trial, plain: Sequence[int]) -> dict[str, object]:
    """The attack that ran both ways and whose two shares are furthest apart; nothing where none ran both ways."""
    shares: dict[tuple[str, bool], float] = {}
    for place, cell in enumerate(trial.cells):
        shares[base_of(cell.key[4]), place in plain] = float((cell.fates["robust"] == 1).mean())
    both = [
        (share - shares[name, False], name)
        for (name, is_plain), share in shares.items()
        if is_plain and (name, False) in shares
    ]
    if not both:
        return {}
    _, name = max(both, key=lambda one: one[0])
    return {"widest_by": name, "widest_plain": shares[name, True], "widest_adaptive": shares[name, False]}
