"""The stepping loop: rows fly in full micro-batches, and leave as soon as their fate is certain.

A row is (sample, lane). One micro-batch of rows is in flight at a time, of whatever ages; a row whose break is pending parks
until the verdict has judged it, and flies on where it stopped if the verdict denies it. So a row's path depends on itself
alone, whatever the order, the company and the moment of judging, and memory is bounded by one micro-batch.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_lite.attack import Attack, State
from robustbench_lite.errors import PluginError
from robustbench_lite.objectives import Goal, choose_targets
from robustbench_lite.oracle import EOT, Ledger, Needs, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along, concat, overwrite
from robustbench_lite.run.outcomes import Bests, Outcome
from robustbench_lite.run.progress import CellProgress, Standing
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.verdict import Clean, Verdict, judge, pictured, rounded
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: a row with something new is judged after so many steps, later after half of those that it has made, where what it found
#: may well be denied: without a radius the nearest point lies on the boundary, where the fast copy and the original can
#: differ, and of a random system the point that looked best is the one with the luckiest draw
JUDGE_EVERY = 16
#: where they do, the verdict is shown the point that lies so much further out
FURTHER = 1.001
#: points that differ by less, of an image in [0, 1], are one point: float32 itself rounds at 6e-8
DUST = 5e-7
#: rows that broke and wait for company are judged alone after so many seconds, and after so many times what a verdict takes
LONGEST_WAIT, VERDICTS = 2.0, 100
#: what a share of draws weighs beside a margin, and where margins end: any more draws outweigh any margin
RATE, MARGIN = 1e9, 1e4


@dataclass(frozen=True, kw_only=True)
class Search:
    """What one search is told.

    Args:
        attack, threat: what to run. system: judged against; `fast`, what is stepped on.
        adaptive: use the gradients of an adversary who knows the defense.
        stop_early: a sample leaves at its first confirmed break; otherwise every step is made.
        shapes: sizes of micro-batches. seed: of the random streams.
        load: positions -> (x, y, draws), on the device.
        target_column: (all samples,) int64, the user's own targets, or None.
        eot: draws that every query averages over; 0, as the attack itself wants.
        watch: note breaking points; False: only the last point of every lane is judged.
        progress: told before each turn where the search is.
    """

    attack: Attack
    threat: Threat
    system: System
    fast: System
    shapes: Shapes
    load: Callable[[Tensor], tuple[Tensor, Tensor, Draws]]
    adaptive: bool = True
    stop_early: bool = True
    target_column: Tensor | None = None
    eot: int = 0
    watch: bool = True
    progress: CellProgress | None = None


@dataclass(frozen=True, kw_only=True)
class _Flight(Rows):
    """Rows on their way: where they stand, what they cost, whose they are.

    Args:
        over: (n,) bool, nothing is left to try. due: (n,) bool, a point wants judgement.
        plain: (n,) bool, the first form of its point was denied, so the second comes next: after the rounded one the
            point itself.
        answered: (n,) bool, the last point was judged.
    """

    state: State
    ledger: Ledger
    sample: Tensor
    over: Tensor
    due: Tensor
    plain: Tensor
    answered: Tensor


@dataclass
class _Case:
    """What is known of a sample whose lanes are still running; `slot` is its place in the table of best points."""

    slot: int
    lanes_open: int = 0
    next_lane: int = 0
    forwards: int = 0
    backwards: int = 0


def search(job: Search, samples: Tensor, clean: Clean) -> Iterator[Outcome]:
    """Attack the samples and yield them as they end, in any order, some at a time.

    Args:
        samples: (m,) int64 positions, right on their clean images. clean: what the system said of *all* positions.
    """
    engine = _Engine(job, samples, clean)
    while not engine.idle:
        if job.progress is not None:
            job.progress.turn(engine.standing)
        yield from engine.turn()
    if job.progress is not None:
        job.progress.end(engine.steps_made)


class _Engine:
    def __init__(self, job: Search, samples: Tensor, clean: Clean) -> None:
        self.job, self.clean = job, clean
        self.lanes = job.attack.lanes(job.system.num_classes)
        self.side_by_side = max(1, min(job.attack.lanes_in_flight, self.lanes))
        #: a sample leaves at its first confirmed break
        self.first_break = job.stop_early and job.threat.eps is not None
        #: what breaks once may not break again
        self.random = job.system.randomised or job.threat.random
        self.waiting: deque[int] = deque(samples.tolist())  # samples whose next lanes may start
        self.cases: dict[int, _Case] = {}
        self.bests = Bests()
        self.flying: _Flight | None = None
        #: how many steps of a row may be made side by side
        self.ahead = 2 if self._tries else 1
        self.parked: list[_Flight] = []
        self.ended: list[Outcome] = []
        #: steps that rows have made, all together
        self.steps_made = 0
        #: when the last verdict ended, and how long it took
        self.judged_at, self.judging = time.monotonic(), 0.0

    def standing(self) -> Standing:
        """Where the search is."""
        steps = self.job.attack.length()
        ages = [part.state.k for part in (self.flying, *self.parked) if part is not None]
        k = torch.cat(ages).double() if ages else torch.zeros(1, dtype=torch.float64)
        under_way = sum(len(part) for part in ages)
        unbegun = sum(sample not in self.cases for sample in self.waiting)
        lanes = unbegun * self.lanes + sum(self.lanes - case.next_lane for case in self.cases.values())
        todo = lanes * steps + under_way * steps - int(k.sum()) * bool(ages)
        left = unbegun + len(self.cases)
        return Standing(step=int(k.mean()), steps=steps, left=left, done=self.steps_made, todo=max(todo, 0))

    @property
    def _tries(self) -> bool:
        """Whether a step may leave a row as it was, and the same question has the same answer at any time."""
        job, attack = self.job, self.job.attack
        steady = not (job.fast.randomised or job.eot or attack.eot or self.side_by_side > 1)
        return steady and type(attack).advanced is not Attack.advanced

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.flying is not None or self.parked)

    def turn(self) -> Iterator[Outcome]:
        """Start what fits, make one step, judge what is due; yields the samples that ended."""
        self._refill()
        if self.flying is not None:
            self._advance()
        if self.parked and self._waits_in_vain:
            self._judge()
        yield from self.ended
        self.ended = []

    @property
    def _waits_in_vain(self) -> bool:
        """Whether the rows that wait for judgement gain nothing by waiting for others.

        At a fixed eps most of them will not fly again: they wait until they fill a block, or nobody flies. Where the
        norm is sought nearly all will: they wait for those that are little younger, so that all keep in step, and fill
        their blocks together in the air too.
        """
        if self.job.threat.eps is not None:
            full = self._parking >= self.job.shapes.floor or (self.flying is None and not self.waiting)
            return full or self._overdue
        if self.flying is None:
            return True
        behind = max(int(part.state.k.max()) for part in self.parked) - self.flying.state.k
        return not bool(((behind >= 0) & (behind <= JUDGE_EVERY)).any())

    @property
    def _overdue(self) -> bool:
        """Whether rows have waited long enough to be judged without company, so that what broke is known, and kept.

        That costs part of a verdict, and changes no number: a row does not depend on when it is judged.
        """
        return time.monotonic() - self.judged_at > max(LONGEST_WAIT, VERDICTS * self.judging)

    @property
    def _parking(self) -> int:
        return sum(len(part) for part in self.parked)

    # -- into the air ------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        flying = 0 if self.flying is None else len(self.flying)
        flying += self._parking if self.job.threat.eps is None else 0  # they will fly again
        # Lanes side by side go together, so they fill a micro-batch only where there is a choice of samples.
        hold = self.job.shapes.most * (2 if self.side_by_side > 1 else 1)
        room = (hold - flying) // self.side_by_side
        # A start may cost a query, padded to the floor like any other: wait until a full floor of rows fits.
        wanted = min(max(1, self.job.shapes.floor // self.side_by_side), len(self.waiting))
        if not self.waiting or (flying and room < wanted):
            return
        taken = [self.waiting.popleft() for _ in range(min(max(room, 1), len(self.waiting)))]
        self._park(self._start(taken))

    def _start(self, taken: list[int]) -> _Flight:
        rows = [(sample, lane) for sample in taken for lane in self._open_lanes(sample)]
        sample = torch.tensor([row[0] for row in rows])
        x, y, draws = self.job.load(sample)
        lane = torch.tensor([row[1] for row in rows], device=x.device)
        sample, draws = sample.to(x.device), draws.in_lane(lane)
        goal = self._goal(sample, y, draws)
        index = self.job.shapes.padding(len(rows), x.device)
        oracle = self._oracle(x[index], goal[index], draws[index], Ledger.new(x)[index])
        state = self.job.attack.start(x[index], goal[index], self.job.threat, draws[index], oracle)
        state = _fitting(state, x[index], self.job.attack)
        state, ledger = state[: len(rows)], oracle.ledger[: len(rows)]
        if ledger.witness is None:  # every row holds one, or none does
            ledger = replace(ledger, witness=state.witness)
        no = torch.zeros_like(state.done)
        return _Flight(
            state=state, ledger=ledger, sample=sample, over=state.done, due=state.done, plain=no, answered=no
        )

    def _open_lanes(self, sample: int) -> range:
        """The lanes of this sample that start now."""
        if sample not in self.cases:
            self.cases[sample] = _Case(slot=self.bests.take())
        case = self.cases[sample]
        first = case.next_lane
        case.next_lane = min(first + self.side_by_side, self.lanes)
        case.lanes_open = case.next_lane - first
        return range(first, case.next_lane)

    def _goal(self, sample: Tensor, y: Tensor, draws: Draws) -> Goal:
        targets = targets_of(self.job, sample.cpu(), y.cpu(), draws.to("cpu"), self.clean)
        return Goal(y=y, target=None if targets is None else targets.to(y.device), success=self.job.threat.goal)

    def _oracle(self, x: Tensor, goal: Goal, draws: Draws, ledger: Ledger) -> Oracle:
        job, attack = self.job, self.job.attack
        return Oracle(
            job.fast,
            attack.needs,
            x,
            goal,
            job.threat,
            draws,
            ledger=ledger,
            adaptive=job.adaptive,
            eot=attack.eot or (EOT(draws=job.eot) if job.eot else None),
            budget=attack.budget,
            watch=job.watch and not attack.submits_last,
            room=max(len(x), job.shapes.floor),
        )

    # -- one step ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """One step of as many rows as fill whole blocks, the rest comes first the next time; at most one micro-batch.

        Lanes side by side keep in step, so there whole samples go.
        """
        assert self.flying is not None
        flight, shapes = self.flying, self.job.shapes
        if self.side_by_side > 1:
            count = _together(flight.sample, shapes)
            self.flying = flight[count:] if count < len(flight) else None
            cuts = range(0, count, shapes.most)
            self._park(concat([self._step(flight[cut : min(cut + shapes.most, count)]) for cut in cuts]))
            return
        count = min(shapes.whole(len(flight)), shapes.most)
        self.flying = flight[count:] if count < len(flight) else None
        self._park(self._step(flight[:count]))

    def _step(self, flight: _Flight) -> _Flight:
        """One step of these rows; several where so few are left that most of a block would be for nothing."""
        ahead = min(self.ahead, self.job.shapes.floor // len(flight))
        if ahead > 1:
            return self._steps(flight, ahead)
        self.steps_made += len(flight)
        return self._stepped(flight)

    def _steps(self, flight: _Flight, ahead: int) -> _Flight:
        """As many of the next `ahead` steps of each row as change nothing, and the first that does.

        They are made side by side, by copies of the row that each take it that the steps before stay where they are.
        """
        count, attack = len(flight), self.job.attack
        place = torch.arange(ahead * count, device=flight.sample.device)
        later = place // count
        copies = flight[place % count]
        state, ledger = copies.state, copies.ledger
        end = state.k + later >= attack.length()  # the last step is made by the copy before
        later = torch.where(end, attack.length() - 1 - state.k, later)
        before = replace(
            copies,
            state=replace(state, k=state.k + later),
            ledger=replace(ledger, forwards=ledger.forwards + later),
        )
        after = self._stepped(before)
        found = after.ledger.rank != before.ledger.rank
        stops = (attack.advanced(before.state, after.state) | after.due | found).view(ahead, count)
        first = torch.where(stops.any(0), stops.int().argmax(0), ahead - 1)
        made = float(first.double().mean()) + 1
        self.steps_made += round(made * count)
        self.ahead = self.job.shapes.floor if made == ahead else max(2, 2 * round(made))
        return after[first * count + place[:count]]

    def _stepped(self, flight: _Flight) -> _Flight:
        """One step of these rows, padded to whole blocks where so few would get other bits."""
        job, count = self.job, len(flight)
        size = job.shapes.snug(job.fast, flight.state.x, job.attack.needs is Needs.GRADIENTS)
        index = job.shapes.padding(count, flight.sample.device, size)
        if len(index) > count:  # a copy has nothing to try, so an attack need not ask for it
            flight = flight[index]
            copy = torch.arange(len(index), device=flight.sample.device) >= count
            flight = replace(flight, state=replace(flight.state, done=flight.state.done | copy))
        attack, state = self.job.attack, flight.state
        oracle = self._oracle(state.x, state.goal, state.draws, flight.ledger)
        state = _fitting(attack.step(state, oracle), state.x, attack)
        state = replace(state, k=state.k + 1)
        over = state.done | (state.k >= attack.length()) | oracle.exhausted
        due = over | self._due(state, oracle)
        return replace(flight, state=state, ledger=oracle.ledger, over=over, due=due)[:count]

    def _due(self, state: State, oracle: Oracle) -> Tensor:
        """Which rows should be judged before they go on."""
        found = oracle.ledger.found
        if self.job.stop_early and self.job.threat.eps is not None:
            return found
        if self.job.threat.eps is None or self.random:
            return found & (state.k % _pause(state.k) == 0)
        return torch.zeros_like(found)

    def _park(self, flight: _Flight) -> None:
        """Set aside the rows that are due; the others fly on, after those that wait for their step."""
        due = flight.due
        if self.side_by_side > 1:  # the lanes of a sample wait for each other, so that the load cannot decide who wins
            due = torch.isin(flight.sample, flight.sample[due])
        if not bool(due.any()):
            self.flying = flight if self.flying is None else concat([self.flying, flight])
            return
        self.parked.append(flight[due.nonzero().squeeze(1)])
        stay = (~due).nonzero().squeeze(1)
        if len(stay):
            self.flying = flight[stay] if self.flying is None else concat([self.flying, flight[stay]])

    # -- judgement ---------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Put one question about every parked row to the verdict, and let the rows go that need no other."""
        began = time.monotonic()
        flight = self._ask(self._due_now())
        if self.side_by_side > 1:  # no lane of a sample flies on while another waits for an answer
            while len(rows := self._waits(flight, self._broken(flight)).nonzero().squeeze(1)):
                overwrite(flight, rows, self._ask(flight[rows]))
        self._settle(flight)
        self.judged_at = time.monotonic()
        self.judging = self.judged_at - began

    def _due_now(self) -> _Flight:
        """The parked rows, in full batches of the verdict's; the rest waits while others are still under way."""
        flight = concat(self.parked)
        full = len(flight) // self.job.shapes.floor * self.job.shapes.floor
        sought = self.job.threat.eps is None
        if self.side_by_side > 1 or not full or sought or (self.flying is None and not self.waiting):
            full = len(flight)
        self.parked = [flight[full:]] if full < len(flight) else []
        return flight[:full]

    def _ask(self, flight: _Flight) -> _Flight:
        """Judge one point of every row and keep it where it is the sample's best; the rows, with what is still open.

        The point is the pending one, or the last one of a row that is over. Its 8-bit neighbour is judged first: most
        breaks survive rounding, and an example that does can be saved and shown. Only where that does not break, the
        point itself is judged, if it is another one (a step of 8/255 from an 8-bit image is an 8-bit image, but for dust).
        Where the norm is sought, see `_forms`.
        """
        state, found, job = flight.state, flight.ledger.found, self.job
        witness = self._witness(flight)
        if witness is not None:
            first = second = pictured(job.threat, state.x, witness, state.draws)
        else:
            adv = torch.where(along(found, state.x), flight.ledger.pending, state.adv)
            first, second = self._forms(state.x, adv, found)
        shown = torch.where(along(flight.plain, first), second, first)
        verdict = judge(job.system, state.x, state.goal, job.threat, shown, state.draws, job.shapes, witness=witness)
        again = ~verdict.broken & ~flight.plain & (first != second).flatten(1).any(1)
        self._offer((~again).nonzero().squeeze(1), flight, shown, verdict, witness)
        return replace(
            flight,
            plain=again,
            answered=flight.answered | (flight.over & ~(again | found)),
            ledger=flight.ledger.forget(found & ~again, found & verdict.broken if job.threat.eps is None else None),
        )

    def _witness(self, flight: _Flight) -> Tensor | None:
        """What the point of every row is rendered from, (n, k); None where points are not rendered."""
        state, ledger = flight.state, flight.ledger
        if not self.job.threat.rendered:
            return None
        if state.witness is None or ledger.witness is None:
            raise PluginError(f"{self.job.attack.name} gave no witness under {self.job.threat}")
        return torch.where(along(ledger.found, state.witness), ledger.witness, state.witness)

    def _forms(self, x: Tensor, adv: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """What is judged of a point, and what comes next where that does not break; the same where nothing does.

        Rounding would change a norm that is sought. There the point itself comes first: it broke the fast copy, by next
        to nothing, and where the original still holds a little further along the same line will do.
        """
        if self.job.threat.eps is not None:
            grid = rounded(adv, x, self.job.threat)
            return grid, torch.where(along(((grid - adv).abs() > DUST).flatten(1).any(1), adv), adv, grid)
        further = (x + FURTHER * (adv - x)).clamp(0, 1)
        return adv, torch.where(along(found, adv), further, adv)

    def _offer(self, rows: Tensor, flight: _Flight, adv: Tensor, verdict: Verdict, witness: Tensor | None) -> None:
        """Keep the judged points of these rows that beat what is known of their samples."""
        if not len(rows):
            return
        witness = None if witness is None else witness[rows]
        flight, adv, verdict = flight[rows], adv[rows], verdict[rows]
        cases = [self.cases[sample] for sample in flight.sample.tolist()]
        paid = torch.tensor([case.forwards for case in cases], device=adv.device)
        ledger, target = flight.ledger, flight.state.goal.target
        seen = paid + torch.where(ledger.found, ledger.seen, ledger.forwards)
        zero = torch.zeros_like(seen)
        points = Outcome(
            sample=flight.sample,
            adv=adv,
            verdict=verdict,
            forwards=zero,
            backwards=zero,
            lane=flight.state.draws.lane,
            break_forward=torch.where(verdict.broken, seen, -1),
            target=zero - 1 if target is None else target,
            witness=witness,
        )
        slots = torch.tensor([case.slot for case in cases])
        rank, lanes = rank_of(verdict, self.job.threat, random=self.random), points.lane.cpu()
        for lane in lanes.unique().tolist():  # in order, so that of lanes side by side the lowest wins
            chosen = (lanes == lane).nonzero().squeeze(1)
            there = chosen.to(adv.device)
            self.bests.offer(slots[chosen], points[there], rank[there], first_break=self.first_break)

    def _waits(self, flight: _Flight, broken: Tensor) -> Tensor:
        """Which rows have another question: the point itself, or the last one, which a confirmed break makes idle.

        Where the norm is sought, one that is nearer does.
        """
        last = flight.over & ~flight.answered
        if self.job.threat.eps is not None:
            last = last & ~broken
        else:
            last = last & ~(self.job.threat.distance(flight.state.adv, flight.state.x) >= -flight.ledger.bar)
        return (flight.plain | last) & ~(broken if self.first_break else torch.zeros_like(broken))

    def _broken(self, flight: _Flight) -> Tensor:
        slots = torch.tensor([self.cases[sample].slot for sample in flight.sample.tolist()], dtype=torch.int64)
        return self.bests.broken(slots).to(flight.over.device)

    def _settle(self, flight: _Flight) -> None:
        """End lanes and samples, keep those back that wait for an answer, and send the rest into the air again."""
        broken = self._broken(flight)
        waits = self._waits(flight, broken)
        leaves = flight.over & ~waits
        if self.first_break:
            leaves = leaves | broken
        if len(back := waits.nonzero().squeeze(1)):
            self.parked.append(flight[back])
        rows = leaves.nonzero().squeeze(1).tolist()
        samples, ledger = flight.sample.tolist(), flight.ledger
        forwards, backwards = ledger.forwards.tolist(), ledger.backwards.tolist()
        for row in rows:
            case = self.cases[samples[row]]
            case.lanes_open -= 1
            case.forwards += forwards[row]
            case.backwards += backwards[row]
        self._close(list(dict.fromkeys(samples[row] for row in rows)))
        if len(stay := (~leaves & ~waits).nonzero().squeeze(1)):
            self.flying = flight[stay] if self.flying is None else concat([self.flying, flight[stay]])

    def _close(self, samples: list[int]) -> None:
        """Give the samples without an open lane their next ones, or end them."""
        quiet = [sample for sample in samples if not self.cases[sample].lanes_open]
        slots = torch.tensor([self.cases[sample].slot for sample in quiet], dtype=torch.int64)
        settled = self.bests.broken(slots).tolist()
        ended = []
        for sample, broken in zip(quiet, settled, strict=True):
            if self.cases[sample].next_lane < self.lanes and not (broken and self.first_break):
                self.waiting.appendleft(sample)  # before new samples, so that few are under way at a time
            else:
                ended.append(sample)
        if ended:
            self.ended.append(self._outcome(ended))

    def _outcome(self, samples: list[int]) -> Outcome:
        cases = [self.cases.pop(sample) for sample in samples]
        rows = self.bests.release([case.slot for case in cases])
        device = rows.adv.device
        return replace(
            rows,
            sample=torch.tensor(samples, device=device),
            forwards=torch.tensor([case.forwards for case in cases], device=device),
            backwards=torch.tensor([case.backwards for case in cases], device=device),
        )


def _together(sample: Tensor, shapes: Shapes) -> int:
    """How many of the leading rows to step: whole samples, one micro-batch at most, and the best filled one."""
    ends = [*((sample[1:] != sample[:-1]).nonzero().squeeze(1) + 1).tolist(), len(sample)]
    fits = [end for end in ends if end <= shapes.most]
    filled = {end: end / (-(-end // shapes.floor) * shapes.floor) for end in fits}
    return max(fits, key=lambda end: (filled[end], end)) if fits else ends[0]


def _fitting(state: State, x: Tensor, attack: Attack) -> State:
    """The state, if its points are images like x.

    Raises:
        PluginError: other shapes or another type would be stretched or rounded after the verdict.
    """
    given, wanted = ((tuple(rows.shape), rows.dtype) for rows in (state.adv, x))
    if given != wanted:
        raise PluginError(f"{attack.name} made points {given[0]} {given[1]}; accepted: {wanted[0]} {wanted[1]}")
    return state


def _pause(k: Tensor) -> Tensor:
    """After how many steps a minimum-norm row is judged that has made k (n,): half of them, rounded to a power of 2."""
    power = torch.frexp(k.double()).exponent.long() - 2  # 2^(e-1) <= k < 2^e
    return (2 ** power.clamp(min=0)).clamp(min=JUDGE_EVERY)


def rank_of(verdict: Verdict, threat: Threat, *, random: bool = False) -> Tensor:
    """How good an example is among its like, (n,) float64: the margin, or minus the norm of a break where it is sought.

    Of a `random` system first the share of draws that it breaks.
    """
    margin = verdict.margin.nan_to_num(nan=-torch.inf)
    if threat.eps is not None:
        return verdict.break_rate * RATE + margin.clamp(-MARGIN, MARGIN) if random else margin
    column = ("Linf", "L2", "L1", "L0").index(threat.norm)
    return torch.where(verdict.broken, -verdict.norms[:, column], margin)


def targets_of(job: Search, sample: Tensor, y: Tensor, draws: Draws, clean: Clean) -> Tensor | None:
    """The classes to climb towards, (n,) with -1 where there is none; None for an attack without a target."""
    rule = job.threat.target if job.threat.goal == "targeted" else job.attack.target_rule
    if rule is None:
        return None
    if rule == "column":
        assert job.target_column is not None
        column = job.target_column[sample]
        return torch.where(column == y, -1, column)
    uniform = draws.in_lane(0).uniform((), "target").view(-1)
    return choose_targets(rule, clean.scores[sample], y, uniform, draws.lane)
