"""What the adversary may see, and what it costs.

An attack asks by `Oracle.query` and is shown what it declared (`Needs`), no more. The oracle counts every image that goes
through the system (one forward) and every gradient with respect to it (one backward), per sample, and it *watches*: the
answer to every candidate is there already, so it notes which points inside the threat break which samples. The noted
points are `pending` until the verdict confirms them; an attack never reports a success itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import Tensor

from robustbench_lite.errors import CapabilityError
from robustbench_lite.guard import calling
from robustbench_lite.objectives import Goal, Objective, knowing, rejection
from robustbench_lite.opened import Opened
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, along, concat
from robustbench_lite.system import Outputs, System
from robustbench_lite.threat import Threat

A = TypeVar("A")
Transform = Callable[[Tensor, Draws, Tensor], Tensor]


class Needs(Enum):
    """What an attack must be shown; each also shows what comes before it."""

    NOTHING = "nothing"
    LABELS = "labels"
    SCORES = "scores"
    GRADIENTS = "gradients"


@dataclass(frozen=True, kw_only=True)
class Answer(Rows):
    """What came of one query.

    Args:
        values: (m, n), the m objectives; empty when labels are all there is.
        grads: (m, n, c, h, w), their gradients by the image, each row of its own sample only; None below `gradients`.
        scores: (n, k) logits; None below `scores`.
        labels: (n,) int64, the answers; -1 where the image was rejected.
        adversarial: (n,) bool, whether this query (of several draws: most of them) broke the sample, goal and rejection
            included. An attack may steer by it; it may not report it.
        said: everything that a system that reconstructs says of the images, codes and reconstructions too; None of a
            classifier, and below `gradients`.
    """

    values: Tensor
    grads: Tensor | None = None
    scores: Tensor | None = None
    labels: Tensor | None = None
    adversarial: Tensor
    said: Outputs | None = None

    def __getitem__(self, index: Tensor | slice) -> "Answer":
        raise TypeError("an answer belongs to its query; slice what you keep of it")

    def first(self, count: int) -> "Answer":
        """The answer to the first images."""
        return Answer(
            values=self.values[:, :count],
            grads=None if self.grads is None else self.grads[:, :count],
            scores=None if self.scores is None else self.scores[:count],
            labels=None if self.labels is None else self.labels[:count],
            adversarial=self.adversarial[:count],
            said=None if self.said is None else self.said[:count],
        )

    @staticmethod
    def joined(answers: "Sequence[Answer]") -> "Answer":
        """The answers to several queries as one."""

        def join(name: str, along: int) -> Any:
            parts = [getattr(answer, name) for answer in answers]
            return None if parts[0] is None else torch.cat(parts, along)

        names = {"values": 1, "grads": 1, "scores": 0, "labels": 0, "adversarial": 0}
        said = [answer.said for answer in answers if answer.said is not None]
        joint = concat(said) if len(said) == len(answers) else None
        return Answer(said=joint, **{name: join(name, along) for name, along in names.items()})


@dataclass(frozen=True, kw_only=True)
class Ledger(Rows):
    """What the oracle knows of n rows.

    Args:
        forwards, backwards: (n,) int64, queries paid so far.
        pending: (n, c, h, w), the best breaking point that no verdict has judged yet.
        witness: (n, k), what it is rendered from; None where points are not rendered, and before the first.
        rank: (n,) float64, how good it is (margin; minimum-norm: minus its norm); -inf without one.
        seen: (n,) int64, `forwards` when it was found.
        bar: (n,) float64, the rank that a point must beat to be noted: minimum-norm, that of the nearest confirmed one.
    """

    forwards: Tensor
    backwards: Tensor
    pending: Tensor
    rank: Tensor
    seen: Tensor
    bar: Tensor
    witness: Tensor | None = None

    @classmethod
    def new(cls, x: Tensor) -> "Ledger":
        """Nothing asked, nothing found."""
        zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        rank = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        return cls(forwards=zero, backwards=zero, pending=x, rank=rank, seen=zero, bar=rank)

    @property
    def found(self) -> Tensor:
        """Which rows have a pending point, (n,) bool."""
        return self.rank > -torch.inf

    def forget(self, rows: Tensor, beaten: Tensor | None = None) -> "Ledger":
        """Drop the pending points of these rows (n,) bool: the verdict has judged them.

        Where it has confirmed them and only a better one is of use, in `beaten` (n,) bool, they raise the bar.
        """
        bar = self.bar if beaten is None else torch.where(beaten, self.rank, self.bar)
        return replace(self, rank=self.rank.masked_fill(rows, -torch.inf), bar=bar)


@dataclass(frozen=True, kw_only=True)
class EOT:
    """Answer with the average over fresh draws (Athalye et al. 2018, arXiv 1707.07397).

    Args:
        draws: how many; each counts as a query.
        transform: (x, draws, index) -> x, one parameter set a sample and draw; None averages over the system's own
            randomness alone. Under a transformation the draws are probes and nothing is noted: a lucky draw is no break.
    """

    draws: int = 1
    transform: Transform | None = None


class Oracle:
    """The system as the adversary sees it, bound to the rows of one micro-batch.

    Args:
        system: what is queried: the deployed system, a copy made for speed, or what the adversary knows of it.
        needs: what is shown. x, goal, threat, draws: the rows, and what is asked of them.
        ledger: what was counted and noted so far.
        adaptive: the adversary knows the defense: sees its gradients, and climbs jointly where there is a detector (see
            `objectives.knowing`). One who does not is shown the classifier alone, as if nothing were ever rejected.
        budget: forwards a row may pay in all; a row past it is answered -inf, zero gradients and label -1.
        watch: note breaking candidates; False while an attack trains.
        room: how many `probes` go through the system at once (ask for a multiple); as many as there are rows if left out.
    """

    def __init__(
        self,
        system: System,
        needs: Needs,
        x: Tensor,
        goal: Goal,
        threat: Threat,
        draws: Draws,
        *,
        ledger: Ledger | None = None,
        adaptive: bool = True,
        eot: EOT | None = None,
        budget: int | None = None,
        watch: bool = True,
        room: int | None = None,
    ) -> None:
        self.room = room or len(x)
        self._system = system if adaptive or system.detector is None else system.without_detector()
        self._needs, self._goal, self._threat, self._draws = needs, goal, threat, draws
        self._x, self._adaptive, self._eot, self._budget, self._watch = x, adaptive, eot, budget, watch
        self.ledger = ledger if ledger is not None else Ledger.new(x)
        # who asks through `open`, and how many images and gradients it was
        self._opened = torch.arange(len(x), device=x.device)
        self._opened_forwards = self._opened_backwards = 0

    @property
    def num_classes(self) -> int:
        """How many classes the system tells apart."""
        return self._system.num_classes

    @property
    def exhausted(self) -> Tensor:
        """Which rows have no budget left for another query, of all its draws, (n,) bool."""
        return self.left < 1

    @property
    def draws(self) -> int:
        """How many images one query shows the system: more than one where it averages."""
        return self._eot.draws if self._eot else 1

    @property
    def left(self) -> Tensor:
        """How many more queries, of all their draws, each row can pay for, (n,) int64; endless without a budget."""
        if self._budget is None:
            return torch.full_like(self.ledger.forwards, torch.iinfo(torch.int64).max)
        return (self._budget - self.ledger.forwards).div(self.draws, rounding_mode="floor")

    def query(
        self,
        x: Tensor,
        *objectives: Objective,
        probe: bool = False,
        grads: bool = True,
        asking: Tensor | None = None,
        witness: Tensor | None = None,
    ) -> Answer:
        """Show x (n, c, h, w), all rows at once, to the system.

        Args:
            objectives: what to evaluate; one forward serves them all, each gradient is one backward.
            probe: x is no candidate (a finite difference, a point outside the threat): nothing is noted.
            grads: whether an oracle that shows gradients should compute them.
            asking: (n,) bool, which rows ask; None: all. A row that does not ask pays nothing, nothing is noted of it,
                and it is answered like one without budget. A search of its own length in every row (a bisection) asks
                this way, so that no row pays for its neighbours.
            witness: (n, k), what x was rendered from, under a threat that is `rendered`; without it nothing is noted.

        Raises:
            CapabilityError: the attack declared less than it asks for.
        """
        if objectives and self._needs in (Needs.LABELS, Needs.NOTHING):
            raise CapabilityError(f"an attack that needs {self._needs.value} asked for the value of an objective")
        if self._needs is Needs.NOTHING:
            raise CapabilityError("an attack that needs nothing asked a question")
        with_grads = grads and self._needs is Needs.GRADIENTS and bool(objectives)
        unpaid = self.exhausted if asking is None else self.exhausted | ~asking
        outputs, values, found, adversarial = self._average(x, objectives, with_grads)
        with torch.no_grad():
            adversarial = adversarial & ~unpaid
            self._count(len(objectives) if with_grads else 0, ~unpaid)
            if self._watch and not probe and not (self._eot and self._eot.transform):
                self._note(x.detach(), outputs, adversarial, witness)
            if found is not None and not (asking is None and self._budget is None):
                found = found.masked_fill(along(unpaid, x)[None], 0)
            return self._shown(outputs, values, found, adversarial, unpaid)

    def many(
        self,
        make_probe: Callable[[int], Tensor],
        count: int | Tensor,
        reduce: Callable[[A, int, Answer], A],
        start: A,
        *objectives: Objective,
    ) -> A:
        """Ask `count` probes a row, one after the other, and fold the answers: nothing but `start` is held.

        `count` is one number or one a row (n,); a row with fewer than the others does not ask for the rest, and
        `reduce` must leave it as it is (its label is -1).
        """
        most = count if isinstance(count, int) else int(count.max())
        for number in range(most):
            asking = None if isinstance(count, int) else number < count
            said = self.query(make_probe(number), *objectives, probe=True, grads=False, asking=asking)
            start = reduce(start, number, said)
        return start

    def probes(self, x: Tensor, rows: Tensor) -> Answer:
        """Show probes x (m, c, h, w) of these rows (m,), m >= 1: any number of one, none of another, in any order.

        Where rows want different numbers of probes, this keeps micro-batches full: all are equally large, and nobody
        pays or waits for a neighbour. A row's probes are counted in their order; nothing is noted.
        """
        size = self.room
        parts = [self._probed(x[at : at + size], rows[at : at + size]) for at in range(0, len(x), size)]
        return Answer.joined(parts)

    def _probed(self, x: Tensor, rows: Tensor) -> Answer:
        """One micro-batch of probes."""
        index = torch.arange(self.room, device=x.device)
        at = torch.where(index < len(rows), index, 0)
        owner, asking = rows[at], index < len(rows)
        earlier = ((owner[:, None] == owner) & asking & (index < index[:, None])).sum(1)  # of the same row
        shown = Oracle(
            self._system,
            self._needs,
            self._x[owner],
            self._goal[owner],
            self._threat,
            self._draws[owner],
            ledger=replace(self.ledger[owner], forwards=self.ledger.forwards[owner] + self.draws * earlier),
            adaptive=self._adaptive,
            eot=self._eot,
            budget=self._budget,
            watch=False,
        )
        before = shown.ledger.forwards
        said = shown.query(x[at], probe=True, grads=False, asking=asking)
        paid = torch.zeros_like(self.ledger.forwards).index_add_(0, owner, shown.ledger.forwards - before)
        self.ledger = replace(self.ledger, forwards=self.ledger.forwards + paid)
        return said.first(len(rows))

    def open(self, rows: Tensor | None = None) -> Opened:
        """The system as a bare network, for another library's attack; nothing that it is shown is noted.

        It answers any number of images: with logits, or with ones and zeros at the answers where labels are all there is.
        What is shown is counted as ever, an image a forward, a gradient a backward, and shared evenly over the rows: a
        library does not tell which row an image belongs to. A random system draws from the rows' streams in turn.

        Args:
            rows: (m,) int64, the rows that ask; None: all.

        Raises:
            CapabilityError: by the network: a row would pay more than its budget, or a gradient where none is shown.
        """
        self._opened = self._opened if rows is None else rows
        return Opened(self._bare, self._bare_backward, self.num_classes, self._x.device)

    def _bare(self, x: Tensor) -> Tensor:
        if self._needs is Needs.NOTHING:
            raise CapabilityError("an attack that needs nothing asked a question")
        count = self.draws
        scores = self._bare_scores(x)
        for _ in range(1, count):
            scores = scores + self._bare_scores(x)
        scores = scores if count == 1 else scores / count
        if self._needs is not Needs.LABELS:
            return scores
        return torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores.dtype)

    def _bare_scores(self, x: Tensor) -> Tensor:
        number = torch.arange(len(x), device=x.device)
        rows = self._opened[number % len(self._opened)]
        draws, index = self._draws[rows], self._opened_forwards + number
        paid = self._shares(self._opened_forwards, len(x))
        if self._budget is not None and bool((self.ledger.forwards + paid > self._budget).any()):
            raise CapabilityError(f"the attack asked for more than its budget of {self._budget} queries an image")
        self.ledger = replace(self.ledger, forwards=self.ledger.forwards + paid)
        self._opened_forwards += len(x)
        seen = x if self._eot is None or self._eot.transform is None else self._eot.transform(x, draws, index)
        return self._system(seen, draws, index, adaptive=self._adaptive).scores

    def _bare_backward(self, count: int) -> None:
        if self._needs is not Needs.GRADIENTS:
            raise CapabilityError(f"an attack that needs {self._needs.value} asked for a gradient")
        count *= self.draws
        paid = self._shares(self._opened_backwards, count)
        self.ledger = replace(self.ledger, backwards=self.ledger.backwards + paid)
        self._opened_backwards += count

    def _shares(self, before: int, count: int) -> Tensor:
        """What each row pays of `count` images after `before` others: even in the long run, and exact in sum, (n,)."""
        rows = len(self._opened)
        place = torch.arange(rows - 1, -1, -1, device=self._x.device)
        share = (before + count + place) // rows - (before + place) // rows
        return torch.zeros_like(self.ledger.forwards).index_copy(0, self._opened, share)

    def _average(
        self, x: Tensor, objectives: tuple[Objective, ...], with_grads: bool
    ) -> tuple[Outputs, Tensor, Tensor | None, Tensor]:
        """Scores, objectives and gradients, each the mean of what every draw gives, and whether most draws are broken."""
        count = self.draws
        outputs, values, found = self._ask(x, objectives, with_grads, 0)
        reached = self._goal.reached(outputs).long()
        for number in range(1, count):
            more, more_values, more_found = self._ask(x, objectives, with_grads, number)
            reached = reached + self._goal.reached(more)
            outputs = _sum(outputs, more)
            values = values + more_values
            found = None if found is None or more_found is None else found + more_found
        if count == 1:
            return outputs, values, found, reached > 0
        mean = _each(outputs, lambda value: value / count)
        return mean, values / count, None if found is None else found / count, 2 * reached > count

    def _ask(
        self, x: Tensor, objectives: tuple[Objective, ...], with_grads: bool, draw: int
    ) -> tuple[Outputs, Tensor, Tensor | None]:
        """One forward, and a backward for each objective."""
        index = self.ledger.forwards + draw
        with torch.set_grad_enabled(with_grads), calling(self._system.name):
            leaf = x.detach().contiguous().requires_grad_(with_grads)
            seen = leaf
            if self._eot and self._eot.transform:
                seen = self._eot.transform(leaf, self._draws, index)
            outputs = self._system(seen, self._draws, index, adaptive=self._adaptive)
            joint = rejection not in objectives
            columns = [(knowing(climbed) if joint else climbed)(outputs, self._goal) for climbed in objectives]
            found = _gradients(columns, leaf) if with_grads else None
        kept = _each(outputs, Tensor.detach)
        values = torch.stack([column.detach() for column in columns]) if columns else x.new_zeros((0, len(x)))
        return kept, values, found

    def _count(self, backwards: int, paid: Tensor) -> None:
        self.ledger = replace(
            self.ledger,
            forwards=self.ledger.forwards + paid * self.draws,
            backwards=self.ledger.backwards + paid * (backwards * self.draws),
        )

    def _note(self, x: Tensor, outputs: Outputs, adversarial: Tensor, witness: Tensor | None) -> None:
        """Keep the candidates that break their sample, lie inside the threat and beat what is pending."""
        rows = adversarial.nonzero().squeeze(1)
        if not len(rows):
            return
        x, clean, own = x[rows], self._x[rows], None if witness is None else witness[rows]
        inside = self._threat.contains(x, clean, own) & ((x >= 0) & (x <= 1)).flatten(1).all(1)
        if self._threat.eps is None:
            rank = -self._threat.distance(x, clean)
        else:
            rank = self._goal[rows].margin(outputs[rows]).double().nan_to_num(nan=torch.inf)
        better = inside & (rank > self.ledger.rank[rows]) & (rank > self.ledger.bar[rows])
        rows, ledger = rows[better], self.ledger
        if witness is not None and own is not None:
            held = witness if ledger.witness is None else ledger.witness
            ledger = replace(ledger, witness=held.index_copy(0, rows, own[better]))
        self.ledger = replace(
            ledger,
            pending=ledger.pending.index_copy(0, rows, x[better]),
            rank=ledger.rank.index_copy(0, rows, rank[better]),
            seen=ledger.seen.index_copy(0, rows, ledger.forwards[rows]),
        )

    def _shown(
        self, outputs: Outputs, values: Tensor, found: Tensor | None, adversarial: Tensor, unpaid: Tensor
    ) -> Answer:
        values = values.masked_fill(unpaid, -torch.inf)
        labels = torch.where(outputs.accepted() & ~unpaid, outputs.prediction(), -1)
        scores = None if self._needs is Needs.LABELS else outputs.scores.masked_fill(unpaid[:, None], torch.nan)
        said = None
        if outputs.code is not None and self._needs is Needs.GRADIENTS:
            said = _each(outputs, lambda value: value.masked_fill(along(unpaid, value), torch.nan))
        return Answer(values=values, grads=found, scores=scores, labels=labels, adversarial=adversarial, said=said)


def _each(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """The outputs with every tensor in them changed."""
    tensors = {item.name: getattr(outputs, item.name) for item in fields(outputs)}
    return replace(outputs, **{name: change(value) for name, value in tensors.items() if value is not None})


def _sum(one: Outputs, other: Outputs) -> Outputs:
    """Two answers of one system, added up."""
    tensors = {item.name: (getattr(one, item.name), getattr(other, item.name)) for item in fields(one)}
    return replace(one, **{name: left + right for name, (left, right) in tensors.items() if left is not None})


def _gradients(columns: list[Tensor], leaf: Tensor) -> Tensor:
    """The gradient of each column's sum by the image, (m, n, c, h, w); zero where the model breaks the graph."""
    found = []
    for number, column in enumerate(columns):
        if not column.requires_grad:
            found.append(torch.zeros_like(leaf))
            continue
        last = number == len(columns) - 1
        (grad,) = torch.autograd.grad(column.sum(), leaf, retain_graph=not last, allow_unused=True)
        found.append(torch.zeros_like(leaf) if grad is None else grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    return torch.stack(found) if len(found) > 1 else found[0][None]
