"""Some of the images of a dataset as a dataset of their own."""

from dataclasses import dataclass, replace

import numpy as np

from robustbench_lite.data.base import Dataset, Images
from robustbench_lite.hashing import Hasher


@dataclass(frozen=True, eq=False)
class Picked:
    """Some of the images that another holds, in the order of `rows`."""

    whole: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at these positions, (m, c, h, w)."""
        return self.whole.take(self.rows[indices])

    def feed(self, state: Hasher) -> None:
        """Hash what all the images are, and which of them these are."""
        self.whole.feed(state)
        state.update(self.rows.tobytes())


def part(data: Dataset, rows: np.ndarray) -> Dataset:
    """The images and labels at these positions (m,) int64; nothing is copied."""
    return replace(data, images=Picked(data.images, rows), labels=data.labels[rows])
