"""What the tests of adversarial trainings share: a batch by hand, and how much a training on few digits helps."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from learners import blobs, system_of
from torch import Tensor, nn

from robustbench_lite import data as datasets
from robustbench_lite import training, zoo
from robustbench_lite.attack import resolve_attack
from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat
from robustbench_lite.training import Batch, Score

THREAT = Threat(norm="Linf", eps=0.1)


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "threats": (THREAT,), "seed": 3, **options})  # type: ignore[arg-type]


def batch_of(x: Tensor, y: Tensor, seed: int = 0) -> Batch:
    return Batch(x=x, y=y, indices=torch.arange(len(x)), draws=Draws.for_images(seed, x, y))


def some(count: int = 32) -> Batch:
    """The first blobs."""
    return batch_of(blobs().batch(range(count)), blobs().labels_at(range(count)))


class Logits(nn.Module):
    """Its logits are the first pixels, times a weight: what it says of an image is known by hand."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes, self.scale = classes, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.classes] * self.scale


def saying(*logits: tuple[float, ...]) -> Tensor:
    """Images (n, 1, 8, 8) that `Logits` answers so; not in [0, 1]."""
    x = torch.zeros(len(logits), 64)
    x[:, : len(logits[0])] = torch.tensor(logits)
    return x.view(-1, 1, 8, 8)


def system_saying(classes: int = 2) -> System:
    system = system_of(Logits(classes), classes=classes)
    system.model.requires_grad_(True)
    return system


def small_slice(split: str, count: int) -> Dataset:
    whole = datasets.load("digits", split)
    images = ArrayImages(whole.batch(range(count)).numpy())
    return replace(whole, images=images, labels=whole.labels[:count])


def on_few_digits(defense: Defense | None, seed: int = 0, epochs: int = 8) -> Score:
    """Clean accuracy, and that under PGD with ten steps at Linf 0.15, after a short training on 400 digits."""
    threat = Threat(norm="Linf", eps=0.15)
    with training.seeded(seed):
        model = zoo.fresh_module("mlp;hidden=64", num_classes=10, input_shape=(1, 8, 8))
    system, workshop = system_of(model, classes=10), shop(train=small_slice("train", 400), threats=(threat,), seed=seed)
    if defense is None:
        system = training.standard_training(
            system, workshop, training.Recipe(epochs=epochs, batch_size=25, learning_rate=3e-3)
        )
    else:
        system = defense.defend(system, workshop)
    attack, test = resolve_attack("pgd:steps=10,step_size=1/4,restarts=1"), small_slice("test", 150)
    return training.accuracy(system, attack, threat, test, np.arange(len(test)), seed=0)


@cache
def undefended(seed: int = 0) -> Score:
    return on_few_digits(None, seed)
