"""`rbl train`: train a model, defended or not, and write it as a checkpoint."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_lite.cli.options import option
from robustbench_lite.cli.printing import complain, show
from robustbench_lite.cli.progress import Bars

EXAMPLES = """\b
Examples:
  rbl train --model small-cnn --out net.safetensors
  rbl train --defense adversarial-training --epochs 30 --threat Linf:0.2 --out robust.safetensors
  rbl evaluate --model checkpoint:robust.safetensors --defense none
"""
STOPPED = 130


def train(
    out: Annotated[Path, option("FILE", "Where the weights go: a .safetensors file, with its card (.json) beside it.")],
    model: Annotated[
        str, option("NAME", "The architecture, trained from fresh weights.", default="small-cnn")
    ] = "small-cnn",
    dataset: Annotated[str, option("NAME", "What it learns.", default="digits")] = "digits",
    defense: Annotated[str, option("NAME", "How it learns: none, or a defense that trains.", default="none")] = "none",
    threat: Annotated[
        str | None,
        option("NORM:EPS", "What it is trained and measured against. [default: the usual one for such images]"),
    ] = None,
    seed: Annotated[int, option("N", "Of weights and order.", default=0)] = 0,
    epochs: Annotated[int | None, option("N", "Passes over the data. [default: the recipe's]")] = None,
    batch_size: Annotated[int | None, option("N", "Images in one step. [default: the recipe's]")] = None,
    learning_rate: Annotated[float | None, option("X", "At its highest. [default: the recipe's]")] = None,
    device: Annotated[str, option("auto|cpu|cuda[:I]", "Where to compute.", default="auto")] = "auto",
    data_root: Annotated[Path | None, option("DIR", "Where datasets lie, or are put.")] = None,
    download: Annotated[
        bool, option(None, "Fetch a dataset that is not there.", "--download/--no-download", default="no")
    ] = False,
    allow_pickle: Annotated[
        bool, option(None, "Load pickles, which can run any code.", "--allow-pickle/--no-allow-pickle", default="no")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even if the same was trained before and kept in the cache.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Train a model and write it as a checkpoint with a card.

    The card says what the weights are: architecture, data, recipe, seed, clean and robust accuracy, versions. The
    checkpoint is loaded again by --model checkpoint:FILE.
    """
    try:
        with Bars(quiet=quiet) as bars:
            from robustbench_lite.run.train import train as train_it

            card = train_it(
                model,
                dataset,
                defense,
                threat=threat,
                seed=seed,
                out=out,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                device=device,
                data_root=data_root,
                download=download,
                allow_pickle=allow_pickle,
                use_cache=not fresh,
                progress=bars.training,
            )
    except KeyboardInterrupt:
        complain(f"stopped by Ctrl-C; {out} was not written, and the same command goes on with the training")
        raise typer.Exit(STOPPED) from None
    if not quiet:
        _show(card, out)


def _show(card: Mapping[str, Any], out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in _lines(card):
        table.add_row(Text(name, style="bold"), Text(value))
    show(table)
    name = shlex.quote(f"checkpoint:{out}")
    sys.stdout.write(f"\nThe checkpoint is {out}; evaluate it with:\n  rbl evaluate --model {name} --defense none\n")


def _lines(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The card as lines of name and value; what stands inside something is indented."""
    for name, value in card.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            yield words, ""
            yield from ((f"  {inner}", text) for inner, text in _lines(value))
        elif value is not None:
            yield words, _text(value)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
