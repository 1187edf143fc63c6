"""`rbl generate`: VAEs, GANs and autoencoders, trained, looked at, measured, and put to use."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_lite.cli import latent
from robustbench_lite.cli.options import DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show, show_frame
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable

EXAMPLES = """\b
Examples:
  rbl generate train --generator vae --out vae.safetensors
  rbl generate show vae.safetensors
"""
TRAIN_EXAMPLES = """\b
Examples:
  rbl generate train --generator vae --out vae.safetensors
  rbl generate train --generator conditional-gan:packing=2 --dataset mnist --data-root DIR --out cgan.safetensors
  rbl generate train --generator gan --dataset grid --out grid.safetensors
"""
SAMPLE_EXAMPLES = """\b
Examples:
  rbl generate sample cgan.safetensors --count 1000 --out made.npz
  rbl generate sample vae.safetensors --judge checkpoint:net.safetensors --confidence 0.9 --out made.npz
"""
SHOW_EXAMPLES = """\b
Examples:
  rbl generate show vae.safetensors
  rbl generate show vae.safetensors --what interpolation --what neighbours --out pictures
"""
MEASURE_EXAMPLES = """\b
Examples:
  rbl generate measure vae.safetensors dcgan.safetensors --out generators.csv
  rbl generate measure gan-seed0.safetensors gan-seed1.safetensors gan-seed2.safetensors --inverted 0
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train VAEs, GANs and autoencoders, look at them, measure them, put them to use.",
    epilog=EXAMPLES,
)
app.command("latent", epilog=latent.EXAMPLES)(latent.latent)


@app.command("train", epilog=TRAIN_EXAMPLES)
def train(
    out: Annotated[Path, option("FILE", "Where the weights go: a .safetensors file, with its card (.json) beside it.")],
    generator: Annotated[str, option("NAME", "What is trained; rbl list generators.", default="vae")] = "vae",
    dataset: Annotated[str, option("NAME", "What it learns: its training split.", default="digits")] = "digits",
    seed: Annotated[int, option("N", "Of weights, order and noise.", default=0)] = 0,
    epochs: Annotated[int | None, option("N", "Passes over the data. [default: the generator's]")] = None,
    batch_size: Annotated[int | None, option("N", "Images in one step. [default: the generator's]")] = None,
    learning_rate: Annotated[float | None, option("X", "At its highest. [default: the generator's]")] = None,
    ema: Annotated[
        float | None, option("TAU", "Keep a moving average of the weights. [default: the generator's]")
    ] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even if the same was trained before and kept in the cache.")
    ] = False,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Train a generator and write it as a checkpoint with a card.

    FILE.training.png shows the same latent points after more and more epochs, and grows while it trains; FILE.history.csv
    has a row an epoch. A training that was stopped goes on where it was when the same is asked for again. One that came to
    nothing (no latent unit is active, all samples are the same) is a mistake, and nothing is written.
    """
    with (
        stoppable(f"{out} was not written, and the same command goes on with the training"),
        Bars(quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        from robustbench_lite.run.generate import train as train_it

        trained = train_it(
            generator,
            out=out,
            dataset=dataset,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            ema=ema,
            device=device,
            data_root=data_root,
            download=download,
            use_cache=not fresh,
            progress=bars.training,
        )
    if not quiet:
        _tell(trained.card, out)


@app.command("sample", epilog=SAMPLE_EXAMPLES)
def sample(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The generator's .safetensors.", show_default=False)],
    out: Annotated[Path, option("FILE.npz", "Where the images go, with a note of their origin beside them.")],
    count: Annotated[int, option("N", "How many.", default=1000)] = 1000,
    seed: Annotated[int, option("N", "Of the latent points.", default=0)] = 0,
    judge: Annotated[
        str | None,
        option("NAME", "A model with its weights: reads the labels, and turns away what it reads otherwise."),
    ] = None,
    confidence: Annotated[
        float | None, option("P", "The least probability that the judge must give. [default: 0.5]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Have a generator make labelled images, as a file that --dataset npz:FILE reads.

    A conditional generator's labels are what it was asked for; another one's are what the judge reads.
    """
    from robustbench_lite.run.generate import sample as sample_it

    data = sample_it(file, out=out, count=count, seed=seed, judge=judge, confidence=confidence)
    if not quiet:
        made = data.provenance["made"]
        sys.stdout.write(f"{len(data)} of {made} images are kept; labels by the {data.provenance['labels']}\n")
        sys.stdout.write(f"They are in {out}; evaluate on them with:\n  rbl evaluate --dataset npz:{out}\n")


