"""Pictures of the numbers: the security curve, bars for a README, and a grid of adversarial examples.

Drawn by matplotlib's Agg without pyplot, so that no global state or display is touched; imported only when called.
Colours are those of Okabe and Ito (2008), which remain apart for the colour-blind; shapes and dashes differ as well.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd

from robustbench_lite.results.metrics import WORST_CASE, as_shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
P = ParamSpec("P")
_MARKS = "osD^vPX*"
_DPI = 150
#: inches a bar; so many defenses have small numbers on theirs
_BAR, _MANY = 0.2, 4
_FONT: dict[Any, Any] = {
    **{"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False},
    "text.parse_math": False,  # a name with $ in it is no formula
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_INTERVAL = "95% Clopper-Pearson intervals over test images"


def _styled(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Draw with our fonts and spines, whatever the caller's settings are, and leave those alone."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Path:
        from matplotlib import rc_context, rcdefaults

        with rc_context():
            rcdefaults()
            with rc_context(_FONT):
                return draw(*args, **kwargs)

    return styled


def _logarithmic(axis: "Axes") -> None:
    """A logarithmic x axis, with powers of ten written as text."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"10{str(round(math.log10(value))).translate(_RAISED)}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")


@_styled
def plot_curve(curve: pd.DataFrame, path: Path) -> Path:
    """The security curve, one panel a model and norm: a colour a defense, the worst case drawn through with its band.

    Args:
        curve: of `curve.security_curve`.
        path: of the PNG.

    Raises:
        ValueError: the curve has no points.
    """
    panels = list(curve.groupby(["dataset", "model", "norm"], sort=False))
    figure, axes = _panels(len(panels), height=4.3)
    for axis, ((dataset, model, norm), part) in zip(axes, panels, strict=True):
        _curve_panel(axis, part, _attacks(curve), list(curve["defense"].unique()))
        axis.set_title(f"{dataset}, {model}, {norm}, n = {_span(part['n'])}", loc="left")
        axis.set_xlabel(f"eps ({norm}, of an image in [0, 1])")
    axes[0].set_ylabel("robust accuracy (%)")
    _legend(figure, axes)
    figure.suptitle(f"Security curve; bands: {_INTERVAL}", fontsize=12)
    return _save(figure, path)


@_styled
def plot_bars(summary: pd.DataFrame, path: Path) -> Path:
    """Robust accuracy by attack, one panel a dataset, model and threat: a colour a defense, whiskers for the intervals.

    Where an attack ran plainly and adaptively, the bar is the lower of the two, and an outline shows the other one.

    Args:
        summary: of `metrics.summarise`; threats without eps are left out, since they have no robust accuracy at an eps.
        path: of the PNG.

    Raises:
        ValueError: there is no threat with eps.
    """
    fixed = summary[summary["eps"].notna()]
    panels = list(fixed.groupby(["dataset", "model", "threat"], sort=False))
    most = max((_bars(part) for _, part in panels), default=0)
    figure, axes = _panels(len(panels), height=3.9, across=1, width=float(np.clip(_BAR * most, 8.4, 16)))
    for axis, ((dataset, model, threat), part) in zip(axes, panels, strict=True):
        _bar_panel(axis, part, list(fixed["defense"].unique()))
        n = _span(part.loc[part["attack"] == WORST_CASE, "n"])
        axis.set_title(f"{dataset}, {model}, {threat}, n = {n} test images", loc="left")
        axis.set_ylabel("accuracy (%)")
    _legend(figure, axes)
    figure.suptitle(f"Accuracy under attack; whiskers: {_INTERVAL}", fontsize=12)
    return _save(figure, path)


