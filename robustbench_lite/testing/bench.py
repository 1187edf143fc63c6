"""What the laws run on: a small victim, samples, and the engine's stepping without its bookkeeping."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite import zoo
from robustbench_lite.attack import Asker, Attack, Goal, Setup, State, aimed
from robustbench_lite.networks import bound
from robustbench_lite.norms.rowwise import row_sum
from robustbench_lite.oracle import Ledger, Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import Rows, concat
from robustbench_lite.system import Observed, Outputs, System
from robustbench_lite.threat import Threat

#: as in the engine: a smaller micro-batch is padded with copies of its first row, so that every kernel is the same
FLOOR = 32
STEPS = 4
SHAPE = (2, 5, 5)
#: radii at which some samples of the victim break and some do not
RADII = {"Linf": 0.06, "L2": 0.4, "L1": 1.5, "L0": 4.0}
#: limits of the threats that are no norms
LIMITS = {"spatial": "spatial:translation=1,rotation=20", "patch": "patch:area=0.2"}
#: the rule for the targeted threat, where it is not `next`: one patch serves all images
TARGETS = {"patch": "1"}


class Rowwise(nn.Module):
    """Affine layers with ReLUs between, in which a row has the same bits in any batch, alone or not.

    A matrix product may add up in another order when the batch has another size; here every row is multiplied and
    summed by itself, in float64, so a law that fails tells of the attack and not of the arithmetic.

    Args:
        layers: (weight (out, in), bias (out,)), from the pixels to the scores.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(weight.double()) for weight, _ in layers])
        self.biases = nn.ParameterList([nn.Parameter(bias.double()) for _, bias in layers])

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> scores (n, k) float32."""
        hidden = x.flatten(1).double()
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden.relu() if number else hidden
            # Copies side by side, not a broadcast: the gradient of a broadcast is a sum whose order torch chooses.
            wide = torch.cat([hidden] * len(weight), 1).view(len(x), *weight.shape) * weight
            hidden = row_sum(wide.flatten(0, 1)).view(len(x), -1) + bias
        return hidden.float()


@dataclass(frozen=True)
class Untrained:
    """The networks that an attack names, with the weights that they begin with."""

    num_classes: int

    def model(self, text: str) -> System:
        """A system with the zoo's weights, trained or not."""
        found = zoo.load(text, num_classes=self.num_classes, input_shape=SHAPE)
        return System(model=found.module, num_classes=self.num_classes, input_shape=SHAPE, name=text)

    def architecture(self, text: str) -> Callable[[], nn.Module]:
        """What builds it."""
        fresh = zoo.load(text, num_classes=self.num_classes, input_shape=SHAPE).fresh
        assert fresh is not None
        return fresh


class Affine(nn.Module):
    """One matrix product: quicker than `Rowwise`, but a row's last bit may depend on the batch."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) -> scores (n, k)."""
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


def victim(num_classes: int, seed: int = 0) -> System:
    """A random two-layer network on images of `SHAPE`."""
    random, inputs, hidden = np.random.default_rng(seed), int(np.prod(SHAPE)), 6
    first = random.normal(size=(hidden, inputs)) / np.sqrt(inputs)
    second = random.normal(size=(num_classes, hidden))
    # Centred on mid-grey, so that all classes occur.
    bias = -first.sum(1) / 2 + random.normal(size=hidden) * 0.1
    model = Rowwise([_layer(first, bias), _layer(second, np.zeros(num_classes))])
    return System(model=model, num_classes=num_classes, input_shape=SHAPE)


def fast(num_classes: int) -> System:
    """A random affine system, quick to run."""
    weight = torch.from_numpy(np.random.default_rng(3).normal(size=(num_classes, int(np.prod(SHAPE)))) / 4).float()
    return System(model=Affine(weight, -weight.sum(1) / 2), num_classes=num_classes, input_shape=SHAPE)


def constant(num_classes: int) -> System:
    """A system that answers class 0 to every image, with a gradient of zero."""
    weight, bias = torch.zeros(num_classes, int(np.prod(SHAPE))), torch.zeros(num_classes)
    bias[0] = 1.0
    return System(model=Rowwise([(weight, bias)]), num_classes=num_classes, input_shape=SHAPE)


