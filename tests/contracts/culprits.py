"""An attack and a defense that obey every law, and ones that break one each."""

import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import margin
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat


@dataclass(frozen=True, kw_only=True)
class Honest(Attack):
    """Three steps of PGD from a random point."""

    name: ClassVar[str] = "honest"
    needs: ClassVar[Needs] = Needs.GRADIENTS
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    steps: int = 5
    restarts: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise UserError("steps and restarts are 1 or more")

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, threat.random_point(x, draws))

    def step(self, state: State, oracle: Oracle) -> State:
        return self.moved(state, self.gradient(state, oracle))

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        (grad,) = oracle.query(state.adv, margin).grads
        return grad

    def moved(self, state: State, grad: Tensor) -> State:
        adv = state.adv + 0.3 * state.threat.radius * state.threat.steepest(grad)
        return replace(state, adv=state.threat.project(adv, state.x))

    def length(self) -> int:
        return self.steps

    def lanes(self, num_classes: int) -> int:
        return self.restarts

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.steps, self.steps) * self.restarts


class GlobalNoise(Honest):
    """Draws from torch's global generator."""

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, threat.project(x + 0.01 * torch.rand_like(x), x))


class NumpyNoise(Honest):
    """Draws from numpy's global generator, and throws it away."""

    def step(self, state: State, oracle: Oracle) -> State:
        np.random.rand()  # the crime
        return super().step(state, oracle)


class PythonNoise(Honest):
    """Draws from Python's global generator, and throws it away."""

    def step(self, state: State, oracle: Oracle) -> State:
        random.random()
        return super().step(state, oracle)


class OneLane(Honest):
    """Starts every restart at the same point."""

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, threat.random_point(x, draws.in_lane(0)))


class FixedSeed(Honest):
    """Draws, but not from the seed that it is given."""

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        draws.uniform((), "ignored")
        own = Draws.for_images(0, x, goal.y)
        return State.begin(x, goal, threat, draws, threat.random_point(x, own.in_lane(draws.lane)))


class Escapes(Honest):
    """Leaves the ball by a hundredth."""

    def moved(self, state: State, grad: Tensor) -> State:
        there = state.x + 1.01 * state.threat.radius * state.threat.steepest(grad)
        return replace(state, adv=there.clamp(0, 1))


class Unboxed(Honest):
    """Leaves the box."""

    def moved(self, state: State, grad: Tensor) -> State:
        return replace(state, adv=state.x + 0.99 * state.threat.radius * state.threat.steepest(grad))


class Fixed(Honest):
    """Moves by a length of its own, whatever eps is."""

    def moved(self, state: State, grad: Tensor) -> State:
        return replace(state, adv=(state.x + 0.001 * grad.sign()).clamp(0, 1))


class MixesRows(Honest):
    """Subtracts the batch's mean gradient."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        grad = super().gradient(state, oracle)
        return grad - grad.mean(0, keepdim=True)


class NeighboursStep(Honest):
    """Adds a little of the next row's gradient."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        grad = super().gradient(state, oracle)
        return grad + 0.5 * grad.roll(1, 0)


class SharedClock(Honest):
    """Shrinks its step by the age of the oldest row."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        return super().gradient(state, oracle)

    def moved(self, state: State, grad: Tensor) -> State:
        size = 0.3 * state.threat.radius / float(state.k.max() + 1)
        adv = state.adv + size * state.threat.steepest(grad)
        return replace(state, adv=state.threat.project(adv, state.x))


@dataclass(frozen=True, kw_only=True)
class Counted(State):
    steps_taken: int = 0


class IntInState(Honest):
    """Keeps its age as a Python number in the state."""

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return Counted.begin(x, goal, threat, draws, threat.random_point(x, draws))

    def moved(self, state: Any, grad: Tensor) -> State:
        size = 0.3 * state.threat.radius / (state.steps_taken + 1)
        adv = state.threat.project(state.adv + size * state.threat.steepest(grad), state.x)
        return replace(state, adv=adv, steps_taken=state.steps_taken + 1)


@dataclass(frozen=True, kw_only=True)
class CountsCalls(Honest):
    """Keeps a count in the attack, across batches."""

    calls: ClassVar[list[int]] = []

    def moved(self, state: State, grad: Tensor) -> State:
        self.calls.append(1)
        size = 0.3 * state.threat.radius / len(self.calls)
        adv = state.adv + size * state.threat.steepest(grad)
        return replace(state, adv=state.threat.project(adv, state.x))


class Overspends(Honest):
    """Asks once more than it declares."""

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        oracle.query(x, grads=False)
        return super().start(x, goal, threat, draws, oracle)


class Smuggles(Honest):
    """Asks the system behind the oracle's back."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        oracle._system(state.adv)
        return super().gradient(state, oracle)


