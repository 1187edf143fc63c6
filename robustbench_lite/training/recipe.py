"""How a network is trained: one frozen value, and one table of defaults."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError

_NORMALISED = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
#: where the mirror image shows the same thing; elsewhere (writing, signs, anything unknown) images are not flipped
_MIRRORED = ("cifar10", "cifar100", "stl10", "imagenet")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything besides loss, data, architecture and seed that decides the trained weights.

    Args:
        epochs: passes over the data. batch_size: the most images a step; an epoch is cut into nearly equal batches.
        learning_rate: at the start. schedule: how it goes on, step by step; `linear` and `cosine` end at zero.
        optimizer: `adam`, or `sgd` with Nesterov momentum 0.9. weight_decay: L2, on all parameters.
        validation: share of the training data held out (stratified, at most 1000 images) when there is a validation.
        validate_every: epochs between validations; the last epoch always has one.
        crop: pixels that an image may shift, the edge filled with black. flip: mirror every other image.

    Raises:
        UserError: a value out of range.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    weight_decay: float = 0.0
    validation: float = 0.1
    validate_every: int = 1
    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; accepted: 1 and more")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate={self.learning_rate:g}; accepted: a number above 0, such as 1e-3")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay={self.weight_decay:g}; accepted: 0 and more")
        if not 0 < self.validation < 1:
            raise UserError(f"validation={self.validation:g}; accepted: a share between 0 and 1, such as 0.1")

    def rate(self, done: float) -> float:
        """The learning rate when this share of the training, 0 to 1, is done."""
        factor = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        return self.learning_rate * factor[self.schedule]


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
