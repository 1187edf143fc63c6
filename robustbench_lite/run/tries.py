"""How often an attack of the plan runs on a system, and how: as it is, without knowing the camera, by EOT."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from robustbench_lite.attack import Attack, needs_of
from robustbench_lite.errors import UserError
from robustbench_lite.oracle import Needs
from robustbench_lite.run.plan import Plan
from robustbench_lite.run.subject import Subject
from robustbench_lite.run.verdict import RANDOM_DRAWS, Sitting
from robustbench_lite.threat import Threat

EOT_DRAWS, CAMERA_DRAWS = 10, 100
#: with other options behind it, where it may not stand
_EARLY = re.compile(r"[:,]eot=\d+,[^()]*$")
#: the last option, after a colon where there is no other: `pgd:eot=20`, `pgd:steps=40,eot=20`
_WRITTEN = re.compile(r"(?P<attack>[^:]+(?=:eot=)|[^:]+:.+(?=,eot=))[:,]eot=(?P<draws>\d+)")


@dataclass(frozen=True, kw_only=True)
class Try:
    """One run of an attack: what records call it, the draws that a query averages over, and what its adversary knows."""

    text: str
    attack: Attack
    eot: int = 0
    blind: bool = False
    plain: bool = False


def without_eot(text: str) -> str:
    """The attack of a text such as `pgd:steps=40,eot=20`, which averages every query over 20 draws.

    Raises:
        UserError: eot=N is there, and not the last option.
    """
    if _EARLY.search(text) and ";" not in text:
        raise UserError(f"{text}: write eot=N as the last option")
    written = _WRITTEN.fullmatch(text.strip())
    return written["attack"] if written else text


def draws_of(text: str) -> int | None:
    """How many draws the text asks for, or None."""
    written = _WRITTEN.fullmatch(text.strip())
    return int(written["draws"]) if written else None


def sitting_of(plan: Plan) -> Sitting:
    """How the plan has random systems judged."""
    usual = RANDOM_DRAWS if plan.physical is None else CAMERA_DRAWS
    return Sitting(count=plan.verdict_draws or usual)


def tries(plan: Plan, subject: Subject, attacks: Mapping[str, Attack], threat: Threat) -> Iterator[Try]:
    """The runs of every attack on one system.

    Behind a camera an attack runs twice: by an adversary who does not know of it, and by one who averages over its draws;
    a defense that hides something is attacked twice as well, plainly and by somebody who knows it, but for attacks to which
    that is the same. On a system that is random by itself an attack averages where that is asked for, and where
    randomness is what the defense hides.
    """
    behind = subject.bare is not None
    hidden = subject.hides and not behind
    if hidden and plan.adaptive != "yes":
        for text, attack in attacks.items():
            if draws_of(text) is None and not (plan.adaptive == "both" and _knows_all(attack, subject)):
                yield Try(text=text, attack=attack, plain=True)
    if hidden and plan.adaptive == "no":
        return
    if hidden and plan.adaptive == "both":
        attacks = {text: attack for text, attack in attacks.items() if not _same_for_all(attack, subject)}
    usual = EOT_DRAWS if plan.eot is None and (behind or subject.hides) else plan.eot or 0
    for text, attack in attacks.items():
        own = draws_of(text)
        averages = own if own is not None else usual if able(attack, threat) else 0
        if averages and own is None and (most := _averages(attack)):
            averages = most if behind else 0  # the attack's own draws are asked for whatever is said here
        written = text if own is not None else with_eot(text, averages)
        if behind and own is None:
            yield Try(text=text, attack=attack, blind=True)
        if averages and subject.system.randomised:
            _payable(text, attack, averages)
            if written == text or written not in attacks:  # or it runs as what the user wrote
                yield Try(text=written, attack=attack, eot=averages)
        elif not behind:
            yield Try(text=text, attack=attack)


def _same_for_all(attack: Attack, subject: Subject) -> bool:
    """Whether it makes no difference what the adversary knows: it sees no gradients, and no answer is drawn or withheld.

    Who knows the defense sees other scores as well where those of the system saturate.
    """
    system, needs = subject.system, needs_of(attack)
    blind = needs in (Needs.NOTHING, Needs.LABELS) or (needs is Needs.SCORES and system.differentiable_as is None)
    return blind and system.detector is None and not system.randomised


def _averages(attack: Attack) -> int:
    """The draws of an attack that averages by itself, as `autoattack:version=rand` does; 0 of any other."""
    draws = [0 if stage.eot is None else stage.eot.draws for stage in attack.stages()]
    return max(draws) if all(draws) else 0


def _knows_all(attack: Attack, subject: Subject) -> bool:
    """Whether it runs as by who knows the defense in any case: it averages, and to average is all there is to know."""
    system = subject.system
    known = system.differentiable_as is None and system.detector is None
    return _averages(attack) > 0 and known and not any(part.hidden for part in system.purifiers)


def with_eot(text: str, draws: int) -> str:
    """The attack's text with the draws that it averages over."""
    return f"{text}{',' if ':' in text else ':'}eot={draws}"


def able(attack: Attack, threat: Threat) -> bool:
    """Whether averaging is of use: scores or gradients of the system itself, at a fixed eps."""
    stages = attack.stages()
    asks = all(stage.needs in (Needs.SCORES, Needs.GRADIENTS) for stage in stages)
    return asks and threat.eps is not None and not any(stage.submits_last or stage.foreign for stage in stages)


def check(plan: Plan, attacks: Mapping[str, Attack], threats: Mapping[str, Threat]) -> None:
    """Refuse an average that an attack cannot make.

    Raises:
        UserError: `eot=N` with an attack that sees labels alone, works elsewhere, or under a threat without eps.
    """
    for text, attack in attacks.items():
        for written, threat in threats.items():
            if draws_of(text) is not None and not able(attack, threat):
                raise UserError(
                    f"{text} cannot average under {written}; eot is for attacks by scores or gradients at a fixed eps"
                )
            if draws_of(text) == 0:
                raise UserError(f"{text}: accepted: eot from 1")
            if (own := draws_of(text)) is not None:
                _payable(text, attack, own)
            elif able(attack, threat) and not _averages(attack) and (plan.eot is not None or plan.physical is not None):
                _payable(text, attack, EOT_DRAWS if plan.eot is None else plan.eot)


def _payable(text: str, attack: Attack, draws: int) -> None:
    """Refuse an average of which the attack's budget does not pay for one: it would ask nothing, and break nothing."""
    for stage in attack.stages():
        if stage.budget is not None and stage.budget < draws:
            raise UserError(f"{text}: {stage.budget} queries do not pay for one average over {draws} draws (--eot)")
