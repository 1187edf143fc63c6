"""`rbl generate latent`: images of one class that a generator makes and a system takes for another."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli.options import DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

EXAMPLES = """\b
Examples:
  rbl generate latent cgan.safetensors --judge mlp --guide linear
  rbl generate latent cgan.safetensors --judge mlp --defense adversarial-training --reach 0.5 --attempts 100
"""
_COUNTS = ("attempts", "successes")


def latent(
    generator: Annotated[Path, typer.Argument(metavar="FILE", help="A conditional generator, .safetensors.")],
    judge: Annotated[str, option("NAME", "A classifier that the search never asks: does the image show its class?")],
    guide: Annotated[str | None, option("NAME", "Another one, which the search does ask. [default: none]")] = None,
    model: Annotated[str, option("NAME", "The classifier that is attacked.", default="small-cnn")] = "small-cnn",
    dataset: Annotated[str, option("NAME", "What must be trained is trained on it.", default="digits")] = "digits",
    defense: Annotated[str, option("NAME", "What defends it; + chains defenses.", default="none")] = "none",
    threat: Annotated[
        str, option("NORM:EPS", "Of a defense that trains; the search has none.", default="Linf:0.2")
    ] = "Linf:0.2",
    attempts: Annotated[int, option("N", "Starting points of each class.", default=50)] = 50,
    target: Annotated[int | None, option("K", "What it shall be taken for. [default: anything else]")] = None,
    steps: Annotated[int, option("N", "Of the search, at most.", default=200)] = 200,
    reach: Annotated[float, option("X", "How far a coordinate of z may move.", default=0.1)] = 0.1,
    noise: Annotated[float, option("X", "The most that a pixel may change besides.", default=0)] = 0.0,
    seed: Annotated[int, option("N", "Of starting points and trainings.", default=0)] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    out: Annotated[Path, option("DIR", "Where the files go.", default="rbl-latent")] = Path("rbl-latent"),
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Search a generator's latent space for images of every class that the system takes for another.

    There is no norm: the rates belong to this generator and this judge. Writes latent.csv (a row an attempt),
    latent_summary.csv and latent.npz (the images, and what they are rendered from).
    """
    with stoppable(f"nothing was written to {out}"), Bars(cells=1, quiet=quiet, log=log, verbose=verbose) as bars:
        from robustbench_lite.run.latent import latent as search_it

        found = search_it(
            model,
            generator=generator,
            judge=judge,
            guide=guide,
            dataset=dataset,
            defense=defense,
            threat=threat,
            attempts=attempts,
            target=target,
            steps=steps,
            reach=reach,
            noise=noise,
            seed=seed,
            device=device,
            data_root=None if data_root is None else str(data_root),
            download=download,
            out=out,
            reporter=bars,
        )
    if not quiet:
        table = found.summary.set_index("class")
        shown = table.apply(lambda column: column.map(lambda value: _text(column.name, value)))
        show_frame(shown.reset_index())
        typer.echo(
            "\nShares in %. proxy_legitimate, success_rate: as the judge reads the images, in the place of people."
        )
        typer.echo(f"Files are in {out}: latent.csv, latent_summary.csv, latent.npz")


def _text(name: object, value: float) -> str:
    """Counts as they are, ratios plain, shares in %."""
    if name in _COUNTS:
        return str(int(value))
    return f"{value:.2f}" if name in ("attempts_each", "variety") else f"{100 * value:.1f}"
