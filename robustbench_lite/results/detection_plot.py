"""Detectors as pictures: their ROC curves, and histograms of their scores on clean, plain and adaptive examples."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from robustbench_lite.results.detection import KEY, curve, scores_of
from robustbench_lite.results.plots import PALETTE, _figure, _legend, _logarithmic, _save, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 40
#: where a rate of false alarms of none is drawn
_LEAST = 1e-3


@_styled
def plot_detection(records: pd.DataFrame, path: Path) -> Path:
    """A line of two panels for each system with a detector: ROC curves, a colour an attack, and histograms of the scores.

    Plain attacks are drawn dashed; the histograms hold all attacks together. The axis of false alarms is logarithmic,
    because detectors are used where alarms are rare.

    Args:
        records: one row a sample and cell.
        path: of the PNG.

    Raises:
        ValueError: no system has a detector.
    """
    guarded = records[records["clean_score"].notna()]
    systems = list(guarded.groupby(list(KEY[:4]), sort=False))
    if not systems:
        raise ValueError("there is nothing to draw: no system has a detector")
    attacks = [str(name) for name in guarded["attack"].unique()]
    figure = _figure(11.5, 0.9 + 3.9 * len(systems))
    grid = figure.subplots(len(systems), 2, squeeze=False)
    for (left, right), ((dataset, model, defense, threat), own) in zip(grid, systems, strict=True):
        _curves(left, own, attacks)
        _histograms(right, own)
        left.set_title(f"{dataset}, {model}, {threat}", loc="left", fontsize=10)
        right.set_title(str(defense), loc="left", fontsize=10)
    _legend(figure, [line[0] for line in grid])
    figure.suptitle("Detection of examples that are answered wrongly, against clean images", fontsize=12)
    return _save(figure, path)


def _curves(axis: "Axes", own: pd.DataFrame, attacks: list[str]) -> None:
    for (attack, adaptive), rows in own.groupby(["attack", "adaptive"], sort=False):
        _, alarms, hits = curve(*scores_of(rows))
        if not len(alarms):
            continue
        axis.step(
            np.concatenate(([_LEAST], alarms.clip(_LEAST))),
            100 * np.concatenate((hits[:1], hits)),
            where="post",
            color=PALETTE[attacks.index(str(attack)) % len(PALETTE)],
            ls="-" if adaptive else "--",
            lw=1.4,
            label=f"{attack}{'' if adaptive else ' (plain)'}",
        )
    _logarithmic(axis)
    axis.set_xlim(_LEAST, 1)
    axis.set_ylim(-1, 101)
    axis.set_xlabel("share of clean images above the threshold")
    axis.set_ylabel("examples above it (%)")
    axis.grid(color="0.9")


def _histograms(axis: "Axes", own: pd.DataFrame) -> None:
    every = own.drop_duplicates("index")
    groups = {"clean": scores_of(every)[0]}
    for name, adaptive in (("plain attacks", False), ("adaptive attacks", True)):
        rows = own[own["adaptive"].astype(bool) == adaptive]
        found = [scores_of(part)[1] for _, part in rows.groupby("attack", sort=False)]
        groups[name] = np.concatenate(found) if found else np.empty(0)
    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    together = np.concatenate(list(groups.values()))
    if not len(together):
        return
    low, high = np.quantile(together, (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    for place, (name, values) in enumerate(groups.items()):
        if len(values):
            count, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
            colour = ("0.75", PALETTE[0], PALETTE[1])[place]
            axis.stairs(100 * count / len(values), edges, fill=place == 0, color=colour, lw=1.6, label=name)
    axis.set_xlabel("score of the detector; what lies beyond is in the last bins")
    axis.set_ylabel("share (%)")
    axis.legend(fontsize=9, frameon=False)
