"""What the tests of detectors share: a network that has learned a few digits, and a system with a detector known by hand."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from toys import Affine

from robustbench_lite import data as datasets
from robustbench_lite import training
from robustbench_lite.attack import Goal, craft, resolve_attack
from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.15)
COUNT, TESTED = 480, 150


@cache
def digits() -> tuple[Dataset, Tensor, Tensor]:
    """A few training digits, and test images with their labels."""
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    few = np.arange(COUNT)
    some = Dataset(
        name="few-digits",
        images=ArrayImages(train.batch(few).numpy()),
        labels=train.labels[:COUNT],
        num_classes=10,
        shape=train.shape,
        split="train",
    )
    return some, test.batch(range(TESTED)), test.labels_at(range(TESTED))


@cache
def learned() -> System:
    """A network with one hidden layer after 150 steps on all of them."""
    train, _, _ = digits()
    with training.seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        x, y = train.batch(range(COUNT)), train.labels_at(range(COUNT))
        steps = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(150):
            steps.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            steps.step()
    return System(model=net, num_classes=10, input_shape=(1, 8, 8), name="learned")


@cache
def guarded(text: str, seed: int = 0) -> System:
    """The network with this detector."""
    system = learned()
    for defense in resolve_defense(text):
        system = defense.defend(system, Workshop(train=digits()[0], threats=(THREAT,), seed=seed))
    return system


def attacked(system: System, attack: str, x: Tensor, y: Tensor, threat: Threat = THREAT) -> Tensor:
    """Adversarial images of whoever sees this system."""
    return craft(resolve_attack(attack), system, x, Goal(y=y), threat, Draws.for_images(0, x, y), stop_early=True)


@torch.no_grad()
def passes_wrongly(system: System, x: Tensor, y: Tensor) -> Tensor:
    """Which images are answered wrongly and accepted, (n,)."""
    return Goal(y=y).reached(system(x))


def opposed(count: int = 2, side: int = 6, seed: int = 0) -> tuple[System, Tensor, Tensor, float, float]:
    """An affine classifier of two classes whose affine detector dislikes the way to the other class.

    Returns:
        The system, with threshold 0; mid-grey images of class 0; their labels; an L2 radius; and the lowest score that a
        point of that ball can have whose margin is 0.05: with u along the margin's gradient a, where the score d falls only
        at right angles to it, h d.u - sqrt(r^2 - h^2) |d - (d.u) u| after the h that the margin takes.
    """
    generator = torch.Generator().manual_seed(seed)
    a, other = torch.randn((2, side * side), generator=generator, dtype=torch.float64)
    d = other - (other @ a) / (a @ a) * a + 0.5 * a
    x = torch.full((count, 1, side, side), 0.5)
    u, radius, start = a / a.norm(), 0.4, -0.15 * a.norm()
    bias = torch.stack((torch.zeros(()).double(), start - a.sum() / 2))
    model = Affine(torch.stack((torch.zeros_like(a), a)), bias)
    level = d.sum() / 2
    detector = Detector(score=lambda image: image.double().flatten(1) @ d - level, threshold=0.0)
    system = System(model=model, num_classes=2, input_shape=(1, side, side)).with_detector(detector)
    h = (0.05 - start) / a.norm()
    best = h * (d @ u) - (radius**2 - h**2).sqrt() * (d - (d @ u) * u).norm()
    return system, x, torch.zeros(count, dtype=torch.int64), radius, float(best)
