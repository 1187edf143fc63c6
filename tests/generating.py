"""Generators and judges in files that are made in a moment, shared by the tests of what uses them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_lite import training, zoo
from robustbench_lite.generators import resolve_generator
from robustbench_lite.generators.base import Network


def untrained(path: Path, spec: str = "conditional-gan", shape: tuple[int, int, int] = (1, 8, 8), classes: int = 4,
              seed: int = 0) -> Path:  # fmt: skip
    """A checkpoint of a generator with fresh weights, as `train_generator` would have written one."""
    generator = resolve_generator(spec)
    with training.seeded(seed):
        network = generator.build(shape, classes)
        with torch.no_grad():  # so that its images differ from each other as much as digits do
            for parameter in network.parameters():
                parameter.mul_(3)
    card = {
        "kind": "generator", "architecture": spec, "num_classes": classes, "input_shape": list(shape),
        "data": {"name": "nothing", "images": 0, "digest": "0"},
    }  # fmt: skip
    zoo.save_checkpoint(path, network, card)
    return path


def judge(path: Path, weight: Tensor, bias: Tensor, shape: tuple[int, int, int] = (1, 8, 8)) -> Path:
    """A checkpoint of the classifier `linear` with this weight (k, c h w) and bias (k,)."""
    module = zoo.load("linear", num_classes=len(bias), input_shape=shape).module
    (layer,) = (part for part in module.modules() if isinstance(part, nn.Linear))
    layer.load_state_dict({"weight": weight, "bias": bias})
    zoo.save_checkpoint(path, module, {"architecture": "linear", "num_classes": len(bias), "input_shape": list(shape)})
    return path


class LinearPainter(Network):
    """0.5 + W_y z, cut at the box: a generator whose answers have a closed form.

    Args:
        weight: (classes, c h w, latent); one class for a generator that is told none.
    """

    def __init__(self, weight: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, len(weight) if len(weight) > 1 else 0, weight.shape[2])
        self.weight = nn.Parameter(weight)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        weight = self.weight[torch.zeros(len(z), dtype=torch.int64) if y is None or not self.conditional else y]
        return (0.5 + (weight @ z[:, :, None]).squeeze(2)).clamp(0, 1).view(-1, *self.shape)
