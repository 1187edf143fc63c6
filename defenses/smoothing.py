"""Randomized smoothing: a classifier that is asked many times under Gaussian noise, and what can be proved of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Adaptivity, Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Moment, TrainingOptions, Validate
from robustbench_lite.training.history import Score

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing(TrainingOptions, Defense):
    """Learn under Gaussian noise, and answer with the class that the network gives most often under the same noise.

    Training sees one fresh N(0, sigma^2) an image and epoch, added to the pixels and never clamped, and so does every
    answer: the part that adds it is the same. In an evaluation the majority over the verdict's draws counts, and an attack
    must average over draws of its own (`--eot`). What holds against every attack of a given L2 radius is not measured
    but proved, image by image, by `rbl certify`; a larger sigma proves larger radii of fewer images.

    It says nothing of noise that is clamped or rounded to levels, and little of Linf: a radius r in L2 is r / sqrt(d) there.

    Args:
        sigma: standard deviation of the noise, in the unit of an image in [0, 1].
        epochs, batch_size, learning_rate, schedule, weight_decay, ema, accumulate, precision: instead of the dataset's
            default recipe.
        early_stopping: hold out a tenth of the data and keep the epoch that is right most often under noise there
            (which its card calls robust).
        from_: written `from=FILE`: a checkpoint to fine-tune instead of starting from fresh weights.
    """

    name: ClassVar[str] = "randomized-smoothing"
    trains: ClassVar[bool] = True
    adaptivity: ClassVar[Adaptivity] = "adaptive"
    source: ClassVar[str] = (
        "Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918; Lecuyer et al. 2019, arXiv 1802.03471; "
        "attacked by averaging over draws: Salman et al. 2019, arXiv 1906.04584"
    )
    sigma: float = 0.25
    early_stopping: bool = False
    from_: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma <= 10:
            raise UserError(f"{self.name}: sigma={self.sigma:g}; accepted: more than 0 and up to 10, such as 0.25")

    def defend(self, system: System, workshop: Workshop) -> System:
        """Train `system.model` in place, under noise.

        Raises:
            UserError: the training diverged, or `from` is a file that does not fit.
        """
        if self.from_ is not None:
            training.start_from(system.model, Path(self.from_))
        noisy = system.without_detector().with_noise(self.sigma)

        def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
            return F.cross_entropy(noisy(batch.x, batch.draws, adaptive=True).scores, batch.y)

        fitted = training.fit(
            system.model,
            workshop.train,
            loss,
            recipe=self.recipe_for(workshop, system),
            seed=workshop.seed,
            device=workshop.device,
            progress=workshop.progress,
            validate=_validation(noisy, workshop.seed) if self.early_stopping else None,
            scratch=workshop.scratch,
        )
        return system.with_notes(fitted.notes())

    def dress(self, system: System) -> System:
        """The noise in front of the weights."""
        return system.with_noise(self.sigma)

    def recipe(self, workshop: Workshop) -> dict[str, Any]:
        """With the file that it starts from, if there is one."""
        start = None if self.from_ is None else training.file_digest(Path(self.from_))
        return {**super().recipe(workshop), "from": start}


def _validation(noisy: System, seed: int) -> Validate:
    """Accuracy without noise, and with one draw of it in the place of robust accuracy."""
    bare = replace(noisy, purifiers=noisy.purifiers[:-1])

    @torch.no_grad()
    def validate(model: nn.Module, data: Dataset, held: np.ndarray) -> Score:
        right = np.zeros(2)
        for begin in range(0, len(held), _BATCH):
            x, y = data.batch(held[begin : begin + _BATCH]), data.labels_at(held[begin : begin + _BATCH])
            draws, y = Draws.for_images(seed, x, y).to(noisy.device), y.to(noisy.device)
            answers = [system(x.to(noisy.device), draws).prediction() for system in (bare, noisy)]
            right += [int((answer == y).sum()) for answer in answers]
        return Score(*(right / len(held)).tolist())

    return validate
