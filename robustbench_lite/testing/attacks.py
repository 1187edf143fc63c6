"""The laws of attacks: each takes a `Case`, an attack on a small victim under one threat, and raises where it breaks.

A crash inside a law is a finding too, so an attack that asks for more than it declared is caught by every law.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from robustbench_lite import plugins, specs
from robustbench_lite.attack import ALL_NORMS, Attack, Needs, State, resolve_attack
from robustbench_lite.errors import CapabilityError
from robustbench_lite.families import FAMILIES
from robustbench_lite.rows import concat
from robustbench_lite.testing import options
from robustbench_lite.testing.bench import LIMITS, RADII, Case, constant, victim
from robustbench_lite.testing.probes import Counter, Spy, fingerprint, hold_rows, stay_inside
from robustbench_lite.testing.report import LawError, generators, refuses, same, seed_generators
from robustbench_lite.threat import Threat

#: of the systems that declarations are asked about
CLASSES = 4


# -- the attack as it is declared ------------------------------------------------------------------------------


def law_says_what_it_is(attack: Attack) -> None:
    """Name, needs, norms and aims are there and known, and the class has a docstring."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", getattr(attack, "name", "")):
        raise LawError(f"name={getattr(attack, 'name', None)!r}; write it in lower case with dashes")
    if not isinstance(getattr(attack, "needs", None), Needs):
        raise LawError("needs is not one of Needs")
    if not attack.norms or not set(attack.norms) <= {*ALL_NORMS, *FAMILIES}:
        raise LawError(f"norms={attack.norms}; accepted: some of {', '.join((*ALL_NORMS, *FAMILIES))}")
    if not attack.aims or not set(attack.aims) <= {"fixed-eps", "minimum-norm"}:
        raise LawError(f"aims={attack.aims}; accepted: fixed-eps, minimum-norm")
    if not (type(attack).__doc__ or "").strip() or (type(attack).__doc__ or "").startswith(f"{type(attack).__name__}("):
        raise LawError("the class has no docstring")


def law_prints_back(attack: Attack) -> None:
    """The spec string of the attack reads back to an equal attack."""
    options.prints_back(attack, lambda text: _read(attack, text))


def law_refuses_bad_options(attack: Attack) -> None:
    """An unknown option and a number without meaning are a `UserError`."""
    options.refuses_unknown(attack)
    options.refuses_nonsense(attack, lambda given: given.length() >= 1 and given.lanes(CLASSES) >= 1)


def law_refuses_threats_it_is_not_made_for(attack: Attack) -> None:
    """`check` raises a `UserError` exactly for the norms and aims that the attack does not declare."""
    balls = [threat for norm in ALL_NORMS for threat in (Threat(norm=norm, eps=RADII[norm]), Threat(norm=norm))]
    for threat in (*balls, *map(Threat.parse, LIMITS.values())):
        if threat.norm in attack.norms and threat.aim in attack.aims:
            attack.check(threat, CLASSES)
        else:
            refuses(lambda threat=threat: attack.check(threat, CLASSES), f"the threat {threat}")  # type: ignore[misc]


# -- the attack as it runs ------------------------------------------------------------------------------------


def law_runs_on_what_it_needs(case: Case) -> None:
    """The attack runs, and asks its oracle for nothing that it did not declare; if not, no other law is tried."""
    try:
        case.follow(case.rows)
    except CapabilityError as error:
        raise LawError(str(error)) from error


# -- what does not depend on company ---------------------------------------------------------------------------


def law_keeps_the_state_in_order(case: Case) -> None:
    """The state keeps x, goal and draws, leaves k to the caller, and holds one detached row of everything a sample."""
    for taken, flight in enumerate(case.path):
        _in_order(flight.state, case.path[0].state, case, taken)


