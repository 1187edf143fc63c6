"""All plots that a run has, as files."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from robustbench_lite.cache import atomic_write, writing
from robustbench_lite.results.detection_plot import plot_detection
from robustbench_lite.results.over_time_plot import plot_claims, plot_queries, plot_time
from robustbench_lite.results.plots import plot_bars, plot_curve
from robustbench_lite.results.run_data import RunData
from robustbench_lite.results.sweep import plot_sweep


def plot_run(run: RunData, folder: Path, form: str = "png") -> list[Path]:
    """Draw every plot that there are numbers for; the same numbers give the same bytes, under the same matplotlib.

    Args:
        folder: made if need be. form: `png` or `svg`.

    Raises:
        UserError: the folder cannot be written.
    """
    written = []
    for name, draw in plots_of(run):
        path = folder / f"{name}.{form}"
        with writing(folder):
            atomic_write(path, _drawn(draw, form))
        written.append(path)
    return written


def plots_of(run: RunData) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Name and drawing function of each plot of the run."""
    if bool(run.summary["eps"].notna().any()):
        yield "bars", partial(plot_bars, run.summary)
    if bool((run.summary["eps"].notna() | (run.summary["norm"] == "")).any()):
        yield "claims", partial(plot_claims, run.summary, run.claims, run.claimed)
    if len(run.curve):
        yield "curve", partial(plot_curve, run.curve)
    if len(run.queries):
        yield "queries", partial(plot_queries, run.queries, run.claimed)
    if len(run.time):
        yield "time", partial(plot_time, run.time, run.claimed)
    if len(run.detection):
        yield "roc", partial(plot_detection, run.records)
    if len(run.sweep):
        yield "sweep", partial(plot_sweep, run.sweep)


def _drawn(draw: Callable[[Path], object], form: str) -> bytes:
    """The picture's bytes; what draws takes a path, whose ending says the format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"plot.{form}"
        draw(path)
        return path.read_bytes()
