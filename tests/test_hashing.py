"""Keys by behaviour: what can change a number changes a digest, and prose, paths and names of modules do not."""

import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FunctionType, MethodType

import pytest
import torch
from torch import nn

from robustbench_lite import plugins
from robustbench_lite.attack import resolve_attack
from robustbench_lite.hashing import source, values
from robustbench_lite.hashing.values import digest_and_packages, hash_plugin, hash_value
from robustbench_lite.system import System

Files = dict[str, str]
Hash = Callable[[Files], str]
#: a user's model and what it imports, as they write it
PROJECT: Files = {
    "mine.py": """
        import functools
        import math

        import torch
        from torch import nn

        import helper
        from lab.parts import Shift, squashed

        SCALE = 2.0
        TABLE = {"gain": [1.0, 2.0]}
        both = (lambda x: x + 1, lambda x: x + 2)


        def tempered(z, by=1.5):
            return z / by


        class M(nn.Module):
            rate = 0.25

            def __init__(self):
                super().__init__()
                self.network = nn.Linear(4, 3)
                torch.manual_seed(0)
                nn.init.normal_(self.network.weight)
                nn.init.zeros_(self.network.bias)
                self.shift = Shift()
                self.last = functools.partial(tempered, by=1.25)

            def forward(self, x):
                x = self.shift(x - helper.SHIFT) * SCALE
                z = squashed(self.network(both[0](x).flatten(1))) * TABLE["gain"][1]
                return self.last(helper.clipped(z, math.pi)) + self.rate
        """,
    "helper.py": """
        SHIFT = 0.5
        UNUSED = 1


        def clipped(z, limit):
            return inner(z).clamp(-limit, limit)


        def inner(z):
            if z.isnan().any():
                raise ValueError("the scores are not numbers")
            return z * 1.0


        def never(z):
            return z - 1
        """,
    "lab/__init__.py": "",
    "lab/parts.py": """
        from torch import nn

        from .maths import power


        class Base(nn.Module):
            offset = 0.1

            def forward(self, x):
                return x + self.offset


        class Shift(Base):
            pass


        def squashed(z):
            from . import late

            def bent(v):
                return power(v, 3) * late.FACTOR

            return bent(z)
        """,
    "lab/maths.py": """
        def power(v, n):
            return v**n
        """,
    "lab/late.py": "FACTOR = 0.5\n",
}


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """The digest of the project's model, each time written into another folder and imported anew."""
    number, before = count(), {name for name in sys.modules if name.partition(".")[0] not in ("helper", "lab")}

    def digest(files: Files) -> str:
        folder = tmp_path / f"at-{next(number)}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text))
        for name in set(sys.modules) - before:
            del sys.modules[name]
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            start = "mine" if "mine.py" in files else "theirs"
            model = importlib.import_module(start).M()
            system = System(model=model.eval(), num_classes=3, input_shape=(1, 2, 2))
            return system.digest

    yield digest
    for name in set(sys.modules) - before:
        del sys.modules[name]


def edited(old: str, new: str, file: str = "mine.py") -> Files:
    assert old in PROJECT[file], old
    return {**PROJECT, file: PROJECT[file].replace(old, new)}


def moved() -> Files:
    """The package under another name, one module of it split in two, and the main file renamed."""
    files = {name.replace("lab/", "shop/"): text for name, text in PROJECT.items()}
    files["theirs.py"] = files.pop("mine.py").replace("lab.parts", "shop.pieces")
    files["shop/pieces.py"] = files.pop("shop/parts.py")
    files["shop/maths.py"] = "from .powers import power\n"
    files["shop/powers.py"] = PROJECT["lab/maths.py"]
    return files


