"""Negative controls that are trained: weights that fool a weak attack, and the attacks that must break them all the same.

Each control is as good as the undefended model on clean images. The attack that must *fail* on it shows that the illusion
is there, so that breaking it means something; the ones that must *break* it guard the attacks: a weakened attack fails
here. The limits leave room for other machines: what was measured stands in docs/defenses.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

import robustbench_lite as rbl
from robustbench_lite import data as datasets
from robustbench_lite import training, zoo
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.run.build import defended_system
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

THREAT = Threat(norm="Linf", eps=0.2)
CE = "pgd:steps=50,step_size=1/10,restarts=2"
SHORT = "pgd:steps=10,step_size=1/4,restarts=1"
MARGIN = "pgd:steps=100,step_size=1/20,restarts=5,objective=margin"
DLR = "apgd:objective=dlr"
#: how much more one attack alone may leave than all together
ALONE = 0.03


@dataclass(frozen=True, kw_only=True)
class Control:
    """A training, the attack that must leave more than a share of the images, those that together must leave no more."""

    defense: str
    fails: str
    leaves_more_than: float
    breaks: tuple[str, ...]
    leaves_at_most: float

    def __str__(self) -> str:
        return self.defense


CONTROLS = (
    Control(
        defense="distillation", fails=CE, leaves_more_than=0.5, breaks=(MARGIN, DLR, "apgd-t"), leaves_at_most=0.005
    ),
    Control(
        defense="distillation:temperature=100",
        fails=CE,
        leaves_more_than=0.6,
        breaks=(MARGIN, DLR, "apgd-t"),
        leaves_at_most=0.005,
    ),
    Control(defense="lsq", fails=SHORT, leaves_more_than=0.28, breaks=(MARGIN, "apgd-t"), leaves_at_most=0.25),
    Control(
        defense="clp:weight=0.2,noise=0.2",
        fails=SHORT,
        leaves_more_than=0.18,
        breaks=(MARGIN, "apgd-t"),
        leaves_at_most=0.15,
    ),
    Control(
        defense="label-smoothing:smoothing=0.6",
        fails="fgsm",
        leaves_more_than=0.08,
        breaks=(MARGIN, "apgd-t"),
        leaves_at_most=0.03,
    ),
)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = datasets.load("digits", "test")
    return test.batch(range(200)), test.labels_at(range(200))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], System]:
    """The control of that name, trained once."""
    train = datasets.load("digits", "train")
    workshop = Workshop(train=train, threats=(THREAT,))

    @cache
    def make(spec: str) -> System:
        found = zoo.load("small-cnn", num_classes=10, input_shape=train.shape)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RBL_CACHE", str(tmp_path_factory.mktemp("cache")))
            return defended_system(found, resolve_defense(spec), lambda: workshop)

    return make


@pytest.fixture(scope="module")
def left(images: tuple[Tensor, Tensor]) -> Callable[[System, tuple[str, ...]], dict[str, float]]:
    """The share of all images that each attack leaves unbroken, and under `clean` the share that is right."""

    def measure(system: System, attacks: tuple[str, ...]) -> dict[str, float]:
        with training.threads(1):
            result = rbl.evaluate(system, *images, attacks=attacks, threat=str(THREAT), diagnostics=False)
        table = result.table.set_index("attack")
        return {"clean": float(table["clean_acc"].iloc[0]), **table["robust_acc"].to_dict()}

    return measure


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_the_illusion_is_there_and_every_strong_attack_breaks_it(control, trained, left):
    claimed = replace(trained(control.defense), differentiable_as=None)
    found = left(claimed, (control.fails, *control.breaks))
    assert found["clean"] >= 0.9, "a collapsed control proves nothing"
    assert found[control.fails] > control.leaves_more_than
    assert found["worst-case"] <= control.leaves_at_most
    for attack in control.breaks:
        assert found[attack] <= control.leaves_at_most + ALONE, attack
        assert found[attack] < found[control.fails] - ALONE, attack


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS[:2], ids=str)
def test_cross_entropy_breaks_a_distilled_network_through_the_temperature(control, trained, left):
    """The adaptive adversary's network answers alike, and the attack that failed on the deployed one breaks it."""
    system = trained(control.defense)
    assert system.differentiable_as is not None
    seen = left(replace(system, model=system.differentiable_as, differentiable_as=None), (control.fails,))
    assert seen["clean"] == left(replace(system, differentiable_as=None), (control.fails,))["clean"]
    assert seen[control.fails] <= 0.01


@pytest.mark.slow
def test_a_search_without_gradients_finds_what_distillation_hides(trained, left):
    attack = "square:queries=500"
    found = left(replace(trained("distillation"), differentiable_as=None), (CE, attack))
    assert found[attack] < found[CE] - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS[:2], ids=str)
def test_most_distilled_answers_are_exactly_one_hot_and_most_gradients_exactly_zero(control, trained, images):
    system, (x, y) = trained(control.defense), images
    leaf = x.clone().requires_grad_(True)
    scores = system(leaf).scores
    (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, y, reduction="sum"), leaf)
    assert float((scores.softmax(1).amax(1) == 1).double().mean()) > 0.8
    assert float((grad.flatten(1).abs().amax(1) == 0).double().mean()) > 0.5