def law_alone_is_as_in_any_batch(case: Case) -> None:
    """A sample's path has the same bits alone, among others and in another place."""
    rows, together = case.rows, case.path[-1]
    turned = rows.flip(0)
    same(case.follow(turned)[turned], together, "in another order")
    few = rows[: len(rows) // 3]
    same(case.follow(few), together[few], "among fewer")
    for row in (rows[:1], rows[-1:]):
        same(case.follow(row), together[row], f"sample {int(row)} alone")


def law_slicing_the_state_is_slicing_the_samples(case: Case) -> None:
    """Rows taken out of a state go on as they would have in it, after `start` and after each step."""
    kept = torch.tensor([1, 4, 5, 11]) % len(case.x)
    for taken, (flight, later) in enumerate(pairwise(case.path)):
        same(case.step(flight[kept]), later[kept], f"sliced after {taken} steps")


def law_rows_of_different_ages_share_a_batch(case: Case) -> None:
    """A row's path depends on its own k, not on the age of its neighbours."""
    half, path = len(case.x) // 2, case.path
    old, young = case.rows[:half], case.rows[half:]
    for age in range(1, len(path) - 1):
        left = len(path) - 1 - age  # the steps that the older rows still have
        merged = case.step(concat([path[age][old], path[0][young]]), left)
        same(merged[old], path[-1][old], f"beside rows {age} steps younger")
        same(merged[young], path[left][young], f"beside rows {age} steps older")


# -- randomness ------------------------------------------------------------------------------------------------


def law_same_seed_same_bytes(case: Case) -> None:
    """Twice the same seed gives the same bits, whatever the global generators hold."""
    paths = []
    for state in (1, 2):
        seed_generators(state)
        paths.append(case.follow(case.rows, seed=7))
    same(paths[1], paths[0], "run twice")


def law_another_seed_or_lane_draws_otherwise(cases: Sequence[Case]) -> None:
    """An attack that draws ends elsewhere under another seed and in another restart, under one threat at least."""
    spies = [Spy.on(case.draws(case.rows)) for case in cases]
    paths = [case.follow(case.rows, draws=spy) for case, spy in zip(cases, spies, strict=True)]
    drawn = [(case, path) for case, path, spy in zip(cases, paths, spies, strict=True) if spy.drawn]
    # A search may end in the same corner of a ball from wherever it starts, but not under every threat.
    if drawn and all(torch.equal(path.state.adv, _elsewhere(case, seed=99)) for case, path in drawn):
        raise LawError("it draws, and another seed gives the same points")
    restarts = [(case, path) for case, path in drawn if _restarts(case, path.state)]
    if restarts and all(torch.equal(path.state.adv, _elsewhere(case, lane=1)) for case, path in restarts):
        raise LawError("it draws, and another lane gives the same points")


def law_leaves_global_generators_alone(case: Case) -> None:
    """The global generators of torch, numpy and Python stay where they are."""
    before = generators()
    case.follow(case.rows)
    if generators() != before:
        raise LawError("a global generator moved; draw from `draws`")


# -- what it may do --------------------------------------------------------------------------------------------


def law_eps_zero_changes_nothing(case: Case) -> None:
    """With a radius of 0 every point is the clean image, bit for bit."""
    if case.threat.eps is None:
        return
    for taken, flight in enumerate(replace(case, threat=case.threat.at(0.0)).path):
        if not torch.equal(flight.state.adv, case.x):
            moved = float((flight.state.adv - case.x).abs().max())
            raise LawError(f"a point moved by {moved:.2g} in {taken} steps")


def law_ends_inside_threat_and_box(case: Case) -> None:
    """The last point of every lane is finite, in [0, 1] and inside the threat, and is what its witness means."""
    for lane, end in enumerate(case.ends):
        if case.threat.rendered and not case.threat.random and end.state.witness is not None:
            drawn = case.threat.render(end.state.x, end.state.witness, end.state.draws)
            if not torch.equal(drawn, end.state.adv):
                raise LawError(f"a point is not what its witness renders, lane {lane}")
        stay_inside(end.state.adv, end.state.x, case.threat, f"lane {lane}", end.state.witness)


def law_survives_a_gradient_of_zero(case: Case) -> None:
    """On a system that answers the same to everything, the points stay finite and inside."""
    case = case.on(constant(case.system.num_classes))
    state = case.follow(case.rows).state
    stay_inside(state.adv, state.x, case.threat, f"after {case.steps} steps", state.witness)


def law_leaves_the_system_alone(case: Case) -> None:
    """Weights, buffers, modes and the graph of the system are as before."""
    case = case.on(victim(case.system.num_classes))  # a fresh one, which no other law has run on
    before = fingerprint(case.system.model)
    case.follow(case.rows)
    if fingerprint(case.system.model) != before:
        raise LawError("weights, buffers, modes or gradients of the model changed")


def law_costs_no_more_than_it_declares(case: Case) -> None:
    """Over all lanes, no sample pays more queries than `cost` says."""
    declared = case.attack.cost(case.system.num_classes)
    forwards = int(torch.stack([end.ledger.forwards for end in case.ends]).sum(0).max())
    backwards = int(torch.stack([end.ledger.backwards for end in case.ends]).sum(0).max())
    if forwards > declared.forwards or backwards > declared.backwards:
        spent, said = f"{forwards}F {backwards}B", f"{declared.forwards}F {declared.backwards}B"
        raise LawError(f"a sample cost {spent}, declared are {said}")


def law_asks_through_the_oracle_alone(case: Case) -> None:
    """The system sees no image that was not counted."""
    if case.attack.budget is not None:
        return  # past its budget a row is shown and not counted
    counter, first = Counter(case.system.model), case.rows[:1]
    watched, goal = replace(case, system=replace(case.system, model=counter)), case.goal(first)
    flight = watched.step(watched.start(first, goal=goal), case.steps)
    if counter.calls > int(flight.ledger.forwards):
        raise LawError(f"the system was asked {counter.calls} times, {int(flight.ledger.forwards)} were counted")


ON_THE_PLUGIN: tuple[Callable[[Attack], None], ...] = (
    law_says_what_it_is,
    law_prints_back,
    law_refuses_bad_options,
    law_refuses_threats_it_is_not_made_for,
)
ON_A_RUN: tuple[Callable[[Case], None], ...] = (
    law_runs_on_what_it_needs,
    law_keeps_the_state_in_order,
    law_alone_is_as_in_any_batch,
    law_slicing_the_state_is_slicing_the_samples,
    law_rows_of_different_ages_share_a_batch,
    law_same_seed_same_bytes,
    law_leaves_global_generators_alone,
    law_eps_zero_changes_nothing,
    law_ends_inside_threat_and_box,
    law_survives_a_gradient_of_zero,
    law_leaves_the_system_alone,
    law_costs_no_more_than_it_declares,
    law_asks_through_the_oracle_alone,
)

#: what another library's attack, which is shown a micro-batch at a time, is not held to
OF_ROWS: tuple[Callable[[Case], None], ...] = (
    law_alone_is_as_in_any_batch,
    law_slicing_the_state_is_slicing_the_samples,
    law_rows_of_different_ages_share_a_batch,
    law_costs_no_more_than_it_declares,
)
ON_ALL_RUNS: tuple[Callable[[Sequence[Case]], None], ...] = (law_another_seed_or_lane_draws_otherwise,)


def _read(attack: Attack, text: str) -> Attack:
    """The attack that a spec string means; of a class without an entry point, by the class itself."""
    if attack.name in plugins.names("attack") and plugins.load("attack", attack.name) is type(attack):
        return resolve_attack(text)
    return specs.build(type(attack), specs.parse(text).options, resolve=lambda kind, inner: resolve_attack(inner))


def _in_order(state: State, begun: State, case: Case, taken: int) -> None:
    """Refuse a state that lost what it was given, or whose tensors are no rows."""
    after = f"after {taken} steps"
    for what in ("x", "goal", "draws"):
        one, other = getattr(state, what), getattr(begun, what)
        if isinstance(one, Tensor):
            if not torch.equal(one, case.x):
                raise LawError(f"x changed {after}")
        else:
            same(one, other, f"{what} changed {after}")
    if state.threat != case.threat:
        raise LawError(f"the threat changed {after}")
    if not bool((state.k == taken).all()):
        raise LawError(f"k changed {after}; the caller counts it")
    hold_rows(state, len(case.x), after)
    if state.done.dtype != torch.bool or state.adv.dtype != torch.float32 or state.adv.shape != case.x.shape:
        raise LawError(f"adv is {state.adv.dtype}{tuple(state.adv.shape)} and done {state.done.dtype} {after}")


def _elsewhere(case: Case, *, seed: int = 0, lane: int = 0) -> Tensor:
    return case.follow(case.rows, seed=seed, lane=lane).state.adv


def _restarts(case: Case, state: State) -> bool:
    return case.attack.lanes(case.system.num_classes) > 1 and state.goal.target is None
