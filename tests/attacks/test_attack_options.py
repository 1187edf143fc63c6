"""Options of the built-in attacks: what is refused, and how an attack prints back."""

import pytest

from robustbench_lite.attack import resolve_attack
from robustbench_lite.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from robustbench_lite.attacks.noise import Noise
from robustbench_lite.attacks.targeted import Targeted
from robustbench_lite.errors import UserError


@pytest.mark.parametrize(
    "spec, message",
    [
        ("pgd:steps=0", r"pgd: steps=0; accepted: 1 and more"),
        ("bim:steps=-1", r"bim: steps=-1; accepted: 1 and more"),
        ("pgd:step_size=0", r"pgd: step_size=0; accepted: more than 0, or none"),
        ("nes:sigma=0", r"nes: sigma=0; accepted: more than 0$"),
        ("mifgsm:step_size=-1/4", r"mifgsm: step_size=-0.25; accepted: more than 0, or none"),
        ("pgd:step_size=nan", r"step_size=nan is not a finite number"),
        ("pgd:restarts=0", r"pgd: restarts=0; accepted: 1 and more"),
        ("pgd:restarts_in_flight=0", r"pgd: restarts_in_flight=0; accepted: 1 and more"),
        ("mifgsm:momentum=-1", r"mifgsm: momentum=-1; accepted: 0 and more"),
        ("pgd:objective=cw", r"pgd: objective=cw; accepted: ce, margin, dlr, log-odds"),
        ("pgd:n_steps=3", r"pgd has no option 'n_steps'; it has steps.* did you mean steps\?"),
        ("fgsm:eps=0.1", r"fgsm has no option 'eps'"),
        ("fgsm:objective=mragin", r"did you mean margin\?"),
        ("noise:draws=0", r"noise: draws=0; accepted: 1 and more"),
        ("noise:kind=uniforn", r"did you mean uniform\?"),
        ("noise:sigma=0.1", r"noise: sigma=0.1 is for kind=gaussian, not for kind=uniform"),
        ("noise:kind=gaussian,sigma=0", r"noise: sigma=0; accepted: more than 0, or none"),
        ("targeted:target=most-likely", r"targeted: target=most-likely; accepted: least-likely, .*or a class index"),
        ("targeted:target=-1", r"targeted: target=-1; accepted: "),
        ("targeted:objective=margin", r"targeted: objective=margin; accepted: log-odds, ce, squared"),
        ("targeted:image_weight=1", r"targeted: image_weight=1 is for objective=squared"),
        ("targeted:image_weight=-1,objective=squared", r"targeted: image_weight=-1; accepted: 0 and more"),
        ("targeted:raw=true", r"targeted: raw=true needs step_size"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_attack(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FGSM(objective="cw"), "fgsm: objective=cw; accepted: ce, margin, dlr, log-odds"),
        (lambda: PGD(objective="squared"), "pgd: objective=squared; accepted"),
        (lambda: PGD(step_size=float("nan")), "pgd: step_size=nan; accepted"),
        (lambda: Noise(kind="corner"), "noise: kind=corner; accepted: uniform, gaussian, sign"),
        (lambda: Targeted(objective="dlr"), "targeted: objective=dlr; accepted"),
    ],
)
def test_they_are_refused_from_python_too(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "spec",
    [
        "fgsm:objective=margin",
        "bim:steps=20",
        "pgd:step_size=1/4,restarts=1",
        "pgd:steps=40,objective=dlr,momentum=0.75",
        "mifgsm:momentum=0",
        "noise:kind=gaussian,sigma=8/255",
        "targeted:target=all,objective=squared,image_weight=0.1",
        "targeted:target=3,raw=true,step_size=1",
    ],
)
def test_an_attack_prints_back_to_itself(spec: str) -> None:
    attack = resolve_attack(spec)
    assert resolve_attack(str(attack)) == attack


@pytest.mark.parametrize("kind", [FGSM, BIM, PGD, MIFGSM, Noise, Targeted])
def test_defaults_print_as_the_bare_name(kind: type) -> None:
    assert str(kind()) == kind.name
    assert resolve_attack(kind.name) == kind()
