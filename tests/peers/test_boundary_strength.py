"""DeepFool and FAB find examples no farther away than those of others: same victim, images, steps.

RBL_PEER_IMAGES sets how many CIFAR-10 images are attacked (40; the published comparison says), RBL_PEER_MODEL another
victim than the undefended ResNet-20, such as checkpoint:FILE.safetensors. Medians are over the images that are right at
first, an image without an example counting as infinitely far. `-s` prints them, and the CPU seconds of both, in turn.
The published AutoAttack is found where a checkout of it is on PYTHONPATH.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from shared_data import cifar_test, shared_data
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.norms import norm as find_norm

IMAGES = int(os.environ.get("RBL_PEER_IMAGES", "40"))
BATCH, STEPS, TARGETS = 100, 20, 3
FAB, FABT = f"fab:steps={STEPS}", f"fab-t:steps={STEPS},targets={TARGETS}"
# One percent of the median, or what another order of the same arithmetic makes of it.
SLACK = 1.01

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@cache
def images() -> tuple[Tensor, Tensor]:
    pixels, labels = cifar_test(IMAGES)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255, torch.from_numpy(labels)


@cache
def victim() -> nn.Module:
    spec = os.environ.get("RBL_PEER_MODEL", f"resnet20;weights={shared_data() / 'models' / 'resnet20.safetensors'}")
    return zoo.load(spec, num_classes=10, input_shape=(3, 32, 32)).module


@cache
def right() -> Tensor:
    x, y = images()
    with torch.no_grad():
        return torch.cat([victim()(part).argmax(1) for part in x.split(BATCH)]) == y


def foolbox_deepfool(norm: str) -> Tensor:
    library = pytest.importorskip("foolbox", reason="needs Foolbox (make peers)")
    wrapped = library.PyTorchModel(victim(), bounds=(0, 1))
    attack = getattr(library.attacks, f"{norm}DeepFoolAttack")(steps=50, candidates=10, overshoot=0.02)
    x, y = images()
    return torch.cat(
        [attack(wrapped, *part, epsilons=None)[0] for part in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    )


def torchattacks_deepfool(norm: str) -> Tensor:
    library = pytest.importorskip("torchattacks", reason="needs torchattacks (make peers)")
    return library.DeepFool(victim(), steps=50, overshoot=0.02)(*images())


def torchattacks_fab(norm: str) -> Tensor:
    library = pytest.importorskip("torchattacks", reason="needs torchattacks (make peers)")
    # It returns what lies within its eps alone; this one holds every example. Its L1 stops with an error.
    return library.FAB(victim(), norm=norm, eps=1e6, steps=STEPS, n_restarts=1, n_classes=10)(*images())


def published_fab(norm: str) -> Tensor:
    return published(norm).attack_single_run(*images())


def published_fab_t(norm: str) -> Tensor:
    """The nearest over the targets: its own loop over them stops at the first inside an eps."""
    attack, (x, y) = published(norm), images()
    best, near = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64)
    for attack.target_class in range(2, 2 + TARGETS):
        adv = attack.attack_single_run(x, y, is_targeted=True)
        far = find_norm(norm).distance(adv.double() - x.double())
        with torch.no_grad():
            nearer = (victim()(adv).argmax(1) != y) & (far < near)
        best[nearer], near[nearer] = adv[nearer], far[nearer]
    return best


def published(norm: str, eps: float = 1e6) -> Any:
    library = pytest.importorskip("autoattack.fab_pt", reason="needs the published AutoAttack on PYTHONPATH")
    return library.FABAttack_PT(
        victim(), norm=norm, n_iter=STEPS, eps=eps, targeted=eps < 1e6, n_target_classes=TARGETS
    )


def theirs(peer: Callable[[str], Tensor], norm: str) -> Tensor:
    """The distances that a peer reaches, of the images that are right; judged by the model itself, in the box."""
    adv, (x, y) = peer(norm).detach(), images()
    with torch.no_grad():
        wrong = torch.cat([victim()(part).argmax(1) for part in adv.split(BATCH)]) != y
    valid = wrong & ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
    far = find_norm(norm).distance(adv.double() - x.double())
    return torch.where(valid, far, torch.inf)[right()]


@cache
def ours(spec: str, norm: str) -> Tensor:
    """The distances that we reach, by the verdict's own measure."""
    x, y = images()
    records = rbl.evaluate(victim(), x, y, attacks=[spec], threat=norm, diagnostics=False).records
    far = torch.from_numpy(records[norm.lower()].to_numpy(dtype="float64"))
    return torch.where(torch.from_numpy(records["broken"].to_numpy(dtype=bool)), far, torch.inf)[right()]


@pytest.mark.parametrize(
    "spec, peer, norm",
    [
        ("deepfool", foolbox_deepfool, "L2"),
        ("deepfool", foolbox_deepfool, "Linf"),
        ("deepfool", torchattacks_deepfool, "L2"),
        (FAB, torchattacks_fab, "Linf"),
        (FAB, torchattacks_fab, "L2"),
        *[(FAB, published_fab, norm) for norm in ("Linf", "L2", "L1")],
        *[(FABT, published_fab_t, norm) for norm in ("Linf", "L2", "L1")],
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_median_is_no_larger_than_a_peers(spec: str, peer: Callable[[str], Tensor], norm: str) -> None:
    before = time.process_time()
    mine, between = ours(spec, norm), time.process_time()
    other, after = theirs(peer, norm), time.process_time()
    for name, far, seconds in ((spec, mine, between - before), (peer.__name__, other, after - between)):
        missed = int(far.isinf().sum())
        print(f"{norm} {name}: median {far.median():.5f}, without an example {missed} of {len(far)}, {seconds:.1f} s")
    assert mine.median() <= SLACK * other.median()
    assert mine.isinf().sum() <= other.isinf().sum()


@pytest.mark.parametrize("norm, eps", [("Linf", 1 / 255), ("Linf", 8 / 255), ("L2", 0.1), ("L2", 0.5)])
def test_no_more_images_hold_out_at_an_eps_than_against_the_published_code(norm: str, eps: float) -> None:
    x, y = images()
    before = time.process_time()
    records = rbl.evaluate(victim(), x, y, attacks=[FABT], threat=f"{norm}:{eps!r}", diagnostics=False).records
    between = time.process_time()
    adv = published(norm, eps).perturb(x, y)
    after = time.process_time()
    with torch.no_grad():
        wrong = torch.cat([victim()(part).argmax(1) for part in adv.split(BATCH)]) != y
    valid = (find_norm(norm).distance(adv.double() - x.double()) <= eps + 1e-6) | ~right()
    ours, theirs = int((~records["broken"]).sum()), int((~(wrong & valid)).sum())
    queries = records["forwards"].mean()
    print(
        f"{norm}:{eps:.4f}: {ours} hold out against us ({queries:.0f} forwards an image, {between - before:.1f} s),",
        end=" ",
    )
    print(f"{theirs} against the published code ({after - between:.1f} s)")
    assert ours <= theirs + 1
