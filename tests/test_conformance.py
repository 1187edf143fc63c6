"""Every built-in plugin obeys the laws, and each law catches the plugin that breaks it."""

import random
import re

import numpy as np
import pytest
import torch
from contracts.culprits import ATTACKS, DEFENSES, Honest, HonestDefense, MixesRows

from robustbench_lite import plugins
from robustbench_lite.attack import Attack, resolve_attack
from robustbench_lite.defense import Defense
from robustbench_lite.errors import PluginError, UserError
from robustbench_lite.testing import attacks, check_attack, check_defense, defenses

#: a long run costs time and teaches nothing that a short one does not; what is not named here runs with its defaults
SHORT = {
    "noise": "noise:draws=6",
    "bim": "bim:steps=6",
    "pgd": "pgd:steps=6,restarts=2",
    "orthogonal": "orthogonal:steps=6,restarts=2",
    "selective": "selective:steps=6,restarts=2",
    "mifgsm": "mifgsm:steps=6,restarts=2",
    "eot": "eot:steps=4,draws=2,restarts=2",
    "targeted": "targeted:steps=6",
    "sqloss": "sqloss:searches=2,steps=6,warm_up=2",
    "apgd": "apgd:steps=6,restarts=2",
    "apgd-t": "apgd-t:steps=5",
    "autoattack": "autoattack:components=(apgd-ce+square),steps=3,queries=4",
    "fab": "fab:steps=6",
    "fab-t": "fab-t:steps=6",
    "square": "square:queries=20,rescale=true,restarts=2",
    "simba": "simba:queries=30,restarts=2",
    "nes": "nes:queries=40,samples=6,restarts=2",
    "spsa": "spsa:queries=30,samples=8,restarts=2",
    "cw": "cw:searches=3,steps=6",
    "ddn": "ddn:steps=8",
    "fmn": "fmn:steps=8",
    "lbfgs": "lbfgs:searches=2,steps=12",
    "jsma": "jsma:steps=6",
    "evasion": "evasion:steps=6,samples=2",
    "hopskipjump": "hopskipjump:queries=150,probes=10",
    "boundary": "boundary:queries=150",
    "spatial": "spatial:translations=3,rotations=3",
    "patch": "patch:steps=4,samples=8",
    "latent-match": "latent-match:steps=6,targets=2",
    "vae-loss": "vae-loss:steps=6,targets=2",
    "latent-classifier": "latent-classifier:steps=6,restarts=2",
    "output-damage": "output-damage:steps=6,restarts=2",
    "transfer": "transfer:attack=(mifgsm:steps=3)",
    "substitute": "substitute:model=mlp,attack=(mifgsm:steps=3),seeds=8,rounds=2,epochs=2,steps=4",
    "randomized-smoothing": "randomized-smoothing:epochs=2",
    "denoising-autoencoder": "denoising-autoencoder:epochs=2",
    "magnet": "magnet:epochs=2",
    "deep-image-prior": "deep-image-prior:iterations=6",
    "defense-gan": "defense-gan:epochs=2,restarts=2,steps=6",
    "adversarial-training": "adversarial-training:epochs=2,attack=(pgd:steps=2,restarts=1)",
    "trades": "trades:epochs=2,steps=2",
    "mart": "mart:epochs=2,steps=2,awp=0.005",
    "fast-at": "fast-at:epochs=2,start=zero,gradalign=0.2",
    "free-at": "free-at:epochs=2,replays=2",
    "static-adversarials": "static-adversarials:epochs=2,attack=(pgd:steps=2,restarts=1)",
}
#: the attacks whose code is ours; tests/peers/test_foreign.py holds the others to the laws, where their libraries are
#: not what another test has registered in this process
BUILT_IN = [name for name in plugins.names("defense") if plugins.origin("defense", name) == "robustbench-lite"]
OWN = [name for name in plugins.names("attack") if not plugins.load("attack", name).foreign]
#: other ways through the code of the built-in attacks
VARIANTS = (
    "fgsm:objective=dlr",
    "spatial:mode=random,draws=4",
    "patch:learn=false",
    "patch:steps=3,samples=40,objective=margin,resolution=3",
    "noise:kind=sign,draws=4",
    "noise:kind=gaussian,sigma=0.1,draws=4",
    "pgd:steps=4,restarts=3,restarts_in_flight=2,momentum=0.9,objective=margin",
    "targeted:target=all,steps=4",
    "targeted:target=random,steps=4,random_start=true",
    "targeted:raw=true,step_size=0.5,steps=4",
    "fab:steps=2,restarts=3",
    "fab-t:steps=2,restarts=3,targets=2,targets_in_flight=2",
    "apgd:steps=6,objective=dlr,large_eps=true",
    "apgd:steps=30,restarts=3,restarts_in_flight=2,objective=margin",
    "apgd:steps=3,eot_draws=3",
    "apgd-t:steps=4,targets=2,targets_in_flight=1,large_eps=true,objective=log-odds",
    "deepfool:steps=4,classes=2",
    "jsma:steps=6,theta=-0.4,target=all",
    "evasion:steps=4,mimicry=0,target=all,random_start=true",
    "hopskipjump:queries=400,probes=7,gamma=10",
    "boundary:queries=60,sideways=0.1,inwards=0.3",
    "square:queries=12,p=0.3",
    "simba:queries=40,basis=pixel,objective=margin,step_size=0.5",
    "nes:queries=13,samples=4,plateau=2,momentum=0,objective=margin",
    "eot:camera=(rotation=±30,jpeg=50..90),draws=1,steps=3,momentum=0.9",
    "mifgsm:lookahead=true,steps=4",
    "ddn:steps=4,levels=256",
    "cw:searches=10,steps=1,abort_early=false",
    "lbfgs:searches=2,steps=4,memory=1,target=all",
    "latent-match:distance=kl,image_weight=0.1,random_start=true,steps=4,targets=1",
    "vae-loss:against=image,sigma_x2=0.1,steps=4,targets=3",
    "latent-classifier:climbed=ce,random_start=false,steps=4",
    "output-damage:latent=true,steps=4,restarts=1",
    "transfer:model=mlp+small-cnn,attack=(pgd:steps=3,restarts=2),di=0.5,ti=3,si=2",
    "substitute:attack=(fgsm),seeds=4,rounds=3,full=1,sample=3,labels=13,epochs=1,steps=2",
)


