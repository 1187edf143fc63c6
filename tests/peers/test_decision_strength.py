"""HopSkipJump and the boundary attack come nearer than Foolbox's, JSMA is no weaker than torchattacks': same victim, images
and queries.

RBL_PEER_DECISION_IMAGES sets how many CIFAR-10 images the decision-based attacks get (10; each costs a few thousand forwards).
`-s` prints the medians and the CPU seconds.
"""

import os
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from shared_data import cifar_test, shared_data
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.norms import norm as find_norm

IMAGES = int(os.environ.get("RBL_PEER_DECISION_IMAGES", "10"))
# One percent of the median.
SLACK = 1.01

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Counter(nn.Module):
    """A model that counts the images it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


@cache
def victim() -> nn.Module:
    weights = shared_data() / "models" / "resnet20.safetensors"
    return zoo.load(f"resnet20;weights={weights}", num_classes=10, input_shape=(3, 32, 32)).module


@cache
def images() -> tuple[Tensor, Tensor]:
    """The first images that are right at first."""
    pixels, labels = cifar_test(2 * IMAGES)
    x, y = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255, torch.from_numpy(labels)
    with torch.no_grad():
        right = victim()(x).argmax(1) == y
    return x[right][:IMAGES], y[right][:IMAGES]


def norms(model: nn.Module, adv: Tensor, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """How far each example is, infinity where it breaks nothing."""
    with torch.no_grad():
        broken = (model(adv).argmax(1) != y) & ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
    return find_norm(norm).distance(adv.double() - x.double()).masked_fill(~broken, torch.inf)


def ours(spec: str, norm: str, model: nn.Module, x: Tensor, y: Tensor, **more: object) -> Tensor:
    """The same of ours, by the records."""
    found = rbl.evaluate(model, x, y, attacks=[spec], threat=norm, diagnostics=False, **more).records
    broken = torch.from_numpy(found["broken"].to_numpy())
    return torch.from_numpy(found[f"{norm.lower()}"].to_numpy()).double().masked_fill(~broken, torch.inf)


def hopskipjump(library: object, norm: str) -> object:
    return library.attacks.HopSkipJumpAttack(steps=8, constraint=norm.lower())


def boundary(library: object, norm: str) -> object:
    return library.attacks.BoundaryAttack(steps=2000)


@pytest.mark.parametrize("peer, norm", [(hopskipjump, "L2"), (hopskipjump, "Linf"), (boundary, "L2")])
def test_ours_comes_nearer_with_the_queries_that_theirs_took(peer: Callable[..., object], norm: str) -> None:
    library = pytest.importorskip("foolbox", reason="needs Foolbox (make peers)")
    (x, y), counted = images(), Counter(victim()).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        begun = time.process_time()
        adv = peer(library, norm)(library.PyTorchModel(counted, bounds=(0, 1)), x, y, epsilons=None)[1]
        seconds, queries = time.process_time() - begun, counted.images // len(x)
    theirs, begun = norms(victim(), adv, x, y, norm), time.process_time()
    mine = ours(f"{peer.__name__}:queries={queries}", norm, victim(), x, y)
    print(
        f"{peer.__name__} {norm}, {queries} queries: theirs {float(theirs.median()):.4f} in {seconds:.1f} s, ", end=""
    )
    print(f"ours {float(mine.median()):.4f} in {time.process_time() - begun:.1f} s")
    assert float(mine.median()) <= SLACK * float(theirs.median())


@cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that scikit-learn trains, and images of digits that it gets right."""
    data = load_digits()
    x, y = (data.images / 16).astype(np.float32), data.target
    trained = MLPClassifier((32,), max_iter=60, random_state=0).fit(x[500:].reshape(-1, 64), y[500:])
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]
    for layer, weight, bias in zip((layers[0], layers[2]), trained.coefs_, trained.intercepts_, strict=True):
        layer.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
    model = nn.Sequential(nn.Flatten(), *layers).eval()
    images, labels = torch.from_numpy(x[:120])[:, None], torch.from_numpy(y[:120])
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return model, images[right][:100], labels[right][:100]


def test_jsma_hits_as_many_targets_as_torchattacks_with_no_more_values() -> None:
    library = pytest.importorskip("torchattacks", reason="needs torchattacks (make peers)")
    model, x, y = digits()
    target = (y + 1) % 10
    theirs = library.JSMA(model, theta=1.0, gamma=0.145)(x, y)
    steps = int(np.ceil(64 * 0.145 / 2))
    with torch.no_grad():
        hit = model(theirs).argmax(1) == target
    far = find_norm("L0").distance(theirs - x).masked_fill(~hit, torch.inf)
    found = rbl.evaluate(
        model, x, y, attacks=[f"jsma:steps={steps}"], threat="L0:goal=targeted,target=next", diagnostics=False
    ).records
    broken = torch.from_numpy(found["broken"].to_numpy())
    mine = torch.from_numpy(found["l0"].to_numpy()).double().masked_fill(~broken, torch.inf)
    print(f"jsma, {steps} pairs: theirs hits {int(hit.sum())}, ours {int(broken.sum())} of {len(x)}; ", end="")
    print(f"values changed: theirs {float(far[hit].median())}, ours {float(mine[broken].median())}")
    assert int(broken.sum()) >= int(hit.sum())
    assert bool((mine <= far).all())
