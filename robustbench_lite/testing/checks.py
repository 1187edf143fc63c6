"""`check_attack` and `check_defense`: all laws, on every norm, and one error with everything that was found."""

from collections.abc import Sequence
from dataclasses import replace

from robustbench_lite.attack import Attack, resolve_attack
from robustbench_lite.defense import Defense, resolve_defense
from robustbench_lite.errors import UserError
from robustbench_lite.testing import attacks, defenses, workbench
from robustbench_lite.testing.bench import LIMITS, RADII, TARGETS, Case
from robustbench_lite.testing.report import Finding, report, try_laws
from robustbench_lite.threat import Threat


def check_attack(
    attack: str | Attack | type[Attack], *, norms: Sequence[str] | None = None, num_classes: int = 4
) -> None:
    """Hold an attack to the laws of attacks; a cascade, stage by stage.

    A whole run of every lane is made for the laws on ends and costs: give a long attack small options.

    Args:
        attack: a spec string, an attack, or a class that is tried with its defaults.
        norms: which of its norms to try; all of them if left out.
        num_classes: of the small systems that it attacks.

    Raises:
        PluginError: laws are broken; the message names all of them.
        UserError: there is no such attack, or it does not support one of the norms.
    """
    attack = resolve_attack(attack)
    found: list[Finding] = []
    for stage in attack.stages():
        found += _check_stage(stage, norms, num_classes)
    report(attack.name, found)


def check_defense(defense: str | Defense | type[Defense], *, num_classes: int = 4) -> None:
    """Hold a defense, or a chain of them one by one, to the laws of defenses.

    One that trains is trained twice on a handful of images: give it few epochs.

    Raises:
        PluginError: laws are broken; the message names all of them.
        UserError: there is no such defense.
    """
    chain = (defense(),) if isinstance(defense, type) else resolve_defense(defense)
    found: list[Finding] = []
    for one in chain:
        found += try_laws(
            defenses.LAWS, workbench.Case(defense=one, num_classes=num_classes), one.name if len(chain) > 1 else ""
        )
    report("+".join(one.name for one in chain), found)


def _check_stage(attack: Attack, norms: Sequence[str] | None, num_classes: int) -> list[Finding]:
    found = try_laws(attacks.ON_THE_PLUGIN, attack)
    cases = []
    for threat in _threats(attack, norms):
        try:
            case = Case.of(attack, threat, num_classes)
        except Exception as error:  # what `prepare` raises is a finding
            return [*found, Finding("prepares", str(threat), f"it raised {type(error).__name__}: {error}")]
        first, *others = (law for law in attacks.ON_A_RUN if not (attack.foreign and law in attacks.OF_ROWS))
        crashed = try_laws([first], case, str(threat))
        found += crashed or try_laws(others, case, str(threat))
        cases += [] if crashed else [case]
    return found + (try_laws(attacks.ON_ALL_RUNS, cases) if cases else [])


def _threats(attack: Attack, norms: Sequence[str] | None) -> list[Threat]:
    """Every norm with every aim, every family at its limits, and one targeted threat."""
    missing = set(norms or ()) - set(attack.norms)
    if missing:
        raise UserError(f"{attack.name} does not support {min(missing)}; it supports {', '.join(attack.norms)}")
    found = []
    for norm in norms or attack.norms:
        if norm in LIMITS:
            found.append(Threat.parse(LIMITS[norm]))
            continue
        if "fixed-eps" in attack.aims:
            found.append(Threat(norm=norm, eps=RADII[norm]))
        if "minimum-norm" in attack.aims:
            found.append(Threat(norm=norm))
    first = found[0]
    return [*found, replace(first, goal="targeted", target=TARGETS.get(first.norm, "next"))]
