"""Every built-in plugin obeys the laws, and each law catches the plugin that breaks it."""

import random
import re

import numpy as np
import pytest
import torch
from contracts.culprits import ATTACKS, DEFENSES, Honest, HonestDefense, MixesRows

from robustbench_lite import plugins
from robustbench_lite.attack import Attack
from robustbench_lite.defense import Defense
from robustbench_lite.errors import PluginError, UserError
from robustbench_lite.testing import attacks, check_attack, check_defense, defenses

#: a long run costs time and teaches nothing that a short one does not; what is not named here runs with its defaults
SHORT = {
    "noise": "noise:draws=6",
    "bim": "bim:steps=6",
    "pgd": "pgd:steps=6,restarts=2",
    "mifgsm": "mifgsm:steps=6,restarts=2",
    "targeted": "targeted:steps=6",
    "adversarial-training": "adversarial-training:epochs=2,attack=(pgd:steps=2,restarts=1)",
}
#: other ways through the code of the built-in attacks
VARIANTS = (
    "fgsm:objective=dlr",
    "noise:kind=sign,draws=4",
    "noise:kind=gaussian,sigma=0.1,draws=4",
    "pgd:steps=4,restarts=3,restarts_in_flight=2,momentum=0.9,objective=margin",
    "targeted:target=all,steps=4",
    "targeted:target=random,steps=4,random_start=true",
    "targeted:raw=true,step_size=0.5,steps=4",
)


@pytest.mark.parametrize("spec", VARIANTS)
def test_every_variant_of_a_built_in_attack_obeys_the_laws(spec: str) -> None:
    check_attack(spec, norms=("Linf", "L1"))


@pytest.mark.parametrize("name", plugins.names("attack"))
def test_every_built_in_attack_obeys_the_laws(name: str) -> None:
    check_attack(SHORT.get(name, name))


@pytest.mark.parametrize("name", plugins.names("defense"))
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
