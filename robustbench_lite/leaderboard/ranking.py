"""Who is ahead of whom: by paired exact tests on the same images, never by the order of two figures."""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_lite.leaderboard.columns import WORST, Key, key_of, ranks
from robustbench_lite.leaderboard.samples import unpacked
from robustbench_lite.results.statistics import holm, mcnemar

#: two systems are apart where the corrected p is below it
ALPHA = 0.05
Left = Mapping[Key, NDArray[np.bool_]]


def ranked(rows: pd.DataFrame, samples: pd.DataFrame, alpha: float = ALPHA) -> pd.DataFrame:
    """The rows in order, with their column `rank`, within each dataset and threat.

    The rank is 1 + the number of systems that are significantly better in the worst case: exact McNemar tests over the same
    images, Holm-corrected over all pairs of the table. Systems that were not seen on the same images are not compared.
    A row with a mark (a flag, no adaptive result) may claim too much: it comes after all rows without one, and is ahead of none
    of them. A row marked `order-dependent` has no number to be ranked by: it comes last, its rank is "", and it is compared with
    nobody.

    Args:
        rows: of `rows.found_in`. samples: of the same, for the tests.
    """
    left = left_by(samples, WORST)
    parts = []
    for _, own in rows.groupby(["dataset", "threat"], sort=False):
        with_rank = own["mark"].map(ranks)
        better = _better(own[with_rank], left, alpha)
        sound = set(own.index[own["mark"] == ""])
        places = [_rank(better[place], sound, place in sound) if place in better else "" for place in own.index]
        order = own.assign(
            rank=pd.Series(places, index=own.index, dtype=object), _sound=[p not in sound for p in own.index]
        )
        order = order.assign(_last=~with_rank, _rank=[place or 0 for place in places])
        names = ["_last", "_sound", "_rank", "worst_case", "clean", "model", "defense"]
        downwards = ["worst_case", "clean"]
        sort = order.sort_values(names, ascending=[name not in downwards for name in names], kind="stable")
        parts.append(sort.drop(columns=["_last", "_sound", "_rank"]))
    return pd.concat(parts, ignore_index=True) if parts else rows.assign(rank="")


def _rank(better: set[int], sound: set[int], is_sound: bool) -> int:
    """The rank of a row, given those that are significantly better: a row with a mark stands behind all without one."""
    return 1 + (len(better & sound) if is_sound else len(sound) + len(better - sound))


def left_by(samples: pd.DataFrame, attack: str) -> dict[Key, NDArray[np.bool_]]:
    """Row -> which of its samples an attack leaves, (n,)."""
    own = samples[samples["attack"] == attack]
    return {key_of(row): unpacked(str(row["left"]), int(row["n"])) for row in own.to_dict("records")}


def _better(own: pd.DataFrame, left: Left, alpha: float) -> dict[int, set[int]]:
    """Row -> the rows that are significantly better."""
    pairs = list(_pairs(own, left))
    tests = [mcnemar(one, two) for _, _, one, two in pairs]
    found: dict[int, set[int]] = {int(place): set() for place in own.index}
    for (first, second, _, _), test, p in zip(pairs, tests, holm([test.p for test in tests]), strict=True):
        if p < alpha:
            worse, ahead = (second, first) if test.only_first > test.only_second else (first, second)
            found[worse].add(ahead)
    return found


def _pairs(own: pd.DataFrame, left: Left) -> Iterator[tuple[int, int, NDArray[np.bool_], NDArray[np.bool_]]]:
    for (one, first), (two, second) in combinations(own.iterrows(), 2):
        a, b = left.get(key_of(first.to_dict())), left.get(key_of(second.to_dict()))
        if a is not None and b is not None and first["slice"] == second["slice"] and len(a) == len(b):
            yield int(str(one)), int(str(two)), a, b
