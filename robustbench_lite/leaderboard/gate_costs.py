"""Whether something became dearer: queries, seconds, and the cost in units that do not depend on the machine."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.errors import UserError
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.columns import Key, key_of, name_of, number_of
from robustbench_lite.leaderboard.comparison import Comparison, Kind, Limits


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of a leaderboard's rows.

    Args:
        queries: a sample, by attack. seconds: a sample. cost: of the evaluation, in bare forwards and gradients. device: where.
    """

    queries: Mapping[tuple[Key, str], float]
    seconds: Mapping[Key, float]
    cost: Mapping[Key, float]
    device: Mapping[Key, str]

    @classmethod
    def of(cls, board: Board) -> "Costs":
        """Those that the samples and the clocks tell."""
        asked: dict[tuple[Key, str], float] = {}
        for row in board.samples.to_dict(
            "records"
        ):  # of an attack that knows the defense beside one that does not, both
            one = key_of(row), str(row["attack"])
            asked[one] = asked.get(one, 0.0) + number_of(row["queries"])
        clocks = {key_of(row): row for row in board.timings.to_dict("records")}
        return cls(
            queries={one: value for one, value in asked.items() if math.isfinite(value)},
            seconds={key: number_of(row["seconds_per_sample"]) for key, row in clocks.items()},
            cost={key: number_of(row.get("cost", "")) for key, row in clocks.items()},
            device={key: str(row["device"]) for key, row in clocks.items()},
        )


def dearer(
    key: Key,
    before: Mapping[Any, Any],
    after: Mapping[Any, Any],
    costs: tuple[Costs, Costs],
    limits: Limits,
    *,
    same_images: bool,
) -> Iterator[Comparison]:
    """Queries of each attack, since a cheap one would hide behind a dear one, else of all together; seconds; and the cost.

    Queries and seconds an image depend on the images, and are compared where these are the same; what a query costs does not.

    Raises:
        UserError: seconds or costs are asked for, and one side tells none.
    """
    old, new = costs
    if limits.queries is not None and same_images:
        attacks = [attack for who, attack in old.queries if who == key and (key, attack) in new.queries]
        pairs = [(attack, old.queries[key, attack], new.queries[key, attack]) for attack in attacks]
        each = list(_grown("queries", key, pairs, limits.queries))
        yield from each
        other = {attack for who, attack in new.queries if who == key} - {attack for attack, _, _ in pairs}
        if not any(one.failed for one in each) and not (pairs and other):  # what was not there before has its own price
            whole = [("queries", number_of(before["queries"]), number_of(after["queries"]))]
            yield from _grown("queries", key, whole, limits.queries)
    if limits.seconds is not None and same_images:
        pair = _both("time", "seconds", key, old.seconds, new.seconds)
        yield from _grown("time", key, [("time", *pair)], limits.seconds)
    # where nothing is right untouched, nothing is attacked, and nothing has a cost
    attacked = all(number_of(row["clean"]) > 0 for row in (before, after))
    if limits.cost is not None and attacked:
        pair = _both("speed", "cost", key, old.cost, new.cost)
        if (_kind(old.device[key]), _kind(new.device[key])) not in (("cpu", "cpu"), ("gpu", "gpu")):
            raise UserError(
                f"--speed: {name_of(key)} ran on {old.device[key]} in the baseline and on {new.device[key]} now; costs are"
                " compared between CPUs, or between GPUs"
            )
        yield from _grown("speed", key, [("cost", *pair)], limits.cost)


def _both(option: str, what: str, key: Key, old: Mapping[Key, float], new: Mapping[Key, float]) -> tuple[float, float]:
    """The figures of both sides.

    Raises:
        UserError: one has none.
    """
    for side, figures in (("the baseline", old), ("the run", new)):
        if math.isnan(figures.get(key, math.nan)):
            raise UserError(
                f"--{option}: {side} tells no {what} of {name_of(key)}; build the leaderboard again, or leave out --{option}"
            )
    return old[key], new[key]


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "gpu"


def _grown(kind: Kind, key: Key, pairs: Sequence[tuple[str, float, float]], factor: float) -> Iterator[Comparison]:
    for what, first, second in pairs:
        if math.isnan(first) or math.isnan(second):
            continue
        grew = f"grew {second / first:.2f} times, {factor:g} allowed" if first > 0 else "was nothing before"
        how = grew if second > first else f"did not grow, {factor:g} times allowed"
        failed = second > factor * first
        yield Comparison(kind=kind, who=key, what=what, before=first, after=second, how=how, failed=failed)
