"""Classifiers that judge: trained on real images, or on generated ones to see what these teach."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import training
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.slices import in_blocks
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop
from robustbench_lite.generators.quality.features import BATCH
from robustbench_lite.system import System
from robustbench_lite.zoo import fresh_module


def taught(
    data: Dataset,
    *,
    seed: int = 0,
    model: str = "small-cnn",
    epochs: int | None = None,
    device: torch.device | str = "cpu",
) -> System:
    """A classifier from the zoo, trained on all of a split by the standard training; not cached.

    Args:
        epochs: left out, the default recipe's.

    Raises:
        UserError: an unknown model, or one that does not fit the data.
    """
    with training.seeded(training.derive(seed, "judge")):
        module = fresh_module(model, num_classes=data.num_classes, input_shape=data.shape)
    system = System(model=module, num_classes=data.num_classes, input_shape=data.shape, name=model)
    workshop = Workshop(train=data, seed=seed, device=torch.device(device))
    recipe = training.standard_recipe(system, workshop, epochs=epochs)
    return training.standard_training(system, workshop, recipe)


@torch.no_grad()
def answers(judge: System, x: Tensor) -> Tensor:
    """The classes that a judge sees in images (n, c, h, w), (n,) int64, on the CPU."""
    return torch.cat([judge(part.to(judge.device)).prediction().cpu() for part in x.split(BATCH)])


def accuracy(judge: System, data: Dataset) -> float:
    """The share of a split that a judge gets right."""
    seen = torch.cat([answers(judge, x) for x in in_blocks(data)])
    return int((seen == data.labels_at(np.arange(len(data)))).sum()) / len(data)


def usefulness(x: Tensor, y: Tensor, test: Dataset, *, seed: int, model: str = "small-cnn") -> float:
    """The accuracy on real test images of a classifier that has learned from x (n, c, h, w) with labels y (n,) alone.

    Train on synthetic, test on real: Esteban, Hyland and Rätsch 2017, arXiv 1706.02633; Ravuri and Vinyals 2019, arXiv
    1905.10887.
    """
    lessons = replace(from_tensors(x, y, num_classes=test.num_classes, name=test.name), split="train")
    return accuracy(taught(lessons, seed=seed, model=model), test)
