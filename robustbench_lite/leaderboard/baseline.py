"""What a gate can be held against: a baseline with figures, of the same data and threat, and a run of as many images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import Key, key_of, name_of

Rows = Mapping[Key, Mapping[Any, Any]]


def rows_of(board: Board) -> Rows:
    """The rows by who they are about."""
    return {key_of(row): row for row in board.rows.to_dict("records")}


def refuse(old: Rows, new: Rows, *, fewer: bool) -> None:
    """Refuse a baseline, or a run, by which nothing could fail.

    Args:
        old, new: rows of the baseline, and of the run. fewer: the run may have fewer images.

    Raises:
        UserError: no rows, a figure that is missing, other data or another threat, or fewer images.
    """
    if not old:
        raise UserError(
            "the baseline has no rows, so that nothing could fail; build it again: rbl leaderboard build NAME.toml"
        )
    if not new:
        raise UserError("the run has no rows; start it again to go on")
    for key, row in old.items():
        if math.isnan(float(row["worst_case"])) or math.isnan(float(row["clean"])):
            what = "worst_case" if math.isnan(float(row["worst_case"])) else "clean"
            raise UserError(f"the baseline has no {what} of {name_of(key)} (unfinished?); build it again")
    if not set(old) & set(new):
        _refuse_foreign(old, new)
    if not fewer:
        _refuse_fewer(old, new)


def _refuse_foreign(old: Rows, new: Rows) -> None:
    """Other systems of the same data and threat may have been renamed, and are told one by one; else nothing is alike."""
    for place, what in ((0, "data"), (1, "threat")):
        before, after = ({key[place] for key in rows} for rows in (old, new))
        if not before & after:
            raise UserError(
                f"the baseline has no row in common with the run: its {what} is {_listed(before)}, that of the run"
                f" {_listed(after)}; give the baseline of this run, or build one"
            )


def _refuse_fewer(old: Rows, new: Rows) -> None:
    few = [key for key in old if key in new and int(new[key]["n"]) < int(old[key]["n"])]
    if few:
        key = few[0]
        also = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
        raise UserError(
            f"the run has {_images(new[key])} of {name_of(key)}{also}, the baseline {_images(old[key])}: fewer see less;"
            " evaluate as many, or give --allow-fewer to compare those that are there"
        )


def _images(row: Mapping[Any, Any]) -> str:
    return "1 image" if int(row["n"]) == 1 else f"{int(row['n'])} images"


def _listed(names: set[str]) -> str:
    shown: Sequence[str] = sorted(map(printable, names))
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
