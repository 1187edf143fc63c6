"""What the laws of defenses run on: a small network, a handful of images, and what the defense makes of them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

SHAPE = (1, 8, 8)
IMAGES = 64


def network(num_classes: int, seed: int = 0) -> nn.Module:
    """A fresh two-layer network with batch normalisation; the same weights every time."""
    random = np.random.default_rng(seed)
    inputs, hidden = math.prod(SHAPE), 16
    first, last = _linear(random, inputs, hidden), _linear(random, hidden, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(hidden), nn.ReLU(), last)


def data(num_classes: int) -> Dataset:
    """Noisy copies of one random image a class, all classes equally often."""
    random = np.random.default_rng(1)
    labels = np.arange(IMAGES, dtype=np.int64) % num_classes
    kinds = random.uniform(0.2, 0.8, size=(num_classes, *SHAPE))
    pixels = kinds[labels] + random.normal(size=(IMAGES, *SHAPE)) * 0.1
    images = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return replace(from_tensors(images, labels, num_classes=num_classes, name="conformance"), split="train")


def _linear(random: np.random.Generator, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    weight = random.normal(size=(outputs, inputs)) / math.sqrt(inputs)
    layer.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.zeros(outputs)})
    return layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One defense and what it builds from a small network."""

    defense: Defense
    num_classes: int = 4

    def given(self) -> System:
        """What the defense is given: the same network every time, in a copy of its own."""
        return System(model=network(self.num_classes), num_classes=self.num_classes, input_shape=SHAPE)

    def defended(self, system: System) -> System:
        """What the defense makes of it."""
        workshop = Workshop(train=self.train, threats=(Threat(norm="Linf", eps=0.1),), seed=3)
        return self.defense.dress(self.defense.defend(system, workshop))

    @cached_property
    def train(self) -> Dataset:
        """The handful of images."""
        return data(self.num_classes)

    @cached_property
    def system(self) -> System:
        """The defended system."""
        return self.defended(self.given())

    @cached_property
    def x(self) -> Tensor:
        """Images to ask about, (16, *SHAPE)."""
        return self.train.batch(np.arange(16))

    def draws(self, seed: int = 0) -> Draws:
        """The random streams of these images."""
        return Draws.for_images(seed, self.x, self.train.labels_at(np.arange(16)))
