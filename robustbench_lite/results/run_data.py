"""A run as its folder tells it, and every table that is made of it: what the page and the plots are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from robustbench_lite.results import claims, compare, curve, detection, metrics, over_time, stages
from robustbench_lite.results.claimed import Claimed
from robustbench_lite.results.fates import Expected


@dataclass(frozen=True, kw_only=True, eq=False)
class RunData:
    """What there is of a run; what is optional is empty where the run has none, or has not come that far.

    Args:
        records: one row a sample and cell. timings: one row a cell. diagnostics: one row a check.
        expected: how many samples each cell was to have.
        environment: versions, device, digests. plan: the text of plan.toml.
        examples: cell key -> index -> adversarial image (c, h, w) in [0, 1].
        pictures: file name -> PNG, of the pictures that need more than the records to be drawn.
        physical, sweep, reconstruction: the tables of those names.
        unfinished: cells of the plan without all of their records, in words.
    """

    records: pd.DataFrame
    timings: pd.DataFrame
    diagnostics: pd.DataFrame
    expected: Expected
    environment: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    examples: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    physical: pd.DataFrame = field(default_factory=pd.DataFrame)
    sweep: pd.DataFrame = field(default_factory=pd.DataFrame)
    reconstruction: pd.DataFrame = field(default_factory=pd.DataFrame)
    unfinished: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Of `metrics.summarise`."""
        return metrics.summarise(self.records, self.timings, self.diagnostics, expected=self.expected)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Of `compare.compare_rows`."""
        return compare.compare_rows(self.records, expected=self.expected)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Of `claims.claims`."""
        return claims.claims(self.records, expected=self.expected)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Of `curve.security_curve`, without the lines that are a single point."""
        line = ["dataset", "model", "defense", "norm", "attack"]
        several = self.summary.groupby(line)["eps"].nunique() > 1
        if not several.any() and not self.summary["eps"].isna().any():
            return pd.DataFrame(columns=list(curve.COLUMNS))  # one eps each: the summary need not be made again
        found = curve.security_curve(self.records, expected=self.expected)
        return found[found.groupby(line)["eps"].transform("nunique") > 1].reset_index(drop=True)

    @cached_property
    def queries(self) -> pd.DataFrame:
        """Of `over_time.over_queries`."""
        return over_time.over_queries(self.records, expected=self.expected)

    @cached_property
    def time(self) -> pd.DataFrame:
        """Of `over_time.over_time`."""
        return over_time.over_time(self.records, self.timings, expected=self.expected)

    @cached_property
    def stages(self) -> pd.DataFrame:
        """Of `stages.by_stage`."""
        return stages.by_stage(self.records, self.timings)

    @cached_property
    def detection(self) -> pd.DataFrame:
        """Of `detection.detection`."""
        return detection.detection(self.records)

    @cached_property
    def roc(self) -> pd.DataFrame:
        """Of `detection.roc`."""
        return detection.roc(self.records)

    @cached_property
    def claimed(self) -> Claimed:
        """Which numbers of the summary are only claimed."""
        return Claimed(self.summary, self._hiding())

    def _hiding(self) -> frozenset[tuple[str, str]]:
        """(model, defense) of which the environment says, or the records show, that plain attacks do not know it."""
        knowing = self.records[self.records["adaptive"].astype(bool)]
        shown = knowing[["model", "defense"]].drop_duplicates().itertuples(index=False, name=None)
        told = self.environment.get("systems", {})
        every = self.summary[["model", "defense"]].drop_duplicates().itertuples(index=False, name=None)
        said = {who for who in every if _hides(told.get(f"{who[0]} | {who[1]}"))}
        return frozenset({*shown, *said})


def _hides(told: object) -> bool:
    return isinstance(told, Mapping) and bool(told.get("hides", False))
