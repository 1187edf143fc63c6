"""Odd input to the command line, by the thousand, in this process: no traceback, and only the exit codes that there are.

    python tests/fuzzing.py SEED COUNT [KIND…]

Kinds: arguments, plans (nested TOML), cards (JSON beside weights), folders (what lies beside the records of a run). Work that
takes long is cut off where it would begin; what comes before, the reading and checking of what was given, is real.
"""

import contextlib
import io
import json
import os
import random
import shutil
import string
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from robustbench_lite.cli import main
from robustbench_lite.errors import UserError

#: exit codes that a command may have: done, an alarm of check, diff and validate, a mistake, a failed cell
CODES = {0, 1, 2, 3}
COMMANDS = {
    "evaluate": "config task dataset model defense attack threat samples slice-seed seed device batch-size precision data-root"
    " examples physical eot verdict-draws adaptive jobs out format log no-early-exit diagnostics ablate allow-pickle quiet"
    " verbose",
    "train": "out model dataset defense threat seed seeds epochs batch-size learning-rate schedule weight-decay ema accumulate"
    " precision label-smoothing device data-root log quiet",
    "verify": "model dataset defense threat samples slice-seed seed verdict-draws device out",
    "certify": "model dataset defense sigma samples n0 n alpha radii threat seed device out",
    "explain": "model dataset defense attack threat method of samples seed device out",
    "report": "format html details",
    "plot": "out format",
    "check": "baseline run alpha tolerance queries time flags runs",
    "list": "format",
    "show": "",
    "leaderboard": "out runs jobs",
    "generate": "out generator dataset count judge what",
    "rubbish": "model dataset start count steps step-size out",
}
POSITIONAL = {
    "report": ("run", "missing", "."),
    "plot": ("run", "missing"),
    "verify": ("x.npz", "missing.npz", "run/plan.toml"),
    "list": ("attacks", "models", "atacks", "physical"),
    "show": ("attack pgd", "model linear", "defense trades", "atack x", "physical print-photo"),
    "leaderboard": (
        "show run/summary.csv",
        "diff a.csv b.csv",
        "validate run/summary.csv",
        "build plan.toml",
        "merge a.csv",
    ),
    "generate": ("show x.safetensors", "sample net.safetensors", "train", "measure a b"),
}
VALUES = (
    *(
        "digits",
        "npz:x.npz",
        "npz:missing",
        "folder:.",
        "linear",
        "small-cnn",
        "checkpoint:net.safetensors",
        "nets.py:make",
    ),
    *("none", "trades", "bit-depth:bits=2", "fgsm", "pgd:steps=3", "pgd:steps=3,restarts=2", "fgsm,pgd", "autoattack"),
    *(
        "Linf:0.1",
        "L2:128",
        "L2",
        "8/255",
        "Linf:8",
        "L0:3.5",
        "patch:0.1",
        "spatial",
        "Linf:0.1,goal=targeted,target=99",
    ),
    *("0", "1", "-1", "7", "1e400", "nan", "inf", "-0", "99999999999999999999999", "0x10", "1_000", "١٢", "½", "true"),
    *(
        "first:5",
        "all",
        "first:0",
        "first:-3",
        "first:99999999999",
        "cpu",
        "gpu",
        "cuda:99",
        "auto",
        "float32",
        "table",
        "csv",
    ),
    *(
        "",
        " ",
        "\t",
        "\x00",
        "\r\n",
        "\x1b[31m",
        "\udcff",
        "\u202e",
        "[red]x[/red]",
        "=1+1",
        "|",
        "`",
        "<b>",
        "%s%n",
        "{}",
    ),
    *("..", "/dev/null", "/dev/null/x", "a/../b", "~", "-", "--", "--help", "out", "x.npz", "run/plan.toml", "nets.py"),
    *(
        "(((",
        "a=(b",
        ":::",
        ",,,",
        ";;;",
        "a+b+",
        "+",
        "=",
        "a:b=c,b=c",
        "pgd:steps=(1",
        "pgd:objective=(dlr)",
        "x" * 3000,
    ),
)
HABITS = (
    "--eps",
    "--norm",
    "-n",
    "--n-examples",
    "--attacks",
    "--batch",
    "--cuda",
    "--epsilon",
    "-x",
    "--x" * 50,
    "---",
    "-",
)


