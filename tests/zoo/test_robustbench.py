"""`robustbench:NAME`, with a stand-in of RobustBench's package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite import zoo
from robustbench_lite.errors import UserError

CIFAR: dict[str, Any] = {"num_classes": 10, "input_shape": (3, 32, 32)}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Something that answers as RobustBench's package does, and the calls that it got."""
    calls: list[dict[str, str]] = []
    root, utils, models = (
        ModuleType("robustbench"),
        ModuleType("robustbench.utils"),
        ModuleType("robustbench.model_zoo"),
    )

    def load_model(model_name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        calls.append({"name": model_name, "dir": model_dir, "dataset": dataset, "threat": threat_model})
        if model_name != "Carmon2019Unlabeled":
            raise KeyError(model_name)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    utils.load_model = load_model  # type: ignore[attr-defined]
    models.model_dicts = {"cifar10": {"Linf": {"Carmon2019Unlabeled": {}}}}  # type: ignore[attr-defined]
    for module in (root, utils, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_a_model_of_robustbench_comes_through_its_package(
    package: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"robustbench:Carmon2019Unlabeled;dataset=cifar10;threat_model=Linf;dir={tmp_path}"
    with pytest.raises(UserError, match=r"there is no .*cifar10/Linf/Carmon2019Unlabeled\.pt; .* ;download=true"):
        zoo.load(spec, **CIFAR, allow_pickle=True)
    (tmp_path / "cifar10/Linf").mkdir(parents=True)
    (tmp_path / "cifar10/Linf/Carmon2019Unlabeled.pt").touch()
    with pytest.raises(UserError, match="as pickles, which could run code; pass --allow-pickle"):
        zoo.load(spec, **CIFAR)
    assert package == []
    found = zoo.load(spec, **CIFAR, allow_pickle=True)
    assert package == [{"name": "Carmon2019Unlabeled", "dir": str(tmp_path), "dataset": "cifar10", "threat": "Linf"}]
    assert (found.trained, found.num_classes, found.fresh, found.name) == (True, 10, None, spec)
    assert found.module(torch.rand(3, 3, 32, 32)).shape == (3, 10)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    zoo.load("robustbench:Carmon2019Unlabeled;download=true", **CIFAR, allow_pickle=True)
    assert package[-1]["dir"] == str(tmp_path / "cache/robustbench")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "robustbench:Carmon2019Unlabelled;download=true",
            "unknown RobustBench model .*did you mean 'Carmon2019Unlabeled'",
        ),
        ("robustbench:Carmon2019Unlabeled;download=true;threat_model=L9", "threat_model=L9; accepted: Linf, L2"),
        ("robustbench:Carmon2019Unlabeled;threat=Linf", "has no option 'threat'"),
        ("robustbench:", "names no model"),
        ("robustbench:X;download=true;dataset=cifar100", "robustbench:X could not be loaded"),
    ],
)
def test_mistakes_in_a_name_of_robustbench(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.load(spec, **CIFAR, allow_pickle=True)


def test_the_package_finds_autoattack_under_the_name_that_the_index_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """robustbench 1.1.1 imports `autoattack` and depends on `pyautoattack`; afterwards nobody else sees the former."""
    for folder, text in (
        ("robustbench", "from autoattack import AutoAttack\n"),
        ("pyautoattack", "class AutoAttack: ...\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(text)
    (tmp_path / "pyautoattack/state.py").write_text("")
    (tmp_path / "robustbench/model_zoo.py").write_text("")
    (tmp_path / "robustbench/utils.py").write_text(
        "from autoattack.state import __name__ as found\n"
        "from torch import nn\n"
        "load_model = lambda **_: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))\n"
    )
    for name in [name for name in sys.modules if name.split(".")[0] in ("robustbench", "pyautoattack", "autoattack")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    if importlib.util.find_spec("autoattack") is not None:
        pytest.skip("autoattack itself is installed here")
    loaded = zoo.load("robustbench:Standard;download=true", **CIFAR, allow_pickle=True)
    assert loaded.trained
    assert "autoattack" not in sys.modules
    for name in [name for name in sys.modules if name.split(".")[0] in ("robustbench", "pyautoattack")]:
        del sys.modules[name]


def test_without_its_package_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(
        UserError, match=r"needs the package robustbench: pip install 'robustbench-lite\[robustbench\]'"
    ):
        zoo.load("robustbench:Standard;download=true", **CIFAR, allow_pickle=True)


def test_data_of_other_classes_is_refused(package: list[dict[str, str]]) -> None:
    with pytest.raises(UserError, match="labels reach 99 but robustbench:Carmon2019Unlabeled has 10 classes"):
        zoo.load(
            "robustbench:Carmon2019Unlabeled;download=true", num_classes=100, input_shape=(3, 32, 32), allow_pickle=True
        )
    assert len(package) == 1
