"""Which numbers are only claimed: what attacks leave that do not know a defense, beside what is actually left."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from robustbench_lite.results.claims import base_of
from robustbench_lite.results.metrics import WORST_CASE

System = tuple[str, str, str, str]


class Claimed:
    """What is known of a run's plain attacks on systems that hide something.

    A plain attack claims where the same attack ran adaptively as well (an average over draws is the same attack), or where
    nobody at all knew the defense. Any other plain attack is the same for everybody, and claims nothing.

    Args:
        summary: of `metrics.summarise`. hiding: (model, defense) of the systems that plain attacks do not know.
    """

    def __init__(self, summary: pd.DataFrame, hiding: Collection[tuple[str, str]]) -> None:
        self._summary, self._hiding = summary, hiding
        self._known: set[System] = set()
        self._actual: dict[tuple[System, str, str], float] = {}
        ways: dict[tuple[System, str], list[Mapping[Any, Any]]] = {}
        for row in summary.to_dict("records"):
            if row["attack"] != WORST_CASE:
                ways.setdefault((_system(row), base_of(row["attack"])), []).append(row)
        for (system, base), rows in ways.items():
            if any(knows(row["adaptive"]) for row in rows):
                self._known.add(system)
                for name in ("robust_acc", "median_norm"):
                    numbers = [float(row[name]) for row in rows if not math.isnan(row[name])]
                    self._actual[system, base, name] = min(numbers, default=math.nan)

    def only(self, row: Mapping[Any, Any]) -> bool:
        """Whether nobody who knows the defense has attacked this system under this threat."""
        return (row["model"], row["defense"]) in self._hiding and _system(row) not in self._known

    def mark(self, dataset: object, model: object, defense: object, threat: object = None) -> str:
        """` (claimed only)` where that is so of this system, under this threat or any."""
        own = self._summary
        own = own[(own["dataset"] == dataset) & (own["model"] == model) & (own["defense"] == defense)]
        threats = own["threat"].unique() if threat is None else [threat]
        who = {"dataset": dataset, "model": model, "defense": defense}
        return " (claimed only)" if any(self.only({**who, "threat": one}) for one in threats) else ""

    def plain(self, row: Mapping[Any, Any]) -> bool:
        """Whether this row of one attack is a claim."""
        if knows(row["adaptive"]) or (row["model"], row["defense"]) not in self._hiding:
            return False
        return self.only(row) or (_system(row), base_of(row["attack"]), "robust_acc") in self._actual

    def actual(self, row: Mapping[Any, Any], name: str) -> float:
        """What is left by the lower of the two ways of this attack; NaN where only one of them ran."""
        return self._actual.get((_system(row), base_of(row["attack"]), name), math.nan)


def knows(adaptive: Any) -> bool:
    """Whether the column says so; not where it says nothing."""
    return not pd.isna(adaptive) and str(adaptive).lower() == "true"


def _system(row: Mapping[Any, Any]) -> System:
    return row["dataset"], row["model"], row["defense"], row["threat"]
