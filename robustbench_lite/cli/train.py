"""`rbl train`: train a model, defended or not, and write it as a checkpoint."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_lite.cli.options import AllowCode, AllowPickle, DataRoot, Device, Download, Log, Quiet, Verbose, option
from robustbench_lite.cli.printing import show
from robustbench_lite.cli.progress import Bars
from robustbench_lite.cli.stopping import stoppable
from robustbench_lite.escaping import visible

if TYPE_CHECKING:
    from robustbench_lite.run.train import Spread

EXAMPLES = """\b
Examples:
  rbl train --model small-cnn --out net.safetensors
  rbl train --defense adversarial-training --epochs 30 --threat Linf:0.2 --out robust.safetensors
  rbl train --defense adversarial-training --seeds 3 --ema 0.995 --out robust.safetensors
  rbl evaluate --model checkpoint:robust.safetensors --defense none
"""


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
    seeds: Annotated[
        int, option("N", "Train with so many seeds, from --seed on, into FILE-seed0 and so on.", default=1)
    ] = 1,
    epochs: Annotated[int | None, option("N", "Passes over the data. [default: the recipe's]")] = None,
    batch_size: Annotated[int | None, option("N", "Images in one step. [default: the recipe's]")] = None,
    learning_rate: Annotated[float | None, option("X", "At its highest. [default: the recipe's]")] = None,
    schedule: Annotated[
        str | None,
        option(
            "NAME",
            "How the learning rate goes: linear, constant, cosine, one-cycle, piecewise. [default: the recipe's]",
        ),
    ] = None,
    weight_decay: Annotated[float | None, option("X", "L2, on all parameters. [default: the recipe's]")] = None,
    ema: Annotated[
        float | None, option("TAU", "Keep a moving average of the weights, such as 0.995. [default: the recipe's]")
    ] = None,
    accumulate: Annotated[
        int | None, option("N", "Cut a step's images into so many parts, to save memory. [default: the recipe's]")
    ] = None,
    precision: Annotated[str | None, option("float32|bfloat16", "Of the training. [default: the recipe's]")] = None,
    label_smoothing: Annotated[
        float | None, option("X", "Mass that the targets give to all classes (defense none). [default: the recipe's]")
    ] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    download: Download = False,
    allow_pickle: AllowPickle = False,
    allow_code: AllowCode = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even if the same was trained before and kept in the cache.")
    ] = False,
    quiet: Quiet = False,
    log: Log = None,
    verbose: Verbose = False,
) -> None:
    """Train a model and write it as a checkpoint with a card.

    The card says what the weights are: architecture, data, recipe, seed, clean and robust accuracy, versions. The
    checkpoint is loaded again by --model checkpoint:FILE. FILE.history.csv and FILE.history.png tell of every epoch. A
    training that was stopped goes on where it was when the same is asked for again.
    """
    with (
        stoppable(f"{out} was not written, and the same command goes on with the training"),
        Bars(quiet=quiet, log=log, verbose=verbose) as bars,
    ):
        from robustbench_lite.run.train import train as train_it
        from robustbench_lite.run.train import train_seeds

        def train_one(number: int, file: Path | None) -> dict[str, Any]:
            def progress(done: int, total: int, text: str) -> None:
                bars.training(done, total, text if seeds == 1 else f"seed {number}, {text}")

            return train_it(
                model,
                dataset,
                defense,
                threat=threat,
                seed=number,
                out=file,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                schedule=schedule,
                weight_decay=weight_decay,
                ema=ema,
                accumulate=accumulate,
                precision=precision,
                label_smoothing=label_smoothing,
                device=device,
                data_root=data_root,
                download=download,
                allow_pickle=allow_pickle,
                allow_code=allow_code,
                use_cache=not fresh,
                progress=progress,
            )

        if seeds == 1:
            card = train_one(seed, out)
        else:
            spread = train_seeds(seeds, train_one, first=seed, out=out)
    if not quiet and seeds == 1:
        _show(card, out)
    elif not quiet:
        _show_spread(spread)


def _show(card: Mapping[str, Any], out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in _lines(card):
        table.add_row(Text(visible(name), style="bold"), Text(visible(value)))
    show(table)
    name = shlex.quote(f"checkpoint:{out}")
    sys.stdout.write(f"\nThe checkpoint is {out}; evaluate it with:\n  rbl evaluate --model {name} --defense none\n")


def _show_spread(spread: "Spread") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("seed", "clean", "robust", "checkpoint", box=None, pad_edge=False, show_footer=False)
    for seed, card, file in zip(spread.seeds, spread.cards, spread.files, strict=True):
        robust = _percent(card["robust_accuracy"]) + ("!" if "catastrophic_overfitting" in card["training"] else "")
        table.add_row(str(seed), _percent(card["clean_accuracy"]), robust, Text(visible(str(file))))
    spans = [spread.of(name) for name in ("clean_accuracy", "robust_accuracy")]
    table.add_row("mean", *(_percent(mean) for mean, _, _ in spans), "")
    table.add_row("range", *(f"{_percent(low)}..{_percent(high)}" for _, low, high in spans), "")
    show(table)
    under = spread.cards[0]["measured"]
    sys.stdout.write(
        f"\nAccuracies in percent on {under['images']} test images, robust ones under {under['attack']} at "
        f"{under['threat']};\nover training seeds, not over test images.\n"
    )
    if any("catastrophic_overfitting" in card["training"] for card in spread.cards):
        sys.stdout.write("! catastrophic overfitting in training; see the history beside the checkpoint\n")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _lines(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The card as lines of name and value; what stands inside something is indented."""
    for name, value in card.items():
        words = name.replace("_", " ")
        if name == "history":  # it has files of its own
            continue
        if isinstance(value, Mapping):
            yield words, ""
            yield from ((f"  {inner}", text) for inner, text in _lines(value))
        elif value is not None:
            yield words, _text(value)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
