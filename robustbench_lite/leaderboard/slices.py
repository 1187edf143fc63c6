"""Which images a row was evaluated on: a leaderboard keeps their digest, a run their positions."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from robustbench_lite import data as datasets
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_json
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.plan import BoardPlan
from robustbench_lite.run.dataset import load_data


def slice_digest(data: str, images: Sequence[int]) -> str:
    """Twelve letters over which images were looked at; `data`, the digest of their dataset, is in it."""
    return hash_json([data, list(images)], 6)


def with_images(baseline: Board, now: Board, path: Path, data_root: Path | None = None) -> Board:
    """The baseline with the positions of its images, where a slice that is likely turns out to have its digest.

    Args:
        now: a run, whose data are known. path: of the baseline; its plan NAME.toml may lie beside it.
    """
    known = dict(baseline.images)
    unknown = {str(row["slice"]): int(row["n"]) for row in baseline.rows.to_dict("records")}
    for digest, n in unknown.items():
        if digest not in known and digest not in now.images:
            for images in _likely(now, n, path, data_root):
                if slice_digest(now.data, images) == digest:
                    known[digest] = tuple(images)
                    break
    # a folder of a run knows its images, and its data: those at the same positions of other data are others
    return replace(baseline, images=known, data=baseline.data or now.data)


def _likely(now: Board, n: int, path: Path, data_root: Path | None) -> Iterator[Sequence[int]]:
    """The first n images of the run's data, and those that the plan beside the baseline chooses of them."""
    yield range(n)
    toml = path.with_suffix(".toml")
    with suppress(UserError):
        plan = BoardPlan.load(toml).plan
        data = load_data(replace(plan, data_root=plan.data_root if data_root is None else str(data_root)))
        if data.digest() == now.data:
            yield datasets.choose(data, plan.samples, plan.slice_seed).tolist()
