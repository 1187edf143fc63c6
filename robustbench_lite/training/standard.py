"""The undefended model: cross-entropy on clean images."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_lite.defense import Workshop
from robustbench_lite.system import System
from robustbench_lite.training.batch import Batch
from robustbench_lite.training.history import Moment
from robustbench_lite.training.loop import fit
from robustbench_lite.training.recipe import Recipe, default_recipe


def standard_recipe(system: System, workshop: Workshop, **changes: Any) -> Recipe:
    """The default recipe for the system's model with the changes that are not None."""
    recipe = default_recipe(workshop.train, system.model)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def standard_training(system: System, workshop: Workshop, recipe: Recipe | None = None) -> System:
    """Train the system's model in place, without any defense, on all of the workshop's data.

    Raises:
        UserError: the training diverged.
    """

    recipe = recipe or standard_recipe(system, workshop)

    def loss(model: nn.Module, batch: Batch, moment: Moment) -> Tensor:
        scores = system(batch.x, batch.draws, adaptive=True).scores
        return F.cross_entropy(scores, batch.y, label_smoothing=recipe.label_smoothing)

    fitted = fit(
        system.model,
        workshop.train,
        loss,
        recipe=recipe,
        seed=workshop.seed,
        device=torch.device(workshop.device),
        progress=workshop.progress,
        scratch=workshop.scratch,
    )
    return system.with_notes(fitted.notes())
