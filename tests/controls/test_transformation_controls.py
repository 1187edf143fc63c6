"""Negative controls that are put around a network: what fools a weak attack, and the attacks that must break it.

An undefended network on digits, Linf 0.2. Each control is as good as that on clean images. The attack that must *fail* on it
shows that there is something to be fooled by; those that must *break* it guard the attacks: a weakened one fails here. The
limits leave room for other machines: what was measured stands in docs/defenses/transformations.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from robustbench_lite import data as datasets
from robustbench_lite import zoo
from robustbench_lite.attack import craft, resolve_attack
from robustbench_lite.data.base import Dataset
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.objectives import Goal
from robustbench_lite.oracle import EOT
from robustbench_lite.randomness import Draws
from robustbench_lite.run.build import defended_system
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.2)
EOT_PGD = "pgd:steps=60,restarts=1,objective=margin"
PGD = "pgd:steps=40,step_size=1/10,restarts=2"
IMAGES, DRAWS = 150, 20


@dataclass(frozen=True, kw_only=True)
class Control:
    """A defense, the attack that must leave more than a share of the images, and those that must leave at most another.

    Args:
        plain: the failing attack does not know of surrogates. eot: draws that the breaking attacks average over.
    """

    defense: str
    fails: str
    leaves_more_than: float
    breaks: tuple[str, ...]
    plain: bool = False
    eot: int | None = None
    leaves_at_most: float = 0.10

    def __str__(self) -> str:
        return self.defense


CONTROLS = (
    Control(
        defense="bit-depth:bits=3", plain=True, fails=PGD, leaves_more_than=0.9, breaks=(PGD, "square:queries=1500")
    ),
    Control(
        defense="bit-depth:bits=2", plain=True, fails=PGD, leaves_more_than=0.9, breaks=(PGD, "square:queries=500")
    ),
    Control(defense="jpeg", plain=True, fails=PGD, leaves_more_than=0.9, breaks=(PGD, "square:queries=1000")),
    # nothing is masked here: random points of the ball are what fails
    Control(defense="blur", fails="noise:draws=20", leaves_more_than=0.5, breaks=(PGD, "square:queries=500")),
    # each query has a draw of its own: a search by scores keeps what was lucky once, a climb averages by itself
    Control(defense="random-resize-pad", fails="square:queries=500", leaves_more_than=0.25, breaks=(EOT_PGD,), eot=8),
)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Draws]:
    test: Dataset = datasets.load("digits", "test")
    chosen = datasets.choose(test, str(IMAGES), 0)
    x, y = test.batch(chosen), test.labels_at(chosen)
    return x, y, Draws.for_images(0, x, y)


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], System]:
    """The control around one and the same network, which is trained once."""
    train = datasets.load("digits", "train")
    workshop = Workshop(train=train, threats=(THREAT,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RBL_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = defended_system(zoo.load("small-cnn", num_classes=10, input_shape=train.shape), (), lambda: workshop)

    @cache
    def make(spec: str) -> System:
        return defended_system(network, resolve_defense(spec), lambda: workshop)

    return make


def right(system: System, x: Tensor, y: Tensor, draws: Draws) -> float:
    """The share that is right; of a random system by the majority over draws that no attack has seen."""
    with torch.no_grad():
        count = DRAWS if system.randomised else 1
        answers = torch.stack([system(x, draws.fold(0x7E57), number).prediction() for number in range(count)])
    return float((answers.mode(0).values == y).double().mean())


def robust(system: System, attack: str, images: tuple[Tensor, Tensor, Draws], *, eot: int | None = None) -> float:
    """Of all images, the share that is right and stays so under the attack."""
    x, y, draws = images
    found = resolve_attack(attack)
    more = {"stop_early": not system.randomised, "eot": None if eot is None else EOT(draws=eot)}
    adv = craft(found, system, x, Goal(y=y), THREAT, draws, **more)
    assert bool(THREAT.contains(adv, x).all())
    return right(system, adv, y, draws)


def plain(system: System) -> System:
    """As an adversary sees it who does not know of the defense: its parts as they are, without surrogates."""
    return replace(system, purifiers=tuple(replace(part, surrogate=None) for part in system.purifiers))


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_the_control_is_no_worse_on_clean_images(control, around, images):
    assert right(around(control.defense), *images) >= 0.90


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_what_must_fail_on_it_fails(control, around, images):
    system = around(control.defense)
    left = robust(plain(system) if control.plain else system, control.fails, images)
    assert left > control.leaves_more_than


@pytest.mark.parametrize("attack, control", [(attack, one) for one in CONTROLS for attack in one.breaks], ids=str)
def test_what_must_break_it_breaks_it(attack, control, around, images):
    assert robust(around(control.defense), attack, images, eot=control.eot) <= control.leaves_at_most


def test_a_masked_gradient_shows_as_such(around, images):
    """The plain climb does not move on bit-depth at all; with the surrogate every image has a direction."""
    x, y, draws = images
    for spec in ("bit-depth:bits=2", "jpeg"):
        for system, moves in ((plain(around(spec)), False), (around(spec), True)):
            leaf = x.clone().requires_grad_(True)
            scores = system(leaf, draws, 0, adaptive=True).scores
            value = scores.gather(1, y[:, None]).sum()
            (grad,) = torch.autograd.grad(value, leaf) if value.requires_grad else (torch.zeros_like(x),)
            assert bool((grad.flatten(1) != 0).any(1).all()) is moves
