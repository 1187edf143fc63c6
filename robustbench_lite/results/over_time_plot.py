"""Robust accuracy over queries and over seconds, and what defenses claim beside what they are worth, as pictures."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from robustbench_lite.results.claimed import Claimed
from robustbench_lite.results.fates import SYSTEM
from robustbench_lite.results.grid import folded
from robustbench_lite.results.metrics import WORST_CASE
from robustbench_lite.results.plots import PALETTE, _legend, _logarithmic, _panels, _save, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: dashes of a second and third round through the palette, so that no two of 24 lines look alike
_ROUNDS = ("-", "-.", (0, (1, 1)))


@_styled
def plot_queries(queries: pd.DataFrame, claimed: Claimed, path: Path) -> Path:
    """What is left after so many queries: a panel a system and threat, a colour an attack, plain ones dashed.

    Args:
        queries: of `over_time.over_queries`. path: ends in .svg, or is drawn as a PNG.

    Raises:
        ValueError: there is nothing in it.
    """
    panels = list(queries.groupby(list(SYSTEM), sort=False))
    figure, axes = _panels(len(panels), height=3.6)
    attacks = list(queries["attack"].unique())
    for axis, ((dataset, model, defense, threat), part) in zip(axes, panels, strict=True):
        who = {"dataset": dataset, "model": model, "defense": defense, "threat": threat}
        for (attack, adaptive), own in part.groupby(["attack", "adaptive"], sort=False):
            plain = claimed.plain({**who, "attack": attack, "adaptive": adaptive})
            label = f"{attack} (plain)" if plain else f"{attack}"
            style: dict[str, Any] = {**_look(attacks.index(attack)), **({"ls": "--"} if plain else {})}
            axis.step(own["forwards"].clip(1), 100 * own["robust_acc"], where="post", label=label, **style)
        _dress(axis, f"{dataset}, {model}, {defense}, {threat}", "queries of a sample (forwards)")
    axes[0].set_ylabel("right and not broken (%)")
    _legend(figure, axes)
    figure.suptitle(f"Accuracy over queries, n = {_span(queries['n'])} test images", fontsize=12)
    return _save(figure, path)


@_styled
def plot_time(time: pd.DataFrame, claimed: Claimed, path: Path) -> Path:
    """What all attacks so far have left: a panel a dataset, model and threat, a colour a defense, a mark an attack's end.

    Args:
        time: of `over_time.over_time`. path: ends in .svg, or is drawn as a PNG.

    Raises:
        ValueError: there is nothing in it.
    """
    panels = list(time.groupby(["dataset", "model", "threat"], sort=False))
    figure, axes = _panels(len(panels), height=3.6)
    defenses = list(time["defense"].unique())
    spent = time.loc[time["seconds"] > 0, "seconds"]
    least = 10.0 ** math.floor(math.log10(float(spent.min()))) if len(spent) else 0.1
    for axis, ((dataset, model, threat), part) in zip(axes, panels, strict=True):
        for defense, own in part.groupby("defense", sort=False):
            label = f"{defense}{claimed.mark(dataset, model, defense, threat)}"
            x, y = own["seconds"].clip(least), 100 * own["robust_acc"]
            look = _look(defenses.index(defense))
            axis.step(x, y, where="post", label=label, marker="o", ms=3.5, markevery=slice(1, None), **look)
        _dress(axis, f"{dataset}, {model}, {threat}", "seconds of attacks, one after the other")
    axes[0].set_ylabel("right and not broken (%)")
    _legend(figure, axes)
    figure.suptitle(f"Accuracy over time, n = {_span(time['n'])} test images", fontsize=12)
    return _save(figure, path)


@_styled
def plot_claims(summary: pd.DataFrame, claims: pd.DataFrame, claimed: Claimed, path: Path) -> Path:
    """What systems claim (outlines) and what they are worth (bars): a panel a dataset and threat with a robust accuracy.

    Args:
        summary: of `metrics.summarise`. claims: of `claims.claims`, may be empty. path: ends in .svg, or is a PNG.

    Raises:
        ValueError: no threat has a robust accuracy.
    """
    worst = summary[(summary["attack"] == WORST_CASE) & ~(summary["eps"].isna() & (summary["norm"] != ""))]
    panels = list(worst.groupby(["dataset", "threat"], sort=False))
    most = max((len(part) for _, part in panels), default=0)
    figure, axes = _panels(len(panels), height=1.3 + 0.45 * most, across=1)
    told = {tuple(row[name] for name in SYSTEM): float(row["claimed"]) for row in claims.to_dict("records")}
    for axis, ((dataset, threat), part) in zip(axes, panels, strict=True):
        rows = part.to_dict("records")
        for y, row in enumerate(rows):
            _claim(axis, y, row, float(row["robust_acc"]) if claimed.only(row) else told.get(_place(row), math.nan))
            if not claimed.only(row):
                _worth(axis, y, row)
        several = part["model"].nunique() > 1
        names = [f"{row['model']}, {row['defense']}" if several else str(row["defense"]) for row in rows]
        axis.set_yticks(range(len(rows)), ["\n".join(folded(name, 32)) for name in names], fontsize=9)
        axis.set(xlim=(0, 108), ylim=(len(rows) - 0.4, -0.6))
        axis.set_title(f"{dataset}, {threat}", loc="left")
        axis.grid(axis="x", color="0.9", zorder=0)
    axes[-1].set_xlabel("robust accuracy (%)")
    axes[0].barh([math.nan], [0], color="none", edgecolor=PALETTE[1], label="claimed: plain attacks alone")
    axes[0].barh([math.nan], [0], color=PALETTE[0], label="actual: all attacks")
    axes[0].plot([], [], color="0.4", lw=0, marker="|", ms=10, label="clean")
    _legend(figure, axes)
    figure.suptitle("Claimed and actual; whiskers: 95% Clopper-Pearson intervals over test images", fontsize=12)
    return _save(figure, path)


def _claim(axis: "Axes", y: int, row: dict[Any, Any], claimed: float) -> None:
    """The outline, and the mark of the clean accuracy."""
    if not math.isnan(claimed):
        axis.barh([y], [100 * claimed], 0.66, color="none", edgecolor=PALETTE[1], lw=1.5, zorder=3)
        axis.annotate(f"{100 * claimed:.0f}", (100 * claimed, y - 0.2), (3, 0), textcoords="offset points", fontsize=8)
    if not math.isnan(row["clean_acc"]):
        axis.plot([100 * row["clean_acc"]] * 2, [y - 0.4, y + 0.4], color="0.4", lw=1.5, zorder=2)


def _worth(axis: "Axes", y: int, row: dict[Any, Any]) -> None:
    """The bar with its interval; of samples without a verdict the two bounds alone."""
    value, low, high = (100 * float(row[name]) for name in ("robust_acc", "robust_acc_low", "robust_acc_high"))
    axis.barh([y], np.nan_to_num([value]), 0.5, color=PALETTE[0], zorder=2)
    centre = (low + high) / 2 if math.isnan(value) else value
    reach = np.array([[centre - low], [high - centre]])
    axis.errorbar([centre], [y], xerr=reach, fmt="none", ecolor="0.15", elinewidth=1, capsize=2, zorder=4)
    told = "?" if math.isnan(value) else f"{value:.0f}"
    axis.annotate(told, (high, y), (4, -3), textcoords="offset points", fontsize=8, zorder=5)


def _dress(axis: "Axes", title: str, label: str) -> None:
    axis.set_title("\n".join(folded(title, 58)), loc="left", fontsize=10)
    _logarithmic(axis)
    axis.set_ylim(0, 101)
    axis.set_xlabel(label)
    axis.grid(axis="y", color="0.9")


def _look(place: int) -> dict[str, Any]:
    """A colour of the palette without its last, which is too light for a line; other dashes once they are used up."""
    colours = PALETTE[:-1]
    return {"color": colours[place % len(colours)], "ls": _ROUNDS[place // len(colours) % len(_ROUNDS)], "lw": 1.5}


def _place(row: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SYSTEM)


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"
