"""Does a system answer an image alike wherever and whenever it is asked? If not, its robust accuracy means little.

The same images, clean, perturbed and attacked ones, are asked about alone and in company, in batches of every size, in other
places, with and without gradients, as the search asks and as the verdict does; and once more of a copy that was made before
anything was asked.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from robustbench_lite.errors import ModelError, cut
from robustbench_lite.objectives import Goal, cross_entropy
from robustbench_lite.oracle import Needs, Oracle, overheard
from robustbench_lite.randomness import Draws
from robustbench_lite.results import diagnostics
from robustbench_lite.results.diagnostics import Diagnostic
from robustbench_lite.rows import concat
from robustbench_lite.run.answers import Answers, spread
from robustbench_lite.run.coarseness import is_coarse
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.files_opened import files_opened
from robustbench_lite.run.manners import LARGE, RANDOM, in_parts
from robustbench_lite.run.pristine import Pristine
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.subject import Before, Subject
from robustbench_lite.run.tape import Attacked, Tape
from robustbench_lite.run.verdict import judge, look
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

#: By what share of their spread answers may differ: the verdict's, and the search's on a copy made for speed. Measured on honest
#: systems: 1e-6 of float32, 1e-3 of a folded copy.
EXACT, FAST = 1e-3, 5e-3
#: Those of a system that computes with few digits: by so many times what noise of half an 8-bit level does to the usual one, at
#: most this share. Measured: 0.5 times of float16, twice of int8 with a scale for each batch.
ROUNDING, MOST = 5.0, 5e-2
#: sizes of batches, in turn
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17)
#: how many images are asked about one by one, and how often attacked ones are asked about again
ALONE, AGAIN = 8, 3
#: attacked images that are asked about, and how many of those with more values than `LARGE`
ATTACKED, ATTACKED_LARGE = 32, 8
_VARY = "answers vary from time to time, so two of them cannot be compared"


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """What a system is asked after it was attacked, and what it was told before.

    Args:
        before: the answers before any attack. attacked: what the attacks left, or None. tape: what they asked.
    """

    subject: Subject
    threat: Threat
    before: Before
    attacked: Attacked | None
    tape: Tape

    @cached_property
    def x(self) -> Tensor:
        """(n, c, h, w): images, images with noise, attacked images."""
        first = self.before.first.x
        return first if self.attacked is None else torch.cat((first, self.attacked.x))

    @cached_property
    def y(self) -> Tensor:
        """(n,), their labels."""
        first = self.before.first.y
        return first if self.attacked is None else torch.cat((first, self.attacked.y))

    @property
    def few(self) -> int:
        """How many attacked images are asked about."""
        return how_many(self.subject)

    @cached_property
    def block(self) -> int:
        """How many images the verdict shows at once."""
        return self.subject.shapes.floor

    @cached_property
    def told(self) -> Answers:
        """What the verdict is told of them."""
        return self.verdict(self.x, self.y)

    @cached_property
    def tolerance(self) -> float:
        """By what share of their spread answers may differ."""
        x, y = self.x, self.y
        if not is_coarse(self.subject.system, x[: self.block], y[: self.block]):
            return EXACT
        noise = (2 * Draws.for_images(0, x, y).uniform(x.shape[1:], "half a level") - 1) * 0.5 / 255
        moved = self.told.apart(self.verdict((x + noise).clamp(0, 1), y))
        return min(MOST, max(EXACT, ROUNDING * float(moved.median())))

    def verdict(self, x: Tensor, y: Tensor, size: int | None = None, system: System | None = None) -> Answers:
        """What the verdict is told of images, so many at a time."""
        size, system = size or self.block, system or self.subject.system
        said = look(system, x, y, Draws.for_images(0, x, y), Shapes(batch=size, floor=size))
        reject = None if system.detector is None else said.score - system.detector.threshold
        return Answers(scores=said.scores, reject=reject)

    @cached_property
    def order(self) -> Diagnostic:
        """Whether place, company or size of the batch change an answer."""
        return self._judged("order-dependent", _elsewhere(self))

    @cached_property
    def mode(self) -> Diagnostic:
        """Whether the search and the verdict are told the same."""
        return self._judged("mode-dependent", _otherwise(self))

    @cached_property
    def state(self) -> Diagnostic:
        """Whether what was asked before changes an answer."""
        with files_opened() as opened:
            found = self._judged("stateful", _later(self))
        copied = self.before.copy
        if found.status == "fired" or self.subject.system.randomised:
            return found
        if isinstance(copied, str):
            return diagnostics.unchecked("stateful", copied)
        if copied.left:
            return diagnostics.unchecked(
                "stateful", f"{', '.join(copied.left)} cannot be copied, and may hold a memory"
            )
        if opened:
            return diagnostics.unchecked(
                "stateful", f"it opens {cut(opened[0])} as it answers, which may hold a memory"
            )
        return found

    def _judged(self, name: str, ways: "Iterator[Way]") -> Diagnostic:
        """By the way of asking in which the largest share of answers differ by more than rounding."""
        if self.subject.system.randomised:
            return diagnostics.unchecked(name, _VARY)
        found = [self._of(name, way) for way in ways]
        if not found:
            return diagnostics.unchecked(name, "it could be asked in one way only")
        return max(found, key=lambda one: (one.status == "fired", one.value, one.n))

    def _of(self, name: str, way: "Way") -> Diagnostic:
        far = way.apart > max(self.tolerance, way.tolerance)
        count, n, most = int(far.sum()), len(far), min(float(way.apart.max()), 9.99)
        text = f"{count} of {n} answers differ {way.how}, by up to {most:.0%} of the spread of the scores" * bool(count)
        return diagnostics.judged(name, count / n, n, text)


def how_many(subject: Subject) -> int:
    """How many attacked images are asked about."""
    return ATTACKED_LARGE if math.prod(subject.data.shape) > LARGE else ATTACKED


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of asking: how far its answers are from those of the usual one, (n,), and how far they may be at least."""

    how: str
    apart: Tensor
    tolerance: float = EXACT


