"""A moving average of the weights, which is often more robust than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's parameters, with a decay that grows at the start.

    After step t (from 0) it is `decay * average + (1 - decay) * weights` with `decay = min(tau, (1 + t) / (10 + t))`, so
    that the first weights are soon forgotten (Gowal et al. 2020, arXiv 2010.03593, sec. 4.4; Izmailov et al. 2018, arXiv
    1803.05407). Buffers, batch statistics above all, are always the live model's.

    It is no second network, as torch.optim.swa_utils makes one: losses and validations hold on to the live one, so the
    average is put into that.

    Args:
        tau: the decay in the end, 0 to 1; for 0 the average is the weights themselves.
    """

    def __init__(self, model: nn.Module, tau: float) -> None:
        self._live, self._tau = dict(model.named_parameters()), tau
        self._mean = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after that step (from 0) in."""
        decay = min(self._tau, (1 + step) / (10 + step))
        for name, value in self._live.items():
            self._mean[name].lerp_(value, 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        live = {name: value.detach().clone() for name, value in self._live.items()}
        self._give(self._mean)
        try:
            yield
        finally:
            self._give(live)

    def tensors(self) -> dict[str, Tensor]:
        """What must be kept to go on after a kill."""
        return dict(self._mean)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` told."""
        for name, value in tensors.items():
            self._mean[name].copy_(value)

    @torch.no_grad()
    def _give(self, weights: dict[str, Tensor]) -> None:
        for name, value in self._live.items():
            value.copy_(weights[name])
