"""`rbl explain`: what a system looks at, before and after an attack."""

from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli.options import AllowCode, AllowPickle, DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

EXAMPLES = """\b
Examples:
  rbl explain
  rbl explain --method saliency:smooth=50 --defense adversarial-training --samples first:8
  rbl explain --method occlusion:size=2,stride=1,show=drop --attack fgsm --threat Linf:0.1 --out maps

\b
Methods: saliency (smooth, sigma, times_input), occlusion (size, stride, cover=grey|mean|black|blur,
show=probability|drop).
"""


def explain(
    model: Annotated[str, option("NAME", "The classifier.", default="small-cnn")] = "small-cnn",
    dataset: Annotated[str, option("NAME", "What is classified.", default="digits")] = "digits",
    defense: Annotated[str, option("NAME", "What defends it; + chains defenses.", default="none")] = "none",
    attack: Annotated[str, option("NAME", "What makes the adversarial images.", default="pgd")] = "pgd",
    threat: Annotated[str, option("NORM:EPS", "How far it may go.", default="Linf:0.2")] = "Linf:0.2",
    method: Annotated[str, option("NAME", "How a map is made.", default="saliency")] = "saliency",
    of: Annotated[
        str,
        option(
            "answer|label", "The class that is explained: the system's own answer, or the true one.", default="answer"
        ),
    ] = "answer",
    samples: Annotated[str, option("N|first:N|all", "Which test images.", default="first:8")] = "first:8",
    seed: Annotated[int, option("N", "Of the attack, trainings and noise.", default=0)] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    allow_pickle: AllowPickle = False,
    allow_code: AllowCode = False,
    out: Annotated[Path, option("DIR", "Where the files go.", default="rbl-explain")] = Path("rbl-explain"),
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Map what a system looks at, on clean images and on the adversarial ones made of them.

    Writes explain.png (images and maps, one colour scale for all), explain.csv (a row an image) and explain.npz (the arrays).
    """
    with stoppable(f"nothing was written to {out}"), Bars(cells=1, quiet=quiet, log=log, verbose=verbose) as bars:
        from robustbench_lite.cache import writable
        from robustbench_lite.run.explain import explain as explain_it

        writable(out)
        found = explain_it(
            model,
            dataset=dataset,
            defense=defense,
            attack=attack,
            threat=threat,
            method=method,
            of=of,
            samples=samples,
            seed=seed,
            device=device,
            data_root=None if data_root is None else str(data_root),
            download=download,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
            reporter=bars,
        )
        found.write(out)
    if not quiet:
        columns = ["index", "label", "clean_prediction", "prediction", "broken", "clean_class", "class", "similarity"]
        show_frame(found.table[columns])
        typer.echo(f"\nFiles are in {out}: explain.png, explain.csv, explain.npz")
