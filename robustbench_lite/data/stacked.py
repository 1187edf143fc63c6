"""Three random images of a grey set as the three channels of one: a thousand modes that can be counted.

Metz et al. 2017, arXiv 1611.02163, sec. 3.3.1, after Che et al. 2016, arXiv 1612.02136; 128,000 triples as in Lin et al.
2018, arXiv 1712.04086.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_lite.data import digits, torchvision_sets
from robustbench_lite.data.base import Dataset, Images, Split
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import Hasher
from robustbench_lite.specs import Spec

_CHANNELS = 3
_SAMPLES = "1000"
#: the test split has a fifth as many triples as the training split
_SHARE = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class StackedImages:
    """Stacks of grey images, put together when a batch asks for them.

    Args:
        base: images of one channel. rows: (n, 3), the positions in `base` of each stack's channels.
    """

    base: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The stacks at these positions, (m, 3, h, w)."""
        flat = self.base.take(self.rows[indices].reshape(-1))
        return flat.reshape(len(indices), _CHANNELS, *flat.shape[2:])

    def feed(self, state: Hasher) -> None:
        """Hash the images, and how they are stacked."""
        self.base.feed(state)
        state.update(np.ascontiguousarray(self.rows, dtype="<i8").tobytes())


def stacked_digits(
    *, split: Split, root: Path | None = None, download: bool = False, triples: int = 26_000, seed: int = 0
) -> Dataset:
    """Stacks of scikit-learn's digits, 3 x 8 x 8; digits a, b, c have the label 100 a + 10 b + c.

    Args:
        triples: of the training split, of training images; the test split has a fifth as many, of test images. seed: of
            the drawing.
    """
    base = digits.load(split=split)
    return stack(base, name="stacked-digits", triples=triples, seed=seed, usual=26_000)


def stacked_mnist(
    *, split: Split, root: Path | None = None, download: bool = False, triples: int = 128_000, seed: int = 0
) -> Dataset:
    """Stacks of MNIST, 3 x 28 x 28, that lies under `root`; digits a, b, c have the label 100 a + 10 b + c.

    Args:
        triples: of the training split, of training images; the test split has a fifth as many, of test images. seed: of
            the drawing.
    """
    base = torchvision_sets.mnist(split=split, root=root, download=download)
    return stack(base, name="stacked-mnist", triples=triples, seed=seed, usual=128_000)


def stack(base: Dataset, *, name: str, triples: int, seed: int, usual: int) -> Dataset:
    """Random triples of a split's grey images, with replacement.

    Args:
        usual: the number of triples that the name does not tell.

    Raises:
        UserError: too few triples, or a negative seed.
    """
    if triples < _SHARE:
        raise UserError(f"{name}: triples={triples}; accepted: {_SHARE} and more")
    if not 0 <= seed < 2**63:
        raise UserError(f"{name}: seed={seed}; accepted: 0 and more")
    count = triples if base.split == "train" else triples // _SHARE
    words = np.random.Philox(key=[seed, int(base.split == "test")]).random_raw(_CHANNELS * count)
    rows = ((words >> np.uint64(32)) * np.uint64(len(base)) >> np.uint64(32)).astype(np.int64).reshape(count, _CHANNELS)
    classes = base.num_classes
    told = {
        key: str(value) for key, value, default in (("triples", triples, usual), ("seed", seed, 0)) if value != default
    }
    return Dataset(
        name=str(Spec(name, told)),
        images=StackedImages(base=base.images, rows=rows),
        labels=label_of(base.labels[rows], classes),
        num_classes=classes**_CHANNELS,
        shape=(_CHANNELS, *base.shape[1:]),
        class_names=tuple(f"{number:03d}" for number in range(classes**_CHANNELS)),
        split=base.split,
        default_samples=_SAMPLES,
    )


def label_of(digits_: np.ndarray, classes: int = 10) -> np.ndarray:
    """Classes (n, 3) of the channels -> classes (n,) of the stacks."""
    return digits_ @ np.array([classes**2, classes, 1])


def base_of(data: Dataset) -> str | None:
    """The name of the set whose images are stacked; None where nothing is."""
    return data.name.partition(":")[0].removeprefix("stacked-") if is_stacked(data) else None


def is_stacked(data: Dataset) -> bool:
    """Whether a dataset is made of stacks."""
    return isinstance(data.images, StackedImages)
