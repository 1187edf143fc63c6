"""What comes back of images that were made to be taken for others: shares, distances and pictures. Rows of images in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.results.grid import folded, percent
from robustbench_lite.results.plots import _figure, _image, _save, _scale, _styled
from robustbench_lite.results.statistics import clopper_pearson

WHO = ("dataset", "model", "threat", "attack")
#: shares of images, each with an exact interval
SHARES = ("as_target", "left_source", "nearer_target")
#: the same of images that were read so in most draws of the code, and by noise of the same length
DRAWN, NOISE = ("as_target_drawn", "left_source_drawn"), ("as_target_noise", "left_source_noise", "nearer_target_noise")
MEANS = ("l2", "to_target", "to_source", "apart", "clean_error", "target_error")
NUMBERS = (
    *(f"{name}{end}" for name in SHARES for end in ("", "_low", "_high")),
    *DRAWN,
    *NOISE,
    *MEANS,
)
COLUMNS = (*WHO, "n", "aimed", *NUMBERS, "draws", "key")
#: what a strip shows, from left to right
TITLES = ("source", "adversarial", "change × {scale:g}", "source\nback", "adversarial\nback", "target", "target\nback")
_HEADS = (
    "",
    "n",
    "as\ntarget",
    "\ndrawn",
    "\nnoise",
    "left\nsource",
    "nearer\ntarget",
    "\n|δ|",
    "to\ntarget",
    "to\nsource",
)
#: the most strips of a picture
_DRAWN = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """One example: source, adversarial image, what comes back of both, target, and what comes back of that, (6, c, h, w).

    The last two are NaN where there is no target. `who`: as `WHO` names it.
    """

    images: np.ndarray
    who: tuple[str, ...]


def figures(measured: pd.DataFrame) -> dict[str, object]:
    """The row of one attack.

    Of the images that were attacked, that is, whose clean reconstruction is read as what it is: the share whose
    reconstruction is read as the target (`as_target`), as anything but the source (`left_source`), and is nearer to the
    target's reconstruction than to the source's (`nearer_target`), with 95 % Clopper-Pearson intervals. Where an attack has
    no target there are no shares of it. `as_target_drawn`: read so by most draws of the code, not by its mean alone.
    `as_target_noise`: the share of draws of noise of the same length that do the same. Distances are means of L2 norms:
    `l2` of the change, of reconstructions `to_target`, `to_source` and `apart`, target from source; `clean_error` and
    `target_error` are of a reconstruction from its own image.
    """
    aimed = measured[measured["target"] >= 0]
    told: dict[str, object] = {"n": len(measured), "aimed": len(aimed), "draws": _first(measured, "draws")}
    for name in SHARES:
        rows = measured if name == "left_source" else aimed
        told[name], told[f"{name}_low"], told[f"{name}_high"] = _share(rows, name)
    for name in (*DRAWN, *NOISE):
        rows = measured if name.startswith("left_source") else aimed
        told[name] = float(rows[name].mean()) if len(rows) else math.nan
    for name in MEANS:
        rows = aimed if name in ("to_target", "apart", "target_error") else measured
        told[name] = float(rows[name].mean()) if len(rows) else math.nan
    return told


def _share(rows: pd.DataFrame, name: str) -> tuple[float, float, float]:
    if not len(rows):
        return math.nan, math.nan, math.nan
    count = int(rows[name].sum())
    return count / len(rows), *clopper_pearson(count, len(rows))


def _first(measured: pd.DataFrame, name: str) -> int:
    return int(measured[name].iloc[0]) if len(measured) else 0


def tables(found: pd.DataFrame) -> Group:
    """The table for a terminal, one for each dataset, model and threat."""
    parts: list[RenderableType] = []
    for (dataset, model, threat), part in found.groupby(["dataset", "model", "threat"], sort=False):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in _HEADS:
            table.add_column(name, justify="right" if name else "left", overflow="fold")
        for _, row in part.iterrows():
            table.add_row(*_cells(row))
        head = f"{dataset} · {model} · {threat} · what comes back, in % of images and L2 distances"
        parts += [Text(head, style="bold"), table, *_errors(part)]
    notes = (
        "Of images whose own reconstruction is read as what it is; 95% Clopper-Pearson over them.",
        "as target: the judge reads the reconstruction as the target; drawn: in most draws of the code as well;"
        " noise: as noise of the same length does. left source: reads it as anything else than the source."
        " nearer target: it is nearer to the target's reconstruction than to the source's."
        " |δ|, to target, to source: the change, and how far the reconstruction is from theirs; means.",
    )
    return Group(*parts, *(Padding(Text(note), (0, 0, 0, 1)) for note in notes), Text())


def _cells(row: pd.Series) -> list[Text]:
    shares = [f"{percent(row[name])}\n{_between(row, name)}" for name in SHARES]
    means = ["-" if math.isnan(row[name]) else f"{row[name]:.2f}" for name in ("l2", "to_target", "to_source")]
    aside = [percent(row["as_target_drawn"]), percent(row["as_target_noise"])]
    return [Text(f"  {row['attack']}"), *map(Text, [f"{row['n']}", shares[0], *aside, *shares[1:], *means])]


def _between(row: pd.Series, name: str) -> str:
    if math.isnan(row[name]):
        return ""
    return f"[{100 * row[f'{name}_low']:.0f}, {100 * row[f'{name}_high']:.0f}]"


def _errors(part: pd.DataFrame) -> list[Text]:
    """How well images come back that nobody has touched: what an attack's distances are to be compared with."""
    row = part.iloc[0]
    if math.isnan(row["clean_error"]):
        return []
    apart = part["apart"].dropna()
    text = f" A clean image comes back {row['clean_error']:.2f} away from itself"
    return [
        Text(text + ("." if not len(apart) else f", and {apart.iloc[0]:.2f} away from the target's reconstruction."))
    ]