def text(chance: random.Random) -> str:
    """A value: one that means something, letters at random, or two of those together."""
    if chance.random() < 0.75:
        return chance.choice(VALUES)
    letters = string.printable + "é漢\u2028\x7f\x9b,:;=()+"
    word = "".join(chance.choices(letters, k=chance.randint(0, 12)))
    return word if chance.random() < 0.5 else chance.choice(VALUES) + chance.choice((",", ":", "=", "", ";")) + word


def arguments(chance: random.Random) -> list[str]:
    """A command line."""
    command = chance.choice(list(COMMANDS))
    known = COMMANDS[command].split()
    words = [command, *(chance.choice(POSITIONAL[command]).split() if command in POSITIONAL else ())]
    if chance.random() < 0.1:
        words.append(text(chance))
    for _ in range(chance.randint(0, 4)):
        name = f"--{chance.choice(known)}" if known and chance.random() < 0.9 else chance.choice(HABITS)
        value = text(chance)
        words += [f"{name}={value}"] if chance.random() < 0.3 else [name, value] if chance.random() < 0.9 else [name]
    return words


def value(chance: random.Random, depth: int = 0) -> Any:
    """Anything that JSON and TOML can hold."""
    kind = chance.randint(0, 9 if depth < 4 else 6)
    simple = (0, -1, 1 << 70, 1.5, float("inf"), float("nan"), True, "", "linear", "x" * 500, "\x1b", "8/255", 1e-320)
    if kind <= 6:
        return chance.choice(simple) if kind < 5 else text(chance).replace("\udcff", "?")
    if kind == 7:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {text(chance).replace("\udcff", "?"): value(chance, depth + 1) for _ in range(chance.randint(0, 4))}


PLAN_KEYS = (
    *("dataset", "models", "defenses", "attacks", "threats", "samples", "slice_seed", "seed", "device", "batch_size"),
    *("precision", "early_exit", "diagnostics", "examples", "physical", "eot", "adaptive", "task", "atacks", "model"),
    *("leaderboard", "seeds", "external", "submissions", "training"),
)


def plan(chance: random.Random) -> str:
    """The text of a plan: some keys with odd values, nested tables, or no TOML at all."""
    kind = chance.random()
    if kind < 0.05:
        return chance.choice(
            ("[" * 5000, "a = " + "[" * 3000, "a" + ".b" * 3000 + " = 1", "x = " + "9" * 9000, "\x00", "=", "a=1\na=2")
        )
    table = {key: value(chance) for key in chance.sample(PLAN_KEYS, chance.randint(0, 5))}
    usual: dict[str, Any] = {"models": ["linear"], "defenses": ["none"], "attacks": ["fgsm"], "samples": "first:5"}
    try:
        written = tomli_w.dumps({**(usual if chance.random() < 0.6 else {}), **table})
    except (ValueError, TypeError):  # what it does not write, nobody reads
        return ""
    return written if kind < 0.9 else damaged(chance, written.encode(errors="replace")).decode(errors="replace")


