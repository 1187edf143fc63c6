"""`rbl certify`: what can be proved of a classifier that answers under Gaussian noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli.options import AllowCode, AllowPickle, DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable
from robustbench_lite.errors import UserError

if TYPE_CHECKING:
    from robustbench_lite.run.certify import Certificates

EXAMPLES = """\b
Examples:
  rbl certify
  rbl certify --defense randomized-smoothing:sigma=0.5 --samples 100 --n 10000 --radii 0,0.5,1,1.5
  rbl certify --model checkpoint:net.safetensors --sigma 0.25 --out proofs
"""


def certify(
    model: Annotated[str, option("NAME", "The classifier.", default="small-cnn")] = "small-cnn",
    dataset: Annotated[str, option("NAME", "What is classified.", default="digits")] = "digits",
    defense: Annotated[
        str | None,
        option("NAME", "What puts the noise there. [default: randomized-smoothing, or none with --sigma]"),
    ] = None,
    sigma: Annotated[
        float | None, option("X", "Put this much noise before the system as it is, whatever it was trained on.")
    ] = None,
    samples: Annotated[
        str | None,
        option("N|first:N|all", "Which test images. [default: all of digits, npz and folder; 1000 of the others]"),
    ] = None,
    n0: Annotated[int, option("N", "Noisy answers that select a class.", default=100)] = 100,
    n: Annotated[int, option("N", "Fresh ones that bound its chance from below.", default=1000)] = 1000,
    alpha: Annotated[float, option("P", "How often a certificate may be wrong.", default=0.001)] = 0.001,
    radii: Annotated[str, option("R,R,…", "L2 radii of the table.", default="0,0.25,0.5")] = "0,0.25,0.5",
    threat: Annotated[str | None, option("NORM:EPS", "Of a defense that trains against one.")] = None,
    slice_seed: Annotated[int, option("N", "Draws the random subset.", default=0)] = 0,
    seed: Annotated[int, option("N", "Of the noise and of trainings.", default=0)] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    allow_pickle: AllowPickle = False,
    allow_code: AllowCode = False,
    out: Annotated[Path, option("DIR", "Where the files go.", default="rbl-certify")] = Path("rbl-certify"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Count everything again, also what is in DIR already.")
    ] = False,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Prove, image by image, up to which L2 radius no attack can change the answer of a smoothed classifier.

    Writes certificates.csv (a row an image), certified.csv (a row a radius) and certify.json. What is counted is kept as it
    comes: a run that was stopped goes on where it was when it is started again.
    """
    with (
        stoppable(f"what is counted is in {out}, and the same command goes on from there"),
        Bars(cells=1, quiet=quiet, log=log, verbose=verbose, found=None) as bars,
    ):
        from robustbench_lite.run.certify import certify as certify_it

        found = certify_it(
            model,
            dataset=dataset,
            defense=defense,
            sigma=sigma,
            samples=samples,
            n0=n0,
            n=n,
            alpha=alpha,
            radii=_numbers(radii),
            threats=None if threat is None else (threat,),
            slice_seed=slice_seed,
            seed=seed,
            device=device,
            data_root=None if data_root is None else str(data_root),
            download=download,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            out=out,
            fresh=fresh,
            reporter=bars,
        )
    if not quiet:
        _show(found, out)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"radii={text}; accepted: numbers with commas between them, such as 0,0.25,0.5") from None


def _show(found: "Certificates", out: Path) -> None:
    import pandas as pd

    table, told, settings = found.table, found.summary, found.settings
    shown = pd.DataFrame(
        {
            "L2 radius": [f"{r:g}" for r in table["radius"]],
            "Linf inside": [f"{r:.4g}" for r in table["linf"]],
            "certified": [f"{k} of {n}" for k, n in zip(table["certified"], table["n"], strict=True)],
            "accuracy": [f"{100 * share:.1f} %" for share in table["accuracy"]],
            "95 % interval": [
                f"{100 * a:.1f} to {100 * b:.1f}" for a, b in zip(table["low"], table["high"], strict=True)
            ],
        }
    )
    show_frame(shown)
    typer.echo(
        f"\nsigma {found.sigma:g}, n0 {settings.n0}, n {settings.n}, alpha {settings.alpha:g} a certificate"
        f"\nthe smoothed classifier: {100 * told['accuracy']:.1f} % right, {100 * told['answers_abstained']:.1f} % without an"
        f" answer, {100 * told['certificates_abstained']:.1f} % without a certificate, mean certified radius"
        f" {told['mean_radius']:.3f}"
        f"\nFiles are in {out}: certificates.csv, certified.csv, certify.json"
    )