@_styled
def plot_strips(strips: Sequence[Strip], path: Path) -> Path:
    """A row an example: source, adversarial image, the change around mid-grey, what comes back, and the target.

    Changes are enlarged by one factor, up to 10, which the picture states.

    Raises:
        ValueError: there is none.
    """
    if not strips:
        raise ValueError("there is nothing to draw: no reconstruction was attacked")
    chosen = _evenly(strips)
    scale = min(10.0, _scale(np.stack([strip.images[1] - strip.images[0] for strip in chosen]).astype(float)))
    varies = [place for place in range(len(WHO)) if len({strip.who[place] for strip in chosen}) > 1] or [len(WHO) - 1]
    figure = _figure(1.2 * (len(TITLES) + 1), 0.5 + 1.2 * len(chosen))
    grid = figure.subplots(len(chosen), len(TITLES), squeeze=False, gridspec_kw={"hspace": 0.04, "wspace": 0.04})
    for number, strip in enumerate(chosen):
        source, adversarial, *back = strip.images.astype(float)
        row = (source, adversarial, 0.5 + scale * (adversarial - source), *back)
        for place, (title, image) in enumerate(zip(TITLES, row, strict=True)):
            if np.isfinite(image).all():
                _image(grid[number, place], image, title.format(scale=scale) if number == 0 else "")
            else:
                grid[number, place].axis("off")
        lines = [line for place in varies for line in folded(strip.who[place], 18)]
        grid[number, 0].set_ylabel("\n".join(lines), fontsize=8, rotation=0, ha="right", va="center")
    return _save(figure, path)


def _evenly(strips: Sequence[Strip]) -> list[Strip]:
    """As many as fit into a picture: one of each attack, then a second of each, in their order."""
    seen: dict[tuple[str, ...], int] = {}
    turns = []
    for number, strip in enumerate(strips):
        turns.append((seen.setdefault(strip.who, 0), number))
        seen[strip.who] += 1
    return [strips[number] for number in sorted(number for _, number in sorted(turns)[:_DRAWN])]
