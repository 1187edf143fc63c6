"""The user's own networks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite import zoo
from robustbench_lite.errors import UserError
from robustbench_lite.system import System

DIGITS = {"num_classes": 10, "input_shape": (1, 8, 8)}
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        return self.fc(x.flatten(1)) * FACTOR

FACTOR = 2.0

def plain():
    return Net()

def sized(num_classes, input_shape):
    assert input_shape == (1, 8, 8)
    return Net(num_classes)

def helped():
    from helper import double
    return nn.Sequential(Net(), double())

def needs_more(depth):
    return Net()

def wrong():
    return "a network"

def broken():
    raise KeyError("weights.bin")

def poisoned():
    net = Net()
    net.fc.weight.data[0, 0] = float("nan")
    return net

number = 3
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("from torch import nn\ndef double():\n    return nn.Identity()\n")
    return tmp_path / "net.py"


@pytest.mark.parametrize("name", ["plain", "sized", "helped", "Net"])
def test_a_function_of_a_file_gives_the_model_with_the_weights_it_has(code, name):
    found = zoo.load(f"{code}:{name}", **DIGITS)
    assert (found.trained, found.num_classes, found.module(X).shape) == (True, 10, (3, 10))
    assert not found.module.training
    assert found.fresh().training


def test_normalisation_and_resizing_are_put_in_front(code):
    plain, changed = (zoo.load(f"{code}:plain{options}", **DIGITS).module for options in ("", ";mean=(0.5);std=(1/4)"))
    torch.testing.assert_close(changed(X), plain((X - 0.5) * 4))
    small = zoo.load(f"{code}:plain;resize=8", num_classes=10, input_shape=(1, 16, 16)).module
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(small(x), plain(nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True)))


def test_a_file_that_changes_the_working_directory_does_so_for_itself_alone(code, tmp_path, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "net.py").write_text(
        f"import os, torch\nos.chdir({str(away)!r})\n{CODE}\n"
        "def stored():\n    net = Net()\n    net.load_state_dict(torch.load('w.pt'))\n    return net\n"
    )
    monkeypatch.chdir(home)
    state = zoo.load("net.py:plain", **DIGITS).module.state_dict()
    assert Path.cwd() == home
    torch.save(state, away / "w.pt")
    found = zoo.load("net.py:stored", **DIGITS)
    assert Path.cwd() == home
    assert all(torch.equal(value, state[name]) for name, value in found.module.state_dict().items())
    assert found.fresh() is not None
    assert Path.cwd() == home


def test_it_can_be_trained_or_given_weights(code, tmp_path):
    assert not zoo.load(f"{code}:plain;train=true", **DIGITS).trained
    weights = {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}
    torch.save({"state_dict": weights}, tmp_path / "net.pt")
    found = zoo.load(f"{code}:plain;mean=(0.5);std=(1);weights={tmp_path / 'net.pt'}", **DIGITS, allow_pickle=True)
    expected = nn.functional.linear((X - 0.5).flatten(1), weights["fc.weight"], weights["fc.bias"]) * 2
    torch.testing.assert_close(found.module(X), expected)
    assert found.notes["loading"]["part"] == "state_dict"


def test_a_change_of_the_code_is_another_system_even_where_no_class_changed(code):
    digests = []
    for text in (CODE, CODE.replace("FACTOR = 2.0", "FACTOR = 3.0")):
        code.write_text(text)
        found = zoo.load(f"{code}:plain", **DIGITS)
        digests.append(System(model=found.module, num_classes=10, input_shape=(1, 8, 8)).digest)
    assert digests[0] != digests[1]


def test_two_files_of_one_name_do_not_get_into_each_others_way(code, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "net.py").write_text(CODE.replace("FACTOR = 2.0", "FACTOR = 0.0"))
    first = zoo.load(f"{code}:plain", **DIGITS).module
    second = zoo.load(f"{tmp_path / 'other' / 'net.py'}:plain", **DIGITS).module
    assert first(X).abs().sum() > 0
    assert second(X).abs().sum() == 0


@pytest.mark.parametrize(
    "name, message",
    [
        ("plane", r"unknown function in net\.py 'plane'; did you mean 'plain'"),
        ("number", r"unknown function in net\.py 'number'"),
        ("needs_more", r"answers images with a network \(Net\); a function that builds one takes num_classes"),
        ("wrong", "returned a str; accepted: a torch.nn.Module"),
        ("broken", "broken raised KeyError: 'weights.bin'"),
        ("poisoned", r"hold NaN or infinite values \(.*fc.weight\)"),
        ("plain;mean=(0.5)", "give mean and std together"),
        ("plain;mean=(0.1,0.2,0.3);std=(1,1,1)", "takes 3 channels but the images are 1x8x8; add ;grey=repeat"),
        ("plain;meen=(0.5)", "has no option 'meen'.*did you mean mean"),
        ("plain;grey=repeat", "plain cannot take images 3x8x8"),
    ],
)
def test_functions_that_give_no_such_model_are_refused(code, name, message):
    with pytest.raises(UserError, match=message):
        zoo.load(f"{code}:{name}", **DIGITS)


def test_a_file_that_cannot_be_imported_is_refused(tmp_path):
    for name, text in [("syntax.py", "def f(:"), ("missing.py", "import no_such_package"), ("exits.py", "1 / 0")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} cannot be imported: [A-Za-z]*Error"):
            zoo.load(f"{tmp_path / name}:f", **DIGITS)
    with pytest.raises(UserError, match=r"there is no file 'nothing\.py'"):
        zoo.load("nothing.py:f", **DIGITS)


def test_a_model_for_other_images_is_refused(code):
    with pytest.raises(UserError, match=r"plain cannot take images 3x32x32: .*mat1 and mat2"):
        zoo.load(f"{code}:plain", num_classes=10, input_shape=(3, 32, 32))
    with pytest.raises(UserError, match=r"labels reach 99 but .*plain has 10 classes"):
        zoo.load(f"{code}:plain", num_classes=100, input_shape=(1, 8, 8))


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


@pytest.fixture
def script(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.jit.trace(net, X).save(str(tmp_path / "net.torchscript"))
    return tmp_path / "net.torchscript", net


def test_torchscript_runs_behind_the_same_options(script):
    path, net = script
    for spec in (f"torchscript:{path}", str(path)):
        found = zoo.load(spec, **DIGITS)
        torch.testing.assert_close(found.module(X), net(X))
        assert (found.trained, found.fresh) == (True, None)
        assert not any(parameter.requires_grad for parameter in found.module.parameters())
    changed = zoo.load(f"torchscript:{path};mean=(0.5);std=(0.25)", **DIGITS)
    torch.testing.assert_close(changed.module(X), net((X - 0.5) * 4))
    x = X.clone().requires_grad_(True)
    changed.module(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_another_graph_with_the_same_weights_is_another_system(tmp_path):
    class Scaled(nn.Module):
        def __init__(self, factor: float):
            super().__init__()
            self.fc, self.factor = nn.Linear(64, 10), factor

        def forward(self, x):
            return self.fc(x.flatten(1)) * self.factor

    one, other = Scaled(1.0), Scaled(2.0)
    other.load_state_dict(one.state_dict())
    digests = set()
    for name, net in (("one", one), ("other", other)):
        torch.jit.trace(net, X).save(str(tmp_path / name))
        found = zoo.load(f"torchscript:{tmp_path / name}", **DIGITS)
        digests.add(System(model=found.module, num_classes=10, input_shape=(1, 8, 8)).digest)
    assert len(digests) == 2


def test_torchscript_that_is_none_is_refused(script, tmp_path):
    path, _ = script
    whole = path.read_bytes()
    with pytest.raises(UserError, match="there is no file"):
        zoo.load(f"torchscript:{tmp_path / 'none.pt'}", **DIGITS)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="is no TorchScript file"):
        zoo.load(f"torchscript:{tmp_path / 'weights.pt'}", **DIGITS)
    for place in range(0, len(whole), 499):
        path.write_bytes(whole[:place])
        with pytest.raises(UserError, match="is no TorchScript file"):
            zoo.load(f"torchscript:{path}", **DIGITS)
    path.write_bytes(whole)
    path.rename(tmp_path / "net.pt")
    with pytest.raises(UserError, match="is TorchScript; name it as torchscript:"):
        zoo.load(f"linear;weights={tmp_path / 'net.pt'}", **DIGITS, allow_pickle=True)
