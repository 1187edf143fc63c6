"""Positive controls: systems whose robust accuracy is known, exactly or from below, so that no attack may find more.

A trained linear classifier under Linf has an exact answer: ball and box together are a box of each pixel's own, and over a
box a difference of two scores is largest at one corner. A smoothed classifier has a certificate. An attack, or a verdict, that
goes below either is wrong; and on the linear one a strong attack that does not come down to it is weak.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

import robustbench_lite as rbl
from robustbench_lite import data as datasets
from robustbench_lite import training, zoo
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.run.build import defended_system
from robustbench_lite.run.certify import certify
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: attack -> the most images that it may leave, of 200, though they can be broken. Without a target the slope leads to the class
#: that is nearest at first, which here and there is not the one that can be reached.
REACH = {"targeted:target=all": 0, "apgd-t": 1, "fab-t": 1, "autoattack": 1, "pgd": 10, "pgd:objective=margin": 10}
WEAK = ("noise", "fgsm", "targeted", "square:queries=200", "eot", "mifgsm")
#: half of the float32 dust in a sum of 64 products
DUST = 1e-4


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = datasets.load("digits", "test")
    return test.batch(range(len(test))), test.labels_at(range(len(test)))


@pytest.fixture(scope="module", params=["linear", "smoothed"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> System:
    train = datasets.load("digits", "train")
    name, defense = {"linear": ("linear", "none"), "smoothed": ("small-cnn", "randomized-smoothing:epochs=15")}[
        request.param
    ]
    found = zoo.load(name, num_classes=10, input_shape=train.shape)
    workshop = Workshop(train=train, threats=(Threat(norm="Linf", eps=0.2),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RBL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return defended_system(found, resolve_defense(defense), lambda: workshop)


def exact_margin(system: System, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(n,) float64: by how much the label's score beats every other one's at the worst point of ball and box."""
    (layer,) = [part for part in system.model.modules() if isinstance(part, torch.nn.Linear)]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    flat = x.flatten(1).double()
    low, high = (flat - eps).clamp(min=0), (flat + eps).clamp(max=1)
    slope = weight[None] - weight[y][:, None]  # (n, classes, pixels), of the other score minus the label's
    worst = torch.where(slope > 0, high[:, None], low[:, None])
    gain = (slope * worst).sum(2) + bias[None] - bias[y][:, None]
    return -gain.scatter(1, y[:, None], -torch.inf).amax(1)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["linear"], indirect=True)
@pytest.mark.parametrize("eps", [0.05])
def test_no_attack_goes_below_the_exact_value_and_strong_ones_reach_it(
    system: System, images: tuple[Tensor, Tensor], eps: float
) -> None:
    x, y = images[0][:200], images[1][:200]
    margin = exact_margin(system, x, y, eps).numpy()
    assert 0.05 < (margin > 0).mean() < 0.95, "there must be something to tell apart"
    with training.threads(1):
        result = rbl.evaluate(system, x, y, attacks=[*REACH, *WEAK], threat=f"Linf:{eps}", diagnostics=False)
    for attack, rows in result.records.groupby("attack"):
        broken = rows.sort_values("index")["broken"].to_numpy(dtype=bool)
        assert not (broken & (margin > DUST)).any(), f"{attack} breaks what cannot be broken"
        missed = int((~broken & (margin < -DUST)).sum())
        assert missed <= REACH.get(str(attack), 200), f"{attack} leaves {missed} that can be broken"


@pytest.mark.slow
@pytest.mark.parametrize("system", ["smoothed"], indirect=True)
def test_what_is_certified_is_not_broken(system: System, images: tuple[Tensor, Tensor]) -> None:
    x, y = images[0][:60], images[1][:60]
    with training.threads(1):
        proved = certify(system, x, y, defense="none", n0=50, n=500, alpha=0.001).rows
        radius = np.where(proved["correct"], proved["radius"], 0.0)
        eps = 0.25
        told = {"diagnostics": False, "eot": 8, "verdict_draws": 200}
        attacks = ["pgd:steps=20,restarts=1", "apgd:steps=20", "noise:draws=10"]
        rows = rbl.evaluate(system, x, y, attacks=attacks, threat=f"L2:{eps}", **told).records
    safe = set(np.flatnonzero(radius > 1.3 * eps).tolist())  # there the majority is far from a half, whatever is drawn
    assert len(safe) >= 15
    broken = rows[rows["broken"].astype(bool)]
    assert not safe & set(broken["index"]), "an attack broke what is proved"
    far = rbl.evaluate(system, x, y, attacks=["pgd:steps=20,restarts=1"], threat="L2:1.5", **told).records
    assert far["broken"].mean() > 0.5, "far outside of the certificates the same attack finds something"
