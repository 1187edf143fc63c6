"""Scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels, shipped in its wheel, no download."""

from pathlib import Path

import numpy as np

from robustbench_lite.data.base import ArrayImages, Dataset, Split

_TEST = 450
#: evaluated when nobody says; the others are there for attacks that learn from images which are not evaluated
_SAMPLES = "300"


def load(*, split: Split, root: Path | None = None, download: bool = False) -> Dataset:
    """1,347 training or 450 test images, 1 x 8 x 8, 17 grey levels; the split is stratified and fixed.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    everything = load_digits()
    pixels = (everything.images / 16).astype(np.float32)
    labels = everything.target.astype(np.int64)
    parts = train_test_split(np.arange(len(labels)), test_size=_TEST, random_state=0, stratify=labels)
    rows = parts[0 if split == "train" else 1]
    return Dataset(
        name="digits",
        images=ArrayImages(pixels[rows]),
        labels=labels[rows],
        num_classes=10,
        shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        split=split,
        default_samples=_SAMPLES,
    )
