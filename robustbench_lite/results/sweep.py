"""The sweep over distances and angles as a picture: a panel an attack, a field a place."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from robustbench_lite.results.grid import folded
from robustbench_lite.results.physical import WHO
from robustbench_lite.results.plots import _figure, _save, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@_styled
def plot_sweep(sweep: pd.DataFrame, path: Path) -> Path:
    """How often the right class is seen, a row of panels for each system and threat, a panel for clean and every attack.

    Args:
        sweep: columns `results.physical.SWEEP`.
        path: of the PNG.

    Raises:
        ValueError: there is nothing in it.
    """
    if sweep.empty:
        raise ValueError("there is nothing to draw: no sweep")
    systems = [list(own.groupby("attack", sort=False)) for _, own in sweep.groupby(list(WHO[:4]), sort=False)]
    across = max(map(len, systems))
    figure = _figure(0.9 + 3.5 * across, 0.6 + 3.1 * len(systems))
    grid = figure.subplots(len(systems), across, squeeze=False)
    for line, panels in zip(grid, systems, strict=True):
        for axis in line[len(panels) :]:
            axis.remove()
        for axis, (attack, part) in zip(line, panels, strict=False):
            _panel(axis, str(attack), part)
        model, defense, threat = (str(panels[0][1].iloc[0][name]) for name in WHO[1:4])
        names = [part for name in (f"{model}, {defense}", threat) for part in folded(name, 34)]
        line[0].set_ylabel("\n".join([*names[:5], "distance"]), fontsize=9)
    n = sorted(set(sweep["n"]))
    images = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]}-{n[-1]}"
    figure.suptitle(f"Right class seen (%), {images} images a field", fontsize=12)
    return _save(figure, path)


def _panel(axis: "Axes", attack: str, part: pd.DataFrame) -> None:
    table = 100 * part.pivot(index="distance", columns="yaw", values="rate")
    axis.imshow(table.to_numpy(), cmap="RdYlBu", vmin=0, vmax=100, aspect="auto")
    for row, values in enumerate(table.to_numpy()):
        for column, value in enumerate(values):
            dark = value < 20 or value > 80
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    axis.set_xticks(range(table.shape[1]), [f"{yaw:g}°" for yaw in table.columns], fontsize=8)
    axis.set_yticks(range(table.shape[0]), [f"{distance:g}" for distance in table.index], fontsize=8)
    axis.set_title(attack.replace(":", ":\n", 1) if len(attack) > 24 else attack, fontsize=9)
    axis.set_xlabel("angle", fontsize=9)
