"""Networks that are asked in their own way: what comes out is what the plain network says, with its gradients."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import zoo
from robustbench_lite.data.tensors import from_tensors
from robustbench_lite.errors import UserError
from robustbench_lite.run.fast import fast_copy
from robustbench_lite.run.systems import borrowed, name_of
from robustbench_lite.zoo.compat import Adapted

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DIGITS: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
X = torch.rand(37, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(37) % 10


def plain(classes: int = 10) -> nn.Module:
    """A small network of torch's own layers, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes)).eval()


class Wrapped(nn.Module):
    """The network with something before and after it."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None = None, after: Any = None, net: Any = None) -> None:
        super().__init__()
        self.net, self.before, self.after = net or plain(), before, after

    def forward(self, x: Tensor) -> Any:
        scores = self.net(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


class Sized(nn.Module):
    """Takes some numbers of images only."""

    def __init__(self, takes: Callable[[int], bool]) -> None:
        super().__init__()
        self.net, self.takes = plain(), takes

    def forward(self, x: Tensor) -> Tensor:
        assert self.takes(len(x)), "another number of images"
        answer: Tensor = self.net(x)
        return answer


class Overridden(Wrapped):
    """A method of a module's fails."""

    def __init__(self, method: str) -> None:
        super().__init__()

        def fails(*_: Any, **__: Any) -> None:
            raise AssertionError(method)

        self.__dict__[method] = fails


