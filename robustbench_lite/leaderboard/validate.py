"""Does a leaderboard say what its records say? Everything in it that can be computed again is."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import CLEAN, FLAGGED, KEY, WORST, key_of, suspect
from robustbench_lite.leaderboard.page import markdown
from robustbench_lite.leaderboard.plan import BoardPlan, plan_digest
from robustbench_lite.leaderboard.ranking import left_by
from robustbench_lite.results.statistics import clopper_pearson

_CLOSE = 2e-6


def faults(path: Path) -> list[str]:
    """What is wrong with NAME.csv and the files beside it, a sentence each; nothing if it is sound.

    Raises:
        UserError: it cannot be read, or is no leaderboard.
    """
    board = Board.read(path)
    found = list(_of_rows(board))
    if not found:
        again = Board.of(board.rows, board.samples, board.timings, board.beside)
        if again.text() != board.text():
            found.append("the rows are not in the order, or do not have the ranks, that their samples give")
    toml = path.with_suffix(".toml")
    if toml.exists():
        found += _of_plan(board, toml, path)
    return found


def _of_rows(board: Board) -> Iterator[str]:
    if board.rows.duplicated(list(KEY)).any():
        yield "a system stands in it twice under one threat"
        return
    try:
        worst, clean = left_by(board.samples, WORST), left_by(board.samples, CLEAN)
    except UserError as error:
        yield str(error)
        return
    rows = {key_of(row): row for row in board.rows.to_dict("records")}
    for key in worst:
        if key not in rows:
            yield f"{' · '.join(key)} has samples and no row"
    for key, row in rows.items():
        for fault in _of_row(row, worst.get(key), clean.get(key), board.attacks):
            yield f"{' · '.join(key)}: {fault}"


def _of_row(
    row: dict[Any, Any], worst: np.ndarray | None, clean: np.ndarray | None, attacks: list[str]
) -> Iterator[str]:
    n, share = int(row["n"]), float(row["worst_case"])
    if worst is None or clean is None:
        if not math.isnan(share):
            yield "it has a worst case and no samples"
        return
    if len(worst) != n or len(clean) != n:
        yield f"it has n = {n}, and samples of {len(worst)} images"
        return
    if abs(float(worst.mean()) - share) > _CLOSE or abs(float(clean.mean()) - float(row["clean"])) > _CLOSE:
        yield "its accuracies are not those of its samples"
    if (worst & ~clean).any():
        yield "an image that is misclassified untouched counts as robust"
    low, high = clopper_pearson(int(worst.sum()), n)
    if abs(low - float(row["worst_low"])) > _CLOSE or abs(high - float(row["worst_high"])) > _CLOSE:
        yield "its interval is not the exact one of its worst case"
    for attack in attacks:
        # An attack that leaves some images out is about fewer of them, and may say less.
        if float(row[attack]) < share - _CLOSE and not _left_out(attack):
            yield f"its worst case is above what {attack} leaves"
    if float(row["best_known"]) > share + _CLOSE:
        yield "its best known value is above its worst case"
    if bool(suspect(str(row["flags"]))) != (FLAGGED in str(row["mark"])):
        yield "its mark does not say what its flags say"


def _left_out(attack: str) -> bool:
    return "targeted" in attack


def _of_plan(board: Board, toml: Path, path: Path) -> Iterator[str]:
    plan = BoardPlan.load(toml)
    page = path.with_suffix(".md")
    if not page.exists() or page.read_text(encoding="utf-8") != markdown(board, plan, path.stem):
        yield f"{page.name} is not what {path.name} and {toml.name} give"
    known = {str(value) for value in board.rows["plan"]} - {""}
    if known and plan_digest(replace(plan.plan, seed=plan.seeds[0])) not in known:
        yield f"no row was built from {toml.name} as it is now"


def changes(before: Board, after: Board) -> pd.DataFrame:
    """What is different between two leaderboards: a row a system that came, went, or has another figure.

    Columns: those of a row's key, `what` (`new`, `gone`, `changed`), `column`, `before`, `after`.
    """
    old = {key_of(row): row for row in before.rows.to_dict("records")}
    new = {key_of(row): row for row in after.rows.to_dict("records")}
    found: list[dict[str, Any]] = []
    for key in dict.fromkeys([*old, *new]):
        names = dict(zip(KEY, key, strict=True))
        if key not in new or key not in old:
            there = old.get(key) or new[key]
            what = "gone" if key in old else "new"
            value = {"before" if key in old else "after": there["worst_case"]}
            found.append({**names, "what": what, "column": "worst_case", "before": "", "after": "", **value})
            continue
        for column in [*before.rows.columns, *(one for one in after.rows.columns if one not in before.rows.columns)]:
            first, second = old[key].get(column, ""), new[key].get(column, "")
            if not _same(first, second):
                found.append({**names, "what": "changed", "column": column, "before": first, "after": second})
    return pd.DataFrame(found, columns=[*KEY, "what", "column", "before", "after"])


def _same(first: object, second: object) -> bool:
    if str(first) in ("", "nan") and str(second) in ("", "nan"):
        return True
    try:
        return float(str(first)) == float(str(second))
    except ValueError:
        return str(first) == str(second)
