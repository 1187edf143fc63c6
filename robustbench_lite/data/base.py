"""A labelled set of images, kept as it is stored; a batch becomes float32 in [0, 1] only when it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import hashing
from robustbench_lite.hashing import Hasher

Split = Literal["train", "test"]
Indices = Sequence[int] | np.ndarray


class Images(Protocol):
    """How a dataset holds its images."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at these positions, (m, c, h, w), uint8 or float32 in [0, 1]."""
        ...

    def feed(self, state: Hasher) -> None:
        """Hash what the images are."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One split of a dataset.

    Args:
        name: its canonical spec. images: read through `batch` only. labels: (n,) int64, from 0 to num_classes - 1.
        shape: (c, h, w) of every image. class_names: None where the classes have no names, so that their number is only
            what the labels reach.
        default_samples: which samples an evaluation takes when nobody says (see `choose`).
        provenance: how the images came to be what they are: a generator and its judge, or what of files was converted and
            skipped; for records.
        notes: the same in sentences, to be told once.
    """

    name: str
    images: Images
    labels: np.ndarray
    num_classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    split: Split = "test"
    default_samples: str = "all"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Indices) -> Tensor:
        """The images at these positions, (m, c, h, w) float32 in [0, 1].

        Raises:
            UserError: an image file that cannot be decoded.
        """
        pixels = self.images.take(np.asarray(indices, dtype=np.int64))
        x = torch.from_numpy(np.ascontiguousarray(pixels))
        return x.float() / 255 if x.dtype == torch.uint8 else x.float()

    def labels_at(self, indices: Indices) -> Tensor:
        """The labels at these positions, (m,) int64."""
        return torch.from_numpy(self.labels[np.asarray(indices, dtype=np.int64)])

    def digest(self) -> str:
        """16 bytes (hex) over shape, labels and pixels (of lazily decoded files: their names and bytes); cached."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = hashing.new()
        state.update(repr((self.shape, self.num_classes, len(self))).encode())
        state.update(np.ascontiguousarray(self.labels).tobytes())
        self.images.feed(state)
        return state.hexdigest()


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory: (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or float32 in [0, 1]."""

    array: np.ndarray
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        _, c, h, w = self._nchw(self.array[:1]).shape
        return c, h, w

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at these positions, (m, c, h, w)."""
        return self._nchw(self.array[indices])

    def feed(self, state: Hasher) -> None:
        """Hash type and pixels, in blocks so that no second copy of everything is made."""
        state.update(self.array.dtype.str.encode())
        for begin in range(0, len(self.array), 1024):
            state.update(np.ascontiguousarray(self._nchw(self.array[begin : begin + 1024])).data)

    def _nchw(self, block: np.ndarray) -> np.ndarray:
        if block.ndim == 3:
            return block[:, None]
        return block.transpose(0, 3, 1, 2) if self.channels_last else block