KEEPS: dict[str, Files] = {
    "another folder": PROJECT,
    "a comment": edited("SCALE = 2.0", "# why two\n        SCALE = 2.0"),
    "docstrings": edited("def forward(self, x):", 'def forward(self, x):\n                """What it does."""'),
    "a docstring of the file": {**PROJECT, "helper.py": '"""Helps."""\n' + textwrap.dedent(PROJECT["helper.py"])},
    "annotations": edited("def inner(z):", "def inner(z: object) -> object:", "helper.py"),
    "layout": edited("return z / by", "return (\n                z\n                / by\n            )"),
    "what an error says": edited("the scores are not numbers", "the logits must be finite", "helper.py"),
    "a function that nobody calls": edited("return z - 1", "return z - 2", "helper.py"),
    "a constant that nobody reads": edited("UNUSED = 1", "UNUSED = 2", "helper.py"),
    "an import by another name": {
        **PROJECT,
        "mine.py": PROJECT["mine.py"].replace("import helper", "import helper as h").replace("helper.", "h."),
    },
    "moved and renamed modules": moved(),
    "what calls what, by another name": edited("inner", "scaled", "helper.py"),
}
CHANGES: dict[str, Files] = {
    "a constant of an imported module": edited("SHIFT = 0.5", "SHIFT = 0.0", "helper.py"),
    "a constant of the file": edited("SCALE = 2.0", "SCALE = 2.5"),
    "a value in a table": edited("[1.0, 2.0]", "[1.0, 3.0]"),
    "an operator": edited("return z * 1.0", "return z + 1.0", "helper.py"),
    "a helper's helper": edited("return v**n", "return v**n + 0", "lab/maths.py"),
    "a number in an inner function": edited("power(v, 3)", "power(v, 2)", "lab/parts.py"),
    "a constant of a module that is imported late": edited("FACTOR = 0.5", "FACTOR = 0.6", "lab/late.py"),
    "an attribute of the class": edited("rate = 0.25", "rate = 0.5"),
    "an attribute of a base class": edited("offset = 0.1", "offset = 0.2", "lab/parts.py"),
    "a method of a base class": edited("return x + self.offset", "return x - self.offset", "lab/parts.py"),
    "an option held by a partial": edited("by=1.25", "by=1.75"),
    "the other lambda of a line": edited("both[0]", "both[1]"),
    "a lambda of a line": edited("lambda x: x + 1,", "lambda x: x + 3,"),
    "a decorator": edited("def forward(self, x):", "@torch.no_grad()\n            def forward(self, x):"),
    "a constant of Python": edited("math.pi", "math.e"),
    "weights": edited("torch.manual_seed(0)", "torch.manual_seed(1)"),
    "a method that is called": edited("z.isnan()", "z.isinf()", "helper.py"),
}


@pytest.mark.parametrize("files", KEEPS.values(), ids=KEEPS)
def test_prose_layout_and_place_keep_the_digest(files: Files, hashed: Hash) -> None:
    assert hashed(files) == hashed(PROJECT)


@pytest.mark.parametrize("files", CHANGES.values(), ids=CHANGES)
def test_what_can_change_a_number_changes_the_digest(files: Files, hashed: Hash) -> None:
    assert hashed(files) != hashed(PROJECT)


def test_two_lambdas_of_one_line_are_two() -> None:
    scope: dict[str, list[Callable[[int], int]]] = {}
    exec("pair = [lambda x: x + 1, lambda x: x + 2, lambda x: x + 1]", scope)
    first, second, third = map(hash_value, scope["pair"])
    assert first == third != second