def answers_vary(asked: Questions) -> Diagnostic:
    """Whether the same image is answered differently from time to time; found before the attacks, or on their examples."""
    system, name = asked.subject.system, "answers-vary"
    if system.randomised or asked.attacked is None:
        return diagnostics.judged(name, float(system.randomised), len(asked.subject.indices))
    x, y = asked.attacked.x, asked.attacked.y
    first = asked.verdict(x, y)
    varies = any(bool((first.apart(asked.verdict(x, y)) > RANDOM).any()) for _ in range(AGAIN))
    return diagnostics.judged(name, float(varies), len(asked.subject.indices), "on attacked images only" * varies)


def _elsewhere(asked: Questions) -> Iterator[Way]:
    """The same images in other places, in other company, and in batches of other sizes."""
    x, y, told = asked.x, asked.y, asked.told
    count, device = len(x), x.device

    def way(how: str, index: Tensor, answers: Callable[[], Answers]) -> Iterator[Way]:
        found = _tried(answers)
        if found is not None:
            yield Way(how=how, apart=told[index.to(told.scores.device)].apart(found))

    some = torch.arange(0, count, max(1, count // ALONE), device=device)
    yield from way("alone", some, lambda: asked.verdict(x[some], y[some], 1))
    every = torch.arange(count, device=device)
    yield from way("in batches of other sizes", every, lambda: _in_sizes(asked, every))
    back = every.flip(0)
    yield from way("in another order", back, lambda: asked.verdict(x[back], y[back]))
    beside = torch.stack((x, 1 - x), 1).flatten(0, 1)
    yield from way("beside other images", every, lambda: asked.verdict(beside, y.repeat_interleave(2))[::2])
    most = asked.subject.shapes.batch // asked.block * asked.block
    if most > asked.block:
        full = torch.arange(most, device=device) % count
        kept = min(count, most)
        yield from way(f"among {most}", full[:kept], lambda: asked.verdict(x[full], y[full], most)[:kept])


def _in_sizes(asked: Questions, every: Tensor) -> Answers:
    parts, at, number = list[Answers](), 0, 0
    while at < len(every):
        size = min(SIZES[number % len(SIZES)], len(every) - at)
        parts.append(asked.verdict(asked.x[at : at + size], asked.y[at : at + size], size))
        at, number = at + size, number + 1
    return concat(parts)


def _otherwise(asked: Questions) -> Iterator[Way]:
    """The same images as attacks ask about them, and as the verdict judges their examples."""
    told = asked.told
    for how, needs in (("with gradients", Needs.GRADIENTS), ("in the search, without gradients", Needs.SCORES)):
        if (found := _tried(partial(_in_search, asked, needs))) is not None:
            yield Way(how=how, apart=told.apart(found), tolerance=FAST)
    yield _when_judged(asked)
    noted = asked.tape.some(asked.few)
    if noted is not None and asked.order.status != "fired":  # attacks ask in other company
        x, y, heard = noted
        yield Way(how="while an attack runs", apart=asked.verdict(x, y).apart(heard), tolerance=FAST)


def _in_search(asked: Questions, needs: Needs) -> Answers:
    """What the oracle is told, in blocks of the same images as the verdict's."""
    parts, subject = [], asked.subject
    draws = Draws.for_images(0, asked.x, asked.y)
    for begin, end in Shapes(batch=asked.block, floor=asked.block).chunks(len(asked.x)):
        index = begin + subject.shapes.padding(end - begin, asked.x.device, asked.block)
        oracle = Oracle(
            subject.fast,
            needs,
            asked.x[index],
            Goal(y=asked.y[index]),
            asked.threat,
            draws[index],
            adaptive=subject.fast.differentiable_as is None,  # which has other scores on purpose
            watch=False,
        )
        heard = list[Answers]()
        with overheard(lambda *query, heard=heard: heard.append(Answers.of(query[-1]))):
            oracle.query(asked.x[index], cross_entropy, probe=True)
        parts.append(heard[0][: end - begin].to("cpu"))
    return concat(parts)


def _when_judged(asked: Questions) -> Way:
    """The margins of a verdict on examples, set against those that the same scores have otherwise."""
    told, x = asked.told, asked.x
    goal, draws = Goal(y=told.scores.argmax(1)), Draws.for_images(0, asked.x, asked.y)
    shapes, everywhere = Shapes(batch=asked.block, floor=asked.block), Threat(norm="Linf", eps=1)
    margin = judge(asked.subject.system, x, goal.to(x.device), everywhere, x, draws, shapes).margin.cpu()
    usual = goal.margin(Outputs(scores=told.scores)).double()
    return Way(how="as an example", apart=_share(usual - margin, told.scores))


def _later(asked: Questions) -> Iterator[Way]:
    """Images that were asked about before the attacks, and attacked ones by a system that nothing was asked before."""
    before, subject, attacked = asked.before, asked.subject, asked.attacked
    with torch.no_grad(), exact_math():
        now = in_parts(subject.system, before.first.x, before.first.y, before.room)
    yield Way(how="after the attacks", apart=before.first.answers.apart(now))
    late = asked.tape.some(asked.few) if attacked is None else (attacked.x, attacked.y, None)
    if late is None:
        return
    told = asked.verdict(late[0], late[1])
    if isinstance(before.copy, Pristine):
        with before.copy.like(subject.system).back_then() as system:
            fresh = _tried(partial(asked.verdict, late[0], late[1], system=system))
        if fresh is not None:
            yield Way(how="of a copy that was asked nothing before", apart=told.apart(fresh))
    if attacked is not None and asked.order.status != "fired":  # they were judged in other company
        targeted = asked.threat.goal == "targeted"
        goal = Goal(y=attacked.y.cpu(), target=attacked.target if targeted else None, success=asked.threat.goal)
        margin = goal.margin(Outputs(scores=told.scores)).double()
        yield Way(how="of what the verdict said during the attack", apart=_share(margin - attacked.margin, told.scores))


def _share(difference: Tensor, scores: Tensor) -> Tensor:
    """Differences of margins as a share of the spread of the scores; none where either is not finite."""
    return (difference.abs() / spread(scores).clamp(min=1e-300)).nan_to_num(0.0, 0.0, 0.0)


def _tried(ask: Callable[[], Answers]) -> Answers | None:
    """The answers; None from a model that takes no such batch, or has no gradient."""
    try:
        return ask()
    except ModelError:
        return None
