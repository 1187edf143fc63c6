"""The user's own packages and helpers: named with dots, imported as members of their package, and never stale."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_lite import zoo
from robustbench_lite.errors import UserError
from robustbench_lite.hashing.values import hash_value

DIGITS: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BLOCKS = "from torch import nn\nSCALE = {scale}\ndef body(): return nn.Linear(64, 10)\n"
NET = """
from {origin} import SCALE, body
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = body()
    def forward(self, x):
        return self.body(x.flatten(1)) * SCALE

class Zoo:
    @staticmethod
    def small(num_classes, input_shape):
        assert (num_classes, input_shape) == (10, (1, 8, 8))
        return Net()

def make():
    return Net()

def late():
    from {origin} import SCALE
    return make()
"""


def package(folder: Path, scale: float = 1.0, origin: str = ".blocks", inits: bool = True) -> Path:
    """lab/nets/net.py, which takes its layers from lab/nets/blocks.py."""
    place = folder / "lab" / "nets"
    place.mkdir(parents=True, exist_ok=True)
    for part in (folder / "lab", place) if inits else ():
        (part / "__init__.py").write_text("")
    (place / "blocks.py").write_text(BLOCKS.format(scale=scale))
    (place / "net.py").write_text(NET.format(origin=origin))
    return place / "net.py"


@pytest.mark.parametrize("origin", [".blocks", "..nets.blocks", "lab.nets.blocks"])
@pytest.mark.parametrize("name", ["Net", "make", "Zoo.small", "late"])
def test_both_ways_of_naming_a_member_of_a_package_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, name: str
) -> None:
    file = package(tmp_path, origin=origin)
    monkeypatch.chdir(tmp_path)
    one, other = (zoo.load(f"{place}:{name}", **DIGITS) for place in ("lab.nets.net", file))
    assert torch.equal(one.module(X), other.module(X))
    assert one.trained
    assert one.fresh is not None
    assert one.fresh().training
    assert str(tmp_path) not in sys.path


def test_relative_imports_need_no_init_files_and_no_working_directory(tmp_path: Path) -> None:
    file = package(tmp_path, inits=False)
    assert zoo.load(f"{file}:Net", **DIGITS).module(X).shape == (3, 10)


def test_a_module_without_dots_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "my_lone_nets.py").write_text(text)
    with pytest.raises(UserError, match="unknown model 'my_lone_nets:make'; accepted"):
        zoo.load("my_lone_nets:make", **DIGITS)
    monkeypatch.chdir(tmp_path)
    assert zoo.load("my_lone_nets:make", **DIGITS).module(X).shape == (3, 10)


def test_an_installed_package_needs_no_file() -> None:
    found = zoo.load(
        "torchvision.models:squeezenet1_1;resize=64;grey=repeat;train=true", **DIGITS | {"num_classes": 1000}
    )
    assert found.num_classes == 1000
    assert not found.trained


@pytest.mark.parametrize("form", ["lab.nets.net", "file"])
def test_an_edited_helper_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for scale in (1.0, 2.0, 3.0):
        file = package(tmp_path, scale)
        found.append(zoo.load(f"{file if form == 'file' else form}:Net", **DIGITS).module)
    state = found[0].state_dict()
    for scale, module in zip((1, 2, 3), found, strict=True):
        module.load_state_dict(state)
        torch.testing.assert_close(module(X), scale * found[0](X))


def test_helpers_of_one_name_in_two_folders_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    found = []
    for scale in (1.0, 2.0):
        folder = tmp_path / f"folder{scale}"
        folder.mkdir()
        (folder / "blocks.py").write_text(BLOCKS.format(scale=scale))
        (folder / "net.py").write_text(NET.format(origin="blocks"))
        found.append(zoo.load(f"{folder / 'net.py'}:Net", **DIGITS).module)
    found[1].load_state_dict(found[0].state_dict() | {})
    torch.testing.assert_close(found[1](X), 2 * found[0](X))


def test_what_a_forward_pass_imports_lies_beside_its_own_file(tmp_path: Path) -> None:
    net = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    net += "        self.fc = nn.Linear(64, 10)\n    def forward(self, x):\n        from near import bent\n"
    net += "        return bent(self.fc(x.flatten(1)))\n"
    found = []
    for scale in (1.0, 2.0):
        folder = tmp_path / f"folder{scale}"
        folder.mkdir()
        (folder / "net.py").write_text(net)
        (folder / "near.py").write_text("def bent(x):\n    from far import SCALE\n    return x * SCALE\n")
        (folder / "far.py").write_text(f"SCALE = {scale}\n")
        found.append(zoo.load(f"{folder / 'net.py'}:Net", **DIGITS).module)
    found[1].load_state_dict(found[0].state_dict())
    for _ in range(2):
        torch.testing.assert_close(found[1](X), 2 * found[0](X))
    assert hash_value(found[0]) != hash_value(found[1])
    (folder / "far.py").write_text("SCALE = 1.0\n")
    again = zoo.load(f"{folder / 'net.py'}:Net", **DIGITS).module
    again.load_state_dict(found[0].state_dict())
    torch.testing.assert_close(again(X), found[0](X))
    assert hash_value(again) == hash_value(found[0])


@pytest.mark.parametrize(
    "spec, message",
    [
        ("lab.nets.nett:Net", r"there is no module 'lab\.nets\.nett' .*; did you mean lab\.nets\.net\?"),
        ("lab.net.net:Net", r"there is no module .*; did you mean lab\.nets\.net\?"),
        ("labb.nets.net:Net", r"there is no module .*; did you mean lab\.nets\.net\?"),
        ("lab.nets.net:Nett", r"unknown function in lab\.nets\.net 'Nett'; did you mean 'Net'"),
        ("lab.nets.net:Zoo.smal", "unknown function in"),
        ("lab.nets.net:Net;weights=none.pt", "there is no file 'none.pt'"),
        ("lab.nets.net:Net;wieghts=none.pt", "has no option 'wieghts'; .*did you mean weights"),
        ("lab.broken:Net", r"lab\.broken cannot be imported: ZeroDivisionError: division by zero"),
        ("lab.needy:Net", "lab.needy cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
        ("lab/needy.py:Net", r"needy\.py cannot be imported: ModuleNotFoundError"),
        ("lab/nets/alone.py:Net", "ImportError|ModuleNotFoundError"),
        ("lab.nets.net:SCALE", "unknown function in"),
    ],
)
def test_mistakes_in_a_name_are_told_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    package(tmp_path)
    (tmp_path / "lab" / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lab" / "needy.py").write_text("import not_there\n")
    (tmp_path / "lab" / "nets" / "alone.py").write_text("from .nothing import x\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        zoo.load(spec, **DIGITS)


def test_a_card_cannot_have_a_package_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = zoo.load("lab.nets.net:Net", **DIGITS).module
    card = {"architecture": "lab.nets.net:Net", "num_classes": 10, "input_shape": [1, 8, 8]}
    zoo.save_checkpoint(tmp_path / "net.safetensors", module, card)
    with pytest.raises(UserError, match=r"names the Python code 'lab\.nets\.net:Net'; to have it run, add ;arch="):
        zoo.load("checkpoint:net.safetensors", **DIGITS)
    found = zoo.load("checkpoint:net.safetensors;arch=(lab.nets.net:Net)", **DIGITS)
    assert torch.equal(found.module(X), module(X))


def test_rbl_finds_a_package_of_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    package(tmp_path)
    command = [
        sys.executable,
        "-P",
        "-m",
        "robustbench_lite",
        "evaluate",
        "--model",
        "lab.nets.net:Net",
        "--defense",
        "none",
    ]
    more = ["--attack", "fgsm", "--samples", "first:20", "--no-diagnostics", "--out", "run", "--jobs", "1"]
    done = subprocess.run(
        [*command, *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
