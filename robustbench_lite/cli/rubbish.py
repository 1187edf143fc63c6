"""`rbl rubbish`: how easily noise is taken for something."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli.options import AllowCode, AllowPickle, DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

EXAMPLES = """\b
Examples:
  rbl rubbish
  rbl rubbish --defense adversarial-training --count 200 --step-size 0.05
  rbl rubbish --start gaussian-unclipped --direction raw --step-size 1 --steps 50 --out noise
"""


def rubbish(
    model: Annotated[str, option("NAME", "The classifier.", default="small-cnn")] = "small-cnn",
    dataset: Annotated[
        str, option("NAME", "Tells the shape of the noise; what must be trained is trained on it.", default="digits")
    ] = "digits",
    defense: Annotated[str, option("NAME", "What defends it; + chains defenses.", default="none")] = "none",
    threat: Annotated[
        str, option("NORM:EPS", "Of a defense that trains; noise has none.", default="Linf:0.2")
    ] = "Linf:0.2",
    start: Annotated[
        list[str] | None,
        option(
            "uniform|gaussian|gaussian-unclipped", "Kinds of noise, may be given several times. [default: all three]"
        ),
    ] = None,
    count: Annotated[int, option("N", "Draws of each kind.", default=1000)] = 1000,
    steps: Annotated[int, option("N", "Gradient steps towards each class, at most.", default=10)] = 10,
    step_size: Annotated[float, option("X", "Of a step, of an image in [0, 1].", default=0.1)] = 0.1,
    direction: Annotated[
        str,
        option(
            "sign|unit|raw", "Of the gradient: its sign, divided by its length, or that of p as it is.", default="sign"
        ),
    ] = "sign",
    threshold: Annotated[float, option("P", "How probable is sure.", default=0.5)] = 0.5,
    seed: Annotated[int, option("N", "Of noise and trainings.", default=0)] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    allow_pickle: AllowPickle = False,
    allow_code: AllowCode = False,
    out: Annotated[Path, option("DIR", "Where the files go.", default="rbl-rubbish")] = Path("rbl-rubbish"),
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Draw noise, and see how often the system is sure of a class: at once, after one gradient step, after several.

    Writes rubbish.csv (rates with intervals by kind of noise, class and step) and rubbish.png (a fooling image a class).
    gaussian is N(0, 1) clipped to the box [0, 1]; gaussian-unclipped is N(0, 1) as it is, which no camera shows.
    An image that still looks like what it was is no rubbish: rbl evaluate --attack sqloss --threat L2 looks for that.
    """
    with stoppable(f"nothing was written to {out}"), Bars(cells=1, quiet=quiet, log=log, verbose=verbose) as bars:
        from robustbench_lite.run.rubbish import STARTS
        from robustbench_lite.run.rubbish import rubbish as rubbish_it

        found = rubbish_it(
            model,
            dataset=dataset,
            defense=defense,
            threat=threat,
            starts=tuple(start or STARTS),
            count=count,
            steps=steps,
            step_size=step_size,
            direction=direction,
            threshold=threshold,
            seed=seed,
            device=device,
            data_root=None if data_root is None else str(data_root),
            download=download,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            out=out,
            reporter=bars,
        )
    if not quiet:
        rates = found.summary.map(lambda value: f"{100 * value:.1f} %" if isinstance(value, float) else str(value))
        show_frame(rates.set_index("start").T.reset_index(names="noise"))
        typer.echo(f"\nFiles are in {out}: rubbish.csv, rubbish.png")
