"""The summary as a table: for the terminal, as Markdown, CSV and JSON. Numbers come from the summary alone."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.escaping import csv_text, markdown, markdown_code
from robustbench_lite.results.grid import (
    Grid,
    Row,
    amount,
    distance,
    folded,
    grids,
    header_lines,
    interval,
    percent,
    systems,
)
from robustbench_lite.results.metrics import WORST_CASE

_WIDTH, _WORST, _CELL, _LABEL, _GAP = 100, 19, 6, 26, 3


def comparative(summary: pd.DataFrame, comparisons: pd.DataFrame | None = None, *, width: int = _WIDTH) -> Group:
    """A table for each dataset and threat: defended models down, attacks across, the worst case with its interval.

    Args:
        summary: of `metrics.summarise`.
        comparisons: of `compare.compare_rows`; told under the table.
        width: columns of the terminal; a table with more attacks than fit goes on in a second one.
    """
    parts: list[RenderableType] = []
    for grid in grids(summary, comparisons):
        notes = (Padding(Text(note), (0, 0, 0, 1)) for note in grid.notes)
        parts += [Text(grid.title, style="bold"), *_tables(grid, width), *notes, Text()]
    return Group(*parts)


def details(summary: pd.DataFrame) -> Group:
    """A table for each dataset and threat with a row an attack: intervals, success rates, queries a sample, seconds."""
    parts: list[RenderableType] = []
    for (dataset, threat), part in summary.groupby(["dataset", "threat"], sort=False):
        columns = _detail_columns(part)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in columns:
            table.add_column(name, justify="left" if name in ("attack", "needs") else "right", overflow="fold")
        for model, defense, own in systems(part):
            table.add_row(Text(f"{model}\n{defense}", style="bold"))
            for _, row in own.iterrows():
                cells = _detail_cells(row)
                table.add_row(Text(f"  {row['attack']}"), *(Text(cells[name]) for name in columns if name != "attack"))
        parts += [Text(f"{dataset} · {threat} · by attack", style="bold"), table]
        if any("*" in str(cell) for cell in table.columns[1].cells):
            parts.append(Text(" * run as the adaptive adversary, who knows the defense."))
    return Group(*parts)


def components(stages: pd.DataFrame) -> Group:
    """A table for each cascade with a row a component; `stages` is of `stages.by_stage`."""
    parts: list[RenderableType] = []
    names = ["component", "left to it", "broke", "robust after", "fwd", "bwd", "s"]
    for (dataset, model, defense, threat, attack), own in stages.groupby(
        ["dataset", "model", "defense", "threat", "attack"], sort=False
    ):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in names:
            table.add_column(name, justify="left" if name == "component" else "right", overflow="fold")
        for _, row in own.iterrows():
            counts = (str(row["attacked"]), str(row["broken"]), percent(row["robust_acc"]))
            amounts = (amount(row[name]) for name in ("forwards", "backwards", "seconds"))
            table.add_row(Text(str(row["stage"])), *counts, *amounts)
        title = f"{attack} by component · {dataset} · {model}, {defense} · {threat}"
        parts += [Text(title, style="bold"), table]
    return Group(*parts)


def text(renderable: RenderableType, width: int = _WIDTH) -> str:
    """What a terminal of that width would show, without colours."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def to_markdown(summary: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> str:
    """The comparative tables in Markdown; the lowest attack of a row in bold."""
    return "\n\n".join(_markdown(grid) for grid in grids(summary, comparisons)) + "\n"


def to_csv(summary: pd.DataFrame, path: Path | None = None) -> str:
    """The whole summary as CSV, one line a row; floats read back to the same number, `adaptive` is true or false.

    No cell is a formula; see `escaping.csv_text`.
    """
    frame = summary.copy()
    frame["adaptive"] = [_boolean(value) for value in summary["adaptive"]]
    content = csv_text(frame)
    if path is not None:
        path.write_text(content, encoding="utf-8")
    return content


def to_json(summary: pd.DataFrame, path: Path | None = None) -> str:
    """The whole summary as a JSON list of objects; null for what there is not, "inf" for an infinite median norm."""
    rows = [{name: _plain(value) for name, value in row.items()} for row in summary.to_dict("records")]
    content = json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path is not None:
        path.write_text(content, encoding="utf-8")
    return content


def _tables(grid: Grid, width: int) -> Iterator[Table]:
    """The grid as one table, or several with some of the attacks each; the last one has the worst case."""
    chunks = list(_chunks(grid, width))
    for chosen in chunks:
        yield _table(grid, chosen, last=chosen is chunks[-1])


