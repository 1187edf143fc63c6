"""Pictures of what is no number: maps over images, and images made of noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_lite.results.plots import PALETTE, _figure, _image, _save, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from robustbench_lite.run.explain import Explanation
    from robustbench_lite.run.rubbish import Rubbish

#: blue is low and red is high in either; how much of the image shines through
_COLOURS, _ALPHA = "coolwarm", 0.75
_MOST = 12


@_styled
def plot_maps(found: "Explanation", path: Path) -> Path:
    """Clean image, its map, adversarial image, its map: a column an image, one colour scale for all maps.

    Args:
        found: at most 12 of its images are drawn.
        path: of the PNG.
    """
    count = min(len(found.table), _MOST)
    names = _names(found.class_names, int(found.table[["label", "prediction", "clean_class", "class"]].max().max()))
    low, high = _range([found.clean_maps[:count], found.maps[:count]])
    figure = _figure(1.6 + 1.35 * count, 6.6)
    grid = figure.subplots(4, count, squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
    drawn: Any = None
    for m, row in enumerate(found.table.head(count).to_dict("records")):
        colour = PALETTE[1] if row["broken"] else "black"
        _image(grid[0, m], found.clean[m], f"label: {names[row['label']]}\nanswer: {names[row['clean_prediction']]}")
        _overlay(grid[1, m], found.clean[m], found.clean_maps[m], low, high, f"of {names[row['clean_class']]}")
        _image(grid[2, m], found.adversarial[m], f"answer: {names[row['prediction']]}", colour)
        drawn = _overlay(grid[3, m], found.adversarial[m], found.maps[m], low, high, f"of {names[row['class']]}")
    for axis, word in zip(grid[:, 0], ("clean", "map", "adversarial", "map"), strict=True):
        axis.set_ylabel(word, fontsize=11)
    figure.colorbar(drawn, ax=grid.ravel().tolist(), shrink=0.6, label=reads(found))
    first = found.result.records.iloc[0]
    figure.suptitle(f"{found.method}: {first['model']}, {first['defense']}, {first['attack']}, {first['threat']}")
    return _save(figure, path)


@_styled
def plot_rubbish(found: "Rubbish", path: Path) -> Path:
    """Fooling images: a row a kind of noise, a column a class, with how sure the system is of it.

    Args:
        found: its `images` are drawn, an empty place where none fooled. path: of the PNG.
    """
    starts = list(dict.fromkeys(start for start, _ in found.images))
    classes = found.num_classes
    names = _names(found.class_names, classes - 1)
    columns = min(classes, _MOST)
    figure = _figure(1.5 + 1.25 * columns, 0.8 + 1.75 * len(starts))
    grid = figure.subplots(len(starts), columns, squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
    for r, start in enumerate(starts):
        for k in range(columns):
            axis = grid[r, k]
            shown = found.images[start, k]
            if shown is None:
                axis.set_title(f"{names[k]}\nnone", fontsize=10, pad=3)
                axis.set_axis_off()
                continue
            image, sure, step = shown
            _image(axis, image, f"{names[k]}: {100 * sure:.0f} %\nstep {step}")
        grid[r, 0].set_axis_on()
        grid[r, 0].set_ylabel(start, fontsize=11)
        _bare(grid[r, 0])
    figure.suptitle(f"From noise to a class: {found.model}, {found.defense}", fontsize=12)
    return _save(figure, path)


def reads(found: "Explanation") -> str:
    """What the colours mean."""
    if getattr(found.method, "show", "") == "drop":
        return "fall of the logit with the patch covered; high = the answer hangs on it"
    return found.method.reads


def _overlay(axis: "Axes", image: np.ndarray, values: np.ndarray, low: float, high: float, title: str) -> Any:
    """The map over a grey version of the image."""
    axis.imshow(np.clip(image, 0, 1).mean(0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    drawn = axis.imshow(values, cmap=_COLOURS, vmin=low, vmax=high, alpha=_ALPHA, interpolation="nearest")
    axis.set_title(title, fontsize=10, pad=3)
    _bare(axis)
    return drawn


def _bare(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _range(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """One scale for all: from the smallest to the largest value."""
    low, high = min(float(part.min()) for part in maps), max(float(part.max()) for part in maps)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _names(given: Sequence[str] | None, last: int) -> list[str]:
    if given is not None and len(given) > last:
        return [str(name)[:12] for name in given]
    return [str(k) for k in range(last + 1)]
