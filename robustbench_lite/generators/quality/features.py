"""What a frozen classifier sees in images: the input of its last linear layer, and its answers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UserError
from robustbench_lite.rows import Rows
from robustbench_lite.system import System

#: images that go through a network at once; of more, a CPU spends longer on their memory than it saves
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Seen(Rows):
    """What a classifier sees in n images: `features` (n, d) float64, `chances` (n, classes) float64, rows sum to 1."""

    features: Tensor
    chances: Tensor


@torch.no_grad()
def look(judge: System, x: Tensor) -> Seen:
    """The features and answers of images (n, c, h, w) in [0, 1], on the CPU.

    Raises:
        UserError: a judge of other images, one whose answers are random, or one without a linear layer.
    """
    if tuple(x.shape[1:]) != judge.input_shape:
        raise UserError(f"the judge {judge.name} takes images {judge.input_shape}; these are {tuple(x.shape[1:])}")
    if judge.randomised:
        raise UserError(f"the judge {judge.name} answers at random; accepted: a system without randomness")
    parts = [_look(judge, part.to(judge.device)) for part in x.split(BATCH)]
    return Seen(features=torch.cat([part[0] for part in parts]), chances=torch.cat([part[1] for part in parts]))


def _look(judge: System, x: Tensor) -> tuple[Tensor, Tensor]:
    heard: list[Tensor] = []

    def hear(module: nn.Module, given: tuple[Any, ...]) -> None:
        heard[:] = [given[0]]  # of several linear layers the one that is called last stays

    layers = [part for part in judge.model.modules() if isinstance(part, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(hear) for layer in layers]
    try:
        scores = judge(x).scores
    finally:
        for hook in hooks:
            hook.remove()
    if not heard:
        raise UserError(f"the judge {judge.name} calls no linear layer whose input could be looked at")
    return heard[0].flatten(1).double().cpu(), scores.double().softmax(1).cpu()
