"""The table of a leaderboard of generators: read, joined, compared, written, and its page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError, unread
from robustbench_lite.escaping import for_markdown, printable
from robustbench_lite.leaderboard.cells import is_number
from robustbench_lite.leaderboard.columns import EVIDENCE, TEXTS
from robustbench_lite.leaderboard.evidence import edited as edited_columns
from robustbench_lite.leaderboard.fault import Fault
from robustbench_lite.leaderboard.files import as_csv, parsed, place_of, sealed
from robustbench_lite.leaderboard.files import write as write_files
from robustbench_lite.results.generators import CLOCK, HEAD, SHOWN, base

#: what stands before a judge in a setting, and what a table writes shorter
_JUDGE, _SHORTER = ", judge ", (" epochs of batches of ", " epochs of ")
#: which rows are the same one: two papers may tell of the same method
_KEY = (*HEAD, "source")


def is_table(path: Path) -> bool:
    """Whether a CSV is such a table."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().strip().split(",")[: len(HEAD)] == list(HEAD)
    except (OSError, UnicodeDecodeError):
        return False


def read(path: Path, *, edited: bool = False) -> pd.DataFrame:
    """The table as texts, as it stands in its file, without its evidence.

    Args:
        edited: also one that was edited since it was written.

    Raises:
        UserError: it cannot be read, or was edited.
    """
    table = read_sealed(path)
    wrong = [] if edited else list(edits(table))
    if wrong:
        told = f"{wrong[0].told(path.stem)}; rbl leaderboard validate {path} says what is wrong"
        raise UserError(f"{str(path)!r} cannot be trusted: {told}")
    return table.drop(columns=EVIDENCE, errors="ignore")


