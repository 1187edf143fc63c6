"""Search fast: a copy of the system that gives the same answers in less time. Only the original confirms.

Batch normalisation is folded into the convolutions before it and the layout is channels-last; both change the order of
float32 sums, nothing else. The copy is compared with the original on real images and given up where they differ.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from robustbench_lite.guard import calling
from robustbench_lite.objectives import Goal, margin
from robustbench_lite.run.exact import exact_math
from robustbench_lite.system import Observed, System

#: of margins and gradients; of the gradients of a few images, where an activation changes its sign by rounding
_TOLERANCE, _KINKED = 1e-3, 0.1
#: of scores, relative to the largest: another order of the same sums
_DUST = 1e-5
#: images that the copies are compared on: a wrong fold shows on each of them
_COMPARED = 8


def fast_copy(system: System, x: Tensor) -> System:
    """The fastest copy that agrees with the system on x (n, c, h, w); the system itself where none does.

    A randomised model is left alone: two of its answers cannot be compared. So is one that says more than scores, which a
    copy would not.
    """
    if system.randomised or isinstance(system.model, Observed) or not _has_convolution(system.model):
        return system
    x = x[:_COMPARED]
    try:
        expected = _margins(system, x, None)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # no gradient reaches the image; there is nothing to compare
        return system
    for name, attempt in _attempts(system.model):
        try:
            candidate = replace(system, model=attempt(), notes={**system.notes, "fast": name})
            if _agree(expected, _margins(candidate, x, expected[0])):
                return candidate
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a model that cannot be traced or copied is searched as it is
            continue
    return system


@torch.no_grad()
def in_fast_layout(system: System, x: Tensor) -> System:
    """The same system, shown its images in channels-last order, where it takes them so and answers alike.

    Network, weights and float32 are the original's; only where a pixel lies in memory differs, and with it the last bits of
    sums, as between two machines. On a CPU a forward of plain convolutions takes 0.85 of the time.

    Args:
        x: (n, c, h, w), images to compare the answers on.
    """
    if system.randomised or x.device.type != "cpu" or not _has_convolution(system.model):
        return system
    x, other = x[:_COMPARED], replace(system, channels_last=True)
    with exact_math():
        expected = system(x).scores
        try:
            found = other(x).scores
        except RuntimeError:  # a network that views its input as it lies in memory
            return system
    alike = bool(expected.isfinite().all()) and float((expected - found).abs().max()) <= _DUST * float(
        expected.abs().max()
    )
    return other if alike else system


def reduced_copy(system: System, dtype: torch.dtype) -> System:
    """The system under autocast, for a first stage whose finds are confirmed and whose survivors are attacked again."""
    return system.with_model(_Autocast(system.model, dtype))


def _attempts(model: nn.Module) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    yield "folded", lambda: _ChannelsLast(fuse(model))
    yield "channels-last", lambda: _ChannelsLast(copy.deepcopy(model))


def _has_convolution(model: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in model.modules())


def _agree(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> bool:
    """Margins within a thousandth of the largest; gradients within a thousandth of their length for most images.

    Where an activation is zero but for rounding, its gradient is there in one copy and not in the other; that moves an
    image's gradient a little, and a wrong fold moves all of them.
    """
    margins, grads = zip(expected[1:], found[1:], strict=True)
    if not all(bool(part.isfinite().all()) for part in (*margins, *grads)):
        return False
    if float((margins[0] - margins[1]).abs().max()) > _TOLERANCE * float(margins[0].abs().max()):
        return False
    length = grads[0].flatten(1).norm(dim=1)
    apart = (grads[0] - grads[1]).flatten(1).norm(dim=1)
    most = apart <= _TOLERANCE * length
    return 2 * int(most.sum()) > len(most) and bool((apart <= _KINKED * length).all())


def _margins(system: System, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The labels (the system's own where None), the margins against them, and the margins' gradients by the image."""
    leaf = x.detach().requires_grad_(True)
    outputs = system(leaf)
    labels = outputs.prediction() if labels is None else labels
    value = margin(outputs, Goal(y=labels))
    with calling(system.name):  # a layer's own backward
        (grad,) = torch.autograd.grad(value.sum(), leaf)
    return labels, value.detach(), grad


class _ChannelsLast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return scores


class _Autocast(nn.Module):
    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            scores: Tensor = self.model(x)
        return scores.float()