def test_code_that_was_edited_on_disk_since_it_was_loaded_is_told_as_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_since.py"
    file.write_text("def f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    f = importlib.import_module("edited_since").f
    before = hash_value(f)
    file.write_text("def f(x):\n    return x + 2  # what the next process will run\n")
    stale = hash_value(f)
    del sys.modules["edited_since"]
    importlib.invalidate_caches()
    after = hash_value(importlib.import_module("edited_since").f)
    assert stale != after
    assert before != after


def linear() -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def hooked(by: float) -> nn.Module:
    layer = linear()
    layer.register_forward_hook(lambda module, inputs, output: output * by)
    return layer


def with_another_forward(by: float) -> nn.Module:
    layer = linear()
    usual = layer.forward
    layer.forward = lambda x: usual(x) * by  # type: ignore[method-assign, assignment]
    return layer


def with_a_method_of_another(by: float) -> nn.Module:
    layer = linear()
    layer.forward = MethodType(lambda self, x: x * by, layer)  # type: ignore[method-assign]
    return layer


def traced(by: float) -> nn.Module:
    class Times(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * by

    return torch.jit.trace(Times(), torch.ones(1))  # type: ignore[no-any-return, no-untyped-call]


def composed(by: float) -> object:
    transforms = pytest.importorskip("torchvision.transforms")
    return transforms.Compose([transforms.Normalize([0.5], [by]), transforms.Lambda(lambda x: x)])


def grown(by: float) -> object:
    tree = pytest.importorskip("sklearn.tree").DecisionTreeClassifier(random_state=0)
    return tree.fit([[0.0], [1.0], [by]], [0, 1, 2])


class Held(list[float]):
    """A list with something beside it."""

    by: float


def held(by: float) -> Held:
    found = Held([1.0])
    found.by = by
    return found


@pytest.mark.parametrize(
    "make", [hooked, with_another_forward, with_a_method_of_another, traced, composed, grown, held]
)
def test_what_others_objects_hold_is_in_the_digest(make: Callable[[float], object]) -> None:
    assert hash_value(make(2.0)) == hash_value(make(2.0))
    assert hash_value(make(2.0)) != hash_value(make(3.0))


def test_another_forward_of_a_class_of_torch_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [hash_value(nn.Hardtanh())]
    for by in (2.0, 3.0):
        monkeypatch.setattr(nn.Hardtanh, "forward", lambda self, x, by=by: x * by)
        digests.append(hash_value(nn.Hardtanh()))
    assert len(set(digests)) == 3


def test_functions_that_call_each_other_and_values_that_hold_themselves_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    ring: list[object] = [even, odd]
    ring.append(ring)
    assert hash_value(ring) == hash_value(ring)
    assert hash_value(even) != hash_value(odd)


@pytest.mark.parametrize(
    "one, other",
    [
        (1, True),
        (1, 1.0),
        ([1, 2], [[1], 2]),
        ({"a": 1}, {"a": 2}),
        ("ab", ["a", "b"]),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.relu, torch.tanh),
        (nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 1, 3, bias=False, stride=2)),
    ],
    ids=lambda one: re.sub(r" at 0x\w+", "", str(one)),
)
def test_values_that_differ_have_different_digests(one: object, other: object) -> None:
    if isinstance(one, nn.Module) and isinstance(other, nn.Module):
        other.load_state_dict(one.state_dict())
    assert hash_value(one) != hash_value(other)


def test_sets_and_tables_do_not_depend_on_their_order() -> None:
    assert hash_value({"b": 1, "a": 2}) == hash_value({"a": 2, "b": 1})
    assert hash_value({"x", "y", "z"}) == hash_value({"z", "y", "x"})


def test_tables_of_the_process_are_in_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    def looks() -> int:
        return len(sys.modules) + len(sys.path)

    before = hash_value(looks)
    monkeypatch.setitem(sys.modules, "made_up", sys)
    monkeypatch.syspath_prepend("made-up")
    assert hash_value(looks) == before


def test_state_that_runs_is_in_no_digest() -> None:
    generator = torch.Generator()
    before = hash_value([generator])
    torch.rand(3, generator=generator)
    assert hash_value([generator]) == before


def test_packages_whose_code_answers_are_told() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=2)
    assert "timm" in digest_and_packages(model)[1]


def test_a_plugin_is_told_by_the_mathematics_that_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustbench_lite import objectives

    attack = plugins.load("attack", "pgd")(objective="margin")
    before = hash_plugin(attack)
    assert hash_plugin(attack) == before
    monkeypatch.setitem(objectives.OBJECTIVES, "margin", objectives.log_odds)
    assert hash_plugin(attack) != before


def test_citations_are_prose(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = plugins.load("attack", "pgd")
    before = hash_plugin(kind())
    monkeypatch.setattr(kind, "source", "somebody else")
    assert hash_plugin(kind()) == before
    monkeypatch.setattr(kind, "momentum", 0.5)
    assert hash_plugin(kind()) != before


def test_a_plugin_is_described_once_a_run_and_anew_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[object] = []
    plain = source.describe

    def counting(function: FunctionType) -> source.Described:
        described.append(function)
        return plain(function)

    monkeypatch.setattr(source, "describe", counting)
    for _ in range(2):
        before = len(described)
        with values.same_plugins():
            first = hash_plugin(resolve_attack("fgsm"))
            once = len(described)
            assert hash_plugin(resolve_attack("fgsm")) == first
            assert hash_plugin(resolve_attack("fgsm:objective=margin")) != first
        assert before < once == len(described)