def read_sealed(path: Path, needed: Sequence[str] = _KEY) -> pd.DataFrame:
    """The table with its evidence, if it has any.

    Args:
        needed: the columns that it must have.

    Raises:
        UserError: it cannot be read, has too few columns, or a figure that is none.
    """
    try:
        table = read_text(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise unread("table of generators", path, error) from None
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UserError(f"{str(path)!r} is no table of generators: it has no column {missing[0]!r}")
    for name in (name for name in table.columns if name not in TEXTS):
        odd = [cell for cell in table[name] if cell and not is_number(cell)]
        if odd:
            told = f"{printable(name)} = {printable(odd[0])[:40]!r}"
            raise UserError(f"{str(path)!r}: {told}; accepted: a number, or nothing")
    return table


def edits(table: pd.DataFrame) -> Iterator[Fault]:
    """The rows that are not what they were when the table was written, as far as it has evidence."""
    for row in table.to_dict("records") if EVIDENCE in table else ():
        columns = edited_columns(row[EVIDENCE], row)
        if columns:
            who = " · ".join(filter(None, (printable(row[name]) for name in HEAD)))
            yield Fault(who=who, columns=tuple(columns), text="not what was written; the row's evidence does not fit")


def read_timed(path: Path) -> pd.DataFrame:
    """The same with the clocks that lie beside it, if any.

    Raises:
        UserError: one of the two cannot be read.
    """
    table, clocks = read(path), place_of(path, "timings")
    if CLOCK in table or not clocks.exists():
        return table
    joined = table.merge(read_sealed(clocks, HEAD), how="left", on=list(HEAD)).fillna("")
    return joined[[*(name for name in joined if name != "source"), "source"]]


def read_text(text: str) -> pd.DataFrame:
    """The same of the file's content."""
    return parsed(text)


def parts(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each kind of data its name with its judge, and the rows with the figures that people ask for first and somebody has.

    ± is the spread.
    """
    for data, own in table.groupby(table["data"].map(base), sort=False):
        figures = [name for name in SHOWN if name in own and name != CLOCK and not name.endswith("_sd")]
        names = [name for name in figures if (own[name] != "").any()]
        shown = {name.replace("_", " "): [_figure(row, name) for row in own.to_dict("records")] for name in names}
        judges = {setting.partition(_JUDGE)[2] for setting in own.loc[own["kind"] == "measured", "setting"]}
        judge = judges.pop() if len(judges) == 1 else ""
        settings = [setting.removesuffix(_JUDGE + judge) if judge else setting for setting in own["setting"]]
        who = [
            source + "".join(told.partition(";")[1:]) if source else told.replace(*_SHORTER)
            for source, told in zip(own["source"], settings, strict=True)
        ]
        title = f"{data}{_JUDGE}{judge}" if judge else str(data)
        yield title, pd.DataFrame({"generator": own["generator"].tolist(), **shown, "how, or who": who})


def merged(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables by data, ours before those of papers; of one that stands in several, the last counts."""
    names = list(dict.fromkeys(name for table in tables for name in table.columns if name != "source"))
    rows = pd.concat(tables).reindex(columns=[*names, "source"]).fillna("")
    rows = rows.drop_duplicates(list(_KEY), keep="last")
    data = {name: place for place, name in enumerate(dict.fromkeys(rows["data"].map(base)))}
    order = rows["data"].map(base).map(data) * 2 + (rows["kind"] != "measured")
    return rows.iloc[order.argsort(kind="stable").to_numpy()].reset_index(drop=True)


def without_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """The table without figures that no row has any more."""
    return table[[name for name in table if name in _KEY or (table[name] != "").any()]]


def changes(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[str]:
    """What is different between two tables, a line each."""
    old, new = (
        {tuple(row[name] for name in _KEY): row for row in table.to_dict("records")} for table in (before, after)
    )
    for key in dict.fromkeys([*old, *new]):
        who = " · ".join(filter(None, (key[0], key[1], key[4] or key[3])))
        if key not in old or key not in new:
            yield f"{'gone' if key in old else 'new'}: {who}"
            continue
        for name in dict.fromkeys([*old[key], *new[key]]):
            first, second = (str(row.get(name, "")) for row in (old[key], new[key]))
            if first != second:
                yield f"changed: {who}: {name} {first or 'nothing'} -> {second or 'nothing'}"


def write(target: Path, table: pd.DataFrame, markdown: str) -> tuple[Path, ...]:
    """Write NAME.csv, NAME.md and, where it is known how long trainings took, NAME.timings.csv.

    Args:
        target: NAME.csv. table: all of it, the clock too. markdown: NAME.md.

    Raises:
        UserError: the folder cannot be written.
    """
    whole = sealed(read_text(csv_of(table.drop(columns=CLOCK, errors="ignore"))))
    written = {target: csv_of(whole), target.with_suffix(".md"): markdown}
    if CLOCK in table:
        clocks = table.loc[table[CLOCK].notna() & (table[CLOCK] != ""), [*HEAD, CLOCK]]
        written[place_of(target, "timings")] = csv_of(clocks)
    return write_files(written)


def csv_of(table: pd.DataFrame) -> str:
    """The table as the text of its file."""
    return as_csv(table, float_format="%.6g")


def page(table: pd.DataFrame, title: str, about: str, origin: str) -> str:
    """NAME.md.

    Args:
        origin: a sentence on where the figures come from and lie.
    """
    out = [f"# {title}", "", *([about, ""] if about else [])]
    for data, own in parts(table):
        out += [f"## {for_markdown(data)}", "", "| " + " | ".join(own.columns) + " |", "|" + "---|" * len(own.columns)]
        out += ["| " + " | ".join(for_markdown(str(cell)) for cell in row) + " |" for row in own.to_numpy()]
        out.append("")
    out += [
        "± is the spread over seeds, or of one training over samplings. There is no rank: no figure says it all, and what papers"
        " tell was measured by other judges and trainings.\n",
        origin,
    ]
    return "\n".join(out) + "\n"


def _figure(row: Mapping[Any, Any], name: str) -> str:
    value, spread = str(row[name]), str(row.get(f"{name}_sd", ""))
    if value == "":
        return ""
    return _short(float(value), 3) + (f" ± {_short(float(spread), 1)}" if spread else "")


def _short(number: float, digits: int) -> str:
    """So many digits that count, and all that stand before the point."""
    return f"{number:.0f}" if abs(number) >= 10 ** (digits - 1) else f"{number:.{digits}g}"