def damaged(chance: random.Random, data: bytes) -> bytes:
    """The bytes with some changed, cut, or doubled."""
    if not data or chance.random() < 0.1:
        return b""
    kind, at = chance.random(), chance.randrange(len(data))
    if kind < 0.3:
        return data[:at]
    if kind < 0.4:
        return data + data[at:]
    changed = bytearray(data)
    for _ in range(chance.randint(1, 10)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


CARD_KEYS = (
    *(
        "architecture",
        "num_classes",
        "input_shape",
        "normalisation",
        "defense",
        "weights",
        "recipe",
        "training",
        "seed",
    ),
    *("class_names", "data", "versions", "clean_accuracy", "robust_accuracy", "measured"),
)


def card(chance: random.Random, usual: dict[str, Any]) -> str:
    """The text of a card: some facts are odd, huge, or gone."""
    kind = chance.random()
    if kind < 0.05:
        return chance.choice(("", "[" * 100000, "{", "null", "[]", "7", '{"a": ' * 5000, "\ufeff{}"))
    facts = dict(usual)
    for key in chance.sample(CARD_KEYS, chance.randint(1, 4)):
        facts[key] = value(chance)
    if kind < 0.2:
        facts.pop(chance.choice(list(facts)))
    if kind < 0.25:
        facts["history"] = [{"epoch": at, "loss": 0.1} for at in range(20000)]
    return json.dumps(facts)


SIDE_FILES = (
    *(
        "timings.parquet",
        "diagnostics.csv",
        "environment.json",
        "slice.json",
        "plan.toml",
        "summary.csv",
        ".claim.json",
    ),
    *("physical.csv", "sweep.csv", "reconstruction.csv", "records", "examples"),
)


class Place:
    """A folder with a small run, weights with a card and some files, and the exits where work would begin."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Path.cwd()
        os.chdir(folder)
        os.environ |= {"RBL_CACHE": str(folder / "cache"), "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
        self._prepare()
        self.card: dict[str, Any] = json.loads((folder / "net.json").read_text(encoding="utf-8"))
        self.whole = folder / "whole"
        shutil.copytree(folder / "run", self.whole)

    def _prepare(self) -> None:
        import numpy as np

        small = ("--model", "linear", "--defense", "none", "--samples", "first:10", "--quiet")
        for words in (
            ("evaluate", *small, "--attack", "noise:draws=2", "--attack", "fgsm", "--out", "run"),
            ("train", "--model", "linear", "--epochs", "1", "--out", "net.safetensors", "--quiet"),
        ):
            assert main(words) == 0, words
        np.savez("x.npz", x=np.zeros((4, 8, 8), dtype="float32"), y=np.arange(4))
        Path("nets.py").write_text("from torch import nn\ndef make(num_classes, input_shape): return nn.Flatten()\n")

    def restore(self, name: str) -> None:
        """The run's file, or folder, as it was."""
        there, whole = self.folder / "run" / name, self.whole / name
        if there.is_dir():
            shutil.rmtree(there)
        there.unlink(missing_ok=True)
        if whole.is_dir():
            shutil.copytree(whole, there)
        elif whole.exists():
            shutil.copy(whole, there)

    def damage(self, chance: random.Random) -> str:
        """Change one file beside the records; its name."""
        name = chance.choice(SIDE_FILES)
        path = self.folder / "run" / name
        if path.is_dir():
            files = [one for one in path.rglob("*") if one.is_file()]
            if not files:
                return name
            path = chance.choice(files)
        kind = chance.random()
        if kind < 0.1:
            path.unlink(missing_ok=True)
        elif kind < 0.4 and name.endswith(".json"):
            path.write_text(json.dumps(value(chance)), encoding="utf-8")
        elif kind < 0.4 and name == "timings.parquet":
            frame = pd.read_parquet(path)
            column = chance.choice(list(frame.columns))
            with contextlib.suppress(Exception):  # what cannot be written, nobody reads
                frame.assign(**{column: chance.choice((None, "x\x1b", -1, float("nan"), "[", True))}).to_parquet(path)
        elif kind < 0.5:
            path.write_text(text(chance), encoding="utf-8", errors="replace")
        else:
            path.write_bytes(damaged(chance, path.read_bytes() if path.exists() else b"a,b\n1,2\n"))
        return name


@contextlib.contextmanager
def cut_off() -> Iterator[None]:
    """Inside, nothing is trained, attacked or measured."""
    from unittest import mock

    from robustbench_lite import training
    from robustbench_lite.run.setting import Setting

    def reached(*_: object, **__: object) -> Any:
        raise UserError("reached the work")

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Setting, "opened", reached))
        for place in ("standard_training", "fit"):
            stack.enter_context(mock.patch.object(training, place, reached))
        for place in ("run.one.Builder", "run.generate.train", "run.quality.measure_files", "run.latent.latent"):
            stack.enter_context(mock.patch(f"robustbench_lite.{place}", reached))
        yield