class Mirrored(Observed):
    """A random encoder of two layers and a random linear decoder before a judge; a row has the same bits in any batch."""

    def __init__(self, judge: nn.Module, latent: int = 6, seed: int = 5) -> None:
        super().__init__()
        random, inputs, hidden = np.random.default_rng(seed), int(np.prod(SHAPE)), 8
        first = random.normal(size=(hidden, inputs)) / np.sqrt(inputs)
        second = random.normal(size=(2 * latent, hidden)) / np.sqrt(hidden)
        # Centred on mid-grey, so that images differ in which units are on.
        layers = [
            _layer(first, -first.sum(1) / 2 + random.normal(size=hidden) * 0.1),
            _layer(second, np.zeros(2 * latent)),
        ]
        self.encoder = Rowwise(layers)
        self.decoder = Rowwise([_layer(random.normal(size=(inputs, latent)), np.full(inputs, 0.5))])
        self.judge = judge

    def observe(self, x: Tensor) -> Outputs:
        """See `Observed.observe`."""
        code, log_variance = self.encoder(x).chunk(2, 1)
        image = self.decoder(code).view(-1, *SHAPE)
        return Outputs(scores=self.judge(image), code=code, log_variance=log_variance, image=image)


def for_attack(attack: Attack, system: System) -> System:
    """The system, behind an encoder and a decoder where the attack needs codes."""
    reconstructs = attack.needs_codes and not isinstance(system.model, Observed)
    return system.with_model(Mirrored(system.model)) if reconstructs else system


def images(count: int = FLOOR, seed: int = 1) -> Tensor:
    """Random images (count, *SHAPE); the first ones have pixels at both walls of the box."""
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.uniform(0.1, 0.9, size=(count, *SHAPE))).float()
    walls = torch.from_numpy(random.uniform(size=x.shape)).float()
    edge = torch.where(walls < 0.2, 0.0, torch.where(walls > 0.8, 1.0, x))
    return torch.cat((edge[:4], x[4:]))


