"""The one training loop, shared by everything that learns: the undefended model, defenses, and generators later.

`fit` runs a loss over a dataset by a `Recipe`; `default_recipe` is the one table of defaults; `standard_training` makes
the undefended model; `accuracy` measures a model in training.
"""

from robustbench_lite.training.loop import Batch, Epoch, Fitted, Loss, Moment, Progress, Validate, fit, threads_for
from robustbench_lite.training.measure import Score, accuracy, watching_attack
from robustbench_lite.training.recipe import Recipe, default_recipe
from robustbench_lite.training.seeds import derive, seeded, threads
from robustbench_lite.training.standard import standard_recipe, standard_training
from robustbench_lite.training.start import file_digest, fresh_copy, start_from

#: raised when the loop changes in a way that could change trained weights; part of every cache key
VERSION = 1

__all__ = [
    "VERSION",
    "Batch",
    "Epoch",
    "Fitted",
    "Loss",
    "Moment",
    "Progress",
    "Recipe",
    "Score",
    "Validate",
    "accuracy",
    "default_recipe",
    "derive",
    "file_digest",
    "fit",
    "fresh_copy",
    "seeded",
    "standard_recipe",
    "standard_training",
    "start_from",
    "threads",
    "threads_for",
    "watching_attack",
]
