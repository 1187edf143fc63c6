"""Adversarial weight perturbation: descend the loss where the weights, too, are at their worst nearby.

Wu, Xia and Wang 2020, Adversarial weight perturbation helps robust generalization, arXiv 2004.05884, alg. 1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_TINY = 1e-20


def worst_direction(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Where the loss grows fastest, by name, each direction as long as the weights that it belongs to.

    Weights of two dimensions and more alone: biases and the scales of normalisation layers stay (the paper's sec. 3.2).
    The published step along the gradient before the scaling has no effect on it, and is left out.

    Args:
        loss: computes the loss with the model as it is; batch statistics that it moves are put back.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.dim() > 1 and weight.requires_grad}
    with _kept_buffers(model):
        slopes = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), slopes, strict=True)
    return {name: _as_long_as(weight.detach(), slope) for (name, weight), slope in pairs if slope is not None}


@contextmanager
def moved(model: nn.Module, moves: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the weights are moved; afterwards the same moves are taken back, whatever has been learned meanwhile."""
    weights = dict(model.named_parameters())
    _add(weights, moves, 1.0)
    try:
        yield
    finally:
        _add(weights, moves, -1.0)


@torch.no_grad()
def _add(weights: Mapping[str, Tensor], moves: Mapping[str, Tensor], sign: float) -> None:
    for name, move in moves.items():
        weights[name].add_(move, alpha=sign)


def _as_long_as(weight: Tensor, slope: Tensor) -> Tensor:
    return slope * (weight.norm() / (slope.norm() + _TINY))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
