"""`generate`: train a generator, look at it, have it make images, and measure it."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from robustbench_lite import data as datasets
from robustbench_lite.cache import atomic_savez, atomic_write, writing
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.points import mixture_of, to_points
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Trained, load_generator, train_generator
from robustbench_lite.generators.pictures import Sitter, possible, sheet
from robustbench_lite.results.gallery import plot_points, plot_sheet

#: samples of a scatter
_POINTS = 2500


def train(generator: str, *, out: Path, **options: Any) -> Trained:
    """Train and write: FILE.safetensors, its card FILE.json, FILE.history.csv, and FILE.training.png as it goes.

    Args:
        options: as for `generators.train_generator`.

    Raises:
        UserError: as there.
    """
    picture = out.with_suffix(".training.png")

    def look(epochs: Sequence[int], images: Tensor) -> None:
        _draw_progress(picture, epochs, images, f"{generator}: the same latent points while it trains")

    trained = train_generator(generator, out=out, look=look, **options)
    with writing(out.parent):
        atomic_write(out.with_suffix(".history.csv"), history(trained.card).to_csv(index=False).encode())
    return trained


def history(card: Mapping[str, Any]) -> pd.DataFrame:
    """One row an epoch: `epoch` from 1, `loss`, and the generator's own figures."""
    told = card["training"]
    frame = pd.DataFrame({"loss": told["history"]["loss"], **told["figures"]})
    frame.insert(0, "epoch", range(1, len(frame) + 1))
    return frame


def sample(
    path: Path, *, out: Path, count: int, seed: int = 0, judge: str | None = None, confidence: float | None = None
) -> Dataset:
    """Write images and labels as FILE.npz, which `--dataset npz:FILE` reads, and where they come from as FILE.json.

    Args:
        path: of the generator. judge: a model with its weights that reads the labels, or turns away what it reads
            otherwise. confidence: the least probability that it must give.

    Raises:
        UserError: as for `--dataset generated:FILE`, which makes the same images.
    """
    if out.suffix != ".npz":
        raise UserError(f"out={out}; accepted: a file that ends in .npz")
    options = {"count": str(count), "seed": str(seed), "judge": judge and f"({judge})", "confidence": confidence}
    given = "".join(f";{name}={value}" for name, value in options.items() if value is not None)
    data = datasets.load(f"generated:{path}{given}", "test")
    told = {"made by": f"generated:{path}{given}", "images": len(data), **data.provenance}
    rows = np.arange(len(data))
    with writing(out.parent):
        atomic_savez(out, x=data.images.take(rows), y=data.labels)
        atomic_write(out.with_suffix(".json"), (json.dumps(told, indent=2, default=str) + "\n").encode())
    return data


def show(
    path: Path,
    *,
    out: Path,
    sheets: Sequence[str] = (),
    dataset: str | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw sheets of images, a PNG each, into the folder; of points of the plane a scatter beside the real ones.

    Args:
        sheets: which of `pictures.SHEETS`; left out, all that the generator can have.
        dataset: its data; left out, what its card says.

    Raises:
        UserError: no such sheet, or one that this generator cannot have.
    """
    trained = load_generator(path)
    train_data, test_data = splits(trained, dataset, data_root)
    sitter = Sitter(trained=trained, train=train_data, test=test_data, seed=seed)
    if mixture_of(test_data) is not None:
        return [_scatter(sitter, out / "samples.png")]
    drawn = []
    for name in sheets or possible(sitter):
        rows = [(label, images.numpy()) for label, images in sheet(name, sitter)]
        place = out / f"{name}.png"
        with writing(out):
            atomic_write(place, partial(plot_sheet, rows, title=str(trained.card["architecture"])))
        drawn.append(place)
    return drawn


def splits(
    trained: Trained, dataset: str | None = None, data_root: str | Path | None = None
) -> tuple[Dataset, Dataset]:
    """The data that a generator learned from, and its test split.

    Raises:
        UserError: it is not there, or of another shape.
    """
    name = dataset or str(trained.card["data"]["name"])
    root = None if data_root is None else Path(data_root)
    train_data, test_data = (datasets.load(name, split, root=root) for split in ("train", "test"))
    if tuple(test_data.shape) != tuple(trained.network.shape):
        shown = ["x".join(map(str, shape)) for shape in (trained.network.shape, test_data.shape)]
        raise UserError(f"{trained.name} makes images {shown[0]} but {test_data.name} has {shown[1]}")
    return train_data, test_data


def _scatter(sitter: Sitter, place: Path) -> Path:
    real, _ = sitter.some(_POINTS)
    made, _ = sitter.samples(_POINTS)
    clouds = [(name, to_points(x).cpu().numpy()) for name, x in (("real", real), ("generated", made))]
    with writing(place.parent):
        atomic_write(place, lambda file: plot_points(clouds, file, title=str(sitter.trained.card["architecture"])))
    return place


def _draw_progress(place: Path, epochs: Sequence[int], images: Tensor, title: str) -> None:
    if images.shape[-1] == 1:  # ten points of the plane show nothing
        return
    rows = [(f"epoch {epoch}", part.numpy()) for epoch, part in zip(epochs, images, strict=True)]
    with writing(place.parent):
        atomic_write(place, lambda file: plot_sheet(rows, file, title=title))
