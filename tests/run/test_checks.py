"""Every check fires on a system that was built to have the fault, and is silent on honest ones, trained or not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import data
from robustbench_lite.results import diagnostics
from robustbench_lite.results.thresholds import THRESHOLDS
from robustbench_lite.run import probes
from robustbench_lite.run.run_cell import Ran
from robustbench_lite.threat import Threat

PGD = "pgd:steps=20,restarts=2,objective=margin"
#: what it takes another kind of attack, or another eps, to answer
OPEN = {"transfer-beats-gradient", "not-monotone-in-eps"}


class Network(nn.Module):
    """A small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.last = nn.Linear(108, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.layers(x))
        return scores


class Around(nn.Module):
    """A network with something before or after it."""

    def __init__(self, network: nn.Module, *, before: object = None, after: object = None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x) if callable(self.before) else x
        scores = self.network(x)
        return self.after(scores) if callable(self.after) else scores


def fitted(eps: float) -> nn.Module:
    """A network trained on digits; with eps, on examples of a few steps of PGD, written out."""
    torch.manual_seed(0)
    train = data.load("digits", "train")
    x, y = train.batch(range(len(train))), train.labels_at(range(len(train)))
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            at = x[rows]
            for _ in range(4 if eps else 0):
                leaf = at.detach().requires_grad_(True)
                (grad,) = torch.autograd.grad(F.cross_entropy(network(leaf), y[rows]), leaf)
                at = (x[rows] + (leaf - x[rows] + eps / 2 * grad.sign()).clamp(-eps, eps)).clamp(0, 1).detach()
            optimizer.zero_grad()
            F.cross_entropy(network(at), y[rows]).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    with torch.random.fork_rng():
        return fitted(0.0)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng():
        return fitted(0.1)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = data.load("digits", "test")
    return test.batch(range(100)), test.labels_at(range(100))


def checks(model: nn.Module, images: tuple[Tensor, Tensor], attack: str = PGD, eps: float = 0.1) -> pd.DataFrame:
    result = rbl.evaluate(model, *images, attacks=[attack], threat=f"Linf:{eps}", examples="0")
    assert not result.failed
    return result.diagnostics.set_index("diagnostic")


def fired(found: pd.DataFrame) -> set[str]:
    return set(found.index[found["status"] == "fired"])


@pytest.mark.parametrize("eps", [0.02, 0.1])
@pytest.mark.parametrize("name", ["plain", "trained"])
def test_all_checks_are_silent_on_honest_networks(
    name: str, eps: float, images: tuple[Tensor, Tensor], request: pytest.FixtureRequest
) -> None:
    found = checks(request.getfixturevalue(name), images, eps=eps)
    assert fired(found) == set()
    assert set(found.index[found["status"] == "unchecked"]) == OPEN
    hidden = {"plain-gradients-vanish", "detector-without-slope"}  # nothing is hidden here, and nothing rejects
    assert set(found.index) == set(THRESHOLDS) - hidden


def rounding(x: Tensor) -> Tensor:
    return (x * 3).round() / 3


def staircase(x: Tensor) -> Tensor:
    return x + 0.02 * torch.sin(1e4 * x)


def cold(scores: Tensor) -> Tensor:
    return (scores / 1e-3).softmax(1)


def decided(scores: Tensor) -> Tensor:
    return F.one_hot(scores.argmax(1), scores.shape[1]).float()


def resized(x: Tensor) -> Tensor:
    side = int(torch.randint(7, 11, ()))
    return F.interpolate(F.interpolate(x, (side, side), mode="bilinear"), x.shape[2:], mode="bilinear")


def searching(x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad((leaf**2).sum(), leaf)
    return x - 0.01 * grad


STILL = {"zero-gradients", "loss-stands-still", "gradients-mislead"}
FAULTS: list[tuple[str, Callable[[nn.Module], nn.Module], set[str]]] = [
    ("bit-depth rounding", lambda net: Around(net, before=rounding), {*STILL, "noise-beats-gradient"}),
    ("a staircase", lambda net: Around(net, before=staircase), {"gradients-mislead", "black-box-beats-gradient"}),
    ("softmax at 1e-3", lambda net: Around(net, after=cold), {*STILL, "outputs-are-probabilities"}),
    ("argmax", lambda net: Around(net, after=decided), {*STILL, "outputs-are-probabilities"}),
    ("random resizing", lambda net: Around(net, before=resized), {"answers-vary"}),
    ("a search inside", lambda net: Around(net, before=searching), {"differentiates-inside"}),
]


@pytest.mark.parametrize("wrap, expected", [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_a_fault_is_told(
    wrap: Callable[[nn.Module], nn.Module], expected: set[str], plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    found = checks(wrap(plain), images)
    assert fired(found) >= expected
    if "zero-gradients" in expected:
        assert "survives-unbounded-eps" in fired(found)


def test_an_attack_that_ends_too_soon_is_told(trained: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    found = checks(trained, images, "pgd:steps=5,step_size=0.1,restarts=1,random_start=false,objective=margin")
    assert fired(found) >= {"doubling-breaks-more", "one-step-beats-iterative"}


def test_breaks_that_still_come_at_the_end_are_told(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    found = checks(plain, images, "pgd:steps=10,step_size=0.1,restarts=1,random_start=false,objective=margin", eps=0.12)
    late = found.loc["not-converged"]
    assert late["status"] == "fired"
    assert late["value"] > 0.01


def test_examples_from_elsewhere_that_beat_the_gradient_are_told(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    result = rbl.evaluate(
        Around(plain, before=rounding), x, y, attacks=[PGD, "noise:draws=50"], threat="Linf:0.2", diagnostics=False
    )
    records = result.records.assign(attack=result.records["attack"].replace("noise:draws=50", "transfer:model=other"))
    needs = {PGD: "gradients", "transfer:model=other": "nothing"}
    assert diagnostics.transfer_beats_gradient(records, needs).status == "fired"
    assert diagnostics.transfer_beats_gradient(result.records, needs).status == "unchecked"


@pytest.mark.parametrize(
    "alone, broken, norm, status, left",
    [
        (3, 2, "Linf", "clear", 0.01),
        (3, 0, "Linf", "fired", 0.03),
        (5, 5, "L2", "clear", 0.0),
        (6, 6, "Linf", "fired", 0.06),  # too many for an accident: nobody tries again
        (3, 3, "L0", "fired", 0.03),  # no second attack in this norm
    ],
)
def test_a_few_samples_that_another_gradient_attack_breaks_are_no_sign_of_masking(
    alone: int, broken: int, norm: str, status: str, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(subject: Any, chosen: Tensor, attack: Any, threat: Threat) -> Ran:
        assert chosen.tolist() == list(range(10, 10 + alone))
        return Ran(rows=pd.DataFrame({"broken": [number < broken for number in range(alone)]}))

    monkeypatch.setattr(probes, "_ran", ran)
    subject: Any = SimpleNamespace(indices=np.arange(200, 300))
    told = diagnostics.judged("black-box-beats-gradient", alone / 100, 100)
    assert told.status == "fired"
    found = probes._second(told, subject, np.arange(210, 210 + alone), Threat(norm=norm, eps=1))  # type: ignore[arg-type]
    assert (found.status, found.value) == (status, pytest.approx(left))