@_styled
def plot_examples(
    path: Path,
    *,
    clean: np.ndarray,
    adversarial: np.ndarray,
    labels: Sequence[int],
    clean_predictions: Sequence[int],
    predictions: Sequence[int],
    class_names: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Clean image, perturbation and adversarial image of each chosen sample, a column a sample.

    The perturbation is drawn around mid-grey, all of them enlarged by one factor that the picture states.

    Args:
        path: of the PNG.
        clean, adversarial: (m, c, h, w) in [0, 1], c = 1 or 3.
        labels, clean_predictions, predictions: m class numbers.
        class_names: a name for each class number.
        rows: a line for each sample that stands above it, such as the attack.
        title: what is shown: the dataset, model, threat.

    Raises:
        ValueError: no samples, or arrays of other shapes.
    """
    if clean.shape != adversarial.shape or clean.ndim != 4 or clean.shape[1] not in (1, 3) or not len(clean):
        raise ValueError(f"examples need two arrays (m, 1 or 3, h, w), not {clean.shape} and {adversarial.shape}")
    delta = adversarial.astype(float) - clean.astype(float)
    scale = _scale(delta)
    names = [str(k) for k in range(1 + int(max([*labels, *clean_predictions, *predictions])))]
    names = (
        [textwrap.shorten(str(name), 16, placeholder="…") for name in class_names] if class_names is not None else names
    )
    lines = 2 + max((row.count("\n") + 1 for row in rows), default=0) if rows is not None else 2
    figure = _figure(0.7 + 1.4 * len(clean), 4.4 + 0.2 * lines)
    grid = figure.subplots(3, len(clean), squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
    for m in range(len(clean)):
        above = f"{rows[m]}\n" if rows is not None else ""
        _image(grid[0, m], clean[m], f"{above}label: {names[labels[m]]}\nanswer: {names[clean_predictions[m]]}")
        _image(grid[1, m], 0.5 + scale * delta[m], "")
        wrong = predictions[m] != labels[m]
        _image(grid[2, m], adversarial[m], f"answer: {names[predictions[m]]}", PALETTE[1] if wrong else "black")
    for axis, word in zip(grid[:, 0], ("clean", f"perturbation\n× {scale:g}", "adversarial"), strict=True):
        axis.set_ylabel(word, fontsize=11)
    figure.suptitle(title, fontsize=12)
    return _save(figure, path)


def _curve_panel(axis: "Axes", part: pd.DataFrame, attacks: list[str], defenses: list[str]) -> None:
    for defense, own in part.groupby("defense", sort=False):
        colour = PALETTE[defenses.index(str(defense)) % len(PALETTE)]
        for attack, line in own.groupby("attack", sort=False):
            eps, accuracy = line["eps"], 100 * line["robust_acc"]
            if attack != WORST_CASE:
                place = attacks.index(str(attack))
                mark, gap = (
                    _MARKS[place % len(_MARKS)],
                    max(1, len(line) // 15),
                )  # some of many points tell whose they are
                spots = (place % gap, gap)
                axis.plot(eps, accuracy, color=colour, lw=0.9, ls=":", marker=mark, ms=4, markevery=spots, alpha=0.8)
                continue
            axis.plot(eps, accuracy, color=colour, lw=2.2, label=f"{defense}")
            axis.fill_between(eps, 100 * line["low"], 100 * line["high"], color=colour, alpha=0.18, lw=0)
    for place, attack in enumerate(attacks):
        axis.plot([], [], color="0.4", lw=0.9, ls=":", marker=_MARKS[place % len(_MARKS)], ms=4, label=attack)
    axis.plot([], [], color="0.4", lw=2.2, label="worst case")
    axis.set_ylim(0, 101)
    axis.set_xlim(left=0)
    axis.grid(axis="y", color="0.9")


def _bars(part: pd.DataFrame) -> int:
    """How many bars a panel has, gaps included."""
    return (len(_attacks(part)) + 2) * (part["defense"].nunique() + 1)


def _bar_panel(axis: "Axes", part: pd.DataFrame, every: list[str]) -> None:
    attacks = [*_attacks(part), WORST_CASE]
    defenses = list(part["defense"].unique())
    width = 0.8 / len(defenses)
    for place, defense in enumerate(defenses):
        both = part[part["defense"] == defense]
        own = {str(row["attack"]): row for _, row in as_shown(both).iterrows()}
        shown = [attack for attack in attacks if attack in own]
        bars = [_bar(own[WORST_CASE], "clean_acc"), *(_bar(own[attack], "robust_acc") for attack in shown)]
        spots = [0, *(1 + attacks.index(attack) for attack in shown)]
        value, low, high = (100 * np.array(column) for column in zip(*bars, strict=True))
        x = np.array(spots) + (place - (len(defenses) - 1) / 2) * width
        colour = PALETTE[every.index(defense) % len(PALETTE)]
        claimed = both.groupby("attack")["robust_acc"].max()
        more = [
            math.nan,
            *(100 * float(claimed[attack]) if (both["attack"] == attack).sum() > 1 else math.nan for attack in shown),
        ]
        axis.bar(x, np.nan_to_num(more), 0.94 * width, color="none", edgecolor=colour, ls="--", zorder=1)
        axis.bar(x, np.nan_to_num(value), 0.94 * width, color=colour, label=defense, zorder=2)
        centre = np.where(np.isnan(value), (low + high) / 2, value)
        axis.errorbar(
            x, centre, [centre - low, high - centre], fmt="none", ecolor="0.15", elinewidth=1, capsize=2, zorder=3
        )
        for spot, number, top in zip(x, value, high, strict=True):
            label = "?" if math.isnan(number) else f"{number:.0f}"
            size = 9 if len(defenses) < _MANY else 6.5
            axis.annotate(label, (spot, top), (0, 2), textcoords="offset points", ha="center", fontsize=size, zorder=4)
    if part.duplicated(["defense", "attack"]).any():
        axis.bar([math.nan], [0], color="none", edgecolor="0.4", ls="--", label="by who does not know the defense")
    axis.set_xticks(range(1 + len(attacks)), ["clean", *(a.replace(":", ":\n").replace(",", ",\n") for a in attacks)])
    axis.get_xticklabels()[-1].set_fontweight("bold")
    axis.set_ylim(0, 112)
    axis.set_yticks(range(0, 101, 20))
    axis.grid(axis="y", color="0.9", zorder=0)


def _attacks(frame: pd.DataFrame) -> list[str]:
    return [attack for attack in frame["attack"].unique() if attack != WORST_CASE]


def _bar(row: pd.Series, name: str) -> tuple[float, float, float]:
    return float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])


def _image(axis: "Axes", image: np.ndarray, title: str, colour: str = "black") -> None:
    """One image (c, h, w), without interpolation: pixels are the subject."""
    pixels = np.clip(image, 0, 1).transpose(1, 2, 0)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if pixels.shape[2] == 1 else {}
    axis.imshow(pixels.squeeze(2) if grey else pixels, interpolation="nearest", **grey)
    axis.set_title(title, fontsize=10, color=colour, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _scale(delta: np.ndarray) -> float:
    """The largest of 1, 2, 5, 10, … at which no perturbation leaves the grey scale; 1 where nothing changed."""
    largest = float(np.abs(delta).max())
    steps = [factor * 10.0**power for power in range(5) for factor in (1, 2, 5)]
    fitting = [step for step in steps if step * largest <= 0.5 + 1e-6]
    return max(fitting, default=1.0) if largest > 0 else 1.0


def _panels(count: int, *, height: float, across: int = 2, width: float = 8.4) -> tuple["Figure", list["Axes"]]:
    """A figure with that many panels, side by side as far as `across` allows."""
    if count == 0:
        raise ValueError("there is nothing to draw: no robust accuracy at any eps")
    columns = min(count, across)
    down = math.ceil(count / columns)
    figure = _figure(width if columns == 1 else 5.4 * columns, height * down)
    axes = list(figure.subplots(down, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: "Figure", axes: Sequence["Axes"]) -> None:
    """One legend for all panels, under them, so that it covers nothing."""
    pairs = [axis.get_legend_handles_labels() for axis in axes]
    found = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    columns = min(len(found), 4 if len(axes) == 1 else 6)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=10)


def _save(figure: "Figure", path: Path) -> Path:
    """As SVG where the name ends so, else as PNG; without a date, a version or random ids: the same bytes each time."""
    from matplotlib import rc_context

    if path.suffix == ".svg":
        with rc_context({"svg.hashsalt": "robustbench-lite"}):
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(path, dpi=_DPI, format="png", metadata={"Software": None})
    return path


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}-{high}"
