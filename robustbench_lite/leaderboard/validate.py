"""Does a leaderboard say what its records said? What can be computed again is; what cannot is protected by its evidence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError, unknown
from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard import files
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.build import with_external
from robustbench_lite.leaderboard.cells import faults_of_cells, faults_of_keys
from robustbench_lite.leaderboard.columns import EVIDENCE, KEY, ROWS, Key, key_of, name_of, number_of
from robustbench_lite.leaderboard.edits import faults_of_evidence, missing
from robustbench_lite.leaderboard.fault import Fault
from robustbench_lite.leaderboard.files import Files
from robustbench_lite.leaderboard.page import markdown
from robustbench_lite.leaderboard.plan import BoardPlan, plan_digest
from robustbench_lite.leaderboard.recompute import faults_of_rows


def faults(path: Path) -> list[str]:
    """What is wrong with NAME.csv and the files beside it, a sentence each; nothing if it is sound.

    Raises:
        UserError: it cannot be read, or is no leaderboard.
    """
    found = files.read(path)
    computed = faults_without_evidence(found, path)
    edits = [one for one in faults_of_evidence(found) if not any(told == one or told.tells(one) for told in computed)]
    return [one.told(path.stem) for one in (*computed, *edits)]


def faults_without_evidence(found: Files, path: Path) -> list[Fault]:
    """Cells that mean nothing; else what the samples, the plan and the page beside it do not bear out."""
    cells = list(faults_of_cells(found))
    if cells:
        return cells
    if "samples" not in found.tables and len(found.table(ROWS)):
        return [missing("samples")]
    board, keys = Board.of_files(found), list(faults_of_keys(found))
    told = keys or list(faults_of_rows(board))
    return told + list(_of_plan(board, path)) if path.with_suffix(".toml").exists() else told


def _of_plan(board: Board, path: Path) -> Iterator[Fault]:
    toml, page = path.with_suffix(".toml"), path.with_suffix(".md")
    try:
        plan = BoardPlan.load(toml)
    except UserError as error:
        yield Fault(text=str(error))
        return
    yield from _of_systems(board, plan, toml.name)
    yield from _of_seeds(board, plan, toml.name)
    yield from _of_external(board, plan, toml.name)
    if not page.exists():
        yield Fault(text=f"there is no {page.name} beside it; build the leaderboard again")
    elif page.read_text(encoding="utf-8", errors="replace") != markdown(board, plan, path.stem):
        yield Fault(text=f"{page.name} is not what {path.name} and {toml.name} give")


def _of_systems(board: Board, plan: BoardPlan, toml: str) -> Iterator[Fault]:
    """Every system of the plan has a row, and every row is one of its systems."""
    one = plan.plan
    known = {"threat": [f"{threat}{one.sees_through}" for threat in one.threats]}
    known |= {"model": [*map(printable, one.models)], "defense": [*map(printable, one.chains)]}  # as records have them
    rows = {key_of(row)[1:]: row for row in board.rows.to_dict("records")}
    for row in rows.values():
        odd = tuple(name for name, names in known.items() if row[name] not in names)
        if odd:
            yield Fault(who=name_of(key_of(row)), columns=odd, text=f"{toml} has no such system")
    systems = [(t, m, d) for t in known["threat"] for m in known["model"] for d in known["defense"]]
    for system in systems:
        if system not in rows:
            key: Key = (one.dataset, *system)
            yield Fault(who=name_of(key), text=f"it is in {toml}, and has no row")


def _of_seeds(board: Board, plan: BoardPlan, toml: str) -> Iterator[Fault]:
    digest, count = plan_digest(replace(plan.plan, seed=plan.seeds[0])), len(plan.seeds)
    for row in board.rows.to_dict("records"):
        who = name_of(key_of(row))
        if row["plan"] not in ("", digest):
            yield Fault(who=who, columns=("plan",), text=f"it was not built from {toml} as it is now")
        if int(row["seeds"]) != count:
            yield Fault(who=who, columns=("seeds",), text=f"{row['seeds']}, and {toml} has {count}")
        if math.isnan(number_of(row["seed_spread"])) == (count > 1) and not math.isnan(number_of(row["worst_case"])):
            text = "there is one seed" if count == 1 else f"nothing, and there are {count} seeds"
            yield Fault(who=who, columns=("seed_spread",), text=text)


def _of_external(board: Board, plan: BoardPlan, toml: str) -> Iterator[Fault]:
    """What others found, as far as the plan tells figures; examples that were judged need the images."""
    if plan.submissions:
        return
    bare = board.rows.assign(
        best_known=board.rows["worst_case"],
        best_known_source=["" if math.isnan(share) else "here" for share in board.rows["worst_case"]],
    )
    try:
        should = with_external(bare, plan.external)
    except UserError as error:
        yield Fault(text=str(error))
        return
    for row, again in zip(board.rows.to_dict("records"), should.to_dict("records"), strict=True):
        odd = tuple(name for name in ("best_known", "best_known_source") if not _same(row[name], again[name]))
        if odd:
            told = " and ".join(f"{again[name]}" for name in odd)
            yield Fault(who=name_of(key_of(row)), columns=odd, text=f"{toml} and the worst case give {told}")


def seal(path: Path, changed: Sequence[str] = ()) -> tuple[Path, ...]:
    """Write the evidence of a leaderboard that has none, or in which these columns of NAME.csv were changed on purpose.

    Returns:
        the files that were written; none where the evidence is in order.

    Raises:
        UserError: it is not sound, or something else was changed.
    """
    found = files.read(path)
    columns = {str(name) for table in found.tables.values() for name in table.columns} - {EVIDENCE}
    for name in changed:
        if name not in columns:
            raise unknown("column", name, columns)
    wrong = [*faults_without_evidence(found, path)]
    wrong = wrong or list(_unmeant(found, changed))
    if wrong:
        also = "; name the columns that were changed on purpose: --changed COLUMN" if changed or found.sealed else ""
        raise UserError(f"{str(path)!r} is not sealed: {wrong[0].told(path.stem)}{also}")
    if found.sealed and not list(faults_of_evidence(found)):
        return ()
    texts = found.with_evidence().texts(path)
    clocks = files.place_of(path, "timings")
    return files.write({place: text for place, text in texts.items() if place != clocks})


def _unmeant(found: Files, changed: Sequence[str]) -> Iterator[Fault]:
    """Edits of a sealed leaderboard that nobody answers for."""
    if found.sealed:
        yield from (one for one in faults_of_evidence(found) if not set(one.columns) <= set(changed) or not one.columns)


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
