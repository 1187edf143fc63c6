"""How a network is trained: one frozen value, and one table of defaults."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError

_NORMALISED = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
#: where the mirror image shows the same thing; elsewhere (writing, signs, anything unknown) images are not flipped
_MIRRORED = ("cifar10", "cifar100", "stl10", "imagenet")

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["linear", "constant", "cosine", "one-cycle", "piecewise"]
Precision = Literal["float32", "bfloat16"]
#: share of a one-cycle schedule in which the rate climbs
_CLIMB = 0.4
#: the share of the highest learning rate when this share of the training is done
_FACTORS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "one-cycle": lambda done: min(done / _CLIMB, (1 - done) / (1 - _CLIMB)),
    "piecewise": lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75)),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything besides loss, data, architecture and seed that decides the trained weights.

    Args:
        epochs: passes over the data. batch_size: the most images a step; an epoch is cut into nearly equal batches.
        learning_rate: at its highest. schedule: how it goes, step by step; `linear` and `cosine` fall to zero, `one-cycle`
            climbs from zero over the first two fifths and falls to it again (Rice et al. 2020, arXiv 2002.11569),
            `piecewise` is divided by ten at one half and at three quarters.
        optimizer: `adam`, or `sgd` with Nesterov momentum 0.9. beta1: Adam's
            momentum; GANs use 0.5 (Radford et al. 2016, arXiv 1511.06434). weight_decay: L2, on all parameters.
        validation: share of the training data held out (stratified, at most 1000 images) when there is a validation.
        validate_every: epochs between validations; the last epoch always has one.
        crop: pixels that an image may shift, the edge filled with black. flip: mirror every other image.
        ema: decay of the moving average of the weights that is validated and kept (`Average`); 0 keeps the weights.
        accumulate: into how many parts a batch is cut that go through the model one after the other, to save memory; the
            step is that of the whole batch, but for batch statistics, which each part has of its own.
        replays: how many steps in a row use the same batch (free adversarial training: Shafahi et al. 2019, arXiv
            1904.12843); an epoch has as many batches as ever.
        precision: of what the loss computes; `bfloat16` through autocast. Weights and validation are float32.
        label_smoothing: mass that the target gives to all classes alike, where the training is on plain cross-entropy.

    Raises:
        UserError: a value out of range.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    beta1: float = 0.9
    schedule: Schedule = "linear"
    weight_decay: float = 0.0
    validation: float = 0.1
    validate_every: int = 1
    crop: int = 0
    flip: bool = False
    ema: float = 0.0
    accumulate: int = 1
    replays: int = 1
    precision: Precision = "float32"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "accumulate", "replays"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; accepted: 1 and more")
        if self.accumulate > self.batch_size:
            raise UserError(f"accumulate={self.accumulate}; accepted: up to batch_size={self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate={self.learning_rate:g}; accepted: a number above 0, such as 1e-3")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay={self.weight_decay:g}; accepted: 0 and more")
        if not 0 < self.validation < 1:
            raise UserError(f"validation={self.validation:g}; accepted: a share between 0 and 1, such as 0.1")
        for name in ("beta1", "ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name):g}; accepted: from 0 to below 1")
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name}={getattr(self, name)}; accepted: {', '.join(get_args(kind))}")

    def rate(self, done: float) -> float:
        """The learning rate when this share of the training, 0 to 1, is done."""
        return self.learning_rate * _FACTORS[self.schedule](done)


def default_recipe(data: Dataset, model: nn.Module) -> Recipe:
    """The usual recipe for images of this size and a network of this kind.

    Tiny scans (8x8 digits): Adam 1e-3, 40 short epochs. A network with normalisation layers (ResNets): SGD 0.1, 30
    epochs, with weight decay 5e-4, which matters for robustness (Pang et al. 2021, arXiv 2010.00467). MNIST-sized: Adam
    1e-3, 10 epochs. Others of larger images: Adam 3e-4, 30 epochs.
    """
    side, coloured = max(data.shape[1:]), data.shape[0] == 3
    crop, flip = (side // 8 if coloured and side > 16 else 0), data.name.split(";")[0] in _MIRRORED
    if side <= 16:
        return Recipe(epochs=40, batch_size=64)
    if any(isinstance(part, _NORMALISED) for part in model.modules()):
        rate, decay = 0.1, 5e-4
        return Recipe(
            epochs=30, batch_size=128, learning_rate=rate, optimizer="sgd", schedule="cosine", weight_decay=decay,
            crop=crop, flip=flip,
        )  # fmt: skip
    if not coloured and side <= 32:
        return Recipe(epochs=10, batch_size=128)
    return Recipe(epochs=30, batch_size=128, learning_rate=3e-4, schedule="cosine", crop=crop, flip=flip)