@pytest.mark.parametrize("spec", VARIANTS)
def test_every_variant_of_a_built_in_attack_obeys_the_laws(spec: str) -> None:
    can = resolve_attack(spec).norms
    check_attack(spec, norms=[name for name in ("Linf", "L1") if name in can] or can[:1])


@pytest.mark.parametrize("name", OWN)
def test_every_built_in_attack_obeys_the_laws(name: str) -> None:
    check_attack(SHORT.get(name, name))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_defense_obeys_the_laws(name: str) -> None:
    check_defense(SHORT.get(name, name))


def test_what_obeys_the_laws_passes() -> None:
    check_attack(Honest)
    check_defense(HonestDefense)


@pytest.mark.parametrize("culprit, laws", ATTACKS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_attack_that_breaks_a_law_is_told_which(culprit: type[Attack], laws: set[str]) -> None:
    with pytest.raises(PluginError) as caught:
        check_attack(culprit, norms=("Linf",))
    assert laws <= named(caught.value)


@pytest.mark.parametrize("culprit, laws", DEFENSES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_defense_that_breaks_a_law_is_told_which(culprit: type[Defense], laws: set[str]) -> None:
    with pytest.raises(PluginError) as caught:
        check_defense(culprit)
    assert laws <= named(caught.value)


def test_every_law_of_attacks_has_a_culprit() -> None:
    known = {law.__name__ for law in (*attacks.ON_THE_PLUGIN, *attacks.ON_A_RUN, *attacks.ON_ALL_RUNS)}
    # `prints back` cannot be broken by a dataclass that leaves `__str__` alone.
    assert {as_function(law) for _, laws in ATTACKS for law in laws} == known - {"law_prints_back"}


def test_every_law_of_defenses_has_a_culprit() -> None:
    known = {law.__name__ for law in defenses.LAWS}
    covered = {as_function(law) for _, laws in DEFENSES for law in laws}
    assert covered == known - {"law_prints_back", "law_refuses_bad_options"}


def test_all_findings_are_reported_at_once_and_say_where() -> None:
    with pytest.raises(PluginError, match=r"breaks \d+ laws:\n(  - .+\n)*  - .+") as caught:
        check_attack(MixesRows)
    assert "Linf:0.06" in str(caught.value)
    assert "L2:0.4" in str(caught.value)
    assert "row" in str(caught.value)


def test_checking_leaves_the_global_generators_where_they_were() -> None:
    before = torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()
    check_attack(Honest, norms=("Linf",))
    check_defense(HonestDefense)
    assert before == (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate())


def test_a_norm_that_the_attack_does_not_support_is_refused() -> None:
    with pytest.raises(UserError, match="honest does not support L1; it supports Linf, L2"):
        check_attack(Honest, norms=("L1",))


def test_an_unknown_attack_is_refused() -> None:
    with pytest.raises(UserError, match="unknown attack 'pdg'"):
        check_attack("pdg")


def named(error: PluginError) -> set[str]:
    """The laws that the message names."""
    return set(re.findall(r"^  - ([a-z ]+?)(?: \(|:)", str(error), re.MULTILINE))


def as_function(law: str) -> str:
    return f"law_{law.replace(' ', '_')}"
