"""Threats beside the norms: an image is moved, or something is put into it.

Their points are *rendered* from parameters, the witness (n, k). An attack proposes a witness; the verdict renders it again from
the clean image and never looks at the attack's pixels. None is in one table with a norm: they allow other images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from robustbench_lite import specs
from robustbench_lite.errors import UserError
from robustbench_lite.hashing import hash_bytes
from robustbench_lite.norms import Norm
from robustbench_lite.physical import warp
from robustbench_lite.randomness import Draws
from robustbench_lite.threat import ABSOLUTE_SLACK, RELATIVE_SLACK, Threat


@dataclass(frozen=True, kw_only=True)
class Rendered(Threat):
    """What the families share: no norm, and always a limit."""

    rendered: ClassVar[bool] = True
    #: raised when the same witness is rendered otherwise
    version: ClassVar[int] = 1
    norm: str = ""
    eps: float | None = 1.0

    def __post_init__(self) -> None:
        if self.norm != type(self).norm:
            raise UserError(f"threat {type(self).norm}: norm={self.norm}; it has none")
        self._check_target()
        if self.goal == "targeted" and self.target is None:
            object.__setattr__(self, "target", "random")
        self._check_limits()

    @classmethod
    def read(cls, rest: str) -> Self:
        """The threat from what follows its name and the colon.

        Raises:
            UserError: an option that it does not have, or a value that is not accepted.
        """
        radius, _, options = rest.partition(",")
        if "=" in radius:
            radius, options = "", rest
        given = dict(specs.parse(f"threat:{options}" if options else "threat").options)
        if radius:
            given["eps"] = radius
        return specs.build(cls, cls._spelled(given), name=f"threat {cls.norm}")

    @property
    def geometry(self) -> Norm:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.norm} is no norm; accepted there: Linf, L2, L1, L0")

    def distance(self, adv: Tensor, x: Tensor) -> Tensor:
        """How much of an image changes at most, as Linf; for information, no limit is set by it."""
        return (adv.double() - x.double()).abs().flatten(1).amax(1)

    def _goal_text(self) -> str:
        return "" if self.goal == "untargeted" else f",goal=targeted,target={self.target}"

    @classmethod
    def _spelled(cls, given: Mapping[str, str]) -> Mapping[str, str]:
        """The options under the names of the fields."""
        return given

    def _check_limits(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SpatialThreat(Rendered):
    """The image is turned about its centre, then shifted; bilinear, black where nothing is left of it.

    The witness is (right, down, degrees counter-clockwise), the shifts in pixels. Rotation 0 at shift 0 changes no bit.

    Args:
        translation: the largest shift along each axis.
        rotation: the largest turn in degrees, either way.
        eps: the share of both limits that is allowed.
        unit: of the shift: pixels, or per cent of the image's side.

    Raises:
        UserError: a limit that is not accepted.
    """

    norm: str = "spatial"
    translation: float = 3.0
    rotation: float = 30.0
    unit: Literal["px", "%"] = "px"

    def __str__(self) -> str:
        head = "" if self.eps == 1 else f"{specs.fraction_text(self.radius)},"
        shift = specs.fraction_text(self.translation)
        if self.unit == "%":
            shift += "%"
        return f"spatial:{head}translation={shift},rotation={specs.fraction_text(self.rotation)}{self._goal_text()}"

    @property
    def settings(self) -> tuple[object, ...]:
        """The limits."""
        return (self.version, self.translation, self.unit, self.rotation)

    def limits(self, x: Tensor) -> Tensor:
        """The largest witness for images like x (n, c, h, w): (3,) float64."""
        sides = (x.shape[3] / 100, x.shape[2] / 100) if self.unit == "%" else (1.0, 1.0)
        most = [self.translation * sides[0], self.translation * sides[1], self.rotation]
        return self.radius * torch.tensor(most, dtype=torch.float64, device=x.device)

    def contains(self, adv: Tensor, x: Tensor, witness: Tensor | None = None) -> Tensor:
        """Which witnesses keep the limits, (n,) bool; without one none does."""
        if witness is None or witness.shape[1:] != (3,):
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return (witness.double().abs() <= self.limits(x) * (1 + RELATIVE_SLACK) + ABSOLUTE_SLACK).all(1)

    def render(self, x: Tensor, witness: Tensor, draws: Draws, index: Tensor | int = 0) -> Tensor:
        """The images x (n, c, h, w), turned and shifted; nothing is drawn."""
        right, down, angle = witness.double().unbind(1)
        half, still = max(x.shape[2:]) / 2, torch.zeros_like(angle)
        back = warp.homography(angle, still, still, torch.ones_like(angle), (right / half, -down / half))
        black = x.new_zeros((len(x), x.shape[1]))
        return warp.read(x, warp.places(back, x.shape[2], x.shape[3]), black)

    def tell(self, witness: Tensor) -> list[str]:
        """`dx=2,dy=-1,angle=30` of every row."""
        return [f"dx={dx:.6g},dy={dy:.6g},angle={angle:.6g}" for dx, dy, angle in witness.tolist()]

    @classmethod
    def _spelled(cls, given: Mapping[str, str]) -> Mapping[str, str]:
        """`10%` as a number and its unit."""
        shift = given.get("translation", "").strip()
        unit = next((unit for unit in ("px", "%") if shift.endswith(unit)), "")
        return {**given, "translation": shift.removesuffix(unit), "unit": unit} if unit else given

    def _check_limits(self) -> None:
        if self.eps is None or not 0 <= self.eps <= 1:
            raise UserError(f"threat spatial: eps={self.eps}; accepted: 0 to 1, the share of its limits")
        most = 100.0 if self.unit == "%" else math.inf
        if not 0 <= self.translation <= most or math.isinf(self.translation):
            raise UserError(
                f"threat spatial: translation={self.translation:g}; accepted: pixels from 0, or 0% to 100% of a side"
            )
        if not 0 <= self.rotation <= 180:
            raise UserError(f"threat spatial: rotation={self.rotation:g}; accepted: 0 to 180 degrees")


@dataclass(frozen=True, kw_only=True)
class PatchThreat(Rendered):
    """A picture is pasted over the image, anywhere inside it: at a place, an angle and a size that nobody chooses.

    The witness is the picture, c * s * s values in [0, 1], of any side s. Every draw places it anew, uniformly; what most draws
    show counts. A pixel belongs to the patch where its centre does, and takes its value alone: the edge is hard.

    Args:
        eps: the patch's area as a share of the image's; written `area`. 0: nothing is pasted.
        rotation: the largest turn in degrees, either way.
        scale: the smallest size, as a share of the full one; 1: always full.
        shape: `circle` or `square`.

    Raises:
        UserError: a limit that is not accepted.
    """

    random: ClassVar[bool] = True
    norm: str = "patch"
    eps: float | None = 0.05
    rotation: float = 22.5
    scale: float = 1.0
    shape: Literal["circle", "square"] = "circle"

    def __str__(self) -> str:
        parts = [f"area={specs.fraction_text(self.radius)}"]
        for name, default in (("rotation", 22.5), ("scale", 1.0), ("shape", "circle")):
            if (value := getattr(self, name)) != default:
                parts.append(f"{name}={specs.text_of(value)}")
        return f"patch:{','.join(parts)}{self._goal_text()}"

    @property
    def settings(self) -> tuple[object, ...]:
        """How it is placed."""
        return (self.version, self.rotation, self.scale, self.shape)

    def diameter(self, x: Tensor) -> float:
        """Of the patch at its full size, in pixels: across a circle, along the side of a square."""
        area = self.radius * x.shape[2] * x.shape[3]
        return 2 * math.sqrt(area / math.pi) if self.shape == "circle" else math.sqrt(area)

    def contains(self, adv: Tensor, x: Tensor, witness: Tensor | None = None) -> Tensor:
        """Which witnesses are pictures, (n,) bool; without one none is."""
        if witness is None or witness.shape[1] != x.shape[1] * _side(witness, x) ** 2 or not witness.shape[1]:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return ((witness >= 0) & (witness <= 1)).all(1)

    def render(self, x: Tensor, witness: Tensor, draws: Draws, index: Tensor | int = 0) -> Tensor:
        """The images x (n, c, h, w) with the patch, where this draw puts it; differentiable in the witness."""
        (n, c, h, w), side = x.shape, _side(witness, x)
        down, across = self._places(x, draws, index)  # (n, h * w) each, from -1 to 1 on the patch
        inside = (down**2 + across**2 < 1) if self.shape == "circle" else (torch.maximum(down.abs(), across.abs()) < 1)
        at = [(((place + 1) * side - 1) / 2).clamp(0, side - 1) for place in (down, across)]
        shown = warp.read(witness.view(n, c, side, side), (at[0], at[1]), x.new_zeros((n, c)), (h, w))
        return torch.where(inside.view(n, 1, h, w), shown, x)

    def tell(self, witness: Tensor) -> list[str]:
        """A digest of every row's picture."""
        rows = witness.detach().cpu().numpy()
        return [hash_bytes(row.tobytes(), 8) for row in rows]

    def _places(self, x: Tensor, draws: Draws, index: Tensor | int) -> tuple[Tensor, Tensor]:
        """Where each pixel lies on the patch, in half sizes down and across from its middle."""
        height, width = x.shape[2:]
        lots = draws.uniform((4,), "patch", index).double()
        angle = (2 * lots[:, 0] - 1) * self.rotation * (math.pi / 180)
        size = self.diameter(x) / 2 * (self.scale + (1 - self.scale) * lots[:, 1])
        sine, cosine = angle.sin(), angle.cos()
        reach = size if self.shape == "circle" else size * (sine.abs() + cosine.abs())
        rows, columns = (
            torch.arange(side, dtype=torch.float64, device=x.device) + 0.5 - _between(reach, side, lot)[:, None]
            for side, lot in ((height, lots[:, 2]), (width, lots[:, 3]))
        )
        rows, columns = rows[:, :, None], columns[:, None, :]
        cosine, sine, size = (value[:, None, None] for value in (cosine, sine, size.clamp(min=1e-9)))
        down, across = (cosine * rows + sine * columns) / size, (cosine * columns - sine * rows) / size
        return warp.fine(down).flatten(1), warp.fine(across).flatten(1)

    @classmethod
    def _spelled(cls, given: Mapping[str, str]) -> Mapping[str, str]:
        """`area` is the radius."""
        if "area" in given and "eps" in given:
            raise UserError(f"threat patch: area={given['area']} and {given['eps']}; give one of the two")
        return {("eps" if name == "area" else name): value for name, value in given.items()}

    def _check_limits(self) -> None:
        if self.eps is None or not 0 <= self.eps <= 0.5:
            raise UserError(f"threat patch: area={self.eps}; accepted: 0 to 0.5 of the image")
        if not 0 <= self.rotation <= 180:
            raise UserError(f"threat patch: rotation={self.rotation:g}; accepted: 0 to 180 degrees")
        if not 0 < self.scale <= 1:
            raise UserError(f"threat patch: scale={self.scale:g}; accepted: more than 0, up to 1")


def _side(witness: Tensor, x: Tensor) -> int:
    """Of the square picture that is the witness, in its own pixels."""
    return math.isqrt(witness.shape[1] // x.shape[1])


def _between(reach: Tensor, side: int, lot: Tensor) -> Tensor:
    """Where the middle comes to lie, (n,): anywhere from which nothing hangs over; in the middle where all does."""
    low = reach.clamp(max=side / 2)
    return low + (side - 2 * low) * lot


#: the families by name; `Threat.parse` reads them
FAMILIES: Mapping[str, type[Rendered]] = {"spatial": SpatialThreat, "patch": PatchThreat}
