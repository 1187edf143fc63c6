"""The options that defenses which train have in common."""

from dataclasses import dataclass, fields, replace
from typing import Any

from robustbench_lite.defense import Workshop
from robustbench_lite.system import System
from robustbench_lite.training.recipe import Precision, Recipe, Schedule, default_recipe


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a user may change in the default recipe of a defense that trains; what is left out stays as it is there.

    To be inherited beside `Defense`: `class Mine(Defense, TrainingOptions)`. A defense with a `__post_init__` of its own
    calls this one too.

    Args:
        epochs, batch_size, learning_rate, schedule, weight_decay, ema, accumulate, precision: see `Recipe`.
        early_stopping: hold out a tenth of the data and keep the best epoch; false trains on all and keeps the last.

    Raises:
        UserError: a value out of range, when the defense is made and not when its training begins.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    schedule: Schedule | None = None
    weight_decay: float | None = None
    ema: float | None = None
    accumulate: int | None = None
    precision: Precision | None = None
    early_stopping: bool = True

    def __post_init__(self) -> None:
        Recipe(**{"epochs": 1, "batch_size": self.accumulate or 1, **self.changes()})

    def changes(self) -> dict[str, Any]:
        """The options that were given, as fields of a recipe."""
        names = [item.name for item in fields(TrainingOptions) if item.name != "early_stopping"]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def recipe_for(self, workshop: Workshop, system: System, **defaults: Any) -> Recipe:
        """The default recipe for this data and model, with the defense's own defaults, with what the user changed."""
        return replace(default_recipe(workshop.train, system.model), **{**defaults, **self.changes()})
