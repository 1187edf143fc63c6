"""Why most examples of a submission do not count: likely mistakes, each undone on some examples to see whether they would.

A mistake is told only where undoing it puts more than half of the examples that are looked at near their images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import data as datasets
from robustbench_lite.data.base import Dataset
from robustbench_lite.threat import Threat

#: examples that are looked at, and numbers of clean images that they are compared with, at most
SAMPLE, ROOM = 64, 64_000_000
_BLOCK = 256
#: an image and its example may differ so much more than the threat allows, in levels of 255, after a mistake is undone
_SLACK = 1.0
#: mean and std that images are normalised by: whose they are
CONSTANTS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("CIFAR-10's mean and std", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("CIFAR-10's mean and std", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ("CIFAR-100's mean and std", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ("MNIST's mean and std", (0.1307,), (0.3081,)),
)
#: the name of the mistake where every example is its clean image
UNCHANGED = "clean-images"
Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Likely:
    """A mistake that explains why examples do not count.

    Args:
        mistake: its name, such as `order`. text: what it is and what undoes it. explains, tried: how many of the examples that
            were looked at it explains.
    """

    mistake: str
    text: str
    explains: int
    tried: int

    def __str__(self) -> str:
        return f"{self.text} (explains {self.explains} of the {self.tried} that were looked at)"

    def facts(self) -> dict[str, object]:
        """For JSON."""
        return {"mistake": self.mistake, "text": self.text, "explains": self.explains, "tried": self.tried}


def likely_mistake(
    images: Tensor,
    indices: np.ndarray,
    invalid: np.ndarray,
    distance: np.ndarray,
    data: Dataset,
    threat: Threat,
    *,
    slice_seed: int = 0,
) -> Likely | None:
    """The first mistake that explains most of the invalid examples; None where none does.

    Args:
        images: (n, c, h, w) float32, as submitted. indices: (n,) of the images in data that they were said to be made of.
        invalid: (k,) positions of the examples that do not count. distance: (n,) of each from its image, in the threat's norm.
        slice_seed: of the class-balanced slice that they may have been made of.
    """
    places = invalid[np.unique(np.linspace(0, len(invalid) - 1, SAMPLE).round().astype(np.int64))]
    finite = images[places].isfinite().flatten(1).all(1).numpy()
    broken = int((~finite).sum())
    if 2 * broken > len(places):
        return Likely(
            mistake="not-finite", text="the examples hold NaN or infinite values", explains=broken, tried=len(places)
        )
    kept = places[finite]
    reached = distance[invalid]
    case = _Case(
        adv=images[kept], x=data.batch(indices[kept]), places=kept, indices=indices, data=data, threat=threat,
        seed=slice_seed, distances=reached[np.isfinite(reached)],
    )  # fmt: skip
    tries = (
        *(_just_outside, _not_clipped, _blank, _other_values, _other_axes, _other_order, _other_eps),
        *(_other_order_and_look, _other_scale),
    )
    return next((found for attempt in tries if (found := attempt(case)) is not None), None)


def unchanged(count: int) -> Likely:
    """All examples are clean images."""
    text = "the examples are the clean images themselves; submit what the attack made"
    return Likely(mistake=UNCHANGED, text=text, explains=count, tried=count)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """Some examples beside the images that they were said to be made of.

    Args:
        adv, x: (m, c, h, w). places: (m,) of the examples in the file. indices: (n,) of all examples' images in data.
        distances: of all invalid examples from their images, in the threat's norm.
    """

    adv: Tensor
    x: Tensor
    places: np.ndarray
    indices: np.ndarray
    data: Dataset
    threat: Threat
    seed: int
    distances: np.ndarray

    @cached_property
    def apart(self) -> float:
        """Half the usual L2 distance between two images: what is nearer belongs to one of them."""
        x = self.x.flatten(1).double()
        between = torch.cdist(x, x) if len(x) > 1 else torch.ones(1, 1, dtype=torch.float64)
        others = between[between > 0]
        return float(others.median()) / 2 if len(others) else 0.0

    def near(self, adv: Tensor, x: Tensor, room: float = 1.0) -> Tensor:
        """Which examples may have been made of which images, (m,) bool: in the box and the threat, with a little room."""
        margin = 0.02 * room
        boxed = ((adv >= -margin) & (adv <= 1 + margin)).flatten(1).all(1)
        delta = (adv.clamp(0, 1).double() - x.double()).abs()
        if self.threat.eps is None:
            return boxed & (delta.flatten(1).norm(dim=1) <= self.apart)
        step = _SLACK * room / 255
        if self.threat.norm == "L0":
            return boxed & ((delta > step).flatten(1).sum(1) <= self.threat.eps)
        slack = self.threat.geometry.distance(torch.full_like(delta[:1], step))
        return boxed & (self.threat.geometry.distance(delta) <= self.threat.eps * (1 + 0.02 * room) + slack)

    def explained(self, near: Tensor, mistake: str, text: str) -> Likely | None:
        """The mistake, where it explains more than half."""
        count = int(near.sum())
        if 2 * count <= len(near):
            return None
        return Likely(mistake=mistake, text=text, explains=count, tried=len(near))

    def nearest(self, adv: Tensor) -> np.ndarray:
        """The clean image that is nearest to each of these, in L2, (m,): its index in data."""
        flat = adv.flatten(1).float()
        reach = max(1, min(len(self.data), ROOM // flat.shape[1]))
        candidates = np.union1d(np.arange(reach), self.indices[: max(1, reach)])
        best, found = torch.full((len(flat),), torch.inf), torch.zeros(len(flat), dtype=torch.int64)
        for begin in range(0, len(candidates), _BLOCK):
            some = candidates[begin : begin + _BLOCK]
            x = self.data.batch(some).flatten(1)
            distance, place = ((x * x).sum(1)[None] - 2 * flat @ x.T).min(1)
            closer = distance < best
            best = torch.where(closer, distance, best)
            found = torch.where(closer, torch.from_numpy(some)[place], found)
        return found.numpy()


# -- the examples of the right images ---------------------------------------------------------------------------------


def _just_outside(case: _Case) -> Likely | None:
    """Rounding after the attack: to 8 bits, to a half-precision float, or not clipped to [0, 1]."""
    threat = case.threat
    over = torch.maximum(case.adv - 1, -case.adv).flatten(1).amax(1)
    if threat.eps is None or threat.norm == "L0":
        slack, near = 0.0, (over <= 0.01) & case.near(case.adv, case.x)
    else:
        step = torch.full_like(case.x[:1].double(), 1 / 255)
        slack = max(float(threat.geometry.distance(step)), 0.02 * threat.eps)
        near = (over <= 0.01) & (threat.distance(case.adv, case.x) <= threat.eps + slack)
    if not bool(near.any()):
        return None
    adv, most = case.adv[near], float(over[near].max())
    # dust beyond [0, 1] is dust beyond the ball where the image is black or white, and clipping mends both
    clipped = adv.clamp(0, 1)
    inside = threat.eps is None or bool(threat.contains(clipped, case.x[near]).all())
    if threat.eps is None or inside:
        return case.explained(near, "not-clipped", f"the examples leave [0, 1] by up to {most:.2g}; clip them")
    how, mistake = _rounding(adv)
    distance = float(case.distances[case.distances <= threat.eps + slack].max())
    text = (
        f"the examples are {how}, which puts them up to {distance - threat.eps:.2g} outside the ball"
        f"{f' and {most:.2g} outside [0, 1]; clip them and' if most > 0 else ';'} round towards the"
        f" clean image, or judge them under {threat.norm}:{_up(distance)}"
    )
    return case.explained(near, mistake, text)


def _not_clipped(case: _Case) -> Likely | None:
    """A whole step beyond [0, 1]: clipped, the examples would be inside the ball."""
    over = torch.maximum(case.adv - 1, -case.adv).flatten(1).amax(1)
    clipped = case.adv.clamp(0, 1)
    near = (over > 0) & case.near(clipped, case.x) & (over <= _most_beyond(case))
    if not bool(near.any()):
        return None
    text = f"the examples leave [0, 1] by up to {float(over[near].max()):.2g}; clip them"
    return case.explained(near, "not-clipped", text)


def _most_beyond(case: _Case) -> float:
    """How far an unclipped step may end beyond [0, 1], with a little room; pixels on another scale end farther."""
    eps = case.threat.eps
    return 0.5 if eps is None or case.threat.norm == "L0" else min(0.5, 1.02 * eps + _SLACK / 255)


def _blank(case: _Case) -> Likely | None:
    """Every pixel is the same, or nearly, where no other mistake made small numbers of an image."""
    flat = case.adv.flatten(1)
    one = (flat.amax(1) - flat.amin(1) <= 1.5 / 255) & (flat.amin(1) >= 0) & ~case.near(case.adv * 255, case.x)
    text = "the examples show nothing: all pixels of each are the same, as of float images cut to whole numbers"
    return case.explained(one, "blank", text)


def _rounding(adv: Tensor) -> tuple[str, str]:
    if bool(((adv * 255 - (adv * 255).round()).abs() < 1e-3).all()):
        return "rounded to 8 bits", "rounded"
    if torch.equal(adv, adv.bfloat16().float()):  # above 6e-5 these are float16 numbers too
        return "rounded to bfloat16", "half-precision"
    if torch.equal(adv, adv.half().float()):
        return "rounded to float16", "half-precision"
    return "not projected into the ball after the last step", "dust"


def _up(value: float) -> str:
    """Four digits, rounded up."""
    text = f"{value:.4g}"
    return text if float(text) >= value else f"{value * (1 + 1e-3):.4g}"


def _other_eps(case: _Case) -> Likely | None:
    """The examples of the right images, made for a larger radius."""
    near = torch.from_numpy(case.nearest(case.adv) == case.indices[case.places])
    inside = ((case.adv >= 0) & (case.adv <= 1)).flatten(1).all(1)
    near &= inside & ((case.adv - case.x).double().flatten(1).norm(dim=1) <= 2 * case.apart)
    if case.threat.eps is None or not bool(near.any()):
        return None
    most = float(case.distances.max())
    text = (
        f"the examples are of the right images, but up to {most:.4g} away from them; they would be inside"
        f" {case.threat.norm}:{_up(most)}"
    )
    return case.explained(near, "larger-eps", text)


# -- another representation -------------------------------------------------------------------------------------------


def _values(case: _Case) -> Iterator[tuple[str, str, Change]]:
    """Name, sentence, and what undoes it."""
    channels = case.x.shape[1]
    pixels = case.x.transpose(0, 1).flatten(1)
    own = (tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).tolist()))
    known = [one for one in CONSTANTS if len(one[1]) in (1, channels) and (len(one[1]) > 1 or channels == 1)]
    yield "range", "the examples are in [-1, 1]; submit (x_adv + 1) / 2", lambda adv, _: adv / 2 + 0.5
    yield "range", "the examples are in 0 to 255; divide them by 255", lambda adv, _: adv / 255
    yield "range", "the examples were divided by 255 twice; multiply them by 255", lambda adv, _: adv * 255
    yield "inverted", "the examples are negatives, black for white; submit 1 - x_adv", lambda adv, _: 1 - adv
    yield "perturbation", "these are the perturbations alone; submit x + perturbation", lambda adv, x: x + adv
    grey = "these are the perturbations around grey, 0.5; submit x + perturbation"
    yield "perturbation", grey, lambda adv, x: x + adv - 0.5
    for whose, mean, std in (*known, ("the mean and std of the data", *own)):
        m, s = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
        text = f"the examples are normalised by {whose}; submit x_adv * std + mean, pixels in [0, 1]"
        yield "normalised", text, lambda adv, _, m=m, s=s: adv * s + m  # type: ignore[misc]  # the defaults bind


def _other_values(case: _Case) -> Likely | None:
    for mistake, text, undo in _values(case):
        if (found := case.explained(case.near(undo(case.adv, case.x), case.x), mistake, text)) is not None:
            return found
    return None


def _axes(case: _Case) -> Iterator[tuple[str, str, Change]]:
    _, c, h, w = case.adv.shape
    if h == w:
        text = "height and width are exchanged; submit x_adv.transpose(0, 1, 3, 2)"
        yield "axes", text, lambda adv, _: adv.transpose(2, 3)
        for turns, way in ((1, "to the left"), (-1, "to the right")):
            text = f"the examples are turned {way} by 90 degrees; turn them back"
            yield "turned", text, lambda adv, _, turns=turns: torch.rot90(adv, -turns, (2, 3))  # type: ignore[misc]
    yield "turned", "the examples are turned by 180 degrees; turn them back", lambda adv, _: adv.flip(2, 3)
    if c > 1:
        text = (
            "the examples were reshaped between (h, w, c) and (c, h, w), which mixes pixels; transpose the axes instead"
        )
        yield "axes", text, lambda adv, _: adv.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        yield "axes", text, lambda adv, _: adv.permute(0, 2, 3, 1).reshape(-1, c, h, w)
        if h == w:
            text = "the axes are (w, h, c); submit x_adv.transpose(0, 3, 2, 1)"
            yield "axes", text, lambda adv, _: adv.permute(0, 1, 3, 2)
    if c == 3:
        text = "the channels are in the order blue, green, red; submit x_adv[:, ::-1]"
        yield "channels", text, lambda adv, _: adv.flip(1)
    yield "mirrored", "the examples are mirrored, left and right; turn them back", lambda adv, _: adv.flip(3)
    yield "mirrored", "the examples are upside down; turn them back", lambda adv, _: adv.flip(2)


def _other_axes(case: _Case) -> Likely | None:
    for mistake, text, undo in _axes(case):
        if (found := case.explained(case.near(undo(case.adv, case.x), case.x), mistake, text)) is not None:
            return found
    return None


def _other_scale(case: _Case) -> Likely | None:
    """Any other affine change of the values, the same in all examples: fitted, channel by channel."""
    adv, x = (part.transpose(0, 1).flatten(1).double() for part in (case.adv, case.x))
    dx, da = x - x.mean(1, keepdim=True), adv - adv.mean(1, keepdim=True)
    spread = (dx * dx).mean(1)
    slope = (dx * da).mean(1) / spread.clamp_min(1e-12)
    alike = (dx * da).mean(1) / (spread * (da * da).mean(1)).sqrt().clamp_min(1e-12)
    if not bool(((alike > 0.7) & (slope > 1e-4)).all()):
        return None
    offset = adv.mean(1) - slope * x.mean(1)
    if bool(((slope - 1).abs() < 0.05).all()) and bool((offset.abs() < 0.02).all()):
        return None
    # an attack goes against the image, which flattens a fit; the ends of [0, 1] stay where they are
    low, high = adv.amin(1), adv.amax(1)
    fits = (_scaled(case, high - low, low, room=1), _scaled(case, slope, offset, room=8))
    return next((found for found in fits if found is not None), None)


def _scaled(case: _Case, slope: Tensor, offset: Tensor, room: float) -> Likely | None:
    """Whether the examples are slope * pixels + offset, (c,) each."""
    a, b = (part.float().view(1, -1, 1, 1) for part in (slope, offset))
    told = " and ".join(
        f"{m:.2g} x {'+' if n >= 0 else '-'} {abs(n):.2g}" for m, n in zip(slope.tolist(), offset.tolist(), strict=True)
    )
    text = f"the examples have another scale, about {told}; submit pixels in [0, 1]"
    return case.explained(case.near((case.adv - b) / a, case.x, room=room), "scale", text)


# -- other images -----------------------------------------------------------------------------------------------------


def _other_order(case: _Case) -> Likely | None:
    """The examples of other images than was said."""
    return _moved(case, [("", "", lambda adv, _: adv)])


def _other_order_and_look(case: _Case) -> Likely | None:
    """The same together with another representation."""
    return _moved(case, [way for way in (*_values(case), *_axes(case)) if way[0] != "perturbation"])


def _moved(case: _Case, ways: list[tuple[str, str, Change]]) -> Likely | None:
    """The examples of other images, after each of these changes; all are looked up in one pass over the clean images."""
    changed = [undo(case.adv, case.x) for _, _, undo in ways]
    found = case.nearest(torch.cat(changed)).reshape(len(ways), -1)
    claimed = case.indices[case.places]
    for (_, also, _), adv, nearest in zip(ways, changed, found, strict=True):
        near = case.near(adv, case.data.batch(nearest))
        moved = near.numpy() & (nearest != claimed)
        if 2 * moved.sum() <= near.sum() or len(np.unique(nearest[near.numpy()])) < 0.8 * int(near.sum()):
            continue
        text = f"the examples are of other images: {_pattern(case, nearest, near.numpy())}"
        if (told := case.explained(near, "order", f"{text}; and {also}" if also else text)) is not None:
            return told
    return None


def _pattern(case: _Case, nearest: np.ndarray, near: np.ndarray) -> str:
    """Which order explains where the examples belong; else an example of it."""
    places, indices, count = case.places[near], case.indices, len(case.indices)
    belongs = nearest[near]
    steps = belongs - indices[places]
    if _mostly(belongs == indices[count - 1 - places]):
        return "they are in reverse order; submit x_adv[::-1]"
    step = int(np.median(steps))
    if _mostly(steps == step):
        if abs(step) == 1:
            what = "the first image is missing" if step > 0 else "one stands before them that does not belong to them"
            return (
                f"each is of the image {'after' if step > 0 else 'before'} its own, so {what}; submit their indices too"
            )
        return f"each is of the image {abs(step)} places {'after' if step > 0 else 'before'} its own; submit their indices too"
    labels = case.data.labels_at(indices).numpy()
    if _mostly(belongs == indices[np.argsort(labels, kind="stable")][places]):
        return "they are sorted by class; submit them in the order of the data, or their indices too"
    balanced = datasets.choose(case.data, str(count), case.seed)
    if _mostly(belongs == balanced[places]):
        return f"they are of the class-balanced slice of {count}; add --samples {count}"
    shown = ", ".join(f"{place} of image {index}" for place, index in list(zip(places, belongs, strict=True))[:3])
    return f"example {shown}, …; submit their indices too"


def _mostly(same: np.ndarray) -> bool:
    return bool(same.mean() > 0.9)
