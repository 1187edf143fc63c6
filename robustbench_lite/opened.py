"""A bare network in front of an oracle, for attacks that other libraries wrote.

Such an attack wants an `nn.Module` from images to logits and calls it as often, with as many images and as many backward
passes as it likes. The module forwards to the oracle, which counts; it holds nothing of the system that could be changed
through it (no weights, no modes), and answers no more once it is closed, whoever may have kept it.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

Ask = Callable[[Tensor], Tensor]
Pay = Callable[[int], None]


class Opened(nn.Module):
    """What an oracle shows, as a network; a context that closes it.

    Args:
        ask: images (m, c, h, w) -> what is shown of them (m, k), differentiable by the images. pay: called with the number of
            images before their gradients are handed back; raises where none may be.
        num_classes: k. device: of the images; the frozen, empty parameter that tells it to whoever looks for one lies there.
    """

    def __init__(self, ask: Ask, pay: Pay, num_classes: int, device: torch.device) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._ask: Ask | None = ask
        self._pay = pay
        self.where = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits.

        Raises:
            RuntimeError: it was closed.
            CapabilityError: the budget is spent.
        """
        if self._ask is None:
            raise RuntimeError("this view of the system is closed")
        x = x.float()  # as every image; some libraries count in double precision
        return self._ask(_Metered.apply(x, self._pay) if x.requires_grad else x)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask = None
        self._pay = _nothing

    def __deepcopy__(self, memo: dict[int, Any]) -> "Opened":
        return self  # a copy would have to count as well


def _nothing(count: int) -> None:
    raise RuntimeError("this view of the system is closed")


class _Metered(torch.autograd.Function):
    """Nothing on the way in; on the way back it tells for how many images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pay: Pay) -> Tensor:
        ctx.pay = pay
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.pay(len(grads[0]))
        return grads[0].contiguous(), None  # other libraries flatten it with view
