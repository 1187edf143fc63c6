"""A leaderboard to be read: NAME.md, and a table for the terminal."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustbench_lite.escaping import for_markdown, printable
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import CLEAN, KEY, ORDER, key_of, number_of
from robustbench_lite.leaderboard.plan import BoardPlan
from robustbench_lite.results.grid import percent

_CLAIMED = "Claimed: under the attacks that do not know the defense."
_UNRANKED = (
    "A row marked order-dependent has no rank: its system answers by an image's place in the batch, or by its company, so that it"
    " has no robust accuracy that others can be compared with."
)
NOTES = (
    "Rank: 1 + the number of systems that are significantly better in the worst case (exact McNemar tests on the same images,"
    " Holm-corrected over the table, 5 %). Interval: exact, 95 %, over test images. Queries: forwards and backwards an image,"
    " over all attacks.",
    "A row with a mark may claim too much, stands below all others and outranks none of them: a check fired, or nobody attacked"
    " it who knows its defense.",
)


def markdown(board: Board, plan: BoardPlan, name: str) -> str:
    """The page of a leaderboard that was built from NAME.toml: NAME.md."""
    origin = f"Built from {_link(f'{name}.toml')} by `rbl leaderboard build {_code(f'{name}.toml')}`;"
    return page_of(board, name, plan.title, origin, plan.about)


def page_of(board: Board, name: str, title: str, origin: str, about: str = "") -> str:
    """A page: title, what it is about, the tables, and where they come from."""
    out = [f"# {printable(title)}", "", *([about, ""] if about else [])]
    for sheet in _sheets(board):
        columns = list(map(for_markdown, sheet.columns))
        out += [
            f"{'#' * sheet.level} {for_markdown(sheet.title)}",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "|".join(_rule(one) for one in sheet.columns) + "|",
        ]
        out += ["| " + " | ".join(map(_in_markdown, cells)) + " |" for cells in sheet.rows]
        out.append("")
    out += [f"{note}\n" for note in _notes(board)]
    out += [f"{origin} all columns are in {_link(f'{name}.csv')}."]
    return "\n".join(out) + "\n"


def shown(board: Board) -> Group:
    """The leaderboard for a terminal."""
    parts: list[RenderableType] = []
    for sheet in _sheets(board):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for one in sheet.columns:
            side: Literal["left", "right"] = "left" if one in _LEFT else "right"
            table.add_column(Text(printable(one)), justify=side, overflow="fold")
        for cells in sheet.rows:
            table.add_row(*(Text(printable(cell)) for cell in cells))
        parts += [Text(printable(sheet.title), style="bold"), table]
    return Group(*parts, *(Text(f" {note}") for note in _notes(board)))


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """One table of a page."""

    title: str
    level: int
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


#: a difference of shares that a page shows
_SEEN = 5e-4
_LEFT = ("model", "defense", "marks", "attack", "adversary")


def _sheets(board: Board) -> Iterator[_Sheet]:
    """For every dataset and threat the ranks, and what was measured of detectors and behind a camera."""
    for (dataset, threat), own in board.rows.groupby(["dataset", "threat"], sort=False):
        counts = sorted({int(value) for value in own["n"]})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        models = list(own["architecture"].unique())
        told_once = models if len(models) == 1 and len(own) > 1 else []  # the model of all rows
        who = ["defense"] if told_once else ["model", "defense"]
        columns = _columns(board, own, who)
        ranks = [list(_cells(row, columns)) for row in _dicts(own)]
        heading = " · ".join([str(dataset), str(threat), n, *told_once])
        yield _Sheet(title=heading, level=2, columns=columns, rows=ranks)
        names = {key_of(row): list(_cells(row, who)) for row in _dicts(own)}
        for what, (title, heads, _) in _BESIDE.items():
            told = [(key_of(row), row) for row in _dicts(board.beside.get(what, _NOTHING))]
            cells = [[*names[key], *_figures(row, heads)] for key, row in told if key in names]
            if cells:
                columns = [*who, "attack", "adversary", *heads]
                yield _Sheet(title=title, level=3, columns=columns, rows=cells)


def _claims_more(own: pd.DataFrame) -> bool:
    return bool((own["claimed"] - own["worst_case"] > _SEEN).any())


def _notes(board: Board) -> list[str]:
    claimed = [_CLAIMED] if _claims_more(board.rows) else []
    unranked = [_UNRANKED] if any(ORDER in str(mark).split("; ") for mark in board.rows["mark"]) else []
    return [*NOTES, *unranked, *claimed, *(note for what, (_, _, note) in _BESIDE.items() if what in board.beside)]


_NOTHING = pd.DataFrame(columns=list(KEY))
#: title, heads and their columns, and a note
_BESIDE = {
    "detection": (
        "Detectors",
        {
            **{"AUC": "auc", "TPR at 5 % FPR": "tpr_at_5", "clean rejected": "clean_rejected"},
            **{"wrong and accepted": "wrong_accepted", "wrong and rejected": "wrong_rejected", "robust": "robust_acc"},
        },
        "Detectors: AUC and TPR are of examples that are answered wrongly, against clean images that are answered rightly; the"
        " rest are shares of all images at the deployed threshold. An adversary who is “plain” does not know the defense.",
    ),
    "physical": (
        "Behind the camera",
        {
            **{"n": "n", "draws": "draws", "right without it": "right_without_camera", "right behind it": "accuracy"},
            **{"adversarial behind it": "adversariality", "destroyed": "destruction"},
        },
        "Behind the camera: of the images that are right without one, the share of fresh draws that show the right class, and the"
        " target or (untargeted) any other. Destroyed: of the examples that are wrong without a camera, the share of draws that"
        " are right again, with its exact 95 % interval over images. An adversary who is “plain” does not know of the camera.",
    ),
}


def _figures(row: Mapping[str, object], heads: Mapping[str, str]) -> Iterator[str]:
    yield str(row["attack"])
    yield "" if row["attack"] == CLEAN else "knows it" if row["adaptive"] == "true" else "plain"
    for column in heads.values():
        value = row[column]
        if column in ("n", "draws"):
            yield f"{float(str(value)):.0f}"
        elif column == "auc":
            yield "-" if math.isnan(number_of(value)) else f"{number_of(value):.3f}"
        elif column == "destruction" and not math.isnan(number_of(value)):
            yield f"{_percent(value)} [{_percent(row['destruction_low'])}, {_percent(row['destruction_high'])}]"
        else:
            yield _percent(value)


def _columns(board: Board, own: pd.DataFrame, who: Sequence[str]) -> list[str]:
    """Rank, `who`, and what says something in this table."""
    attacks = [name for name in board.attacks if own[name].notna().any()]
    found = ["rank", *who, "parameters", "clean", *attacks]
    if _claims_more(own):
        found.append("claimed")
    found.append("worst case")
    if (own["best_known"] < own["worst_case"]).any():
        found.append("best known")
    if (pd.to_numeric(own["seeds"]) > 1).any():
        found.append("seed spread")
    found.append("queries")
    if (own["mark"] != "").any():
        found.append("marks")
    return found


def _cells(row: Mapping[str, object], columns: list[str]) -> Iterator[str]:
    for name in columns:
        if name == "defense":
            yield _defense(row)
        elif name == "model":
            yield _model(row)
        elif name == "worst case":
            yield f"{_percent(row['worst_case'])} [{_percent(row['worst_low'])}, {_percent(row['worst_high'])}]"
        elif name == "best known":
            source = str(row["best_known_source"])
            yield _percent(row["best_known"]) + (f" ({source})" if source not in ("", "here") else "")
        elif name == "marks":
            flags = ", ".join(flag for flag in str(row["flags"]).split(";") if flag != ORDER)
            yield "; ".join(part for part in (str(row["mark"]), flags) if part)
        elif name == "seed spread":
            yield _percent(row["seed_spread"])
        elif name == "rank":
            yield str(row["rank"]) or "-"
        elif name in ("parameters", "queries"):
            yield _amount(row[name])
        else:
            yield _percent(row[name])


def _model(row: Mapping[str, object]) -> str:
    return str(row["architecture"])


def _defense(row: Mapping[str, object]) -> str:
    parts = (str(row["training"] or ""), str(row["defense"]))
    return " + ".join(part for part in parts if part not in ("", "none")) or "none"


def _percent(value: object) -> str:
    return percent(number_of(value))


def _amount(value: object) -> str:
    number = number_of(value)
    return "-" if math.isnan(number) else f"{number:,.0f}"


def _rule(column: str) -> str:
    return "---" if column in _LEFT else "---:"


#: a figure, with its interval perhaps: nothing in it is markup
_FIGURE = re.compile(r"(?:-|[0-9.,]+)(?: \[[0-9., -]+\])?")


def _in_markdown(cell: str) -> str:
    return cell if _FIGURE.fullmatch(cell) else for_markdown(cell)


def _link(file: str) -> str:
    return f"[{for_markdown(file)}]({quote(file)})"


def _code(text: str) -> str:
    """A text between backticks, which a file's name may hold itself."""
    return printable(text).replace("`", "'")


def _dicts(own: pd.DataFrame) -> list[Mapping[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in own.to_dict("records")]
