"""Other libraries' attacks in our table: they obey the laws that they can, cost what they cost, and break what they break."""

import os
from functools import cache
from importlib.util import find_spec

import pandas as pd
import pytest
import torch
from shared_data import cifar_test, shared_data
from torch import nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite import plugins, zoo
from robustbench_lite.attack import resolve_attack
from robustbench_lite.testing import check_attack
from robustbench_lite.threat import Threat

IMAGES = int(os.environ.get("RBL_PEER_IMAGES", "50"))
OURS = "pgd:steps=40,step_size=1/4,restarts=1"
STEPS = {
    "foolbox": "foolbox:LinfPGD;steps=40;rel_stepsize=1/4",
    "torchattacks": "torchattacks:PGD;steps=40;alpha=eps/4",
    "art": "art:ProjectedGradientDescent;max_iter=40;eps_step=eps/4;num_random_init=1",
}
MODULES = {"foolbox": "foolbox", "torchattacks": "torchattacks", "art": "art", "fra31": "autoattack"}
#: options without a default
WANTED = {"VirtualAdversarialAttack": ";steps=3"}

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def there(spec: str) -> str:
    """The spec, if its library is installed."""
    family = spec.partition(":")[0]
    pytest.importorskip(MODULES[family], reason=f"needs {family} (make peers)")
    return spec


@pytest.mark.parametrize(
    "spec",
    [
        "foolbox:LinfPGD;steps=3",
        "foolbox:L2DeepFoolAttack;steps=4",
        "foolbox:L2AdditiveGaussianNoiseAttack",
        "torchattacks:PGDL2;steps=3",
        "art:ProjectedGradientDescent;max_iter=3;eps_step=eps/2;num_random_init=1",
    ],
)
def test_it_obeys_the_laws_but_those_about_neighbours(spec: str) -> None:
    check_attack(there(spec))


@pytest.mark.parametrize(
    "spec, forwards, backwards",
    [
        (STEPS["foolbox"], 41, 40),  # the last one asks whether it broke
        (STEPS["torchattacks"], 40, 40),
        (STEPS["art"], 42, 40),  # its start, and the last one, ask whether they broke
        ("foolbox:LinfFastGradientAttack", 2, 1),
        ("foolbox:LinfRepeatedAdditiveUniformNoiseAttack;repeats=7;check_trivial=false", 8, 0),
        ("torchattacks:FGSM", 1, 1),
    ],
)
def test_queries_are_counted(spec: str, forwards: int, backwards: int) -> None:
    system = two_layers()
    x, y, _ = samples(system, 40)
    records = rbl.evaluate(system, x, y, attacks=[there(spec)], threat="Linf:0.02", diagnostics=False).records
    assert set(zip(records["forwards"], records["backwards"], strict=True)) == {(forwards, backwards)}


