"""Which samples of a split are evaluated: all, the first ones, or a fixed class-balanced random subset; and all in blocks."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError

_ACCEPTED = "accepted: all, first:N or N"
#: images that are looked at together
_BLOCK = 4096


def choose(dataset: Dataset, samples: str | int | None = None, slice_seed: int = 0) -> np.ndarray:
    """Positions in the split, ascending, (m,) int64.

    `N` takes all classes as evenly as they allow, at random by `slice_seed`; a smaller N chooses a subset of what a
    larger one does, so that its records can be used again.

    Args:
        samples: `all`, `first:N`, `N`, or None for the dataset's default.

    Raises:
        UserError: another word, none, or more samples than there are.
    """
    kind, count = _read(dataset, samples)
    if kind != "balanced":
        return np.arange(count)
    return np.sort(_balanced_order(dataset.labels, slice_seed)[:count])


def in_blocks(data: Dataset) -> Iterator[Tensor]:
    """All images in order, (n, c, h, w), a few thousand at a time."""
    for begin in range(0, len(data), _BLOCK):
        yield data.batch(range(begin, min(begin + _BLOCK, len(data))))


def outside(dataset: Dataset, indices: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Up to `count` positions that are not among `indices`, ascending, of all classes as evenly as they allow.

    Raises:
        UserError: there is none.
    """
    free = np.setdiff1d(np.arange(len(dataset)), indices)
    if not len(free):
        raise UserError(
            f"all {len(dataset)} {dataset.split} images of {dataset.name} are evaluated, and none is left to learn from;"
            f" evaluate fewer, such as samples={max(1, len(dataset) // 2)}"
        )
    return np.sort(free[_balanced_order(dataset.labels[free], abs(seed))[:count]])


def describe_slice(dataset: Dataset, samples: str | int | None = None, slice_seed: int = 0) -> str:
    """The slice in words, such as `1000 of 10000, class-balanced, slice seed 0`."""
    kind, count = _read(dataset, samples)
    if kind == "all":
        return f"all {count}"
    if kind == "first":
        return f"first {count} of {len(dataset)}"
    return f"{count} of {len(dataset)}, class-balanced, slice seed {slice_seed}"


def _read(dataset: Dataset, samples: str | int | None) -> tuple[str, int]:
    total = len(dataset)
    if samples is None:
        samples = dataset.default_samples
        if samples.isdecimal() and int(samples) >= total:
            samples = "all"
    text = str(samples).strip().lower()
    if text == "all":
        return "all", total
    digits = text.removeprefix("first:")
    if not (digits.isascii() and digits.isdecimal()) or int(digits) == 0:
        raise UserError(f"cannot read samples={samples!r}; {_ACCEPTED}")
    count = int(digits)
    if count > total:
        raise UserError(f"samples={samples} is more than the {total} {dataset.split} images of {dataset.name}")
    return ("first" if text.startswith("first:") else "balanced"), count


def _balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """All positions: one of every class, in random order, then a second of every class, and so on."""
    if seed < 0:
        raise UserError(f"slice seed {seed} is negative; accepted: 0 and more")
    # The raw words of a bit generator are the only stream that numpy promises never to change.
    keys = np.random.Philox(seed).random_raw(len(labels))
    by_class = np.lexsort((keys, labels))
    starts = np.searchsorted(labels[by_class], labels[by_class], side="left")
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - starts
    return np.lexsort((keys, turn))