def attempt(words: list[str]) -> str | None:
    """Run the command; what is wrong with how it ended, or None."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # that is what is looked for
        return traceback.format_exc()
    said = err.getvalue()
    if code not in CODES:
        return f"exit code {code}: {said[-300:]}"
    if "Traceback" in said or (code == 2 and not said.startswith(("rbl: ", "Usage: "))):
        return f"exit code {code}: {said[-300:]!r}"
    if code == 2 and any(ord(letter) < 32 and letter != "\n" for letter in said):
        return f"control characters on stderr: {said[:300]!r}"
    return None


def one(kind: str, chance: random.Random, place: Place) -> tuple[list[str], str | None]:
    """A command of that kind with odd input, and what is wrong with how it ended."""
    if kind == "arguments":
        words = arguments(chance)
        with cut_off():
            return words, attempt(words)
    if kind == "plans":
        Path("plan.toml").write_text(plan(chance), encoding="utf-8", errors="replace")
        words = chance.choice(
            (["evaluate", "--config", "plan.toml", "--out", "o"], ["leaderboard", "build", "plan.toml"])
        )
        with cut_off():
            found = attempt(words)
        return [*words, Path("plan.toml").read_text(encoding="utf-8", errors="replace")[:500]], found
    if kind == "cards":
        Path("net.json").write_text(card(chance, place.card), encoding="utf-8", errors="replace")
        words = [
            "explain",
            "--model",
            "checkpoint:net.safetensors",
            "--samples",
            "first:1",
            "--attack",
            "fgsm",
            "--out",
            "e",
        ]
        found = attempt([*words, "--quiet"])
        return [*words, Path("net.json").read_text(encoding="utf-8")[:500]], found
    name = place.damage(chance)
    words = chance.choice(
        (
            *(["report", "run", "--format", form] for form in ("table", "csv", "json", "markdown")),
            *(["report", "run", "--details"], ["report", "run", "--html", "r.html"], ["plot", "run", "--out", "p"]),
        )
    )
    found = attempt(words)
    told = [*words, name]
    place.restore(name)
    return told, found


KINDS: dict[str, float] = {"arguments": 0.5, "plans": 0.25, "cards": 0.05, "folders": 0.2}


def fuzz(seed: int, count: int, kinds: dict[str, float], tell: Callable[[str], None] = print) -> Counter[str]:
    """Try so many; faults are told as they come. How many of each kind, and faults by the line where they arise."""
    chance, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="rbl-fuzz-") as folder:
        place = Place(Path(folder))
        try:
            for _ in range(count):
                kind = chance.choices(list(kinds), list(kinds.values()))[0]
                words, wrong = one(kind, chance, place)
                found[kind] += 1
                if wrong is not None:
                    where = wrong.strip().splitlines()[-1][:200]
                    found["faults"] += 1
                    found[f"fault: {where}"] += 1
                    if found[f"fault: {where}"] == 1:
                        tell(f"--- {kind}: {words!r}\n{wrong[-1500:]}")
        finally:
            os.chdir(place.home)
    return found


if __name__ == "__main__":
    wanted = {kind: KINDS[kind] for kind in sys.argv[3:]} or KINDS
    result = fuzz(int(sys.argv[1]), int(sys.argv[2]), wanted)
    for name, number in result.most_common():
        print(f"{number:7d} {name}")
    sys.exit(bool(result["faults"]))
