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
        rows: (name, images (k, c, h, w) in [0, 1]), all of one size; rows may differ in length. path: of the PNG.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a sheet needs a row")
    columns = max(len(images) for _, images in rows)
    figure = _figure(_NAMES + columns * _SIDE, 0.5 + len(rows) * _SIDE)
    # One picture of all images: an axis for each takes seconds to draw.
    axis = figure.subplots()
    axis.imshow(_mosaic([images for _, images in rows], columns), vmin=0, vmax=1, interpolation="nearest")
    axis.axis("off")
    height = rows[0][1].shape[2] + _gap(rows[0][1].shape[2])
    for number, (name, _) in enumerate(rows):
        middle = number * height + rows[0][1].shape[2] / 2
        axis.text(-0.3 * rows[0][1].shape[3], middle, name, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def _mosaic(rows: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """All images as one, (height, width, 3), white between them."""
    _, _, height, width = rows[0].shape
    down, across = height + _gap(height), width + _gap(width)
    sheet = np.ones((len(rows) * down - _gap(height), columns * across - _gap(width), 3), dtype=np.float32)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            place = np.clip(image, 0, 1).transpose(1, 2, 0)
            sheet[row * down : row * down + height, column * across : column * across + width] = place
    return sheet


def _gap(side: int) -> int:
    """Pixels between images of this side."""
    return max(1, side // 8)


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