class Four(nn.Module):
    """Its shape is written into the code, as converters from other formats do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.net[0](x)).reshape(4, 256)  # type: ignore[index]
        answer: Tensor = self.net[3](hidden)  # type: ignore[index]
        return answer


def darker_in_place(x: Tensor) -> Tensor:
    x -= 0.5
    return x.add_(0.5)


def exported(size: int = 4, **dynamic: Any) -> Any:
    return torch.export.export(plain(), (X[:size],), **dynamic)


def any_size(most: int) -> dict[str, Any]:
    return {"dynamic_shapes": ({0: torch.export.Dim("n", min=1, max=most)},)}


NET = plain()
COPY = {"input": "a copy, as the network changes it"}
#: what a user gives, and what is told of it
GIVEN: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "an ordinary network": (plain, {}),
    "an ordinary network of a user's class": (Wrapped, {}),
    "a first layer in place": (lambda: nn.Sequential(nn.ReLU(inplace=True), plain()), COPY),
    "code in place": (lambda: Wrapped(darker_in_place), COPY),
    "script in place": (lambda: torch.jit.trace(nn.Sequential(nn.ReLU(inplace=True), plain()), X[:3]), COPY),
    "at most 16 images": (lambda: Sized(lambda n: n <= 16), {"batch": "at most 16 images at a time"}),
    "exactly 7 images": (lambda: Sized(lambda n: n == 7), {"batch": "exactly 7 images at a time"}),
    "one image": (lambda: Sized(lambda n: n == 1), {"batch": "one image at a time"}),
    "exactly 8 images": (lambda: Sized(lambda n: n == 8), {"batch": "exactly 8 images at a time"}),
    "3 to 20 images": (lambda: Sized(lambda n: 3 <= n <= 20), {"batch": "at least 3 and at most 20 images at a time"}),
    "two images or more": (lambda: Sized(lambda n: n > 1), {"batch": "at least 2 images at a time"}),
    "an answer that is squeezed": (lambda: Wrapped(after=torch.squeeze), {"batch": "at least 2 images at a time"}),
    "a shape in the code": (Four, {"batch": "exactly 4 images at a time"}),
    "a shape in a trace": (lambda: torch.jit.trace(Four(), X[:4]), {"batch": "exactly 4 images at a time"}),
    "a trace": (lambda: torch.jit.trace(plain(), X[:4]), {}),
    "a script": (lambda: torch.jit.script(plain()), {}),
    "a frozen script": (lambda: torch.jit.freeze(torch.jit.script(plain())), {}),
    "an exported program": (lambda: exported(**any_size(4096)), {"made": "an exported program"}),
    "its module": (lambda: exported(**any_size(4096)).module(), {}),
    "one for one image": (lambda: exported(1).module(), {"batch": "one image at a time"}),
    "one for 6 images": (lambda: exported(6).module(), {"batch": "exactly 6 images at a time"}),
    "one for at most 12": (lambda: exported(**any_size(12)).module(), {"batch": "at most 12 images at a time"}),
    "one in a network": (
        lambda: Wrapped(net=exported(**any_size(64)).module()),
        {"batch": "at most 64 images at a time"},
    ),
    "a function": (lambda: lambda x: NET(x), {"made": "a function"}),
    "a method": (lambda: NET.forward, {"made": "a function"}),
    "a partial function": (lambda: functools.partial(lambda net, x: net(x), NET), {"made": "a function"}),
    "parallel": (lambda: nn.DataParallel(plain()), {"made": "taken out of DataParallel"}),
    "compiled": (lambda: torch.compile(plain()), {"made": "not compiled"}),
    "an object with logits": (
        lambda: Wrapped(after=lambda scores: SimpleNamespace(logits=scores, loss=None)),
        {"output": ".logits"},
    ),
    "a dictionary": (lambda: Wrapped(after=lambda scores: {"loss": 0, "logits": scores}), {"output": "['logits']"}),
    "a tuple": (lambda: Wrapped(after=lambda scores: (scores, scores[:, :3])), {"output": "[0]"}),
    "a list": (lambda: Wrapped(after=lambda scores: [scores, None]), {"output": "[0]"}),
    "double precision": (lambda: plain().double(), {"precision": "float64"}),
    "half precision": (lambda: plain().half(), {"precision": "float16"}),
    "bfloat16": (lambda: plain().bfloat16(), {"precision": "bfloat16"}),
    "several at once": (
        lambda: Wrapped(darker_in_place, lambda scores: (scores[:5],) if len(scores) > 5 else (scores,)),
        COPY | {"output": "[0]", "batch": "at most 5 images at a time"},
    ),
}
ROUGH = {"half precision": 5e-3, "bfloat16": 0.1}
ORDINARY = ("an ordinary network", "an ordinary network of a user's class", "a trace")


def answers(model: Any) -> tuple[Tensor, Tensor]:
    """Scores of all images, and the gradient of their squared sum."""
    x = X.clone().requires_grad_(True)
    scores = model(x)
    (grad,) = torch.autograd.grad(scores.square().sum(), x)
    return scores.detach(), grad


@pytest.mark.parametrize("name", GIVEN)
def test_what_a_user_gives_answers_as_the_plain_network(name: str) -> None:
    make, told = GIVEN[name]
    given, expected = make(), answers(plain())
    with borrowed(given, from_tensors(X, Y), torch.device("cpu")) as system:
        assert system is not None
        assert system.notes.get("loading", {}) == told
        for model in (system.model, copy.deepcopy(system.model), fast_copy(system, X).model):
            for found, wanted in zip(answers(model), expected, strict=True):
                tolerance = ROUGH.get(name, 1e-5) * float(wanted.abs().max())
                assert float((found - wanted).abs().max()) <= tolerance
        if name in ORDINARY:
            assert system.model is given
        assert torch.equal(system(X).scores, system(X).scores)


@pytest.mark.parametrize("name", ["code in place", "one image", "one for 6 images", "a tuple", "several at once"])
def test_an_evaluation_of_an_odd_network_is_that_of_the_plain_one(name: str) -> None:
    options: dict[str, Any] = {"attacks": ["fgsm", "pgd:restarts=1,steps=5"], "threat": "Linf:0.05"}
    expected = rbl.evaluate(plain(), X, plain()(X).argmax(1), **options, diagnostics=False)
    found = rbl.evaluate(GIVEN[name][0](), X, plain()(X).argmax(1), **options, diagnostics=False)
    assert not found.failed
    assert found.records["broken"].tolist() == expected.records["broken"].tolist()
    assert 0 < found.records["broken"].mean() < 1
    loading = next(iter(found.environment["systems"].values()))["loading"]
    assert loading == GIVEN[name][1]


def test_memory_for_one_image_is_enough() -> None:
    options: dict[str, Any] = {"attacks": ["fgsm"], "threat": "Linf:0.05", "diagnostics": False}
    y = plain()(X).argmax(1)
    expected = rbl.evaluate(plain(), X, y, **options)
    found = rbl.evaluate(Wrapped(lambda x: x if len(x) < 2 else torch.empty(10**13)), X, y, **options)
    assert not found.failed
    assert found.records["broken"].tolist() == expected.records["broken"].tolist()


def test_modes_and_gradient_flags_are_given_back() -> None:
    inner = plain().train()
    given = functools.partial(lambda net, x: net(x)[:, :10], inner)
    with borrowed(given, from_tensors(X, Y), torch.device("cpu")):
        assert not inner.training
    assert inner.training
    parallel = nn.DataParallel(plain().train())
    with borrowed(parallel, from_tensors(X, Y), torch.device("cpu")) as system:
        assert system is not None
        assert not any(parameter.requires_grad for parameter in parallel.parameters())
    assert parallel.module.training
    assert all(parameter.requires_grad for parameter in parallel.parameters())


def test_one_logit_tells_two_classes_apart() -> None:
    net = plain(1)
    y = (net(X)[:, 0] > 0).long()
    each = Wrapped(net=net, after=lambda scores: scores[:, 0])
    pair = Wrapped(net=net, after=lambda scores: (scores[:, 0], -scores[:, 0]))
    for given in (net, each, lambda x: net(x), lambda x: pair(x)[0]):
        with borrowed(given, from_tensors(X, y), torch.device("cpu")) as system:
            assert system is not None
            assert system.num_classes == 2
            assert torch.equal(system(X).prediction(), y)
            probability = system(X).scores.softmax(1)[:, 1]
            torch.testing.assert_close(probability, net(X)[:, 0].sigmoid())
            assert system.notes["loading"]["classes"] == "two, from one logit z as (0, z)"


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda: Wrapped, "Wrapped|type is a class and no model; give an object of it"),
        (lambda: 3, "is a int; accepted: a torch.nn.Module, an exported program, or a function"),
        (lambda: torch, "is a module; accepted"),
        (lambda: Wrapped(net=nn.Sequential(plain(1), nn.Sigmoid())), "one number from 0 to 1, as a sigmoid does"),
        (lambda: Wrapped(after=lambda scores: scores.argmax(1)), "answers with torch.int64; accepted: logits"),
        (lambda: Wrapped(after=lambda scores: {"a": scores}), "a dict with the keys 'a'; accepted: .* with .logits"),
        (lambda: Wrapped(after=lambda scores: scores.detach().numpy()), "answers two images with a ndarray"),
        (lambda: Wrapped(after=lambda scores: list(scores)), "answers two images with a list; accepted"),
        (lambda: Wrapped(after=torch.unbind), "answers two images with a tuple; accepted"),
        (lambda: Wrapped(after=torch.Tensor.to_sparse), r"with a sparse tensor \(2, 10\); accepted"),
        (lambda: Wrapped(after=lambda scores: scores.to("meta")), r"with a meta tensor \(2, 10\); accepted"),
        (lambda: Overridden("train"), "Overridden raised AssertionError: train"),
        (lambda: Overridden("eval"), "Overridden raised AssertionError: eval"),
        (lambda: Overridden("to"), "Overridden raised AssertionError: to"),
        (lambda: Overridden("parameters"), "Overridden raised AssertionError: parameters"),
        (lambda: Overridden("requires_grad_"), "Overridden raised AssertionError: requires_grad_"),
        (lambda: Wrapped(lambda x: torch.empty(10**13)), "not enough memory to show .* one image"),
        (lambda: Wrapped(after=lambda scores: scores[..., None, None]), r"with \(2, 10, 1, 1\); accepted"),
        (lambda: Wrapped(lambda x: x.reshape(-1, 3, 8, 8)), "cannot take images 1x8x8: RuntimeError: shape"),
        (lambda: Wrapped(lambda x: exit("bye")), "cannot take images 1x8x8: SystemExit: bye"),
        (lambda: Wrapped(lambda x: {}["weights"]), "cannot take images 1x8x8: KeyError: 'weights'"),
        (lambda: Sized(lambda n: False), "cannot take images 1x8x8: AssertionError: another number of images"),
        (lambda: lambda: 3, "takes 0 positional arguments"),
        (lambda: torch.jit.trace(nn.Linear(3, 4), torch.rand(2, 3)), "mat1 and mat2|size mismatch"),
    ],
)
def test_what_is_no_model_is_refused_with_its_cause(given: Callable[[], Any], message: str) -> None:
    with (
        pytest.raises(UserError, match=message) as caught,
        borrowed(given(), from_tensors(X, Y), torch.device("cpu")),
    ):
        pass
    assert len(str(caught.value)) < 500


def test_a_model_is_called_by_its_own_name() -> None:
    def mine(x: Tensor) -> Tensor:
        return x

    named = [name_of(one) for one in (mine, lambda x: x, plain(), nn.DataParallel(plain()), "timm:resnet18")]
    assert named == ["mine", "lambda", "Sequential", "Sequential", "timm:resnet18"]


# ------------------------------------------------------------------------------------------------ by name


CODE = """
import torch
from types import SimpleNamespace
from torch import nn

