"""The one training loop, shared by everything that learns: the undefended model, defenses, and generators later.

`fit` runs a loss over a dataset by a `Recipe`; `default_recipe` is the one table of defaults; `standard_training` makes
the undefended model; `TrainingOptions` are what a defense that trains lets its user change in a recipe; `accuracy`
measures a model in training, `validation` is what early stopping looks at.
"""

from robustbench_lite.seeding import derive, seeded, threads
from robustbench_lite.training.average import Average
from robustbench_lite.training.batch import Around, Batch, Loss, Progress, Validate, Watch
from robustbench_lite.training.history import Epoch, Fitted, Moment, Score
from robustbench_lite.training.loop import fit, split, threads_for
from robustbench_lite.training.measure import accuracy, clean_validation, validation, watching_attack
from robustbench_lite.training.mixture import Mixture
from robustbench_lite.training.options import TrainingOptions
from robustbench_lite.training.recipe import Recipe, default_recipe
from robustbench_lite.training.standard import standard_recipe, standard_training
from robustbench_lite.training.start import file_digest, fresh_copy, start_from

#: raised when the loop changes in a way that could change trained weights; part of every cache key
VERSION = 2

__all__ = [
    "VERSION",
    "Around",
    "Average",
    "Batch",
    "Epoch",
    "Fitted",
    "Loss",
    "Mixture",
    "Moment",
    "Progress",
    "Recipe",
    "Score",
    "TrainingOptions",
    "Validate",
    "Watch",
    "accuracy",
    "clean_validation",
    "default_recipe",
    "derive",
    "file_digest",
    "fit",
    "fresh_copy",
    "seeded",
    "split",
    "standard_recipe",
    "standard_training",
    "start_from",
    "threads",
    "threads_for",
    "validation",
    "watching_attack",
]
