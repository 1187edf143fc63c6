"""Does a system answer as an evaluation must assume? Asked on a few images, clean and perturbed, before it is attacked."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_lite.errors import ModelError, UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, concat
from robustbench_lite.run.answers import Answers
from robustbench_lite.run.exact import exact_math
from robustbench_lite.system import Outputs, System

#: a difference of answers to one question that draws make, as a share of the spread of the scores
RANDOM = 1e-4
#: images that are asked about, those of them that are perturbed as well, and both where an image has more values than `LARGE`
ASKED, PERTURBED, ASKED_LARGE, LARGE = 8, 4, 3, 3 * 64 * 64
#: how often a system is asked again, and one of large images: it may draw from few values
AGAIN, AGAIN_LARGE = 5, 3
#: how far the perturbed images are from the clean ones: corners of a ball of Linf, and its inside
CORNERS, INSIDE = (4 / 255, 0.1), (0.3,)


@dataclass(frozen=True, kw_only=True)
class First(Rows):
    """What a system is asked before anything else: images x (p, c, h, w), clean and perturbed, labels, and its answers."""

    x: Tensor
    y: Tensor
    answers: Answers


@torch.no_grad()
def well_behaved(system: System, x: Tensor, y: Tensor, room: int | None = None) -> tuple[System, First]:
    """The system, marked as randomised where one question has two answers, and its first answers.

    Randomness may show off the clean images alone, so perturbed ones are asked about as well, where the network takes them.

    Args:
        x: (n, c, h, w), n >= 1, on the system's device. y: (n,). room: images to show at once; all if left out.

    Raises:
        UserError: answers of another kind, or images or weights that are changed by asking.
    """
    x, y = x[: ASKED_LARGE if x[0].numel() > LARGE else ASKED], y[: ASKED_LARGE if x[0].numel() > LARGE else ASKED]
    room, again = room or len(x), AGAIN_LARGE if x[0].numel() > LARGE else AGAIN
    with exact_math():
        _check_respect(system, x, y, room)
        points, labels = perturbed(x, y)
        try:
            first = in_parts(system, points, labels, room)
        except (ModelError, UserError):  # it fails on what is no clean image; an attack will tell
            points, labels = x, y
            first = in_parts(system, points, labels, room)
        if not system.randomised:
            others = (in_parts(system, points, labels, room) for _ in range(again))
            if any(bool((first.apart(other) > RANDOM).any()) for other in others):
                system = replace(system, model_is_random=True)
    return system, First(x=points, y=labels, answers=first)


def _check_respect(system: System, x: Tensor, y: Tensor, room: int) -> None:
    """Refuse a system that changes the images that it is shown, or itself."""
    shown, before = x.clone(), [buffer.clone() for buffer in _buffers(system)]
    for begin in range(0, len(x), room):
        answers_of(system, shown[begin : begin + room], y[begin : begin + room])
    if not torch.equal(shown, x):
        raise UserError(f"{system.name} changes the images that it is shown; write x = x - mean, not x -= mean")
    if not all(map(_same, before, _buffers(system))):
        raise UserError(
            f"{system.name} changes its own buffers when it is asked (batch normalisation in training mode?);"
            " accepted: a model whose eval mode is fixed"
        )


def perturbed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The images, and some of them with noise of several sizes and halfway to another; (p, c, h, w) and labels.

    Images halfway between two classes lie near a boundary, as adversarial examples do.
    """
    few, labels = x[:PERTURBED], y[:PERTURBED]
    draws, shape = Draws.for_images(0, few, labels), x.shape[1:]
    corners = [few + size * draws.signs(shape, "manners", place) for place, size in enumerate(CORNERS)]
    inside = [few + size * (2 * draws.uniform(shape, "manners", place) - 1) for place, size in enumerate(INSIDE)]
    others = [*corners, *inside, (few + few.roll(1, 0)) / 2]
    return torch.cat([x, *others]).clamp(0, 1), torch.cat([y, labels.repeat(len(others))])


def in_parts(system: System, x: Tensor, y: Tensor, size: int) -> Answers:
    """The answers to x, so many images at a time; see `answers_of`."""
    cuts = zip(x.split(size), y.split(size), strict=True)
    return concat([answers_of(system, images, labels) for images, labels in cuts])


def answers_of(system: System, x: Tensor, y: Tensor) -> Answers:
    """What the system says of all images at once.

    Raises:
        UserError: the network fails, or its answers have another shape.
    """
    outputs = system(x, Draws.for_images(0, x, y), 0)
    _check_shapes(system, outputs, len(x))
    return Answers.of(outputs)


def _check_shapes(system: System, outputs: Outputs, count: int) -> None:
    given, wanted = tuple(outputs.scores.shape), (count, system.num_classes)
    if given != wanted:
        raise UserError(
            f"{system.name} answers {count} images with shape {given}; accepted: {wanted}, one row of logits an image"
        )
    if outputs.reject is not None and tuple(outputs.reject.shape) != (count,):
        given = tuple(outputs.reject.shape)
        raise UserError(f"the detector of {system.name} answers with shape {given}; accepted: {(count,)}")
    if outputs.reject is not None and bool(outputs.reject.isnan().all()):
        raise UserError(f"the detector of {system.name} answers {count} images with NaN alone; no score is above NaN")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _buffers(system: System) -> list[Tensor]:
    return [buffer for module in system.modules for buffer in module.buffers()]
