"""What cameras see of the examples of a run: asked anew, with draws that neither search nor verdict has used.

Every image that the system gets right without a camera counts, and every attack's example of it. For each image there is a
row: whether the example is right without a camera, how many draws of the plan's camera show the right class and the
target, and what each place of the sweep over distances and angles shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustbench_lite.hashing.values import hash_value
from robustbench_lite.physical import Camera
from robustbench_lite.physical.lab import difference
from robustbench_lite.physical.presets import SENSOR
from robustbench_lite.randomness import Draws
from robustbench_lite.results.physical import CLEAN, DISTANCES, YAWS, place
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.subject import Subject
from robustbench_lite.system import System

_MEASURED, _SWEPT = 0x3EA5, 0x53EE
#: raised when what is measured changes
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is held before the camera: an attack's examples by index, and their targets where it has any."""

    attack: str
    adaptive: bool
    key: str
    images: Mapping[int, np.ndarray]
    targets: Mapping[int, int]


def right_without(subject: Subject) -> Tensor:
    """The positions of the slice that the system gets right without a camera."""
    assert subject.bare is not None
    return (~subject.bare.clean.wrong).nonzero().squeeze(1)


def digest(subject: Subject, camera: Camera, shown: Shown, draws: int) -> str:
    """What the measurement of an attack is called on disk; nothing that could change it is left out."""
    assert subject.bare is not None
    held = [(index, shown.images[index], shown.targets.get(index, -1)) for index in sorted(shown.images)]
    facts = (VERSION, subject.bare.system.digest, camera, SENSOR, (DISTANCES, YAWS), draws, subject.seed)
    return hash_value(facts, shown.attack == CLEAN, subject.indices[right_without(subject).numpy()], held)


def measure(subject: Subject, camera: Camera, shown: Shown, draws: int) -> pd.DataFrame:
    """A row an image: `bare`, `right`, `hit` and `draws`, `lab`, and a column for each place of the sweep."""
    parts = [_measured(subject, camera, shown, draws, cut) for cut in _cuts(subject, shown)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"index": np.zeros(0, dtype=np.int64)})


def _cuts(subject: Subject, shown: Shown) -> Iterator[Tensor]:
    """The positions to look at, a block at a time."""
    positions = right_without(subject)
    if shown.attack != CLEAN:
        there = np.isin(subject.indices[positions.numpy()], np.array(sorted(shown.images), dtype=np.int64))
        positions = positions[torch.from_numpy(there)]
    for begin, end in subject.shapes.chunks(len(positions)):
        yield positions[begin:end]


@torch.no_grad()
def _measured(subject: Subject, camera: Camera, shown: Shown, draws: int, positions: Tensor) -> pd.DataFrame:
    assert subject.bare is not None
    index = subject.indices[positions.numpy()]
    x, y, streams = subject.load(positions)
    adv = x if shown.attack == CLEAN else _images(shown.images, index).to(x.device)
    target = torch.tensor([shown.targets.get(int(one), -1) for one in index], device=x.device)
    padding = subject.shapes.padding(len(x), x.device)
    x, y, adv, target, streams = x[padding], y[padding], adv[padding], target[padding], streams[padding]
    fresh, swept = streams.fold(_MEASURED), streams.fold(_SWEPT)
    bare = subject.bare.system
    with exact_math():
        found = {"bare": _says(bare, adv, fresh, 0) == y, "right": torch.zeros_like(y), "hit": torch.zeros_like(y)}
        for number in range(draws):
            answer = _says(bare, camera.photograph(adv, fresh, number), fresh, number)
            found["right"] += answer == y
            found["hit"] += (answer == target) & (target >= 0)
        found["lab"] = _apart(camera, x, adv, fresh)
        for number, (distance, yaw) in enumerate((d, a) for d in DISTANCES for a in YAWS):
            seen = SENSOR.seen_from(distance, yaw).photograph(adv, swept, number)
            found[place(distance, yaw)] = _says(bare, seen, swept, number) == y
    columns = {name: values[: len(index)].cpu().numpy() for name, values in found.items()}
    return pd.DataFrame({"index": index, "draws": draws, "target": target[: len(index)].cpu().numpy(), **columns})


def _says(system: System, x: Tensor, draws: Draws, number: int) -> Tensor:
    """The class that is seen, (n,); -1 where the image is rejected."""
    outputs = system(x.contiguous(), draws, number)
    return torch.where(outputs.accepted(), outputs.prediction(), -1)


def _apart(camera: Camera, x: Tensor, adv: Tensor, draws: Draws) -> Tensor:
    """How different the photographs of image and example look, (n,) float64; NaN where they have no colours."""
    if x.shape[1] not in (1, 3):
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    return difference(camera.photograph(adv, draws, 0), camera.photograph(x, draws, 0))


def _images(held: Mapping[int, np.ndarray], index: Sequence[int] | np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([held[int(one)] for one in index]))