@pytest.mark.parametrize("spec", ["foolbox:L2CarliniWagnerAttack;steps=100", "foolbox:DDNAttack", "art:DeepFool"])
def test_a_smallest_perturbation_is_judged_by_our_norm(spec: str) -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    result = rbl.evaluate(system, x, y, attacks=[there(spec)], threat=["L2", "L2:0.2"], diagnostics=False)
    free, inside = (result.records[result.records["threat"] == threat] for threat in ("L2", "L2:0.2"))
    assert not result.failed
    assert free["broken"].mean() > 0.9
    assert (inside["reason"] == "").all()
    assert (inside["l2"] <= 0.2 + 1e-6).all()
    assert 0 < inside["broken"].mean() < 1


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    spec = there("art:HopSkipJump;max_iter=1;init_eval=5;max_eval=5")  # draws from a generator of its own
    runs = [rbl.evaluate(system, x, y, attacks=[spec], threat="L2", diagnostics=False, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (run.records["l2"] for run in runs)
    assert first.equals(again)
    assert not first.equals(other)


def test_an_attack_of_one_image_at_a_time_gets_them_so() -> None:
    system = two_layers()
    x, y, _ = samples(system, 10)
    spec = there("art:SimBA;attack=px;max_iter=60;epsilon=0.2;freq_dim=1")
    result = rbl.evaluate(system, x, y, attacks=[spec], threat="L2:0.5", diagnostics=False)
    assert not result.failed
    assert result.records["broken"].any()


@pytest.mark.parametrize("family", STEPS)
def test_a_targeted_threat_is_passed_on(family: str) -> None:
    system = two_layers()
    x, y, _ = samples(system, 20)
    threat = "Linf:0.3,goal=targeted,target=next"
    records = rbl.evaluate(system, x, y, attacks=[there(STEPS[family])], threat=threat, diagnostics=False).records
    assert (records["target"] == (records["label"] + 1) % 5).all()
    assert records["target_hit"].mean() > 0.9


def test_norms_are_those_of_the_attack() -> None:
    for spec, norms in {
        "foolbox:L2PGD": ("L2",),
        "foolbox:HopSkipJumpAttack": ("Linf", "L2"),
        "foolbox:InversionAttack": ("Linf", "L2", "L1", "L0"),
        "torchattacks:CW": ("L2",),
        "torchattacks:APGD": ("Linf", "L2"),
        "art:CarliniL0Method": ("L0",),
    }.items():
        assert resolve_attack(there(spec)).norms == norms
    with pytest.raises(rbl.UserError, match="foolbox:L2PGD is for L2, not for Linf"):
        resolve_attack("foolbox:L2PGD").check(Threat(norm="Linf", eps=0.1), 10)


@pytest.mark.parametrize("family", ["foolbox", "torchattacks", "art"])
def test_every_attack_of_a_library_is_understood(family: str) -> None:
    """Its options are read and its norm is known."""
    pytest.importorskip(MODULES[family], reason=f"needs {family} (make peers)")
    known = plugins.load("attack", family).known()
    assert len(known) > 20
    bethge = find_spec("numba") is not None  # those of Brendel and Bethge want it
    for name in (name for name in known if bethge or "Bethge" not in name):
        assert resolve_attack(f"{family}:{name}{WANTED.get(name, '')}").norms


@cache
def side_by_side(eps: float) -> pd.DataFrame:
    """Robust counts of ours and theirs, on the same images, by one verdict."""
    pixels, labels = cifar_test(IMAGES)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    attacks = [OURS, *(spec for family, spec in STEPS.items() if _there(MODULES[family]))]
    result = rbl.evaluate(
        _victim(), x, torch.from_numpy(labels), attacks=attacks, threat=f"Linf:{eps!r}", diagnostics=False
    )
    assert not result.failed
    return (~result.records.pivot(index="index", columns="attack", values="broken")).sum()


@cache
def _victim() -> nn.Module:
    weights = shared_data() / "models" / "resnet20.safetensors"
    return zoo.load(f"resnet20;weights={weights}", num_classes=10, input_shape=(3, 32, 32)).module


@pytest.mark.parametrize("eps", [1 / 255, 2 / 255], ids=["1/255", "2/255"])
@pytest.mark.parametrize("family", STEPS)
def test_side_by_side_the_same_steps_break_the_same_images_or_so(family: str, eps: float) -> None:
    there(STEPS[family])
    held = side_by_side(eps)
    assert abs(int(held[OURS]) - int(held[STEPS[family]])) <= 1 + IMAGES // 25


@pytest.mark.parametrize("name", ["standard", "apgd-ce", "square"])
def test_the_published_autoattack_runs_where_it_is(name: str) -> None:
    found = [module for module in ("autoattack", "pyautoattack") if _there(module)]
    if not found:
        pytest.skip("needs the published AutoAttack")
    system = two_layers()
    x, y, _ = samples(system, 10)
    result = rbl.evaluate(system, x, y, attacks=[f"fra31:{name}"], threat="Linf:0.05", diagnostics=False)
    assert not result.failed
    assert result.records["broken"].any()
    assert (result.records["reason"] == "").all()


def _there(module: str) -> bool:
    return find_spec(module) is not None
