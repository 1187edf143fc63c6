"""Sheets of images: rows with a name each, drawn side by side; and points of the plane as a scatter."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustbench_lite.results.plots import PALETTE, _figure, _save, _styled

#: inches of an image, and of the names beside them
_SIDE, _NAMES = 0.62, 1.5


@_styled
def plot_sheet(rows: Sequence[tuple[str, np.ndarray]], path: Path, *, title: str = "") -> Path:
    """Rows of images, each with its name to the left.

    Args:
        rows: (name, images (k, c, h, w) in [0, 1]); rows may differ in length. path: of the PNG.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a sheet needs a row")
    columns = max(len(images) for _, images in rows)
    wide, high = _NAMES + columns * _SIDE, 0.5 + len(rows) * _SIDE
    figure = _figure(wide, high)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            shown = np.clip(image, 0, 1).transpose(1, 2, 0)
            grey = shown.shape[2] == 1
            axis.imshow(shown[..., 0] if grey else shown, cmap="gray" if grey else None, vmin=0, vmax=1)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


@_styled
def plot_points(clouds: Sequence[tuple[str, np.ndarray]], path: Path, *, title: str = "") -> Path:
    """Clouds of points side by side, on the same axes.

    Args:
        clouds: (name, points (n, 2)). path: of the PNG.
    """
    figure = _figure(3.4 * len(clouds) + 0.4, 3.8)
    axes = figure.subplots(1, len(clouds), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (name, points), colour in zip(axes, clouds, PALETTE, strict=False):
        axis.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4, color=colour, linewidths=0)
        axis.set(title=name, aspect="equal")
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)
