"""`rbl plot`: the plots of a run, from its folder alone."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli.options import option
from robustbench_lite.cli.printing import one_of

FORMATS = ("png", "svg")
EXAMPLES = """\b
Examples:
  rbl plot rbl-runs/my-run
  rbl plot rbl-runs/my-run --format svg --out figures
"""


def plot(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What rbl evaluate --out wrote.", show_default=False)],
    out: Annotated[Path | None, option("DIR", "Where to write them.", default="DIR/plots")] = None,
    format: Annotated[str, option("png|svg", "Of the files.", default="png")] = "png",
) -> None:
    """Draw the plots of a run from the records in its folder alone, and print the names of the files.

    Accuracy under attack, claimed and actual, the security curve, accuracy over queries and over time, ROC curves of
    detectors, the sweep of a camera: those that the run has numbers for. Of a run that was stopped, what is complete.
    """
    form = one_of("format", format, FORMATS)
    from robustbench_lite.results.plot_run import plot_run
    from robustbench_lite.run.reread import reread

    for path in plot_run(reread(folder), folder / "plots" if out is None else out, form):
        print(path)
