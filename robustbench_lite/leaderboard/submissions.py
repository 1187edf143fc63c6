"""Adversarial examples of others in a leaderboard: what `rbl verify --out` judged lowers the best known value of its row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_lite.errors import UserError, unread
from robustbench_lite.leaderboard.columns import WORST, key_of
from robustbench_lite.leaderboard.ranking import left_by

#: fates of an image that is not robust
_LOST = ("broken", "clean-wrong")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A verdict that `rbl verify` wrote.

    Args:
        digest: of the system that was judged. data: digest of the dataset. lost: positions of the images that it answers
            wrongly. source: who sent it, as the leaderboard says.
    """

    model: str
    defense: str
    threat: str
    digest: str
    data: str
    lost: frozenset[int]
    source: str

    @classmethod
    def load(cls, path: Path, source: str = "") -> "Submission":
        """Read a verdict.

        Raises:
            UserError: it cannot be read, or is none.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            lost = frozenset(int(one["index"]) for one in told["samples"] if one["fate"] in _LOST)
            return cls(
                model=told["system"]["model"], defense=told["system"]["defense"], digest=told["system"]["digest"],
                threat=told["threat"], data=told["data"]["digest"], lost=lost, source=source or told["file"]["name"],
            )  # fmt: skip
        except OSError as error:
            raise unread("verdict", path, error) from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise UserError(f"{str(path)!r} is no verdict that rbl verify --out wrote") from None


def with_submissions(
    rows: pd.DataFrame, samples: pd.DataFrame, submissions: Sequence[Submission], images: Sequence[int], data: str
) -> pd.DataFrame:
    """The rows, where images that a submission has broken count as broken in `best_known`, together with our own breaks.

    Args:
        images: positions of the leaderboard's images, in the order of its samples. data: digest of its dataset.

    Raises:
        UserError: a submission is about no row, other weights or other data.
    """
    rows, left = rows.copy(), left_by(samples, WORST)
    lost: dict[int, set[int]] = {}
    for one in submissions:
        mine = (rows["model"] == one.model) & (rows["defense"] == one.defense) & (rows["threat"] == one.threat)
        if not mine.any():
            raise UserError(
                f"{one.source}: {one.model} with {one.defense} under {one.threat} is no row of the leaderboard"
            )
        place = rows.index[mine][0]
        if one.digest != rows.at[place, "digest"] or one.data != data:
            what = "weights or parts" if one.data == data else "data"
            raise UserError(f"{one.source}: it was judged on other {what} than the leaderboard's; run rbl verify again")
        mask = left.get(key_of(rows.loc[place].to_dict()))
        if mask is None:
            continue
        lost.setdefault(place, set()).update(one.lost)
        kept = [bool(still) and index not in lost[place] for still, index in zip(mask, images, strict=True)]
        share = round(sum(kept) / len(kept), 6)
        if share < rows["best_known"].astype(float)[place]:
            rows.loc[place, "best_known"], rows.loc[place, "best_known_source"] = share, one.source
    return rows


def load(tables: Sequence[Mapping[str, Any]], beside: Path) -> tuple[Submission, ...]:
    """Those of the tables `[[external]]` that name a verdict, whose path counts from the plan's folder.

    Raises:
        UserError: as `Submission.load`.
    """
    chosen = [table for table in tables if "verdict" in table]
    return tuple(Submission.load(beside / str(one["verdict"]), str(one.get("source", ""))) for one in chosen)
