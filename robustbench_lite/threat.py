"""What the adversary may do: a norm, a radius, a goal.

A threat is data: attacks call `project`, `steepest`, `extreme`, `random_point` and never ask which norm it is. `eps` is in
the unit of an image in [0, 1]. Without eps the aim is the smallest norm that breaks (`minimum-norm`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_lite import specs
from robustbench_lite.errors import UserError, cut
from robustbench_lite.norms import Norm
from robustbench_lite.norms import norm as find_norm
from robustbench_lite.randomness import Draws

# What float32 may add to a point that was computed inside: the public rule of the verdict (see `Threat.contains`).
RELATIVE_SLACK, ABSOLUTE_SLACK = 1e-6, 1e-7
TARGET_RULES = ("least-likely", "random", "next", "second", "column")


@dataclass(frozen=True, kw_only=True)
class Threat:
    """A ball around every clean image, met with the box [0, 1].

    Args:
        norm: `Linf`, `L2`, `L1` or `L0` (number of changed values, not pixels).
        eps: the radius, or None to look for the smallest norm that breaks.
        goal: `untargeted` (any wrong answer breaks) or `targeted` (only the target does).
        target: for a targeted goal, how the target is chosen on the clean image: a rule or a class index.

    Raises:
        UserError: an unknown norm, a radius that is negative or covers more than the box, a target without a goal.
    """

    #: points are rendered from parameters (the witness), and judged by rendering them again; see `families`
    rendered: ClassVar[bool] = False
    #: what is rendered differs from draw to draw
    random: ClassVar[bool] = False
    norm: str
    eps: float | None = None
    goal: Literal["untargeted", "targeted"] = "untargeted"
    target: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", find_norm(self.norm).name)
        _check_eps(self.norm, self.eps)
        self._check_target()

    def _check_target(self) -> None:
        if self.target is not None and self.goal == "untargeted":
            raise UserError(f"threat {self.norm}: target={self.target} needs goal=targeted")
        if self.goal == "targeted" and self.target is None:
            object.__setattr__(self, "target", "random")
        if self.target is not None and self.target not in TARGET_RULES and not self.target.isdecimal():
            raise UserError(
                f"threat {self.norm}: target={self.target}; accepted: {', '.join(TARGET_RULES)}, a class index"
            )

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """Read `Linf:8/255`, `L2` (minimum-norm), `Linf:0.1,goal=targeted,target=least-likely`, or a threat of `families`.

        Examples:
            >>> Threat.parse("linf:8/255")
            Threat(norm='Linf', eps=0.03137254901960784, goal='untargeted', target=None)
            >>> Threat.parse("L2").aim
            'minimum-norm'
            >>> str(Threat.parse("Linf:0.1,goal=targeted,target=3"))
            'Linf:0.1,goal=targeted,target=3'

        Raises:
            UserError: as the constructor, or an option that a threat does not have.
        """
        from robustbench_lite.families import FAMILIES

        _refuse_other_forms(text)
        name, _, rest = text.strip().partition(":")
        if (family := FAMILIES.get(name.strip().lower())) is not None:
            return family.read(rest)
        radius, _, options = rest.partition(",")
        if "=" in radius:
            radius, options = "", rest
        if ":" in radius:
            raise UserError(f"cannot read the threat {cut(text)!r}; options follow a comma: {name}:8/255,goal=targeted")
        spec = specs.parse(f"threat:{options}" if options else "threat")
        eps = None if radius in ("", "none") else specs.number(radius, f"{name}: eps")
        known = set(spec.options) - {"goal", "target"}
        if known:
            raise UserError(f"threat {name} has no option {sorted(known)[0]!r}; it has goal, target")
        goal = spec.options.get("goal", "untargeted")
        if goal not in ("untargeted", "targeted"):
            raise UserError(f"threat {name}: goal={goal}; accepted: untargeted, targeted")
        return cls(norm=name, eps=eps, goal=goal, target=spec.options.get("target"))  # type: ignore[arg-type]  # checked

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse a radius that covers more than all images of this shape.

        Raises:
            UserError: eps is larger than the diagonal of the box [0, 1]^d, in this norm.
        """
        if (
            self.rendered
            or self.eps is None
            or self.eps <= (most := self.geometry.covers(shape)) * (1 + RELATIVE_SLACK)
        ):
            return
        size = "x".join(map(str, shape))
        told = f"{self.norm}:{self.eps:g} is larger than {most:g}, the farthest that two images {size} can be apart"
        if self.norm != "L0" and self.eps / 255 <= most and not _in_levels(self.eps):
            told += f"; for {self.eps:g} in levels of 255 write {self.norm}:{self.eps:g}/255"
        raise UserError(f"{told}; accepted: up to {self.norm}:{most:g}")

    @property
    def settings(self) -> tuple[object, ...]:
        """What else decides where its points lie."""
        return ()

    def __str__(self) -> str:
        head = self.norm if self.eps is None else f"{self.norm}:{specs.fraction_text(self.eps)}"
        if self.goal == "untargeted":
            return head
        return f"{head}{':' if self.eps is None else ','}goal=targeted,target={self.target}"

    @property
    def aim(self) -> Literal["fixed-eps", "minimum-norm"]:
        """Whether a radius is given, or the smallest is sought."""
        return "minimum-norm" if self.eps is None else "fixed-eps"

    @property
    def geometry(self) -> Norm:
        """The norm itself, for what needs more than the ball: dual norms, hyperplanes, distances."""
        return find_norm(self.norm)

    @property
    def radius(self) -> float:
        """eps of a fixed-eps threat.

        Raises:
            UserError: the threat has none; the attack that asks is made for a fixed eps.
        """
        if self.eps is None:
            raise UserError(f"this attack needs a radius; write {self.norm}:EPS, such as {self.norm}:8/255")
        return self.eps

    def at(self, eps: float) -> "Threat":
        """The same threat at another radius."""
        return replace(self, eps=eps)

    def render(self, x: Tensor, witness: Tensor, draws: Draws, index: Tensor | int = 0) -> Tensor:
        """The points that the parameters witness (n, k) mean, in [0, 1]; of threats that are `rendered`."""
        raise NotImplementedError

    def tell(self, witness: Tensor) -> list[str]:
        """The parameters of every row as records tell them; of threats that are `rendered`."""
        raise NotImplementedError

    def distance(self, adv: Tensor, x: Tensor) -> Tensor:
        """The norm of the perturbation, (n,) float64."""
        return self.geometry.distance(adv.double() - x.double())

    def contains(self, adv: Tensor, x: Tensor, witness: Tensor | None = None) -> Tensor:
        """Which points lie in the ball, (n,) bool: norm <= eps (1 + 1e-6) + 1e-7, in float64. NaN lies nowhere.

        `witness` is for threats whose points are rendered from parameters; a ball has no use for it.
        """
        if self.eps is None:
            return torch.ones(len(adv), dtype=torch.bool, device=adv.device)
        bound = self.eps * (1 + RELATIVE_SLACK) + ABSOLUTE_SLACK
        return self.distance(adv, x) <= bound

    def project(self, adv: Tensor, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """The nearest point of ball and box; `eps` (n,) replaces the threat's radius, per sample."""
        if eps is None and self.eps is None:
            return adv.clamp(0, 1)
        return self.geometry.project(adv, x, self.radius if eps is None else eps)

    def steepest(self, grad: Tensor, at: Tensor | None = None) -> Tensor:
        """The unit step along which a linear function with this gradient grows fastest."""
        return self.geometry.steepest(grad, at)

    def ascent(self, grad: Tensor, at: Tensor | None = None) -> Tensor:
        """The direction of a step that `project` follows; the steepest one, but in L1."""
        return self.geometry.ascent(grad, at)

    def extreme(self, x: Tensor, grad: Tensor) -> Tensor:
        """The point of ball and box around x where a linear function with this gradient is largest."""
        return self.geometry.extreme(x, grad, self.radius)

    def random_point(self, x: Tensor, draws: Draws, index: int | Tensor = 0) -> Tensor:
        """A point drawn uniformly from the ball, then projected into the box as well."""
        return self.geometry.random_point(x, self.radius, draws, index)


#: a norm and a number with something else than a colon between them
_LOOSE = re.compile(r"(l?[ _-]?(?:inf|infinity|∞|max|[012]))[ =@_/-]+([\d.]+(?:e-?\d+)?(?:/[\d.]+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"[\d.]+(?:e-?\d+)?(?:/[\d.]+)?", re.IGNORECASE)


def _refuse_other_forms(text: str) -> None:
    """Refuse what is meant as a threat and is none, with the form that it has here.

    Raises:
        UserError: a radius without a norm, or another sign than a colon between them.
    """
    word = text.strip()
    if word not in ("0", "1", "2") and _NUMBER.fullmatch(word):
        raise UserError(f"threat {cut(word)!r} has no norm; write Linf:{cut(word)}, or L2:{cut(word)}")
    loose = _LOOSE.fullmatch(word)
    if loose and (norm := specs.norm_name(loose[1])):
        raise UserError(f"cannot read the threat {cut(word)!r}; write {norm}:{cut(loose[2])}")


def _in_levels(eps: float) -> bool:
    """Whether a budget seems to have been given in levels of 255 already, such as 300/255."""
    return eps != int(eps) and abs(eps * 255 - round(eps * 255)) < 1e-6


def _check_eps(norm: str, eps: float | None) -> None:
    if eps is None:
        return
    if not 0 <= eps < float("inf"):
        raise UserError(f"threat {norm}: eps={eps} is out of range; accepted: 0 and more")
    if norm == "Linf" and eps > 1:
        hint = "" if _in_levels(eps) else f"; for {eps:g} of 255 levels write Linf:{eps:g}/255"
        raise UserError(f"Linf:{eps:g} is larger than 1, the range of an image{hint}")
    if norm == "L0" and eps != int(eps):
        raise UserError(f"L0:{eps:g} is not a whole number of changed values")
