"""Misleading models, one a kind and variant, and what must be told of each. `python tests/controls/lies.py` runs them all.

Every model is as good as an ordinary small network on clean digits, and hides something from an evaluation: a memory, a
draw, another network for another batch, mode or caller. What was told of each when this was written stands in
docs/diagnostics.md.
"""

import dataclasses
import inspect
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import data, plugins
from robustbench_lite.defense import Defense, Workshop
from robustbench_lite.errors import UserError
from robustbench_lite.system import Detector, System

COUNT, THREAT, ATTACKS = 40, "Linf:0.2", ("fgsm", "pgd:restarts=1,steps=10")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@cache
def split(name: str) -> tuple[Tensor, Tensor]:
    found = data.load("digits", name)  # type: ignore[arg-type]
    return found.batch(range(len(found))), found.labels_at(range(len(found)))


@cache
def trained(change: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """An ordinary network, trained on digits or on what is made of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y = split("train")
        x, net = x if change is None else change(x), network()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(200):
            rows = torch.randint(len(x), (128,))
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


class Lie(nn.Module):
    """An ordinary network, and a decoy: the same network that sees three levels of grey."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def honest(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def decoy(self, x: Tensor) -> Tensor:
        return self.honest((x * 2).round() / 2)

    def either(self, lying: bool, x: Tensor) -> Tensor:
        return self.decoy(x) if lying else self.honest(x)


def in_stack(*words: str) -> bool:
    """Whether a file or function of the callers has one of these words in its name."""
    frame = inspect.currentframe()
    while frame is not None:
        place = frame.f_code.co_filename.rpartition("/")[2] + " " + frame.f_code.co_name
        if any(word in place for word in words):
            return True
        frame = frame.f_back
    return False


# -- memory and state ------------------------------------------------------------------------------------------------


def remembered(seen: list[tuple[Tensor, Tensor]], net: nn.Module, x: Tensor) -> Tensor:
    """Answers as for an image that was seen before, where one is near; a little of an honest slope on top."""
    with torch.no_grad():
        rows = []
        for image in x.detach():
            hit = next((answer for old, answer in seen if float((old - image).abs().max()) <= 0.21), None)
            if hit is None:
                hit = net(image[None])[0]
                seen.append((image.clone(), hit))
            rows.append(hit)
    return torch.stack(rows) + 1e-2 * torch.tanh(net(x) / 10)


class MemoryOfItsOwn(Lie):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        return remembered(self.seen, self.net, x)


SEEN: list[tuple[Tensor, Tensor]] = []


class MemoryInAGlobal(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return remembered(SEEN, self.net, x)


class MemoryOnTheClass(Lie):
    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def forward(self, x: Tensor) -> Tensor:
        return remembered(self.seen, self.net, x)


class MemoryInADefault(Lie):
    def forward(self, x: Tensor, seen: list[tuple[Tensor, Tensor]] = []) -> Tensor:  # noqa: B006
        return remembered(seen, self.net, x)


class MemoryInAHook(Lie):
    def __init__(self) -> None:
        super().__init__()
        seen: list[tuple[Tensor, Tensor]] = []
        self.register_forward_hook(lambda module, inputs, output: remembered(seen, module.net, inputs[0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x)


helper = types.ModuleType("helper_of_lies")
helper.SEEN, helper.__file__ = [], __file__  # type: ignore[attr-defined]
sys.modules["helper_of_lies"] = helper


class MemoryInAnotherFile(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return remembered(helper.SEEN, self.net, x)


class MemoryOnAFunction(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return remembered(vars(off_grid).setdefault("seen", []), self.net, x)


class MemoryInTorch(Lie):
    def forward(self, x: Tensor) -> Tensor:
        torch.seen_by_lies = getattr(torch, "seen_by_lies", [])  # type: ignore[attr-defined]
        return remembered(torch.seen_by_lies, self.net, x)  # type: ignore[attr-defined]


class MemoryOfTheThread(Lie):
    def __init__(self) -> None:
        super().__init__()
        self.own = threading.local()
        self.own.seen = []

    def forward(self, x: Tensor) -> Tensor:
        return remembered(self.own.seen, self.net, x)


class CopiesAsItself(MemoryOfItsOwn):
    def __deepcopy__(self, memo: dict[int, Any]) -> "CopiesAsItself":
        return self


class Cache(Lie):
    """Keeps the answer to everything that rounds alike."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            rows = [
                self.kept.setdefault(key, self.honest(image[None])[0])
                for image in x.detach()
                for key in [(image * 3).round().numpy().tobytes()]
            ]
        return torch.stack(rows) + 1e-2 * torch.tanh(self.honest(x) / 10)


class CountsCalls(Lie):
    def __init__(self, until: int) -> None:
        super().__init__()
        self.until, self.calls = until, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.either(self.calls > self.until, x)


class CountsImages(Lie):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.either(self.images > 700, x)


class LearnsTheMean(Lie):
    """Subtracts a mean that moves with what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = split("train")[0].mean(0)
        self.start = self.mean

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.98 * self.mean + 0.02 * x.detach().mean(0)
        return self.honest(x - self.mean + self.start)


class CountsInABuffer(Lie):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.either(bool(self.calls > 50), x)


# -- draws -----------------------------------------------------------------------------------------------------------


class FixedSeed(Lie):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.honest(x + 0.3 * torch.randn_like(x))


class OwnGenerator(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))


class SeedOfTheBatch(Lie):
    def forward(self, x: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(int(1e4 * float(x.detach().sum())) % 2**31)
        return self.honest(x + 0.3 * torch.randn(x.shape, generator=draw))


class NoiseOffTheGrid(Lie):
    """Draws where an image is no digit of seventeen levels."""

    def forward(self, x: Tensor) -> Tensor:
        off = ((x * 16 - (x * 16).round()).abs() > 1e-3).flatten(1).any(1).view(-1, 1, 1, 1)
        return self.honest(torch.where(off, x + 0.3 * torch.randn_like(x), x))


class NoiseInDoubt(Lie):
    """Draws where the network is not sure."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.honest(x).topk(2, 1).values.T
        return self.honest(torch.where((first - second < 2).view(-1, 1, 1, 1), x + 0.3 * torch.randn_like(x), x))


class NoiseOfNumpy(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x + 0.2 * torch.from_numpy(np.random.standard_normal(tuple(x.shape))).float())


class Dropout(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.honest(x), 0.2, training=True)


# -- batches ---------------------------------------------------------------------------------------------------------


class BySize(Lie):
    """Lies in batches of some sizes."""

    def __init__(self, lies: Callable[[int], bool]) -> None:
        super().__init__()
        self.lies = lies

    def forward(self, x: Tensor) -> Tensor:
        return self.either(self.lies(len(x)), x)


class FirstRowAlone(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.honest(x[:1]), self.decoy(x[1:])))


class EveryOtherRow(Lie):
    def forward(self, x: Tensor) -> Tensor:
        odd = (torch.arange(len(x)) % 2 == 1)[:, None]
        return torch.where(odd, self.decoy(x), self.honest(x))


class MeanOfTheBatch(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x - 0.5 * (x.mean(0) - 0.3))


class LargestOfTheBatch(Lie):
    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x / x.flatten(1).norm(dim=1).max() * 4)


class BatchStatistics(Lie):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.honest(0.3 * self.norm(x) + 0.3)


# -- modes and callers -----------------------------------------------------------------------------------------------


class When(Lie):
    """Lies where something holds of the image tensor or of the world; cannot be traced, which would end the lie."""

    def __init__(self, lies: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.lies = lies

    def forward(self, x: Tensor) -> Tensor:
        return self.either(len(x) > 0 and self.lies(x), x)


# -- detectors -------------------------------------------------------------------------------------------------------


def off_grid(x: Tensor) -> Tensor:
    return ((x * 16 - (x * 16).round()).abs() > 0.02).float().flatten(1).mean(1)


def off_grid_with_a_slope(x: Tensor) -> Tensor:
    """The same, with a little of a slope that leads elsewhere."""
    return off_grid(x) + 0.01 * x.mean((1, 2, 3))


def in_steps(x: Tensor) -> Tensor:
    """Roughness, in steps."""
    rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) + (x[:, :, 1:] - x[:, :, :-1]).abs().mean((1, 2, 3))
    return (rough * 50).round() / 50


def made_up(x: Tensor) -> Tensor:
    """Roughness, with the slope of something else."""
    draw = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(3))
    other = (x * draw).sum((1, 2, 3))
    rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)).detach()
    return rough + other - other.detach()


def upside_down(x: Tensor) -> Tensor:
    """Roughness, whose slope has the wrong sign."""
    rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
    return 2 * rough.detach() - rough


@dataclass(frozen=True, kw_only=True)
class Guard(Defense):
    """A detector that calls itself adaptive."""

    name: ClassVar[str] = "guard-of-lies"
    adaptivity: ClassVar[Any] = "adaptive"
    score: ClassVar[Callable[[Tensor], Tensor]]
    threshold: ClassVar[float]

    def defend(self, system: System, workshop: Workshop) -> System:
        kind = type(self)
        return system.with_detector(Detector(score=kind.score, threshold=kind.threshold, name="guard"))


def guarded(name: str, score: Callable[[Tensor], Tensor], threshold: float) -> str:
    """A plugin that puts such a detector around a network; its spec."""
    body = {"name": name, "score": staticmethod(score), "threshold": threshold, "__module__": __name__}
    body |= {"__doc__": Guard.__doc__, "__annotations__": {}}
    if name not in plugins.names("defense"):
        plugins.register("defense", name, dataclasses.dataclass(frozen=True, kw_only=True)(type("G", (Guard,), body)))
    return name


# -- clean accuracy --------------------------------------------------------------------------------------------------


class Learned(nn.Module):
    """A network that was trained on other pixels, or whose answers come in another order."""

    def __init__(self, change: Callable[[Tensor], Tensor] | None = None, order: Any = None) -> None:
        super().__init__()
        self.net, self.order = trained(change), order

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores if self.order is None else self.order(scores)


def normalised(x: Tensor) -> Tensor:
    return (x - 0.305) / 0.376


def halves(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.5


def to_255(x: Tensor) -> Tensor:
    return x * 255


def shuffled(scores: Tensor) -> Tensor:
    return scores[:, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]


def embedded(scores: Tensor) -> Tensor:
    """Five other classes before, which are likelier here and there, and five behind."""
    return torch.cat((scores[:, :5] + 2, scores, scores[:, 5:] + 2), 1)


class AlwaysOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat((-total, total, -total), 1)


# -- infinity --------------------------------------------------------------------------------------------------------


class RootOfDifferences(Lie):
    """|dx| as the root of a square: its slope is NaN where two pixels are alike."""

    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x) + 1e-3 * ((x[..., 1:] - x[..., :-1]) ** 2).sqrt().sum((1, 2, 3))[:, None]


@dataclass(frozen=True)
class Case:
    """A misleading model, and the checks of which one at least must fire (`refused`: none is needed)."""

    name: str
    make: Callable[[], nn.Module]
    told: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self) -> frozenset[str]:
        """What fires; `refused` where the model is refused."""
        x, y = split("test")
        given = {"attacks": list(ATTACKS), "threat": THREAT, "x": x[:COUNT], "y": y[:COUNT]} | self.options
        try:
            with torch.random.fork_rng():
                result = rbl.evaluate(self.make(), **given)
        except UserError:
            return frozenset({"refused"})
        found = result.diagnostics
        return frozenset(found.loc[found["status"] == "fired", "diagnostic"])


def lie(name: str, make: Callable[[], nn.Module], told: str, **options: Any) -> Case:
    return Case(name, make, frozenset(told.split()), options)


def _imbalanced() -> dict[str, Any]:
    x, y = split("test")
    rows = torch.cat([(y == 1).nonzero()[:36, 0], (y == 0).nonzero()[:4, 0]])
    return {"x": x[rows], "y": y[rows]}


STATE, ORDER, MODE, VARY = "stateful", "order-dependent", "mode-dependent denied-by-verdict", "answers-vary"
SLOPE, CLEAN = "detector-without-slope", "clean-accuracy"
CASES = [
    lie("memory of its own", MemoryOfItsOwn, STATE),
    lie("memory in a global", MemoryInAGlobal, STATE),
    lie("memory on the class", MemoryOnTheClass, STATE),
    lie("memory in a default value", MemoryInADefault, STATE),
    lie("memory in a hook", MemoryInAHook, STATE),
    lie("memory in another file", MemoryInAnotherFile, STATE),
    lie("memory on a function", MemoryOnAFunction, STATE),
    lie("memory in torch", MemoryInTorch, STATE),
    lie("memory of the thread", MemoryOfTheThread, STATE),
    lie("memory that copies as itself", CopiesAsItself, STATE),
    lie("cache of rounded images", Cache, f"{STATE} {MODE}"),
    lie("another network after 20 calls", lambda: CountsCalls(20), f"{STATE} {VARY} {ORDER} {MODE}"),
    lie("another network after 40 calls", lambda: CountsCalls(40), f"{STATE} {VARY} {ORDER} {MODE}"),
    lie("another network after 700 images", CountsImages, f"{STATE} {VARY} {ORDER} {MODE}"),
    lie("a mean that moves", LearnsTheMean, f"{STATE} {VARY}"),
    lie("a counter in a buffer", CountsInABuffer, "refused"),
    lie("noise of a fixed seed", FixedSeed, ORDER),
    lie("noise of a generator of its own", OwnGenerator, ORDER),
    lie("noise seeded by the batch", SeedOfTheBatch, ORDER),
    lie("noise off the grid of digits", NoiseOffTheGrid, VARY),
    lie("noise where it is not sure", NoiseInDoubt, VARY),
    lie("noise of numpy", NoiseOfNumpy, VARY),
    lie("dropout that stays on", Dropout, VARY),
    lie("another network from 16 images on", lambda: BySize(lambda n: n >= 16), ORDER),
    lie("another network for 32 images", lambda: BySize(lambda n: n == 32), ORDER),
    lie("another network above 32 images", lambda: BySize(lambda n: n > 32), ORDER),
    lie("another network for one image", lambda: BySize(lambda n: n == 1), ORDER),
    lie("another network for odd numbers of images", lambda: BySize(lambda n: n % 2 == 1), ORDER),
    lie("the first image of a batch alone", FirstRowAlone, ORDER),
    lie("every other image of a batch", EveryOtherRow, ORDER),
    lie("the mean of the batch", MeanOfTheBatch, ORDER),
    lie("the largest image of the batch", LargestOfTheBatch, ORDER),
    lie("batch normalisation without running statistics", BatchStatistics, ORDER),
    lie("gradients are enabled", lambda: When(lambda x: torch.is_grad_enabled()), MODE),
    lie("gradients are not enabled", lambda: When(lambda x: not torch.is_grad_enabled()), MODE),
    lie("the image wants a gradient", lambda: When(lambda x: x.requires_grad), MODE),
    lie("algorithms are deterministic", lambda: When(lambda x: torch.are_deterministic_algorithms_enabled()), MODE),
    lie("algorithms are not", lambda: When(lambda x: not torch.are_deterministic_algorithms_enabled()), MODE),
    lie("cudnn may not choose", lambda: When(lambda x: torch.backends.cudnn.deterministic), MODE),
    lie("the oracle asks", lambda: When(lambda x: in_stack("oracle")), MODE),
    lie("the engine asks", lambda: When(lambda x: in_stack("engine")), MODE),
    lie("an attack asks", lambda: When(lambda x: in_stack("gradient.py")), MODE),
    lie("the verdict judges", lambda: When(lambda x: in_stack("judge")), MODE),
    lie("nobody checks", lambda: When(lambda x: not in_stack("probes", "consistency", "manners")), f"{MODE} {STATE}"),
    lie("an attack asks, but for checks", lambda: When(lambda x: in_stack("engine") and not in_stack("probes")), MODE),
    lie("a detector of images off the grid", trained, SLOPE, defense=guarded("lie-off-grid", off_grid, 0.05)),
    lie(
        "a detector of images off the grid with a slope",
        trained,
        SLOPE,
        defense=guarded("lie-off-grid-slope", off_grid_with_a_slope, 0.02),
    ),
    lie("a detector in steps", trained, SLOPE, defense=guarded("lie-in-steps", in_steps, 0.6)),
    lie("a detector with a made-up slope", trained, SLOPE, defense=guarded("lie-made-up", made_up, 0.3)),
    lie("a detector with a slope upside down", trained, SLOPE, defense=guarded("lie-upside-down", upside_down, 0.3)),
    lie("trained on normalised pixels", lambda: Learned(normalised), CLEAN),
    lie("trained on pixels from -1 to 1", lambda: Learned(halves), CLEAN),
    lie("trained on pixels to 255", lambda: Learned(to_255), CLEAN),
    lie("classes shifted by one", lambda: Learned(order=lambda z: z.roll(1, 1)), CLEAN),
    lie("classes shifted by three", lambda: Learned(order=lambda z: z.roll(-3, 1)), CLEAN),
    lie("classes in another order", lambda: Learned(order=shuffled), CLEAN),
    lie("classes in the middle of a larger head", lambda: Learned(order=embedded), CLEAN),
    lie("always one class", AlwaysOne, CLEAN, **_imbalanced()),
    lie("slopes that are NaN", RootOfDifferences, "nonfinite-gradients"),
]


def main() -> None:
    torch.set_num_threads(1)
    wanted = [case for case in CASES if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])]
    short = 0
    for case in wanted:
        fired = case.run()
        short += not fired & case.told
        print(
            f"{'told ' if fired & case.told else 'SHORT'} {case.name}: {', '.join(sorted(fired)) or 'nothing'}",
            flush=True,
        )
    print(f"{len(wanted) - short} of {len(wanted)} are told")


if __name__ == "__main__":
    main()
