"""How fast adversarial training is: beside the work that it cannot do without, and beside the loops of two peers.

The work is (steps + 1) forwards and backwards of every image, measured in the same run: `steps` of them to craft, whose
backward stops at the image (the unit of `measuring`), and one to learn, whose backward goes to the weights.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measuring import Ratio, unit
from torch import Tensor, nn

from robustbench_lite import data, training, zoo
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

COUNT, BATCH, STEPS, EPS = 512, 128, 10, 8 / 255
OPTIONS = f"epochs=1,batch_size={BATCH},early_stopping=false,ramp=0"
INNER = f"attack=(pgd:steps={STEPS},step_size=1/4,restarts=1)"
Images = tuple[Tensor, Tensor]


@pytest.fixture
def few(images: Images) -> Images:
    return images[0][:COUNT], images[1][:COUNT]


@pytest.fixture
def network() -> nn.Module:
    """ResNet-20 with fresh weights."""
    torch.manual_seed(0)
    return zoo.load("resnet20", num_classes=10, input_shape=(3, 32, 32)).module


def trained(network: nn.Module, dataset: data.Dataset, defense: str) -> System:
    (found,) = resolve_defense(defense)
    shape = dataset.shape
    system = System(model=copy.deepcopy(network), num_classes=dataset.num_classes, input_shape=shape)
    return found.defend(system, Workshop(train=dataset, threats=(Threat(norm="Linf", eps=EPS),)))


def ours(network: nn.Module, images: Images) -> Callable[[], System]:
    dataset = from_tensors(*images)
    return lambda: trained(network, dataset, f"adversarial-training:{INNER},{OPTIONS}")


def the_work(network: nn.Module, images: Images) -> Callable[[], None]:
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    learns = learning(network, images)

    def work() -> None:
        for _ in range(STEPS):
            unit(frozen, *images)
        learns()

    return work


def learning(network: nn.Module, images: Images) -> Callable[[], None]:
    """A bare epoch of standard training."""

    def work() -> None:
        model = copy.deepcopy(network).requires_grad_(True).train()
        optimizer = sgd(model)
        for x, y in zip(*(part.split(BATCH) for part in images), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return work


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def torchattacks_loop(network: nn.Module, images: Images) -> Callable[[], None]:
    """As everybody writes it."""
    torchattacks: Any = pytest.importorskip("torchattacks")

    def work() -> None:
        model = copy.deepcopy(network).requires_grad_(True)
        attack, optimizer = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=STEPS), sgd(model)
        for x, y in zip(*(part.split(BATCH) for part in images), strict=True):
            model.eval()
            adv = attack(x, y)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(adv), y).backward()
            optimizer.step()

    return work


def art_loop(network: nn.Module, images: Images) -> Callable[[], None]:
    """ART's own trainer of Madry et al."""
    trainers: Any = pytest.importorskip("art.defences.trainer")
    classification: Any = pytest.importorskip("art.estimators.classification")
    x, y = images[0].numpy(), F.one_hot(images[1], 10).numpy()

    def work() -> None:
        model = copy.deepcopy(network).requires_grad_(True)
        classifier = classification.PyTorchClassifier(
            model=model, loss=nn.CrossEntropyLoss(), optimizer=sgd(model), input_shape=(3, 32, 32), nb_classes=10,
            clip_values=(0, 1), device_type="cpu",
        )  # fmt: skip
        trainer = trainers.AdversarialTrainerMadryPGD(
            classifier, nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=EPS / 4, max_iter=STEPS, num_random_init=1
        )
        trainer.fit(x, y)

    return work


def test_pgd_training_beside_the_work_that_it_needs(ratio: Ratio, network: nn.Module, few: Images) -> None:
    assert ratio(ours(network, few), the_work(network, few), 1) <= 1.1


@pytest.mark.parametrize("peer", [torchattacks_loop, art_loop], ids=["torchattacks", "art"])
def test_pgd_training_is_no_slower_than_a_peer_s(
    ratio: Ratio, network: nn.Module, few: Images, peer: Callable[..., Callable[[], None]]
) -> None:
    # Against torchattacks both do the same, so that the clock's own spread decides within it.
    assert ratio(ours(network, few), peer(network, few), 1) <= 1.05


@pytest.mark.parametrize("option", ["ema=0.995", "accumulate=2"])
def test_what_an_option_of_the_recipe_costs(ratio: Ratio, network: nn.Module, few: Images, option: str) -> None:
    dataset = from_tensors(*few)
    with_it = f"adversarial-training:{INNER},{OPTIONS},{option}"
    assert ratio(lambda: trained(network, dataset, with_it), ours(network, few), 1) <= 1.1


def test_standard_training_beside_a_bare_loop(ratio: Ratio, network: nn.Module, few: Images) -> None:
    """The loop's own share, where nothing is crafted: order, streams, crops and bookkeeping; a figure to watch."""
    dataset = from_tensors(*few)

    def work() -> None:
        system = System(model=copy.deepcopy(network), num_classes=10, input_shape=(3, 32, 32))
        recipe = training.default_recipe(dataset, network)
        training.standard_training(system, Workshop(train=dataset), replace(recipe, epochs=1))

    assert ratio(work, learning(network, few), 1) <= 1.2
