"""A leaderboard to be read: NAME.md, and a table for the terminal."""

from collections.abc import Iterator, Mapping

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.plan import BoardPlan

NOTES = (
    "Rank: 1 + the number of systems that are significantly better in the worst case (exact McNemar tests on the same images,"
    " Holm-corrected over the table, 5 %). Interval: exact, 95 %, over test images.",
    "A row with a mark may claim too much, stands below all others and outranks none of them: a check fired, or nobody attacked"
    " it who knows its defense.",
)


def markdown(board: Board, plan: BoardPlan, name: str) -> str:
    """The page of a leaderboard that was built from NAME.toml: NAME.md."""
    origin = f"Built from [{name}.toml]({name}.toml) by `rbl leaderboard build {name}.toml`;"
    return page_of(board, name, plan.title, origin, plan.about)


def page_of(board: Board, name: str, title: str, origin: str, about: str = "") -> str:
    """A page: title, what it is about, the tables, and where they come from."""
    out = [f"# {title}", ""]
    if about:
        out += [about, ""]
    for head, own in _parts(board):
        columns = _columns(board, own)
        out += [
            f"## {head}",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "|".join(_rule(one) for one in columns) + "|",
        ]
        out += ["| " + " | ".join(_escaped(value) for value in _cells(row, columns)) + " |" for row in _dicts(own)]
        out.append("")
    out += [f"{note}\n" for note in NOTES]
    out += [f"{origin} all columns are in [{name}.csv]({name}.csv)."]
    return "\n".join(out) + "\n"


def shown(board: Board) -> Group:
    """The leaderboard for a terminal."""
    parts: list[RenderableType] = []
    for title, own in _parts(board):
        columns = _columns(board, own)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for one in columns:
            table.add_column(one, justify="left" if one in _LEFT else "right", overflow="fold")
        for row in _dicts(own):
            table.add_row(*(Text(value) for value in _cells(row, columns)))
        parts += [Text(title, style="bold"), table]
    return Group(*parts, *(Text(f" {note}") for note in NOTES))


_LEFT = ("model", "defense", "marks")


def _parts(board: Board) -> Iterator[tuple[str, pd.DataFrame]]:
    for (dataset, threat), own in board.rows.groupby(["dataset", "threat"], sort=False):
        counts = sorted({int(value) for value in own["n"]})
        n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
        yield f"{dataset} · {threat} · {n}", own


def _columns(board: Board, own: pd.DataFrame) -> list[str]:
    """Rank, who, and what says something in this table."""
    attacks = [name for name in board.attacks if own[name].notna().any()]
    found = ["rank", "model", "defense", "clean", *attacks, "worst case"]
    if (own["best_known"] < own["worst_case"]).any():
        found.append("best known")
    if (pd.to_numeric(own["seeds"]) > 1).any():
        found.append("seed spread")
    if (own["mark"] != "").any():
        found.append("marks")
    return found


def _cells(row: Mapping[str, object], columns: list[str]) -> Iterator[str]:
    for name in columns:
        if name == "defense":
            training = str(row["training"] or "")
            yield " + ".join(part for part in (training, str(row["defense"])) if part not in ("", "none")) or "none"
        elif name == "model":
            yield str(row["architecture"])
        elif name == "worst case":
            yield f"{_percent(row['worst_case'])} [{_percent(row['worst_low'])}, {_percent(row['worst_high'])}]"
        elif name == "best known":
            source = str(row["best_known_source"])
            yield _percent(row["best_known"]) + (f" ({source})" if source not in ("", "here") else "")
        elif name == "marks":
            yield "; ".join(part for part in (str(row["mark"]), str(row["flags"]).replace(";", ", ")) if part)
        elif name == "seed spread":
            yield _percent(row["seed_spread"])
        elif name == "rank":
            yield str(row["rank"])
        else:
            yield _percent(row[name])


def _percent(value: object) -> str:
    number = float(str(value)) if str(value) not in ("", "nan") else float("nan")
    return "-" if number != number else f"{100 * number:.1f}"


def _rule(column: str) -> str:
    return "---" if column in _LEFT else "---:"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _dicts(own: pd.DataFrame) -> list[Mapping[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in own.to_dict("records")]
