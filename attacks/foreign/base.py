"""What all foreign attacks share: a name in a library, its options as texts, and one step that runs it as it is."""

import contextlib
import io
import logging
import random
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Self
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite import specs
from robustbench_lite.attack import Attack, Cost, Goal, Needs, State
from robustbench_lite.attacks.foreign.constructors import told
from robustbench_lite.errors import PluginError, UserError, unknown
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.rows import along
from robustbench_lite.threat import Threat

#: the option that is ours: forwards that an image may cost
BUDGET = "budget"
#: what rounding may have added to a point of theirs, relative and absolute; nearer than that it is put back
_DUST = 1e-4, 1e-6
_UNKNOWN = 1 << 40


@dataclass(frozen=True)
class Kind:
    """What a library's attack can do.

    Args:
        norms: that it works in. minimises: it looks for the smallest perturbation, not for the best in a ball.
        needs: what it asks for. aims: it can be told which class to make of an image.
    """

    norms: tuple[str, ...]
    minimises: bool = False
    needs: Needs = Needs.GRADIENTS
    aims: bool = True


@dataclass(frozen=True, kw_only=True)
class Foreign(Attack):
    """Another library's attack, run as it is.

    Args:
        attack: its name in the library. options: what its constructor is given, as texts.
        queries: forwards that an image may cost (`budget` in a spec); none: no cap.
    """

    needs: ClassVar[Needs] = Needs.GRADIENTS
    aims: ClassVar = ("fixed-eps", "minimum-norm")
    submits_last: ClassVar[bool] = True
    foreign: ClassVar[bool] = True
    #: the library: its module, its distributions, how people call it, how to get it, and an attack to show
    module: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    called: ClassVar[str]
    how: ClassVar[str] = "pip install 'robustbench-lite[peers]'"
    example: ClassVar[str]
    #: of the constructor's options those that the harness gives
    given: ClassVar[tuple[str, ...]] = ()
    attack: str
    options: tuple[tuple[str, str], ...] = ()
    queries: int | None = None

    def __post_init__(self) -> None:
        known = self.known()
        match = {name.lower(): name for name in known}.get(self.attack.lower())
        if match is None:
            raise unknown(f"{self.called} attack", self.attack, known)
        object.__setattr__(self, "attack", match)
        if self.queries is not None and self.queries < 1:
            raise UserError(f"{self.name}:{self.attack}: {BUDGET}={self.queries}; accepted: 1 and more")
        kind = self.kind()
        # What the class says of all attacks of the library, an instance says of the one that it is.
        for name, value in (
            ("norms", kind.norms),
            ("needs", kind.needs),
            ("aims", ("fixed-eps", "minimum-norm") if kind.minimises else ("fixed-eps",)),
            ("version", zlib.crc32(f"{type(self).version} {[_version(one) for one in self.packages]}".encode())),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, text: str) -> Self:
        """`FAMILY:NAME;key=value;key=value`; `budget=N` is ours, the others are the constructor's."""
        spec = specs.parse_source(text)
        name = spec.name.partition(":")[2].strip()
        if not name or "=" in name:
            raise UserError(f"cannot read {text!r}; write {cls.name}:NAME;key=value, such as {cls.example}")
        options = {key.replace("-", "_"): value for key, value in spec.options.items()}
        budget = options.pop(BUDGET, None)
        queries = None if budget is None else specs.coerce(int, budget, f"{cls.name}:{name}: {BUDGET}")
        return cls(attack=name, options=tuple(options.items()), queries=queries)

    def __str__(self) -> str:
        budget = {} if self.queries is None else {BUDGET: str(self.queries)}
        return str(specs.Spec(f"{self.name}:{self.attack}", {**dict(self.options), **budget}, ";"))

    @classmethod
    def known(cls) -> Mapping[str, Any]:
        """The attacks of the library that can be run here, by name.

        Raises:
            UserError: the library is not installed.
        """
        raise NotImplementedError

    def kind(self) -> Kind:
        """What this one can do; also refuses options that it does not have."""
        raise NotImplementedError

    def craft(self, network: nn.Module, state: State, seed: int) -> Tensor:
        """The library's own points for all rows, (n, c, h, w); global random state is forked and seeded around it."""
        raise NotImplementedError

    @classmethod
    def library(cls, module: str | None = None) -> Any:
        """The library, or a part of it.

        Raises:
            UserError: it is not installed.
        """
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                return import_module(module or cls.module)
        except ImportError as error:
            raise UserError(f"{cls.name} needs {cls.called}: {cls.how} ({error})") from error

    @classmethod
    def constructor(cls, attack: str) -> list[tuple[str, str, str]]:
        """The options of one of the attacks, each with the words for its type and its default.

        Raises:
            UserError: there is no such attack, or the library is not installed.
        """
        found = {name.lower(): kind for name, kind in cls.known().items()}
        if attack.lower() not in found:
            raise unknown(f"{cls.called} attack", attack, cls.known())
        return told(found[attack.lower()], cls.given)

    @property
    def budget(self) -> int | None:
        """As the option says; past it the attack is stopped, and its cell has failed."""
        return self.queries

    def check(self, threat: Threat, num_classes: int) -> None:
        """Refuse as `Attack.check` does, by what this one of the library's attacks can do."""
        if threat.norm not in self.norms:
            raise UserError(f"{self.name}:{self.attack} is for {' and '.join(self.norms)}, not for {threat.norm}")
        if threat.aim not in self.aims:
            raise UserError(
                f"{self.name}:{self.attack} needs a radius; write {threat.norm}:EPS, such as {threat.norm}:8/255"
            )
        if threat.goal == "targeted" and not self.kind().aims:
            raise UserError(f"{self.name}:{self.attack} cannot aim at a class; it is for untargeted threats")

    def length(self) -> int:
        """One step, which is the whole attack."""
        return 1

    def cost(self, num_classes: int) -> Cost:
        """Whatever the library asks for, or the budget; what it did ask for is counted."""
        return Cost(self.queries or _UNKNOWN, _UNKNOWN)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        """At the clean images."""
        state: State = State.begin(x, goal, threat, draws, x)
        return state

    def step(self, state: State, oracle: Oracle) -> State:
        """The attack from beginning to end, on all rows."""
        if state.threat.eps == 0 or bool(state.done.all()):  # libraries disagree on what to do then
            return state
        rows = (~state.done).nonzero().squeeze(1)  # the others are there to fill up the micro-batch
        here = state[rows]
        seed = _seed(here.draws)
        with oracle.open(rows) as network, _forked(seed, here.x.device), _silenced():
            adv = self.craft(network, here, seed)
        adv = self._tidied(adv.detach().to(here.x), here)
        if adv.shape != here.x.shape:
            raise PluginError(f"{self} made points {tuple(adv.shape)} of images {tuple(here.x.shape)}")
        return replace(state, adv=state.adv.index_copy(0, rows, adv))

    def _tidied(self, adv: Tensor, state: State) -> Tensor:
        """Without what rounding adds; a smallest perturbation that is too large is cut to the ball that was asked for.

        Points further outside stay where they are: the verdict calls them invalid.
        """
        threat, x = state.threat, state.x
        boxed = adv.clamp(0, 1)
        adv = torch.where((boxed - adv).abs() <= _DUST[1], boxed, adv)
        if threat.eps is None or adv.shape != x.shape:
            return adv
        far = threat.distance(adv, x)
        near = (far <= threat.eps * (1 + _DUST[0]) + _DUST[1]) | ("minimum-norm" in self.aims)
        outside = ~threat.contains(adv, x) & near & far.isfinite()
        return torch.where(along(outside, adv), threat.project(adv.nan_to_num(), x), adv)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _seed(draws: Draws) -> int:
    """A number from the seed and the samples of the micro-batch."""
    words = torch.cat((draws.key, draws.lane[:, None]), 1).cpu().contiguous().numpy().tobytes()
    return zlib.crc32(words)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without what a library prints and warns of while it runs: stdout is for the table, and the verdict tells the rest."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Seeded(np.random.RandomState):
    """numpy's generator; made without a seed it takes one from the global generator, not from the operating system."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**31) if seed is None else seed)


def _default_rng(seed: Any = None) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.randint(2**31) if seed is None else seed))


@contextlib.contextmanager
def _forked(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators of torch, numpy and Python seeded for a while, and put back."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            with patch.multiple(np.random, RandomState=_Seeded, default_rng=_default_rng):
                yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