def _chunks(grid: Grid, width: int) -> Iterator[Sequence[int]]:
    """Places of the attacks that go into one table each; the last one must leave room for the worst case and flags."""
    begin, count = 0, len(grid.attacks)
    room = width - _label_width(grid) - _GAP - _CELL
    end_room = room - _GAP - _WORST - _flags_width(grid)
    while begin < count and _used(grid, begin, count) > end_room and count - begin > 1:
        end = begin + 1
        while end < count - 1 and _used(grid, begin, end + 1) <= room:
            end += 1
        yield range(begin, end)
        begin = end
    yield range(begin, count)


def _used(grid: Grid, begin: int, end: int) -> int:
    return sum(max(_CELL, *map(len, header_lines(attack))) + _GAP for attack in grid.attacks[begin:end])


def _table(grid: Grid, chosen: Sequence[int], *, last: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=_label_width(grid))
    table.add_column("clean", justify="right", min_width=5)
    for place in chosen:
        head = header_lines(grid.attacks[place])
        table.add_column(Text("\n".join(head), justify="right"), justify="right", no_wrap=True)
    if last:
        table.add_column("worst case", justify="right", no_wrap=True, style="bold")
        if _flags_width(grid):
            table.add_column("flags", overflow="fold")
    model = None
    for row in grid.rows:
        if row.model != model:
            table.add_row(Text("\n".join(folded(row.model, _LABEL)), style="bold"))
            model = row.model
        end = [Text(row.worst), Text(row.flags, style="yellow")] if last else []
        table.add_row(*_cells(row, chosen), *end[: len(table.columns) - len(chosen) - 2])
    return table


def _cells(row: Row, chosen: Sequence[int]) -> Iterator[Text]:
    yield Text("\n".join(f"  {line}" for line in folded(row.defense, _LABEL - 2)))
    yield Text(row.clean)
    for place in chosen:
        lowest = row.lowest[place]
        yield Text(row.attacks[place] + ("*" if lowest else " "), style="bold red" if lowest else "")


def _label_width(grid: Grid) -> int:
    return min(_LABEL, max(max(len(row.model), len(row.defense) + 2) for row in grid.rows))


def _flags_width(grid: Grid) -> int:
    longest = max(len(row.flags) for row in grid.rows)
    return min(12, max(5, longest)) + _GAP if longest else 0


def _markdown(grid: Grid) -> str:
    flags = any(row.flags for row in grid.rows)
    attacks = map(markdown_code, grid.attacks)
    head = ["model", "defense", "clean", *attacks, "worst case", *["flags"] * flags]
    out = [
        f"**{markdown(grid.title)}**",
        "",
        "| " + " | ".join(head) + " |",
        "|---|---|" + "---:|" * (len(grid.attacks) + 2) + "---|" * flags,
    ]
    for row in grid.rows:
        values = [f"**{value}**" if low else value for value, low in zip(row.attacks, row.lowest, strict=True)]
        cells = [markdown(row.model), markdown(row.defense), row.clean, *values, row.worst, *[row.flags] * flags]
        out.append("| " + " | ".join(cells) + " |")
    notes = (note.replace("* strongest", "Bold: strongest", 1) if note.startswith("*") else note for note in grid.notes)
    return "\n".join([*out, "", *(f"{markdown(note)}  " for note in notes)])


def _detail_columns(part: pd.DataFrame) -> list[str]:
    """Columns that say something here, so that the table fits a terminal."""
    shown = {
        "robust %": bool(part["eps"].notna().any() or (part["norm"] == "").all()),
        "target": bool(part["targeted_success"].notna().any()),
        "norm": bool(part["median_norm"].notna().any()),
        "s": bool(part["seconds"].notna().any()),
    }
    every = ["attack", "needs", "n", "robust %", "success", "target", "norm", "fwd", "bwd", "s"]
    return [name for name in every if shown.get(name, True)]


def _detail_cells(row: pd.Series) -> dict[str, str]:
    worst = row["attack"] == WORST_CASE
    return {
        "needs": f"{row['needs']}{'*' if _boolean(row['adaptive']) == 'true' and not worst else ''}",
        "n": f"{row['n']}",
        "robust %": interval(row),
        "success": percent(row["success_rate"]),
        "target": "" if worst else percent(row["targeted_success"]),
        "norm": distance(row["median_norm"]),
        "fwd": amount(row["forwards"]),
        "bwd": amount(row["backwards"]),
        "s": amount(row["seconds"]),
    }


def _boolean(value: Any) -> str:
    return "" if pd.isna(value) else str(bool(value)).lower()


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return value.item() if hasattr(value, "item") else value
