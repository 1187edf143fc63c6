"""`generate measure`: generators measured, each kept by content, and their table beside what papers tell."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from robustbench_lite import data as datasets
from robustbench_lite.cache import atomic_write, load_or_make, writable, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.points import mixture_of
from robustbench_lite.data.stacked import base_of
from robustbench_lite.defense import Workshop
from robustbench_lite.generators import Trained, load_generator
from robustbench_lite.generators.quality import measure
from robustbench_lite.generators.quality.published import PUBLISHED, Row, table
from robustbench_lite.hashing import hash_json
from robustbench_lite.hashing.values import hash_value
from robustbench_lite.results.generators import CLOCK, SHOWN, base
from robustbench_lite.run.generate import splits
from robustbench_lite.run.shelf import Shelf
from robustbench_lite.system import System

#: who reads the images where nobody is named
JUDGE = "small-cnn"
#: raised where a figure could change
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How generators are measured; see `quality.measure`.

    Args:
        judge: a model by the zoo's rules; without weights it is trained on the training split, and kept.
    """

    judge: str = JUDGE
    samples: int | None = None
    repeats: int = 5
    inverted: int = 100
    restarts: int = 5
    steps: int = 500
    seed: int = 0


def measure_files(
    files: Sequence[Path],
    *,
    out: Path,
    options: Options,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    published: bool = True,
    training: Callable[[int, int, str], None] | None = None,
    begin: Callable[[str, int], None] = lambda text, total: None,
) -> pd.DataFrame:
    """Measure generators and write the table, anew after each, so that nothing is lost.

    Trainings that differ in their seed alone share a row: means over them, and `_sd` is the spread over seeds; in a row of
    one training it is the spread over samplings.

    Args:
        files: of the generators. dataset: their data; left out, what each card says. published: rows of papers too.
        training: told of the judge's training. begin: told what is measured next.

    Raises:
        UserError: a file that is no generator, data that does not fit it, or a table that cannot be written.
    """
    writable(out.parent)
    found: list[tuple[Trained, str, dict[str, float]]] = []
    frame = pd.DataFrame()
    for file in files:
        trained = load_generator(file)
        begin(f"measuring {file.name}", 0)
        train, test = splits(trained, dataset, data_root)
        judge = _judge(options.judge, train, test, data_root, training)
        found.append((trained, test.name, _figures(trained, train, test, judge, options)))
        frame = table(_rows(found, options), published=PUBLISHED if published else ())
        with writing(out.parent):
            atomic_write(out, frame.to_csv(index=False, float_format="%.6g").encode())
    return frame


def shown(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The table in parts that fit a screen: for each dataset the figures that its first row has and people ask for first."""
    for _, part in frame.groupby(frame["data"].map(base), sort=False):
        names = [name for name in SHOWN if name in part and part[name].iloc[0] == part[name].iloc[0]]
        kind = ["kind"] if part["kind"].nunique() > 1 else []
        shown = part[["generator", "data", *kind, *names]].reset_index(drop=True)
        for name in names:  # errors of 0.004 beside distances of 20
            shown[name] = ["" if value != value else f"{value:.4g}" for value in shown[name]]
        yield shown


def _figures(
    trained: Trained, train: Dataset, test: Dataset, judge: System | None, options: Options
) -> dict[str, float]:
    """What `measure` finds, kept by content."""
    chosen: dict[str, Any] = {
        name: getattr(options, name) for name in ("samples", "repeats", "inverted", "restarts", "steps", "seed")
    }
    facts = {
        "quality": [VERSION, hash_value(type(trained.network))],
        "generator": trained.digest,
        "data": [train.digest(), test.digest()],
        "judge": None if judge is None else judge.digest,
        "options": chosen,
        "torch": torch.__version__,
    }

    def make() -> dict[str, torch.Tensor]:
        figures = measure(trained, train, test, judge=judge, **chosen)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}

    return {name: float(value) for name, value in load_or_make(hash_json(facts), make).items()}


def _judge(
    text: str,
    train: Dataset,
    test: Dataset,
    data_root: str | Path | None,
    training: Callable[[int, int, str], None] | None,
) -> System | None:
    """Who reads the images: a classifier of the data, of stacks one of what is stacked; of points nobody."""
    if mixture_of(test) is not None:
        return None
    base, root = base_of(test), None if data_root is None else Path(data_root)
    if base is not None:
        train, test = (datasets.load(base, split, root=root) for split in ("train", "test"))
    shelf = Shelf(
        data=test,
        device=torch.device("cpu"),
        allow_pickle=False,
        workshop=lambda: Workshop(train=train, progress=training),
        num_classes=test.num_classes,
    )
    return shelf.model(text)


def _rows(found: Sequence[tuple[Trained, str, dict[str, float]]], options: Options) -> list[Row]:
    groups: dict[tuple[str, str, str], list[tuple[Trained, dict[str, float]]]] = {}
    for trained, data, figures in found:
        recipe = trained.card["recipe"]
        steps = steps_told(recipe["epochs"], recipe["batch_size"])
        groups.setdefault((str(trained.card["architecture"]), data, steps), []).append((trained, figures))
    return [_row(*who, members, options) for who, members in groups.items()]


def _row(
    generator: str, data: str, steps: str, members: Sequence[tuple[Trained, dict[str, float]]], options: Options
) -> Row:
    """Several trainings as one row, or the only one as it is."""
    seeds = sorted({int(trained.card["seed"]) for trained, _ in members})
    figures = dict(members[0][1])
    if len(members) > 1:
        names = [name for name in figures if not name.endswith(("_sd", "_se"))]
        spread = {name: np.array([own[name] for _, own in members]) for name in names}
        figures = {name: float(values.mean()) for name, values in spread.items()}
        figures |= {f"{name}_sd": float(values.std(ddof=1)) for name, values in spread.items()}
    clocks = [float(trained.card["seconds"]) for trained, _ in members if "seconds" in trained.card]
    if clocks:
        figures[CLOCK] = float(np.mean(clocks))
    read = "" if "high_quality" in figures else f", judge {options.judge}"  # nobody reads points of the plane
    return Row(generator=generator, data=data, figures=figures, setting=f"{steps}, {seeds_told(seeds)}{read}")


def steps_told(epochs: object, batch_size: object) -> str:
    """How long a row's trainings were, as its setting begins."""
    return f"{epochs} epochs of batches of {batch_size}"


def seeds_told(seeds: Sequence[int]) -> str:
    """The seeds of a row, as the second part of its setting."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
