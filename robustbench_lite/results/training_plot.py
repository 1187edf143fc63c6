"""How a training went, epoch by epoch: as a table and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from robustbench_lite.results.plots import PALETTE, _figure, _legend, _save, _styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: accuracies of a history, what the legend calls them, and how they are drawn
_CURVES = (("clean", "clean", "o-"), ("robust", "robust, ten steps", "s-"), ("one_step", "robust, one step", "^:"))
#: epochs up to which each has a mark of its own
_FEW = 60


def training_history(card: Mapping[str, Any]) -> pd.DataFrame:
    """One row an epoch, from a card: `epoch` (from 1), `loss`, `clean`, `robust`, `one_step`, `collapsed`, `best`.

    Accuracies are fractions of the held-out images, and missing where the epoch was not validated. `best` marks the epoch
    whose weights were kept.

    Raises:
        ValueError: the card tells of no epochs.
    """
    told = card.get("training", {})
    if "history" not in told:
        raise ValueError("the card has no training history")
    frame = pd.DataFrame(told["history"])
    frame.insert(0, "epoch", range(1, len(frame) + 1))
    for name in ("clean", "robust", "one_step"):
        frame[name] = frame[name].astype(float) if name in frame else float("nan")
    frame["collapsed"] = frame.get("collapsed", False)
    frame["best"] = frame["epoch"] == told["best"]["epoch"]
    return frame[["epoch", "loss", "clean", "robust", "one_step", "collapsed", "best"]]


@_styled
def plot_training(history: pd.DataFrame, path: Path, *, title: str = "") -> Path:
    """Loss above, accuracies on held-out images below; the epoch that was kept and collapsed ones are marked.

    Args:
        history: of `training_history`. path: of the PNG.
    """
    measured = history[["clean", "robust", "one_step"]].notna().any(axis=None)
    figure = _figure(7.6, 5.4 if measured else 3.2)
    axes = list(figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False).flat)
    axes[0].plot(history["epoch"], history["loss"], color=PALETTE[6])
    axes[0].set(ylabel="training loss", title=title)
    if measured:
        _accuracies(axes[1], history)
    for axis in axes:
        _marks(axis, history, few=bool(measured))
    axes[-1].set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, axes[-1:])
    return _save(figure, path)


def _accuracies(axis: "Axes", history: pd.DataFrame) -> None:
    for (name, label, style), colour in zip(_CURVES, (PALETTE[0], PALETTE[1], PALETTE[4]), strict=True):
        known = history[history[name].notna()]
        if len(known):
            shape = style if len(known) <= _FEW else style[1:]
            axis.plot(known["epoch"], 100 * known[name], shape, color=colour, label=label, markersize=4)
    axis.set(ylabel="accuracy on held-out\nimages [%]", ylim=(0, 101))


def _marks(axis: "Axes", history: pd.DataFrame, *, few: bool) -> None:
    """The epoch whose weights were kept, and those that show catastrophic overfitting."""
    kept = "weights kept" if few else "weights kept (the last)"
    for epoch in history.loc[history["best"], "epoch"]:
        axis.axvline(epoch, color=PALETTE[2], linestyle="--", linewidth=1.5, label=kept)
    for epoch in history.loc[history["collapsed"], "epoch"]:
        axis.axvspan(epoch - 0.5, epoch + 0.5, color=PALETTE[3], alpha=0.25, linewidth=0, label="collapsed")
