"""Small data and networks that learn in a second, shared by the tests of trainings."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.system import System

SHAPE = (1, 8, 8)


def blobs(count: int = 96, classes: int = 4, seed: int = 0) -> Dataset:
    """Noisy copies of one random image a class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    kinds = random.uniform(0.2, 0.8, size=(classes, *SHAPE))
    images = (kinds[labels] + random.normal(size=(count, *SHAPE)) * 0.15).clip(0, 1).astype(np.float32)
    return replace(from_tensors(images, labels, num_classes=classes, name="blobs"), split="train")


def plain(classes: int = 4, seed: int = 0) -> nn.Module:
    """A two-layer network."""
    with training.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))


def lively(classes: int = 4, seed: int = 0) -> nn.Module:
    """A network with everything that has a state of its own in training: batch normalisation and dropout."""
    with training.seeded(seed):
        first, last = nn.Linear(64, 16), nn.Linear(16, classes)
        return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), last)


def system_of(model: nn.Module, classes: int = 4) -> System:
    return System(model=model, num_classes=classes, input_shape=SHAPE)


def clean_loss(model: nn.Module, batch: training.Batch, moment: training.Moment) -> Tensor:
    return nn.functional.cross_entropy(model(batch.x), batch.y)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(epoch: int) -> Callable[[int, int, str], None]:
    """A progress callback that kills the training once that epoch is complete."""

    def progress(done: int, total: int, text: str) -> None:
        epochs = int(text.split("/")[1].split(":")[0])
        if done * epochs == epoch * total:
            raise KeyboardInterrupt

    return progress
