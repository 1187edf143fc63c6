"""One picture that is pasted into every image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_lite.attack import Attack, Cost, Goal, Learned, Needs, Setup, State
from robustbench_lite.attacks.options import at_least, one_of, positive
from robustbench_lite.errors import UserError
from robustbench_lite.families import PatchThreat
from robustbench_lite.objectives import OBJECTIVES, Objective, named, towards
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class _Fixed(Attack):
    """What learned and random patches share: a witness, handed in, and nothing asked."""

    name: ClassVar[str] = "patch"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("patch",)
    submits_last: ClassVar[bool] = True

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """The patch at its first place."""
        witness = self.witness(x, threat, draws).contiguous()
        state: State = State.begin(x, goal, threat, draws, threat.render(x, witness, draws), witness=witness)
        return state

    def witness(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """The patch for every row, (n, c * s * s)."""
        raise NotImplementedError

    def step(self, state: State, oracle: Oracle) -> State:
        """Nothing is left to do."""
        return state

    def length(self) -> int:
        """One step."""
        return 1

    def cost(self, num_classes: int) -> Cost:
        """Nothing but what `prepare` spends."""
        return Cost(0)


@dataclass(frozen=True, kw_only=True)
class Patch(_Fixed):
    """Learn one patch that breaks whatever image it is pasted into, wherever it lies.

    It is learned on images that are not evaluated, by the mean gradient over many of them with the patch at another place,
    angle and size in every one, and is the same for all. The verdict places it anew: an image is broken when most places
    break it, and `break_rate` tells how many. A targeted patch has one class for all images: target=CLASS.

    A large patch covers what is to be seen. Compare it with learn=false, a random patch of the same area, which no adversary
    has made: what that breaks too is no finding.

    Args:
        learn: false: a random patch for every image, the control.
        steps: of Adam.
        samples: images in a step.
        learning_rate: of Adam, in units of [0, 1].
        objective: what is climbed: ce (ln p of the target, or -ln p of the label), margin, dlr, log-odds or squared.
        resolution: the patch's side in pixels of its own; none: about one to a pixel of the image.
    """

    source: ClassVar[str] = (
        "Brown et al. 2017, Adversarial patch, arXiv 1712.09665; Athalye et al. 2018, arXiv 1707.07397 (EOT)"
    )
    learn: bool = True
    steps: int = 500
    samples: int = 32
    learning_rate: float = 0.05
    objective: str = "ce"
    resolution: int | None = None

    def __post_init__(self) -> None:
        one_of(self, "objective", tuple(OBJECTIVES))
        at_least(self, "steps", 1)
        at_least(self, "samples", 1)
        positive(self, "learning_rate")
        if self.resolution is not None:
            at_least(self, "resolution", 1)

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse what `Attack.check` does, and a target of every image's own."""
        super().check(threat, num_classes)
        target = threat.target if threat.goal == "targeted" else None
        if target is not None and not (target.isdecimal() and int(target) < num_classes):
            raise UserError(
                f"patch: target={target}; one patch serves all images: write target=CLASS, from 0 to {num_classes - 1}"
            )

    def learns(self, threat: Threat) -> bool:
        """A random patch has nothing to learn."""
        return self.learn

    def witness(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """A random patch, if that is what is wanted.

        Raises:
            UserError: it should have learned before.
        """
        if self.learn:
            raise UserError("patch has nothing to learn from here; write patch:learn=false for random ones")
        return draws.uniform((x.shape[1] * self._side(x, threat) ** 2,), "random-patch")

    def prepare(self, setup: Setup) -> "Learnt":
        """Climb the mean objective over the images of `setup` and fresh places of the patch.

        Raises:
            UserError: every image there is already of the target's class.
        """
        lessons = _Lessons(x=setup.x, y=setup.y, draws=setup.draws)
        climbed = named(self.objective)
        target = None
        if setup.threat.goal == "targeted":
            assert setup.threat.target is not None
            target = int(setup.threat.target)
            lessons = lessons[(setup.y != target).nonzero().squeeze(1)]
        if not len(lessons):
            raise UserError(f"patch: all images that it could learn from are of class {target}")
        lessons = lessons[lessons.draws.uniform((), "lessons").view(-1).argsort(stable=True)]
        side, channels = self._side(setup.x, setup.threat), setup.x.shape[1]
        patch = nn.Parameter(torch.full((channels * side**2,), 0.5, dtype=setup.x.dtype, device=setup.x.device))
        climb, values = torch.optim.Adam([patch], lr=self.learning_rate, maximize=True), list[float]()
        for step in range(self.steps):
            at = (step * self.samples + torch.arange(self.samples, device=setup.x.device)) % len(lessons)
            objective = climbed if target is None else towards(climbed, torch.full_like(at, target))
            value, patch.grad = _slope(setup, lessons[at], patch.detach(), objective, step)
            values.append(value)
            climb.step()
            with torch.no_grad():
                patch.clamp_(0, 1)
        tail = values[-max(1, len(values) // 10) :]
        told = {"objective of the grey patch": values[0], "objective of the last tenth": sum(tail) / len(tail)}
        return Learnt(recipe=self, patch=patch.detach(), told=told)

    def recall(self, learned: Learned, setup: Setup) -> "Learnt":
        """The patch that was kept."""
        return Learnt(recipe=self, patch=learned.tensors["patch"].to(setup.x.device), told=learned.figures)

    def _side(self, x: Tensor, threat: Threat) -> int:
        assert isinstance(threat, PatchThreat)
        return self.resolution or max(2, math.ceil(threat.diameter(x)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Learnt(_Fixed):
    """The attack that has its patch.

    Args:
        recipe: how it was learned. patch: (c * s * s,). told: what is worth telling of it.
    """

    recipe: Patch
    patch: Tensor
    told: Mapping[str, float]

    @property
    def learned(self) -> Learned:
        """The patch."""
        return Learned(tensors={"patch": self.patch}, figures=self.told)

    def check(self, threat: Threat, num_classes: int) -> None:
        """As of the recipe."""
        self.recipe.check(threat, num_classes)

    def witness(self, x: Tensor, threat: Threat, draws: Draws) -> Tensor:
        """The patch, for all the same."""
        return self.patch.expand(len(x), -1)

    def __str__(self) -> str:
        return str(self.recipe)


@dataclass(frozen=True, kw_only=True)
class _Lessons(Rows):
    """What is learned from: images (n, c, h, w), labels (n,), streams."""

    x: Tensor
    y: Tensor
    draws: Draws


def _slope(setup: Setup, some: _Lessons, patch: Tensor, objective: Objective, step: int) -> tuple[float, Tensor]:
    """The mean objective over these images with the patch somewhere in each, and its gradient by the patch (k,)."""
    with torch.enable_grad():
        leaf = patch.expand(len(some), -1).clone().requires_grad_(True)
        shown = setup.threat.render(some.x, leaf, some.draws, step)
        answer = setup.ask(shown.detach(), objective, y=some.y)
        assert answer.grads is not None
        (slope,) = torch.autograd.grad(shown, leaf, answer.grads[0])
    return float(answer.values[0].mean()), slope.mean(0)
