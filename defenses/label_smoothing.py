"""Label smoothing, a control: it is no defense, and looks like one under a weak attack."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.defense import Workshop
from robustbench_lite.defenses.fitting import Regularised
from robustbench_lite.errors import UserError
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Loss, Moment


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Regularised):
    """Learn targets that give a share of their mass to all classes alike (Szegedy et al. 2016, arXiv 1512.00567, sec. 7).

    It bounds the logits, which helps against one large step and against nothing else: a negative control.

    Args:
        smoothing: the share that all classes divide among them.
        epochs, batch_size, learning_rate: instead of the dataset's default recipe.
        early_stopping: keep the most robust epoch on held-out images instead of the last.
    """

    name: ClassVar[str] = "label-smoothing"
    source: ClassVar[str] = "Szegedy et al. 2016, arXiv 1512.00567, sec. 7"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise UserError(f"label-smoothing: smoothing={self.smoothing:g}; accepted: a share from 0 to below 1")

    def loss(self, system: System, workshop: Workshop) -> Loss:
        """Cross-entropy with smooth targets."""

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            scores = system(batch.x, batch.draws, adaptive=True).scores
            return F.cross_entropy(scores, batch.y, label_smoothing=self.smoothing)

        return loss
