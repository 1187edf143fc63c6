"""`versus:FILE`: real images and a generator's own, to be told apart."""

from pathlib import Path

import numpy as np

from robustbench_lite.data.base import ArrayImages, Dataset, Split
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws

CLASSES = ("fake", "real")
#: images that are made at once
_BLOCK = 256


def load(
    *,
    split: Split,
    path: Path,
    spec: str,
    root: Path | None = None,
    download: bool = False,
    dataset: str = "digits",
    seed: int = 0,
) -> Dataset:
    """Every image of a dataset's split, labelled 1 (real), each followed by one of the generator's, labelled 0 (fake).

    Generated images have 256 levels, as files do: nobody should tell them by that.

    Args:
        dataset: where the real images come from. seed: of the generated ones; the splits have others.

    Raises:
        UserError: no generator of such images, or one that nothing can be drawn from.
    """
    from robustbench_lite.data.load import load as load_dataset
    from robustbench_lite.generators import load_generator

    real, found = load_dataset(dataset, split, root=root, download=download), load_generator(path.expanduser())
    if found.network.shape != real.shape:
        raise UserError(f"{spec}: {path} makes images {found.network.shape} but {dataset} has {real.shape}")
    pixels = np.empty((2 * len(real), *real.shape), dtype=np.float32)
    for begin in range(0, len(real), _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, len(real)))
        draws = Draws.of(seed, [f"{split} {place}".encode() for place in places])
        pixels[2 * places] = real.batch(places).numpy()
        made = found.sample(draws, real.labels_at(places)).cpu()
        pixels[2 * places + 1] = ((made * 255).round() / 255).numpy()
    return Dataset(
        name=spec,
        images=ArrayImages(pixels),
        labels=np.tile(np.array([1, 0], dtype=np.int64), len(real)),
        num_classes=2,
        shape=real.shape,
        class_names=CLASSES,
        split=split,
        default_samples=real.default_samples,
    )