def net(classes=10):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes))

NET = net()

class Sixteen(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        if len(x) > 16:
            raise ValueError("too many")
        x -= 0.0
        return SimpleNamespace(logits=self.net(x))

def predict(images):
    return NET(images)

def factory(num_classes):
    return lambda x: NET(x)

def program():
    return torch.export.export(net().eval(), (torch.rand(4, 1, 8, 8),))

def half():
    return net().half()

def one_logit():
    return net(1)

def parallel():
    return nn.DataParallel(net())
"""


@pytest.mark.parametrize(
    "name, told",
    [
        ("net", {}),
        ("NET", {}),
        ("Sixteen", COPY | {"output": ".logits", "batch": "at most 16 images at a time"}),
        ("predict", {"made": "a function"}),
        ("factory", {"made": "a function"}),
        ("program", {"made": "an exported program", "batch": "exactly 4 images at a time"}),
        ("half", {"precision": "float16"}),
        ("parallel", {"made": "taken out of DataParallel"}),
        ("net;normalize=0.5", {"mean": [0.5], "std": [0.5]}),
    ],
)
def test_names_in_a_file_mean_models_of_every_kind(tmp_path: Path, name: str, told: dict[str, Any]) -> None:
    (tmp_path / "odd.py").write_text(CODE)
    found = zoo.load(f"{tmp_path / 'odd.py'}:{name}", **DIGITS)
    x = (X - 0.5) / 0.5 if "normalize" in name else X
    torch.testing.assert_close(found.module(X), plain()(x), atol=5e-3 if name == "half" else 1e-5, rtol=0)
    assert found.notes.get("loading", {}) == told
    again = None if found.fresh is None else found.fresh()
    assert (again is None) == (name in ("NET", "predict"))
    if again is not None:
        assert again.state_dict().keys() == found.module.state_dict().keys()


def test_one_logit_in_a_file_is_for_data_of_two_classes(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(CODE)
    spec = f"{tmp_path / 'odd.py'}:one_logit"
    assert zoo.load(spec, num_classes=2, input_shape=(1, 8, 8)).num_classes == 2
    with pytest.raises(UserError, match=r"labels reach 9 but .* has 2 classes"):
        zoo.load(spec, **DIGITS)
    (tmp_path / "odd.py").write_text(CODE + "def sure(): return nn.Sequential(net(1), nn.Sigmoid())\n")
    spec = f"{tmp_path / 'odd.py'}:sure"
    with pytest.raises(UserError, match="as a sigmoid does"):
        zoo.load(spec, num_classes=2, input_shape=(1, 8, 8))
    untrained = zoo.load(f"{spec};train=true", num_classes=2, input_shape=(1, 8, 8))
    assert not untrained.trained  # its answers mean nothing yet


def test_an_odd_network_is_trained_behind_the_same_wrapper(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(CODE)
    fresh = zoo.load(f"{tmp_path / 'odd.py'}:Sixteen;train=true", **DIGITS).fresh
    assert fresh is not None
    network = fresh()
    assert isinstance(network, Adapted)
    assert network.training
    assert network(X).shape == (37, 10)


@pytest.mark.parametrize("size, told", [(None, {}), (1, "one image at a time"), (4, "exactly 4 images at a time")])
def test_an_exported_file_runs_where_the_user_vouches_for_it(tmp_path: Path, size: int | None, told: Any) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(exported(4, **any_size(4096)) if size is None else exported(size), path)
    with pytest.raises(UserError, match="in a way that can run code; pass --allow-code if you trust the file"):
        zoo.load(f"export:{path}", **DIGITS, allow_pickle=True)
    for options, x in (("", X), (";normalize=0.5", (X - 0.5) / 0.5)):
        found = zoo.load(f"export:{path}{options}", **DIGITS, allow_code=True)
        torch.testing.assert_close(found.module(X), plain()(x))
        assert found.notes.get("loading", {}).get("batch", {}) == told
        assert (found.trained, found.fresh) == (True, None)
    with pytest.raises(UserError, match="is an exported program; write export:"):
        zoo.load(str(path), **DIGITS, allow_code=True)
    with pytest.raises(UserError, match="is an exported program; name it as export:"):
        zoo.load(f"linear;weights={path}", **DIGITS, allow_code=True)


def test_an_exported_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        zoo.load(f"export:{tmp_path / 'none.pt2'}", **DIGITS, allow_code=True)
    for name, content in (("text.pt2", b"hello"), ("empty.pt2", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is no exported program, or a corrupt one"):
            zoo.load(f"export:{tmp_path / name}", **DIGITS, allow_code=True)