def _layer(weight: np.ndarray, bias: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(weight), torch.from_numpy(bias)


@dataclass(frozen=True, kw_only=True)
class Flight(Rows):
    """Rows on their way: where they stand, and what the oracle knows of them."""

    state: State
    ledger: Ledger


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One attack on one victim under one threat.

    Args:
        attack: as it runs, prepared. system: the victim.
        x: (n, c, h, w). y: (n,), the victim's own answers, since only what is right is attacked.
    """

    attack: Attack
    system: System
    threat: Threat
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, attack: Attack, threat: Threat, num_classes: int, *, system: System | None = None) -> "Case":
        """The attack, prepared against the victim on other images than those it will run on."""
        system = for_attack(attack, victim(num_classes) if system is None else system)
        x, other = images(), images(64 if attack.aims_at_pictures else 16, seed=2)
        with torch.no_grad():
            y, other_y = system(x).prediction(), system(other).prediction()
        attack = bound(attack, Untrained(num_classes))
        asker = Asker(attack, system, threat)
        draws = Draws.for_images(0, other, other_y)
        setup = Setup(x=other, y=other_y, draws=draws, threat=threat, num_classes=num_classes, ask=asker)
        attack = attack.prepare(setup) if attack.learns(threat) else attack
        return cls(attack=attack, system=system, threat=threat, x=x, y=y)._with_targets()

    def on(self, system: System) -> "Case":
        """The same attack, as it is prepared, on another system."""
        system = for_attack(self.attack, system)
        with torch.no_grad():
            y = system(self.x).prediction()
        return replace(self, system=system, y=y)._with_targets()

    def _with_targets(self) -> "Case":
        """Without the samples whose label is the target; the engine leaves them out."""
        target = self.goal(self.rows).target
        return self if target is None else replace(self, x=self.x[target >= 0], y=self.y[target >= 0])

    def draws(self, rows: Tensor, *, seed: int = 0, lane: int = 0) -> Draws:
        """The streams of these rows."""
        return Draws.for_images(seed, self.x[rows], self.y[rows]).in_lane(lane)

    def goal(self, rows: Tensor, *, lane: int = 0) -> Goal:
        """What is wanted of these rows, with the targets that the engine would choose."""
        x, y = self.x[rows], self.y[rows]
        if self.attack.target_rule == "column":  # the user's own targets: any will do here
            return Goal(y=y, success=self.threat.goal, target=(y + 1) % self.system.num_classes)
        goal, draws = Goal(y=y, success=self.threat.goal), self.draws(rows, lane=lane)
        return aimed(self.attack, self.system, x, goal, self.threat, draws)

    def start(
        self, rows: Tensor, *, seed: int = 0, lane: int = 0, draws: Draws | None = None, goal: Goal | None = None
    ) -> Flight:
        """The rows (m,) after `Attack.start`, in a micro-batch of at least the floor."""
        index = _padding(len(rows))
        draws = (self.draws(rows, seed=seed, lane=lane) if draws is None else draws)[index]
        goal = (self.goal(rows, lane=lane) if goal is None else goal)[index]
        x = self.x[rows][index]
        oracle = self._oracle(x, goal, draws, Ledger.new(x))
        state = self.attack.start(x, goal, self.threat, draws, oracle)
        ledger = oracle.ledger
        if ledger.witness is None:  # as in the engine: every row holds one, or none does
            ledger = replace(ledger, witness=state.witness)
        return Flight(state=state, ledger=ledger)[torch.arange(len(rows))]

    def step(self, flight: Flight, times: int = 1) -> Flight:
        """The rows some steps later, done or not."""
        for _ in range(times):
            here = flight[_padding(len(flight))]
            oracle = self._oracle(here.state.x, here.state.goal, here.state.draws, here.ledger)
            state = self.attack.step(here.state, oracle)
            state = replace(state, k=state.k + 1)
            flight = Flight(state=state, ledger=oracle.ledger)[torch.arange(len(flight))]
        return flight

    def run(self, rows: Tensor, *, lane: int = 0) -> Flight:
        """The rows at their end, each after its last step or when it is done, as the engine retires them."""
        parts, index, flight = [], [], self.start(rows, lane=lane)
        here = torch.arange(len(rows))
        for _ in range(self.attack.length()):
            flight = self.step(flight)
            spent = self.attack.budget is not None and flight.ledger.forwards >= self.attack.budget
            over = flight.state.done | spent
            parts.append(flight[over])
            index.append(here[over])
            flight, here = flight[~over], here[~over]
            if not len(here):
                break
        joined = [part for part in (*parts, flight) if len(part)]
        order = torch.cat((*index, here)).argsort()
        return concat(joined)[order]

    @property
    def steps(self) -> int:
        """How many steps the laws follow that compare bits; a whole run is made for ends and costs."""
        return min(STEPS, self.attack.length())

    @property
    def rows(self) -> Tensor:
        """All samples."""
        return torch.arange(len(self.x))

    def follow(self, rows: Tensor, *, seed: int = 0, lane: int = 0, draws: Draws | None = None) -> Flight:
        """The rows after the first steps."""
        return self.step(self.start(rows, seed=seed, lane=lane, draws=draws), self.steps)

    @cached_property
    def path(self) -> list[Flight]:
        """All samples after `start` and after each of the first steps."""
        found = [self.start(self.rows)]
        for _ in range(self.steps):
            found.append(self.step(found[-1]))
        return found

    @cached_property
    def ends(self) -> list[Flight]:
        """Some rows at the end of every lane."""
        here, rows = self.on(fast(self.system.num_classes)), self.rows[:8]
        return [here.run(rows, lane=lane) for lane in range(self.attack.lanes(self.system.num_classes))]

    def _oracle(self, x: Tensor, goal: Goal, draws: Draws, ledger: Ledger) -> Oracle:
        attack = self.attack
        return Oracle(
            self.system,
            attack.needs,
            x,
            goal,
            self.threat,
            draws,
            ledger=ledger,
            eot=attack.eot,
            budget=attack.budget,
            watch=not attack.submits_last,
        )


def _padding(count: int) -> Tensor:
    index = torch.arange(max(count, FLOOR))
    return torch.where(index < count, index, 0)
