"""Does a system answer as an evaluation must assume? Asked on a few clean images, before anything is attacked."""

from dataclasses import replace

import torch
from torch import Tensor

from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.run.exact import exact_math
from robustbench_lite.system import Outputs, System

#: differences of scores, relative to the largest: what draws make, and what neighbours make
_RANDOM, _NEIGHBOURS = 1e-4, 1e-3
_ASKED = 8
#: how often a system is asked again: one that draws from few values may give the same answer twice
_AGAIN = 5


@torch.no_grad()
def well_behaved(system: System, x: Tensor, y: Tensor) -> System:
    """The system; marked as randomised where the same images are not answered alike, so that the verdict asks often.

    Args:
        x: (n, c, h, w), n >= 1, on the system's device. y: (n,).

    Raises:
        UserError: answers of another kind, images or weights that are changed by asking, or an answer that depends on the
            other images of the batch.
    """
    x, y = x[:_ASKED], y[:_ASKED]
    shown, before = x.clone(), [buffer.clone() for buffer in _buffers(system)]
    with exact_math():
        first = _answers(system, shown, y)
        if not torch.equal(shown, x):
            raise UserError(f"{system.name} changes the images that it is shown; write x = x - mean, not x -= mean")
        if not all(map(_same, before, _buffers(system))):
            raise UserError(
                f"{system.name} changes its own buffers when it is asked (batch normalisation in training mode?);"
                " accepted: a model whose eval mode is fixed"
            )
        if system.randomised:
            return system
        if any(_far(first, _answers(system, x, y), _RANDOM) for _ in range(_AGAIN)):
            return replace(system, model_is_random=True)
        _check_neighbours(system, x, y)
    return system


def _check_neighbours(system: System, x: Tensor, y: Tensor) -> None:
    """Refuse a system whose answer to an image depends on the images beside it."""
    half, label = x[: (len(x) + 1) // 2], y[: (len(x) + 1) // 2]
    labels = torch.cat((label, label))
    alike = _answers(system, torch.cat((half, half)), labels)[: len(half)]
    among = _answers(system, torch.cat((half, 1 - half)), labels)[: len(half)]
    if _far(alike, among, _NEIGHBOURS):
        raise UserError(
            f"the answer of {system.name} to an image depends on the other images of the batch"
            " (batch normalisation without running statistics?); accepted: one answer an image"
        )


def _answers(system: System, x: Tensor, y: Tensor) -> Tensor:
    """The scores, (n, classes); the detector's beside them."""
    outputs = system(x, Draws.for_images(0, x, y), 0)
    _check_shapes(system, outputs, len(x))
    return outputs.scores if outputs.reject is None else torch.cat((outputs.scores, outputs.reject[:, None]), 1)


def _check_shapes(system: System, outputs: Outputs, count: int) -> None:
    given, wanted = tuple(outputs.scores.shape), (count, system.num_classes)
    if given != wanted:
        raise UserError(
            f"{system.name} answers {count} images with shape {given}; accepted: {wanted}, one row of logits an image"
        )
    if outputs.reject is not None and tuple(outputs.reject.shape) != (count,):
        given = tuple(outputs.reject.shape)
        raise UserError(f"the detector of {system.name} answers with shape {given}; accepted: {(count,)}")


def _far(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether finite answers differ by more than rounding does."""
    one, other = (scores.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for scores in (one, other))
    return float((one - other).abs().max()) > tolerance * float(one.abs().max())


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _buffers(system: System) -> list[Tensor]:
    return [buffer for module in system.modules for buffer in module.buffers()]
