"""From a plan to a leaderboard: the evaluation, once a seed, and what others have found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from robustbench_lite.errors import UserError
from robustbench_lite.escaping import printable
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import KEY
from robustbench_lite.leaderboard.plan import BoardPlan, External
from robustbench_lite.leaderboard.rows import Found, data_of, found_in, images_of
from robustbench_lite.leaderboard.submissions import with_submissions
from robustbench_lite.run.evaluate import run
from robustbench_lite.run.reporter import Reporter


def build(
    plan: BoardPlan,
    folder: Path,
    *,
    data_root: str | None = None,
    reporter: Reporter | None = None,
    jobs: int | None = 1,
    fresh: bool = False,
) -> Board:
    """Run the evaluation of every seed in a folder of its own, where it goes on after a kill, and rank what it says.

    Args:
        folder: where the runs are kept: FOLDER/seed-N. data_root: where datasets lie, instead of the plan's.
        fresh: compute again what is kept there.

    Raises:
        UserError: as an evaluation; or a cell of one failed.
    """
    runs = []
    for seed in plan.seeds:
        own = replace(plan.plan, seed=seed, data_root=data_root or plan.plan.data_root)
        place = folder / f"seed-{seed}"
        result = run(own, out=place, reporter=reporter, jobs=jobs, fresh=fresh)
        if result.failed:
            cell, why = next(iter(result.failed.items()))
            raise UserError(f"a cell of the leaderboard failed: {cell}: {why}; what was computed is kept in {place}")
        runs.append(place)
    return built_from(plan, runs)


def board_of(folder: Path) -> Board:
    """A single run as a leaderboard.

    Raises:
        UserError: the folder holds no run.
    """
    return found_in(folder).ranked()


def built_from(plan: BoardPlan, runs: Sequence[Path]) -> Board:
    """The leaderboard that the records of these runs, one a seed, give.

    Raises:
        UserError: a folder holds no run, or two do not hold the same systems on the same images.
    """
    found = [found_in(folder) for folder in runs]
    rows = with_external(_with_spread(found), plan.external)
    if plan.submissions:
        told = images_of(runs[0]), data_of(runs[0])
        rows = with_submissions(rows, found[0].samples, plan.submissions, *told)
    return replace(found[0], rows=rows).ranked()


def _with_spread(found: Sequence[Found]) -> pd.DataFrame:
    """The rows of the first seed, with the range of the worst case over all of them."""
    first = found[0].rows
    if len(found) == 1:
        return first
    names = [*KEY, "slice"]
    each = [one.rows.set_index(names)["worst_case"] for one in found]
    together = pd.concat(each, axis=1, keys=range(len(each)))
    if len(together) != len(first) or together.isna().to_numpy().any():
        raise UserError("the runs of a leaderboard's seeds do not hold the same systems on the same images")
    spread = (together.max(axis=1) - together.min(axis=1)).round(6).reindex(pd.MultiIndex.from_frame(first[names]))
    return first.assign(seeds=len(found), seed_spread=spread.to_numpy())


def with_external(rows: pd.DataFrame, external: Sequence[External]) -> pd.DataFrame:
    """What others found where it is lower than what was found here."""
    rows = rows.copy()
    for one in external:
        mine = (rows["model"] == printable(one.model)) & (rows["defense"] == printable(one.defense))
        if one.threat:
            mine &= rows["threat"] == one.threat
        if not mine.any():
            raise UserError(f"[[external]] names {one.model} with {one.defense}, which is no row of the leaderboard")
        lower = mine & ~(rows["best_known"] <= one.robust)
        rows.loc[lower, "best_known"] = one.robust
        rows.loc[lower, "best_known_source"] = one.source
    return rows
