"""`rbl verify`: our verdict on adversarial examples from a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli.options import AllowCode, AllowPickle, DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import complain
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

if TYPE_CHECKING:
    from robustbench_lite.run.verify import Verified

EXAMPLES = """\b
Examples:
  rbl verify adv.npz
  rbl verify adv.npz --model checkpoint:net.safetensors --threat Linf:0.1 --out verdict.json
  rbl verify adv.npy --dataset mnist --model 'madry-mnist;weights=net.safetensors' --threat Linf:0.3

\b
The file: x_adv (n, c, h, w) or (n, h, w, c), float in [0, 1] or uint8; besides, if you like, indices (n,) of the
test images and their labels y (n,). .npz, .npy, .pt and .pth are read, pickles never; what AutoAttack and
torchattacks save is read as it is.
Exit codes: 0 the file was judged, whatever came out, 2 it could not be read, 3 nothing was verified: more than half
of the examples do not count, or all are the clean images.
"""
#: nothing was verified
NOTHING_VERIFIED = 3
#: what is printed of each fate
_SAID = {
    "broken": "broken",
    "not-broken": "not broken",
    "outside-threat": "outside the ball",
    "outside-box": "outside [0, 1]",
    "not-finite": "not finite",
    "clean-wrong": "wrong without an attack",
}


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The adversarial examples.", show_default=False)],
    model: Annotated[str, option("NAME", "The classifier.", default="small-cnn")] = "small-cnn",
    dataset: Annotated[str, option("NAME", "What is classified.", default="digits")] = "digits",
    defense: Annotated[str, option("NAME", "What defends it; + chains defenses.", default="none")] = "none",
    threat: Annotated[
        str, option("NORM:EPS", "How far an example may be from its image.", default="Linf:0.2")
    ] = "Linf:0.2",
    samples: Annotated[
        str | None,
        option("N|first:N|all", "Which test images, where the file does not say. [default: the first ones]"),
    ] = None,
    slice_seed: Annotated[int, option("N", "Draws the random subset.", default=0)] = 0,
    seed: Annotated[int, option("N", "Of trainings, and of random systems.", default=0)] = 0,
    verdict_draws: Annotated[int | None, option("N", "How often a random system is judged.", default=20)] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    allow_pickle: AllowPickle = False,
    allow_code: AllowCode = False,
    out: Annotated[
        Path | None, option("FILE.json", "Where the verdict on every example goes.", default="nowhere")
    ] = None,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Judge adversarial examples that somebody else has made.

    An example counts where it is finite, in [0, 1] and inside the threat, and breaks where the system's answer to it is wrong:
    the same verdict as in an evaluation. Examples that do not count leave their images unbroken.
    """
    with stoppable("nothing was written"), Bars(cells=1, quiet=quiet, log=log, verbose=verbose) as bars:
        from robustbench_lite.cache import writable
        from robustbench_lite.run.verify import verify as verify_it

        if out is not None:
            writable(out.parent)
        found = verify_it(
            file,
            model,
            defense=defense,
            dataset=dataset,
            threat=threat,
            samples=samples,
            slice_seed=slice_seed,
            seed=seed,
            verdict_draws=verdict_draws,
            device=device,
            data_root=None if data_root is None else str(data_root),
            download=download,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            reporter=bars,
        )
        if out is not None:
            found.write(out)
    if not quiet:
        _show(found, file, out)
    if not found.verified:
        complain(f"nothing was verified: {_why(found)}")
        raise typer.Exit(NOTHING_VERIFIED)


def _show(found: "Verified", file: Path, out: Path | None) -> None:
    told, counts = found.facts, found.counts
    system = told["system"]
    typer.echo(f"{told['data']['name']} · {told['threat']} · {system['model']}, {system['defense']} · {file}\n")
    for fate, count in counts.items():
        beyond = found.samples.loc[found.samples["fate"] == fate, "beyond"].max() if count else 0.0
        where = f"   up to {beyond:.6g} beyond" if beyond > 0 else ""
        typer.echo(f"  {_SAID[fate]:<24}{count:>7}{where}")
    rounded = int((found.samples["broken_8bit"] & (found.samples["fate"] == "broken")).sum())
    if counts["broken"]:
        typer.echo(f"\nAfter rounding to 8 bits {rounded} of {counts['broken']} still break.")
    typer.echo(f"\n{_result(found)}")
    if found.likely is not None and found.verified:
        typer.echo(f"likely mistake: {found.likely}")
    if out is not None:
        typer.echo(f"The verdict on every example is in {out}")


def _result(found: "Verified") -> str:
    """The robust accuracy, or that there is none."""
    if found.robust is not None and found.interval is not None:
        low, high = found.interval
        return (
            f"robust accuracy {100 * found.robust:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f},"
            f" over these {len(found.left)} test images"
        )
    between = ""
    if found.bounds is not None and found.bounds[1] < 1:
        low, high = found.bounds
        between = f"; it is between {100 * low:.1f} % and {100 * high:.1f} %"
    return (
        f"no robust accuracy: {found.judged} of {found.could} examples that could break an image were judged{between}"
    )


def _why(found: "Verified") -> str:
    if not found.could:
        return "the system is wrong on every image without an attack"
    if found.likely is not None:
        return str(found.likely)
    invalid = found.could - found.judged
    return f"{invalid} of {found.could} examples do not count, and no likely mistake explains it"
