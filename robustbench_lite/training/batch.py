"""What the training loop hands to a loss, and what it calls."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.training.history import Moment, Score


@dataclass(frozen=True, kw_only=True)
class Batch(Rows):
    """What a loss is given.

    Args:
        x: (n, c, h, w) in [0, 1]. y: (n,) int64. indices: (n,) int64, positions in the dataset.
        draws: the samples' random streams of this epoch.
    """

    x: Tensor
    y: Tensor
    indices: Tensor
    draws: Draws


#: (model, batch, moment) -> the scalar to descend. It finds the model in training mode and must leave it so.
Loss = Callable[[nn.Module, Batch, Moment], Tensor]
#: (model, batch, moment) -> a context around one step: entered before its loss is computed, left after the optimizer's step
Around = Callable[[nn.Module, Batch, Moment], AbstractContextManager[None]]
#: (model, dataset, positions held out) -> accuracies; the best epoch's weights are kept
Validate = Callable[[nn.Module, Dataset, np.ndarray], Score]
#: (steps done, steps in all, one line of text)
Progress = Callable[[int, int, str], None]
#: (the number of epochs that are done), after each
Watch = Callable[[int], None]