@app.command("show", epilog=SHOW_EXAMPLES)
def show_it(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The generator's .safetensors.", show_default=False)],
    what: Annotated[
        list[str] | None,
        option(
            "NAME",
            "samples, reconstructions, interpolation, traversal, arithmetic or neighbours; may be repeated. "
            "[default: all that it can have]",
        ),
    ] = None,
    dataset: Annotated[str | None, option("NAME", "What it is seen beside. [default: what it learned from]")] = None,
    seed: Annotated[int, option("N", "Of the latent points.", default=0)] = 0,
    data_root: Annotated[Path | None, option("DIR", "Where datasets lie.")] = None,
    out: Annotated[Path, option("DIR", "Where the pictures go.", default="rbl-generate")] = Path("rbl-generate"),
    quiet: Quiet = False,
) -> None:
    """Draw what a generator makes: a PNG a sheet; points of the plane as a scatter."""
    from robustbench_lite.run.generate import show as show_them

    drawn = show_them(file, out=out, sheets=what or (), dataset=dataset, data_root=data_root, seed=seed)
    if not quiet:
        sys.stdout.write(f"Pictures are in {out}: {', '.join(place.name for place in drawn)}\n")


@app.command("measure", epilog=MEASURE_EXAMPLES)
def measure(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Of the generators, .safetensors.", show_default=False)
    ],
    out: Annotated[Path, option("FILE.csv", "Where the table goes.", default="generators.csv")] = Path(
        "generators.csv"
    ),
    judge: Annotated[
        str,
        option("NAME", "Who reads the images; without weights it is trained on the data.", default="small-cnn"),
    ] = "small-cnn",
    dataset: Annotated[
        str | None, option("NAME", "What they are compared with. [default: what each learned from]")
    ] = None,
    samples: Annotated[
        int | None,
        option("N", "Of each sampling. [default: 2500 points, 26000 stacks, as many images as were learned from]"),
    ] = None,
    repeats: Annotated[int, option("N", "Samplings, for the spread.", default=5)] = 5,
    inverted: Annotated[int, option("N", "Images of each split whose latent point is sought.", default=100)] = 100,
    restarts: Annotated[int, option("N", "Starting points of each search.", default=5)] = 5,
    steps: Annotated[int, option("N", "Steps of each search.", default=500)] = 500,
    seed: Annotated[int, option("N", "Of the sampling.", default=0)] = 0,
    published: Annotated[
        bool, option(None, "Rows of papers on the same data too.", "--published/--no-published", default="yes")
    ] = True,
    data_root: Annotated[Path | None, option("DIR", "Where datasets lie.")] = None,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Measure generators: modes, what a classifier sees, copies, usefulness, inversion, latent arithmetic.

    Of points (ring, grid): modes, high quality, reverse KL. Of stacks: modes of 1,000. Of images: classifier-Frechet distance
    (not FID: the features are the judge's), KID, precision and recall, density and coverage, label agreement, copies of
    training images, accuracy of a classifier that learned from samples alone, inversion error. Trainings that differ in
    their seed alone share a row. What was measured before is kept.
    """
    with (
        stoppable("what was measured is kept, and the same command goes on"),
        Bars(quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        from robustbench_lite.run.quality import Options, measure_files

        frame = measure_files(
            files,
            out=out,
            options=Options(
                judge=judge,
                samples=samples,
                repeats=repeats,
                inverted=inverted,
                restarts=restarts,
                steps=steps,
                seed=seed,
            ),
            dataset=dataset,
            data_root=data_root,
            published=published,
            training=bars.training,
            begin=bars.begin,
        )
    if not quiet:
        from robustbench_lite.run.quality import shown

        for one in shown(frame):
            show_frame(one)
        sys.stdout.write(f"\nAll figures are in {out}\n")


def _tell(card: Mapping[str, Any], out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    last = {name: values[-1] for name, values in card["training"]["figures"].items()}
    facts = {
        "generator": card["architecture"],
        "data": f"{card['data']['name']}, {card['data']['images']} training images",
        "epochs": card["recipe"]["epochs"],
        **{name.replace("_", " "): value for name, value in {**last, **card["outcome"]}.items()},
    }
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(f"{value:.4g}" if isinstance(value, float) else str(value)))
    show(table)
    sys.stdout.write(f"\nThe generator is {out}; look at it with:\n  rbl generate show {shlex.quote(str(out))}\n")
