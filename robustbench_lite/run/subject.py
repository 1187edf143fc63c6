"""One system on one slice of data, ready to be attacked: on its device, checked, measured on the clean images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.data.base import Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.physical import Camera
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import concat
from robustbench_lite.run.fast import fast_copy, in_fast_layout, reduced_copy
from robustbench_lite.run.manners import First, well_behaved
from robustbench_lite.run.pristine import Pristine
from robustbench_lite.run.shapes import Shapes, default_shapes, probe
from robustbench_lite.run.units import Units, measure
from robustbench_lite.run.verdict import FIRST, Clean, Sitting, look
from robustbench_lite.specs import system_name
from robustbench_lite.system import System

_PROBED = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Before:
    """What a system said before it was attacked, kept to be compared with what it says afterwards.

    Args:
        first: the first answers, `room` images shown at once. copy: the system before it was asked anything; the reason,
            where there is none.
    """

    first: First
    room: int
    copy: Pristine | str


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A system under test.

    Args:
        model, defense: what records call it. system: the deployed one. fast: the copy that is searched on.
        reduced: a copy of reduced precision for a first stage, or None.
        data: the test split. indices: (m,) positions in it; a sample's position in the slice is its place in this array.
        clean: what the system says of the clean images, on the CPU. seed: of the random streams.
        adaptive: whether attacks use what an adversary knows of the defense.
        sitting: how a randomised system is judged.
        bare: the same system without the camera that stands before it; None where there is no camera.
        hides: a part of the defense is not to be seen by plain attacks.
        before: what was asked of the system before it was attacked.
    """

    model: str
    defense: str
    system: System
    fast: System
    reduced: System | None
    data: Dataset
    indices: np.ndarray
    shapes: Shapes
    clean: Clean
    seed: int
    adaptive: bool
    sitting: Sitting = FIRST
    bare: "Subject | None" = None
    hides: bool = False
    before: Before | None = None

    @property
    def name(self) -> str:
        """The system in words."""
        return system_name(self.model, self.defense)

    @property
    def plain(self) -> "Subject":
        """As an adversary sees it who does not know the defense: no detector, and gradients as they come."""
        reduced = None if self.reduced is None else self.reduced.without_detector()
        system, fast = self.system.without_detector(), self.fast.without_detector()
        return replace(self, system=system, fast=fast, reduced=reduced, adaptive=False, hides=False)

    @property
    def device(self) -> torch.device:
        return self.system.device

    @property
    def labels(self) -> Tensor:
        """(m,) int64, on the CPU."""
        return self.data.labels_at(self.indices)

    @cached_property
    def units(self) -> Units:
        """What a bare forward and gradient of the system cost here, measured once."""
        return measure(self)

    def load(self, positions: Tensor) -> tuple[Tensor, Tensor, Draws]:
        """Images, labels and random streams of these positions of the slice, on the system's device."""
        return load(self.data, self.indices, positions, self.seed, self.device)


def load(
    data: Dataset, indices: np.ndarray, positions: Tensor, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Draws]:
    """The samples at these positions of the slice."""
    chosen = indices[positions.numpy()]
    x, y = data.batch(chosen), data.labels_at(chosen)
    draws = Draws.for_images(seed, x, y)
    return x.to(device), y.to(device), draws.to(device)


def prepare(
    *,
    model: str,
    defense: str,
    system: System,
    data: Dataset,
    indices: np.ndarray,
    seed: int,
    device: torch.device,
    adaptive: bool,
    batch: int | None = None,
    precision: str = "float32",
    quick: bool = True,
    sitting: Sitting = FIRST,
    hides: bool = False,
) -> Subject:
    """Move the system to its device, choose batch sizes, make the fast copy and look at the clean images.

    Args:
        quick: search on a faster copy where it agrees with the original.

    Raises:
        UserError: the system's answers do not fit the data, or one image at a time does not fit into memory.
    """
    system = system.to(device).remembered()
    fits(system, data)
    copied = Pristine.of(system)
    shapes: Shapes | None = default_shapes(device, batch, data.shape)
    while shapes is not None:
        try:
            system, fast, shapes, clean, before = _measured(
                system, data, indices, seed, device, shapes, quick, sitting, copied
            )
            break
        except torch.OutOfMemoryError:
            shapes = shapes.smaller()
    else:
        raise UserError(f"{system.name} does not fit into the memory of {device} with one image at a time")
    reduced = reduced_copy(fast, torch.bfloat16) if precision == "bfloat16" else None
    return Subject(
        model=model,
        defense=defense,
        system=system,
        fast=fast,
        reduced=reduced,
        data=data,
        indices=indices,
        shapes=shapes,
        clean=clean,
        seed=seed,
        adaptive=adaptive,
        sitting=sitting,
        hides=hides,
        before=before,
    )


def behind(camera: Camera, subject: Subject, sitting: Sitting) -> Subject:
    """The subject as it sees the world through a camera; what it is without one stays in `bare`."""
    assert subject.bare is None
    look_through = partial(System.with_random_purifier, apply=camera.photograph, name=str(camera))
    system, fast = look_through(subject.system), look_through(subject.fast)
    cuts = _slices(subject.data, subject.indices, subject.seed, subject.device, subject.shapes)
    clean = concat([look(system, *args, subject.shapes, sitting) for args in cuts])
    reduced = None if subject.reduced is None else look_through(subject.reduced)
    return replace(subject, system=system, fast=fast, reduced=reduced, clean=clean, sitting=sitting, bare=subject)


def fits(system: System, data: Dataset) -> None:
    """Refuse a system that was made for other images or classes.

    Raises:
        UserError: the shapes or the number of classes differ.
    """
    if tuple(system.input_shape) != tuple(data.shape):
        raise UserError(f"{system.name} takes images {_by(system.input_shape)} but {data.name} has {_by(data.shape)}")
    if data.class_names is not None and system.num_classes > len(data.class_names):
        names = f"{len(data.class_names)}, {data.class_names[0]} and so on"
        raise UserError(f"{system.name} has {system.num_classes} classes but the data {names}")
    top = int(data.labels.max())
    if top >= system.num_classes:
        raise UserError(f"labels reach {top} but {system.name} has {system.num_classes} classes")


def _measured(
    system: System,
    data: Dataset,
    indices: np.ndarray,
    seed: int,
    device: torch.device,
    shapes: Shapes,
    quick: bool,
    sitting: Sitting,
    copied: Pristine | str,
) -> tuple[System, System, Shapes, Clean, Before]:
    """The system as it behaves, its fast copy, the sizes that it allows, and its answers to the clean images.

    What it is asked at first, before any attack, comes last.
    """
    some = torch.arange(min(_PROBED, len(indices), shapes.most))
    x, y, _ = load(data, indices, some, seed, device)
    system, first = well_behaved(system, x, y, shapes.floor)
    before = Before(first=first, room=shapes.floor, copy=copied)
    system = in_fast_layout(system, x)
    fast = fast_copy(system, x) if quick else system
    shapes = shapes if system.randomised else probe(fast, x, shapes)
    parts = [look(system, *args, shapes, sitting) for args in _slices(data, indices, seed, device, shapes)]
    return system, fast, shapes, concat(parts), before


def _slices(
    data: Dataset, indices: np.ndarray, seed: int, device: torch.device, shapes: Shapes
) -> Iterator[tuple[Tensor, Tensor, Draws]]:
    for begin, end in shapes.chunks(len(indices)):
        yield load(data, indices, torch.arange(begin, end), seed, device)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
