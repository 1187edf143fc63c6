"""The plan: what is evaluated, as one frozen value that prints back as TOML. No torch here."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import tomli_w

from robustbench_lite.errors import UserError, cause_of, cut, missing, nearest, unknown_device
from robustbench_lite.escaping import printable, refuse_control_value
from robustbench_lite.hashing import hash_text
from robustbench_lite.specs import as_list, parse_chain
from robustbench_lite.task import CLASSIFY, task_of

#: the options that hold several values, and what a user calls one of them
PLURAL = {"models": "model", "defenses": "defense", "attacks": "attack", "threats": "threat"}
PRECISIONS = ("float32", "bfloat16", "auto")
#: the most levels of tables and lists in a plan
DEEPEST = 20
ADAPTIVE = ("both", "yes", "no")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Systems x attacks x threats over a named slice of a dataset.

    Args:
        dataset, models, defenses, attacks, threats: spec strings; every model is combined with every defense, and every
            attack runs under every threat.
        samples: `all`, `first:N`, `N` (a class-balanced random subset by `slice_seed`) or None, the dataset's default.
        seed: of the attacks and of trainings. device: `auto`, `cpu`, `cuda` or `cuda:i`.
        batch_size: rows of a micro-batch, or None to choose. precision: of the search; verdicts are always float32.
        early_exit: retire a sample at its first confirmed break. diagnostics: run the cheap probes as well.
        data_root, download: where datasets lie, and whether they may be fetched. allow_pickle: load pickles too.
        allow_code: load files that run code of their own (whole networks, exported programs).
        examples: how many adversarial examples a cell keeps for the picture, or `all` to keep every one (as .npz).
        physical: a camera before every system, or None: every attack runs without knowing it, and by EOT; all examples
            are kept, measured and swept over distances and angles.
        eot: draws that a query averages over, on systems that are random; 0: none, None: 10 behind a camera, else none.
        verdict_draws: how often a random system is asked for its last word; None: 100 behind a camera, else 20.
        adaptive: who attacks a defense that hides something (rejects, saturates, rounds, draws): an adversary who does not
            know of it (`no`: what is claimed), one who does (`yes`), or both. Other defenses hide nothing.
        ablate: also every chain of defenses without each of its parts.
        task: `classify`, or `reconstruction`, of models that encode and decode images; see `task.Task`.

    Raises:
        UserError: a value that is not accepted.
    """

    dataset: str = "digits"
    models: tuple[str, ...] = ("small-cnn",)
    defenses: tuple[str, ...] = ("none", "adversarial-training", "trades", "alp", "distillation", "safetynet")
    attacks: tuple[str, ...] = ("noise", "fgsm", "pgd", "targeted", "substitute:rounds=4", "eot", "autoattack")
    threats: tuple[str, ...] = ("Linf:0.2",)
    samples: str | None = None
    slice_seed: int = 0
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    precision: str = "float32"
    early_exit: bool = True
    diagnostics: bool = True
    data_root: str | None = None
    download: bool = False
    allow_pickle: bool = False
    allow_code: bool = False
    examples: str = "8"
    physical: str | None = None
    eot: int | None = None
    verdict_draws: int | None = None
    adaptive: str = "both"
    ablate: bool = False
    task: str = "classify"

    def __post_init__(self) -> None:
        for name, one in PLURAL.items():
            values = tuple(dict.fromkeys(getattr(self, name)))
            if not values or not all(value.strip() for value in values):
                raise UserError(f"the plan has no {one}; give at least one")
            _check_names(one, values)
            object.__setattr__(self, name, values)
        for item in fields(self):
            if isinstance(value := getattr(self, item.name), str):
                refuse_control_value(item.name, value)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}; accepted: auto, or 1 and more")
        if self.precision not in PRECISIONS:
            raise _not_accepted("precision", self.precision, PRECISIONS)
        if self.adaptive not in ADAPTIVE:
            raise _not_accepted("adaptive", self.adaptive, ADAPTIVE)
        if self.device not in ("auto", "cpu", "cuda") and not _is_cuda(self.device):
            raise unknown_device(self.device)
        task_of(self.task)
        if self.examples != "all" and not self.examples.isdigit():
            raise _not_accepted("examples", self.examples, ("all", "a number such as 8"))
        if self.eot is not None and not 0 <= self.eot <= 1000:
            raise UserError(f"eot={self.eot}; accepted: 0 (no averaging) to 1000 draws")
        if self.verdict_draws is not None and not 10 <= self.verdict_draws <= 100000:
            raise UserError(f"verdict_draws={self.verdict_draws}; accepted: 10 to 100000")
        whole = isinstance(self.seed, int) and isinstance(self.slice_seed, int)
        if not whole or not -(2**63) <= self.seed < 2**63 or self.slice_seed < 0:
            raise UserError(
                f"seed={cut(self.seed)}, slice_seed={cut(self.slice_seed)}; accepted: whole numbers of 64 bits,"
                " slice_seed from 0"
            )

    def to_toml(self) -> str:
        """The plan as TOML; `Plan.from_toml` reads it back to an equal plan."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if self.task == CLASSIFY.name:  # a plan of before there were tasks prints as it did, and keeps its digest
            del values["task"]
        if not self.allow_code:  # the same
            del values["allow_code"]
        return tomli_w.dumps(
            {name: value for name, value in values.items() if value is not None}, multiline_strings=False
        )

    @classmethod
    def of_task(cls, name: str) -> "Plan":
        """The plan of a task when nobody says more.

        Raises:
            UserError: there is no such task.
        """
        return cls(task=name, **task_of(name).defaults)

    @classmethod
    def from_toml(cls, text: str, source: str = "the plan") -> "Plan":
        """Read a plan; what it leaves out has its default.

        Raises:
            UserError: not TOML, an unknown key, or a value of the wrong type.
        """
        values = _checked(parse_toml(text, source), source)
        return cls(**{**task_of(values.get("task", CLASSIFY.name)).defaults, **values})

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan from a file.

        Raises:
            UserError: it cannot be read, or as `from_toml`.
        """
        return cls.from_toml(read_text(path), f"the plan {cut(str(path))!r}")

    def with_options(self, options: Mapping[str, Any]) -> "Plan":
        """The plan with the options that are not None or empty."""
        return replace(self, **{name: value for name, value in options.items() if value not in (None, (), [])})

    @property
    def trust(self) -> dict[str, bool]:
        """What may be read of a model's files, for `zoo.load`."""
        return {"allow_pickle": self.allow_pickle, "allow_code": self.allow_code}

    @property
    def chains(self) -> tuple[str, ...]:
        """The defenses; with `ablate` each chain is followed by itself without each of its parts."""
        found = dict.fromkeys(self.defenses)
        for chain in self.defenses if self.ablate else ():
            parts = [str(part) for part in parse_chain(chain)]
            rest = ["+".join(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]
            found |= dict.fromkeys(rest if len(parts) > 1 else ())
        return tuple(found)

    @property
    def sees_through(self) -> str:
        """What threats are called with the camera that stands behind them: ` @ print-photo`, or nothing."""
        return "" if self.physical is None else f" @ {printable(self.physical.strip().removeprefix('physical:'))}"

    @property
    def digest(self) -> str:
        """12 letters that name this plan."""
        return hash_text(self.to_toml(), 6)


def read_text(path: Path) -> str:
    """The text of a plan's file.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing("plan", path) from None
    except (OSError, ValueError) as error:  # a folder, no permission; no UTF-8, a name with a null character
        raise UserError(f"cannot read the plan {cut(str(path))!r}: {cause_of(error)}") from None


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        UserError: it is not TOML, or its tables and lists are nested deeper than `DEEPEST`.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own error is a ValueError, as is a number of 5000 digits
        raise UserError(f"{source} is not TOML: {cut(str(error))}") from None
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level]
        level = [one for many in inner for one in many if isinstance(one, (dict, list))]
        if not level:
            return table
    raise UserError(f"{source} has tables in tables, {DEEPEST} deep; accepted: a plan as rbl evaluate --out writes it")


def _checked(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    kinds = {item.name: item.type for item in fields(Plan)}
    values: dict[str, Any] = {}
    for given, value in table.items():
        key = given.replace("-", "_")
        key = {one: many for many, one in PLURAL.items()}.get(key, key)
        if key not in kinds:
            guess = nearest(key, kinds)
            also = f"; did you mean {guess!r}?" if guess else f"; accepted: {', '.join(kinds)}"
            raise UserError(f"{source} has an unknown key {cut(given)!r}{also}")
        if key in values:
            raise UserError(f"{source} gives {cut(key)!r} twice")
        values[key] = _fit(kinds[key], value, f"{source}: {given}")
    return values


def _fit(kind: Any, value: Any, what: str) -> Any:
    """A TOML value as the field wants it; a single text is accepted where several may stand, a number as a text."""
    if kind == tuple[str, ...]:
        many = [value] if isinstance(value, str) else value
        if not isinstance(many, list) or not all(isinstance(one, str) for one in many):
            raise UserError(f"{what} = {cut(repr(value))}; accepted: a text or a list of texts")
        return tuple(many)
    accepted = get_args(kind) or (kind,)
    if isinstance(value, bool) and bool not in accepted:
        raise UserError(f"{what} = {cut(repr(value))}; accepted: {_words(accepted)}")
    if int in accepted and type(None) in accepted and value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and str in accepted:
        return str(value)
    if not isinstance(value, accepted):
        raise UserError(f"{what} = {cut(repr(value))}; accepted: {_words(accepted)}")
    return value


def _check_names(kind: str, values: tuple[str, ...]) -> None:
    """Refuse names with control characters, and several names in one.

    Raises:
        UserError: one of them is.
    """
    for value in values:
        refuse_control_value(kind, value)
        sources = kind == "model" and (":" in value or "/" in value)  # the rest is a file's name, or options
        if kind == "threat" and (decimal := re.fullmatch(r"(\w+:\d*),(\d+)", value)):
            raise UserError(f"threat {cut(value)!r} has a comma in its number; write {cut('.'.join(decimal.groups()))}")
        if not sources and len(several := as_list(value)) > 1:
            each = " ".join(f"--{kind} {cut(one)}" for one in several)
            raise UserError(f"{kind} {cut(value)!r} is several; give each on its own: {each}")


def _words(accepted: tuple[Any, ...]) -> str:
    names = {int: "a whole number", str: "a text", bool: "true or false"}
    return ", ".join(names[kind] for kind in accepted if kind in names)


def _not_accepted(name: str, value: str, accepted: tuple[str, ...]) -> UserError:
    guess = nearest(value, accepted)
    also = f"; did you mean {guess!r}?" if guess else ""
    return UserError(f"{name}={cut(value)}; accepted: {', '.join(accepted)}{also}")


def _is_cuda(device: str) -> bool:
    return device.startswith("cuda:") and device[5:].isdigit()