class Meddles(Honest):
    """Changes the weights, a little."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        next(oracle._system.model.parameters()).mul_(1.0000001)
        return super().gradient(state, oracle)


class Trains(Honest):
    """Puts the model into train mode."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        oracle._system.model.train()
        return super().gradient(state, oracle)


class Greedy(Honest):
    """Declares that labels are enough."""

    needs: ClassVar[Needs] = Needs.LABELS


class Divides(Honest):
    """Divides by the gradient's norm."""

    def gradient(self, state: State, oracle: Oracle) -> Tensor:
        grad = super().gradient(state, oracle)
        return grad

    def moved(self, state: State, grad: Tensor) -> State:
        unit = grad / along(grad.flatten(1).abs().amax(1), grad)
        return replace(state, adv=state.threat.project(state.adv + 0.01 * unit, state.x))


@dataclass(frozen=True, kw_only=True)
class TakesAnything(Honest):
    """Checks no option."""

    momentum: float = 0.5

    def __post_init__(self) -> None:
        pass


class AnyNorm(Honest):
    """Accepts threats that it does not declare."""

    def check(self, threat: Threat, num_classes: int) -> None:
        pass


class CountsItself(Honest):
    """Counts k, as the caller does."""

    def step(self, state: State, oracle: Oracle) -> State:
        return replace(super().step(state, oracle), k=state.k + 1)


class Graphs(Honest):
    """Keeps the graph."""

    def moved(self, state: State, grad: Tensor) -> State:
        state = super().moved(state, grad)
        return replace(state, adv=state.adv.requires_grad_(True))


class Undocumented(Honest):
    name: ClassVar[str] = "Un documented"


#: the culprit, and the laws that must name it
ATTACKS: list[tuple[type[Attack], set[str]]] = [
    (GlobalNoise, {"same seed same bytes", "leaves global generators alone"}),
    (NumpyNoise, {"leaves global generators alone"}),
    (PythonNoise, {"leaves global generators alone"}),
    (OneLane, {"another seed or lane draws otherwise"}),
    (FixedSeed, {"another seed or lane draws otherwise"}),
    (Escapes, {"ends inside threat and box"}),
    (Unboxed, {"ends inside threat and box"}),
    (Fixed, {"eps zero changes nothing"}),
    (MixesRows, {"alone is as in any batch", "slicing the state is slicing the samples"}),
    (NeighboursStep, {"alone is as in any batch", "slicing the state is slicing the samples"}),
    (SharedClock, {"rows of different ages share a batch"}),
    (IntInState, {"rows of different ages share a batch"}),
    (CountsCalls, {"same seed same bytes", "alone is as in any batch"}),
    (Overspends, {"costs no more than it declares"}),
    (Smuggles, {"asks through the oracle alone"}),
    (Meddles, {"leaves the system alone"}),
    (Trains, {"leaves the system alone"}),
    (Greedy, {"runs on what it needs"}),
    (Divides, {"survives a gradient of zero"}),
    (TakesAnything, {"refuses bad options"}),
    (AnyNorm, {"refuses threats it is not made for"}),
    (CountsItself, {"keeps the state in order"}),
    (Graphs, {"keeps the state in order"}),
    (Undocumented, {"says what it is"}),
]


