"""Figures of generated images beside those of real ones: what a classifier sees, copies, and what they teach."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import choose
from robustbench_lite.generators.quality.distances import classifier_score, frechet, kernel_distance
from robustbench_lite.generators.quality.features import Seen, look
from robustbench_lite.generators.quality.judges import usefulness
from robustbench_lite.generators.quality.manifolds import density_coverage, nearest, precision_recall
from robustbench_lite.generators.quality.memorisation import copy_figures, same_distance, support
from robustbench_lite.randomness import Draws
from robustbench_lite.seeding import derive
from robustbench_lite.system import System

#: at most, where all pairs are looked at: of features, of images beside the training split, and of lessons
_PAIRS, _COPIES, _LESSONS = 5000, 1000, 2000
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Real images that generated ones are held against.

    Args:
        test: the held-out split. judge: sees features. count: images of each sampling. seed: of noise and of lessons.
        train_x: all training images. train_y: their labels. chosen: positions of `count` training images, at most, in
            random order.
    """

    test: Dataset
    judge: System
    count: int
    seed: int
    train_x: Tensor
    train_y: Tensor
    chosen: Tensor

    @classmethod
    def of(cls, train: Dataset, test: Dataset, judge: System, count: int, seed: int) -> "Reference":
        """The reference of two splits."""
        every = range(len(train))
        return cls(
            test=test,
            judge=judge,
            count=count,
            seed=seed,
            train_x=train.batch(every),
            train_y=train.labels_at(every),
            chosen=torch.from_numpy(mixed(train, count, seed)),
        )

    @cached_property
    def seen(self) -> Seen:
        """What the judge sees in the chosen training images."""
        return look(self.judge, self.train_x[self.chosen])

    @cached_property
    def held_out(self) -> Tensor:
        """Test images, as many as a sampling has, at most."""
        return self.test.batch(self.held_out_rows)

    @cached_property
    def held_out_rows(self) -> np.ndarray:
        """Where they stand in the test split, (n,)."""
        return mixed(self.test, self.count, self.seed)

    @cached_property
    def unseen(self) -> Tensor:
        """Distances of held-out images to the nearest training image."""
        return nearest(self.held_out[:_COPIES], self.train_x)

    def compare(self, seen: Seen) -> Figures:
        """Features against those of the training images; `frechet` only at one number of images."""
        real, fake = self.seen.features[:_PAIRS], seen.features[:_PAIRS]
        return {
            "frechet": frechet(self.seen.features, seen.features),
            "kid": kernel_distance(real, fake),
            **precision_recall(real, fake),
            **density_coverage(real, fake),
            "score": classifier_score(seen.chances),
        }

    def controls(self) -> Figures:
        """The same figures of held-out images (`_floor`) and of uniform noise (`_noise`), and others of real images."""
        draws = Draws.numbered(derive(self.seed, "noise"), range(self.count))
        noise = draws.uniform(self.test.shape, "noise")
        floor, ceiling = (self.compare(look(self.judge, x)) for x in (self.held_out, noise))
        rows = self.chosen[:_LESSONS]
        return {
            **{f"{name}_floor": value for name, value in floor.items()},
            **{f"{name}_noise": value for name, value in ceiling.items()},
            "support_real": support(self.train_x[self.chosen[:_COPIES]], same_distance(self.unseen)),
            "usefulness_real": usefulness(self.train_x[rows], self.train_y[rows], self.test, seed=self.seed),
        }


def mixed(data: Dataset, count: int, seed: int) -> np.ndarray:
    """Up to `count` positions in a split, of all classes as evenly as they allow, in random order."""
    rows = choose(data, min(count, len(data)))
    return rows[np.argsort(np.random.Philox(key=[seed & 0xFFFFFFFF, 2]).random_raw(len(rows)))]


def image_figures(reference: Reference, x: Tensor, y: Tensor | None) -> Figures:
    """Figures of generated images x (n, c, h, w).

    `frechet` (classifier-Fréchet distance), `kid`, `precision`, `recall`, `density`, `coverage`, `score`: by the judge's
    features, against training images. `nearest_train`, `memorised`, `support`: copies. `usefulness`: the accuracy on test
    images of a classifier taught by generated ones alone. Of a conditional generator, `agreement`: how often the judge
    sees the class that was asked for, and `agreement_shuffled` with the classes shuffled, which is chance.

    Args:
        y: (n,), the classes that were asked for; None where there are none, and the judge's answers are the lessons'
            labels, so that `usefulness` is then no better than they are.
    """
    seen, few = look(reference.judge, x), x[:_COPIES]
    found = seen.chances.argmax(1)
    told = found if y is None else y
    figures = {
        **reference.compare(seen),
        **copy_figures(few, reference.train_x, reference.unseen),
        "support": support(few, same_distance(reference.unseen)),
        "usefulness": usefulness(x[:_LESSONS], told[:_LESSONS], reference.test, seed=reference.seed),
    }
    if y is not None:
        figures["agreement"] = float((found == y).double().mean())
        figures["agreement_shuffled"] = float((found == y.roll(len(y) // 2)).double().mean())
    return figures
