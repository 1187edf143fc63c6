"""Generated images in the place of a share of every batch.

Carmon et al. 2019, arXiv 1905.13736; Rebuffi et al. 2021, arXiv 2103.01946; Gowal et al. 2021, arXiv 2110.09468, sec. 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustbench_lite.data.base import Dataset, Images
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import Hasher


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Images that take the place of a share of every batch; there are as many batches, of the same sizes, as without.

    Args:
        data: the generated images, with labels. share: of every batch, 0 to 1.
    """

    data: Dataset
    share: float

    def behind(self, real: Dataset) -> Dataset:
        """The real images and, behind them, the generated ones.

        Raises:
            UserError: images of another size, or labels that the real ones do not have.
        """
        made = self.data
        if made.shape != real.shape:
            raise UserError(
                f"{made.name} has images {made.shape}, which cannot be mixed with {real.name}, {real.shape}"
            )
        if int(made.labels.max()) >= real.num_classes:
            raise UserError(
                f"{made.name} has labels up to {made.labels.max()}; {real.name} has {real.num_classes} classes"
            )
        labels = np.concatenate([real.labels, made.labels])
        return replace(real, images=Joined(real.images, made.images), labels=labels)

    def into(self, cuts: Sequence[np.ndarray], first: int, seed: int) -> list[np.ndarray]:
        """Positions of an epoch's batches, a share of each replaced by generated images, at random places.

        No generated image comes twice before all have come once.

        Args:
            cuts: positions of real images, a batch each. first: the position of the first generated image.
            seed: of this epoch.
        """
        random, made = np.random.default_rng(seed), len(self.data)
        # Rounded over the epoch, not batch by batch, so that small batches, too, have their share in the long run.
        ends = np.rint(self.share * np.cumsum([0, *map(len, cuts)])).astype(np.int64)
        rounds = -(-int(ends[-1]) // made)
        order = np.concatenate([np.zeros(0, dtype=np.int64), *(random.permutation(made) for _ in range(rounds))])
        mixed = []
        for cut, begin, end in zip(cuts, ends[:-1], ends[1:], strict=True):
            batch = cut.copy()
            batch[random.permutation(len(cut))[: end - begin]] = first + order[begin:end]
            mixed.append(batch)
        return mixed


@dataclass(frozen=True, eq=False)
class Joined:
    """Images as they are stored, and behind them others; float32 in [0, 1] where the two are stored differently."""

    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The images at these positions, (m, c, h, w)."""
        early = indices < len(self.first)
        parts = self.first.take(indices[early]), self.second.take(indices[~early] - len(self.first))
        if parts[0].dtype != parts[1].dtype:
            parts = _as_float(parts[0]), _as_float(parts[1])
        images = np.empty((len(indices), *parts[0].shape[1:]), dtype=parts[0].dtype)
        images[early], images[~early] = parts
        return images

    def feed(self, state: Hasher) -> None:
        """Hash what the images are, and where the others begin."""
        self.first.feed(state)
        state.update(len(self.first).to_bytes(8, "little"))
        self.second.feed(state)


def _as_float(images: np.ndarray) -> np.ndarray:
    """As `Dataset.batch` makes them."""
    single = images.astype(np.float32)
    return single / np.float32(255) if images.dtype == np.uint8 else single