@dataclass(frozen=True, kw_only=True)
class HonestDefense(Defense):
    """Round pixels to `bits` bits; the adaptive adversary sees the identity."""

    name: ClassVar[str] = "honest-defense"
    adaptivity: ClassVar[Any] = "adaptive"
    bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UserError("bits is 1 to 8")

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(self.rounded, surrogate=lambda x: x, name=str(self))

    def rounded(self, x: Tensor) -> Tensor:
        levels = 2**self.bits - 1
        return (x * levels).round() / levels


class Masks(HonestDefense):
    """Names no surrogate."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(self.rounded, name=str(self))


class Unaudited(HonestDefense):
    """A built-in that nobody has looked at."""

    adaptivity: ClassVar[Any] = "unaudited"
    __module__ = "robustbench_lite.defenses.unaudited"


class Unreasoned(HonestDefense):
    """Plain is adaptive, it says, and not why."""

    adaptivity: ClassVar[Any] = "plain-is-adaptive"


class TunesWhatItWraps(HonestDefense):
    """Changes the weights that it is given."""

    def defend(self, system: System, workshop: Workshop) -> System:
        next(system.model.parameters()).mul_(0.9)
        return super().defend(system, workshop)


class LeavesTrainMode(HonestDefense):
    """Returns a network in train mode."""

    def defend(self, system: System, workshop: Workshop) -> System:
        defended = super().defend(system, workshop)
        defended.model.train()
        return defended


class RandomWeights(HonestDefense):
    """Trains from the global generator."""

    trains: ClassVar[bool] = True

    def defend(self, system: System, workshop: Workshop) -> System:
        for parameter in system.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        return super().defend(system, workshop)


class GlobalDraws(HonestDefense):
    """Answers by the global generator."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_random_purifier(
            lambda x, draws, index: (x + 0.1 * torch.rand_like(x)).clamp(0, 1), name="global"
        )


class NotRandom(HonestDefense):
    """Calls itself random, and is not."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_random_purifier(lambda x, draws, index: x * 0.9, name="still")


class LeavesTheBox(HonestDefense):
    """Purifies out of [0, 1]."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(lambda x: x * 2, name="bright")


class MixesImages(HonestDefense):
    """Purifies by the batch's mean."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_purifier(lambda x: (x + x.mean(0, keepdim=True)) / 2, name="mean")


class NoThreshold(HonestDefense):
    """A detector that was never calibrated."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_detector(Detector(score=lambda x: x.flatten(1).sum(1), threshold=float("nan")))


class DeafDetector(HonestDefense):
    """A detector whose score cannot be differentiated."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_detector(Detector(score=lambda x: (x > 0.5).float().flatten(1).sum(1), threshold=30.0))


class OtherClasses(HonestDefense):
    """Answers with one class more."""

    def defend(self, system: System, workshop: Workshop) -> System:
        return system.with_model(nn.Sequential(system.model, nn.ConstantPad1d((0, 1), 0.0)))


DEFENSES: list[tuple[type[Defense], set[str]]] = [
    (Masks, {"a gradient of zero has a surrogate", "the adaptive adversary sees the same system"}),
    (Unaudited, {"says what it is"}),
    (Unreasoned, {"says what it is"}),
    (TunesWhatItWraps, {"leaves what it wraps alone"}),
    (LeavesTrainMode, {"returns a frozen system in eval mode"}),
    (RandomWeights, {"same seed same system", "leaves global generators alone"}),
    (GlobalDraws, {"random parts draw from the sample", "leaves global generators alone"}),
    (NotRandom, {"random parts draw from the sample"}),
    (LeavesTheBox, {"purifiers return images"}),
    (MixesImages, {"rows do not mix"}),
    (NoThreshold, {"answers have the right shape"}),
    (DeafDetector, {"a gradient of zero has a surrogate"}),
    (OtherClasses, {"answers have the right shape"}),
]
