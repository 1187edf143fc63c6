"""Files of weights as people have them: what fits is loaded to the bit, what does not is told or refused."""

import argparse
import collections
import copy
import datetime
import functools
import pathlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_lite import zoo
from robustbench_lite.errors import UserError

DIGITS: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]
CODE = '''
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
    def forward(self, x):
        return x + torch.relu(self.bn(self.conv(x)))

class Net(nn.Module):
    def __init__(self, blocks=2, aux=False):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(*(Block(4) for _ in range(blocks)))
        self.layer2 = nn.Sequential(*(Block(4) for _ in range(blocks)))
        self.fc = nn.Linear(256, 10)
        self.aux = nn.Linear(256, 10) if aux else None
    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).flatten(1))

class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Net()
    def forward(self, x):
        return self.backbone(x)

class Partly(nn.Module):
    """A layer of it is compiled."""
    def __init__(self):
        super().__init__()
        self.stem = torch.compile(nn.Conv2d(1, 4, 3))
        self.fc = nn.Linear(144, 10)
    def forward(self, x):
        return self.fc(self.stem._orig_mod(x).flatten(1))

class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(144, 10))
    def forward(self, x):
        return self.fc(self.stem(x).flatten(1))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.fc(self.b(self.a(x.flatten(1))))

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(10)
    def forward(self, x):
        return self.fc(x.flatten(1))

deep = lambda: Net(blocks=5)
plain_layer = lambda: nn.Linear(8, 10)
'''


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "nets.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def net(code: Path) -> nn.Module:
    """The network whose weights are in the files, with statistics of its own."""
    return shaken(made(code, "Net"))


def made(code: Path, name: str) -> nn.Module:
    """The user's network itself, in eval mode."""
    return zoo.load(f"{code}:{name}", **DIGITS).module


def shaken(network: nn.Module, seed: int = 3) -> nn.Module:
    draws = torch.Generator().manual_seed(seed)
    for value in (*network.parameters(), *network.buffers()):
        if value.is_floating_point():
            value.data += 0.1 * torch.rand(value.shape, generator=draws)
    return network


def under(head: str, state: State) -> State:
    return {head + key: value for key, value in state.items()}


def other(state: State) -> State:
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


def mid(word: str, state: State) -> State:
    """`layer1.0.conv` is `layer1.0.WORD.conv`."""
    return {key.replace(".0.conv.", f".0.{word}.conv."): value for key, value in state.items()}


Content = Callable[[State], Any]
LOSS = {"loss.weight": torch.ones(10), "train_acc.total": torch.tensor(3.0)}
#: what is in the file, the options that name it, and what is told
FITS: dict[str, tuple[Content, str, dict[str, Any]]] = {
    "bare": (lambda s: s, "", {}),
    "an ordered dictionary": (collections.OrderedDict, "", {}),
    "no counters": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, "", {}),
    "half precision": (lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, "", {}),
    "parameters": (lambda s: {k: nn.Parameter(v, requires_grad=False) for k, v in s.items()}, "", {}),
    "epoch beside the weights": (lambda s: {**s, "epoch": 3, "name": "net"}, "", {}),
    "lightning": (
        lambda s: {"state_dict": {**under("model.", s), **LOSS}, "epoch": 3, "loops": {"fit": {"state": {}}}},
        "",
        {
            "part": "state_dict",
            "stripped": ["model."],
            "left_out": {"count": 2, "keys": ["loss.weight", "train_acc.total"]},
        },
    ),
    "many left out": (
        lambda s: {**s, **{f"aux{i}.weight": torch.ones(1) for i in range(9)}},
        "",
        {"left_out": {"count": 9, "keys": [f"aux{i}.weight" for i in range(5)]}},
    ),
    "an auxiliary head": (
        lambda s: {**s, "aux.weight": torch.zeros(10, 256), "aux.bias": torch.zeros(10)},
        "",
        {"left_out": {"count": 2, "keys": ["aux.weight", "aux.bias"]}},
    ),
    "a name of the author's own": (
        lambda s: {"params_ema": s, "params": other(s)},
        ";part=params_ema",
        {"part": "params_ema"},
    ),
    "the only name": (
        lambda s: {"generator_weights": s, "optimizer": {"state": {0: s}}},
        "",
        {"part": "generator_weights"},
    ),
    "a path of names": (
        lambda s: {"model": other(s), "ema": {"model": s, "decay": 0.999}},
        ";part=ema.model",
        {"part": "ema.model"},
    ),
    "an inner name": (
        lambda s: {"run": {"nets": {"best": s, "last": other(s)}}},
        ";part=best",
        {"part": "run.nets.best"},
    ),
    "a dotted name": (lambda s: {"ema.model": s, "model": other(s)}, ";part=(ema.model)", {"part": "ema.model"}),
    "average by flat names": (
        lambda s: {**under("ema.", s), **under("model.", other(s))},
        ";part=ema",
        {"part": "ema"},
    ),
    "student and teacher": (
        lambda s: {**under("student.", other(s)), **under("teacher.module.", s)},
        ";prefix=teacher.",
        {"stripped": ["teacher.module."]},
    ),
    "a prefix without its dot": (
        lambda s: {**under("student.", other(s)), **under("teacher.", s)},
        ";prefix=teacher",
        {"stripped": ["teacher."]},
    ),
    "a prefix that ends within a name": (lambda s: under("net_", s), ";prefix=net_", {"stripped": ["net_"]}),
    "the network and its average": (
        lambda s: {**s, **under("ema.", other(s))},
        "",
        {},
    ),
    "several wrappers": (
        lambda s: {"state_dict": under("module._orig_mod.net.backbone.", s)},
        "",
        {"part": "state_dict", "stripped": ["module._orig_mod.net.backbone."]},
    ),
    "partly compiled": (lambda s: mid("_orig_mod", s), "", {"stripped": ["_orig_mod."]}),
    "partly parallel": (lambda s: mid("module", s), "", {"stripped": ["module."]}),
    "partly parallel and compiled": (
        lambda s: under("module.", mid("_orig_mod", s)),
        "",
        {"stripped": ["module.", "_orig_mod."]},
    ),
    "checkpointed layers": (
        lambda s: mid("_checkpoint_wrapped_module", s),
        "",
        {"stripped": ["_checkpoint_wrapped_module."]},
    ),
    "twice the same": (
        lambda s: {"model": {**under("module.model.", s), **under("module.attacker.model.", s)}},
        "",
        {"part": "model", "stripped": ["module.model."]},
    ),
    "an average's counter": (
        lambda s: {**under("module.", s), "n_averaged": torch.tensor(3)},
        "",
        {"stripped": ["module."], "left_out": {"count": 1, "keys": ["n_averaged"]}},
    ),
    "arrays of numpy": (lambda s: {k: v.numpy() for k, v in s.items()}, "", {}),
    "a part known to be nothing": (lambda s: under("1.", s), ";normalize=none", {"stripped": ["1."]}),
}
LEFT = ("the network and its average", "student and teacher", "a prefix without its dot", "twice the same")


def loaded(code: Path, path: Path, options: str = "", name: str = "Net", **more: Any) -> Any:
    return zoo.load(f"{code}:{name};weights={path}{options}", **DIGITS, allow_pickle=True, **more)


@pytest.mark.parametrize("name", FITS)
def test_a_file_that_fits_is_loaded_and_told(code: Path, net: nn.Module, tmp_path: Path, name: str) -> None:
    content, options, told = FITS[name]
    torch.save(content(dict(net.state_dict())), tmp_path / "have.ckpt")
    found = loaded(code, tmp_path / "have.ckpt", options)
    exact = {"rtol": 0, "atol": 0} if name != "half precision" else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(found.module(X), net(X), **exact)
    loading = dict(found.notes["loading"])
    if name in LEFT:
        assert loading.pop("left_out")["count"] == len([key for key in net.state_dict() if "num_batches" not in key])
    assert loading == {"weights": "have.ckpt", **told}


def test_the_same_holds_for_safetensors(code: Path, net: nn.Module, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in net.state_dict().items()}
    save_file(
        {**under("student.", other(copy.deepcopy(state))), **under("teacher.", state)}, tmp_path / "have.safetensors"
    )
    for options in (";prefix=teacher.", ";part=teacher"):
        assert torch.equal(loaded(code, tmp_path / "have.safetensors", options).module(X), net(X))
    with pytest.raises(
        UserError, match=r"several networks that fit, under 'student.' and 'teacher.'; .*;prefix=student."
    ):
        loaded(code, tmp_path / "have.safetensors")


NORMALISER = {
    "module.normalizer.new_mean": torch.full((1, 1, 1), 0.3),
    "module.normalizer.new_std": torch.full((1, 1, 1), 0.4),
}


@pytest.mark.parametrize(
    "constants",
    [
        NORMALISER,
        {**NORMALISER, **{key.replace("normalizer", "attacker.normalize"): value for key, value in NORMALISER.items()}},
        {"module.normalize.mean": torch.tensor([0.3]), "module.normalize.std": torch.tensor([0.4])},
        {"mean": torch.tensor([76.5]), "std": torch.tensor([102.0])},
    ],
)
def test_the_constants_of_a_robust_training_library_are_the_normalisation(
    code: Path, net: nn.Module, tmp_path: Path, constants: State
) -> None:
    state = dict(net.state_dict())
    held = {**under("module.attacker.model.", state), **under("module.model.", state), **constants}
    torch.save({"model": held, "epoch": 9}, tmp_path / "have.pt")
    found = loaded(code, tmp_path / "have.pt")
    torch.testing.assert_close(found.module(X), net((X - 0.3) / 0.4))
    assert (found.notes["loading"]["mean"], found.notes["loading"]["std"]) == ([0.3], [0.4])
    again = zoo.fresh_module(zoo.architecture_of(found.name), **DIGITS)
    torch.testing.assert_close(again.mean.flatten(), torch.tensor([0.3]))
    same = loaded(code, tmp_path / "have.pt", ";mean=(0.3);std=(0.4)")
    assert torch.equal(same.module(X), found.module(X))
    with pytest.raises(UserError, match=r"normalises by mean=\(0.3\), std=\(0.4\), the model by mean=\(0.5\)"):
        loaded(code, tmp_path / "have.pt", ";normalize=0.5")
    assert torch.equal(loaded(code, tmp_path / "have.pt", ";normalize=none").module(X), net(X))


THIRD = {"mean": [0.3], "std": [0.4]}


@pytest.mark.parametrize(
    "names",
    [
        ("mean_", "std_"),
        ("data_mean", "data_std"),
        ("_mean", "_std"),
        ("MEAN", "STD"),
        ("mean_tensor", "std_tensor"),
        ("normalise.dataset_mean", "normalise.dataset_std"),
    ],
)
@pytest.mark.parametrize("options", ["", ";part=net", ";prefix=net."])
def test_constants_are_known_by_the_words_of_their_names(
    code: Path, net: nn.Module, tmp_path: Path, names: tuple[str, str], options: str
) -> None:
    constants = {name: torch.full((1, 1, 1), value) for name, value in zip(names, (0.3, 0.4), strict=True)}
    torch.save(under("net.", net.state_dict()) | constants, tmp_path / "net.pt")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt", options).module(X), net((X - 0.3) / 0.4))


@pytest.mark.parametrize(
    "constants, message",
    [
        ({"norm.mean": torch.tensor([0.3]), "norm.variance": torch.tensor([0.16])}, "holds norm.mean, norm.variance"),
        ({"0.mean": torch.tensor([0.3]), "0.istd": torch.tensor([2.5])}, "holds 0.mean, 0.istd"),
        ({"normalize.m": torch.tensor([0.3]), "normalize.s": torch.tensor([0.4])}, "holds normalize.m, normalize.s"),
        ({"mean": torch.tensor([0.3]), "std": torch.tensor([0.0])}, "holds a normalisation of no use"),
        ({"mean": torch.tensor([0.3]), "std": torch.tensor([float("nan")])}, "holds a normalisation of no use"),
    ],
)
def test_a_normalisation_that_cannot_be_read_is_a_question_with_an_answer(
    code: Path, net: nn.Module, tmp_path: Path, constants: State, message: str
) -> None:
    torch.save(under("net.", net.state_dict()) | constants, tmp_path / "net.pt")
    with pytest.raises(UserError, match=rf"{message}.*;mean=.*normalize=none"):
        loaded(code, tmp_path / "net.pt")
    asked = loaded(code, tmp_path / "net.pt", ";mean=0.3;std=0.4").module
    torch.testing.assert_close(asked(X), net((X - 0.3) / 0.4))
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt", ";normalize=none").module(X), net(X))


@pytest.mark.parametrize(
    "more", [THIRD, {"norm": {"mean": 0.3, "std": 0.4}}, {"config": THIRD}, {"mean": np.array([0.3]), "std": (0.4,)}]
)
def test_constants_beside_the_weights_are_a_question(
    code: Path, net: nn.Module, tmp_path: Path, more: dict[str, Any]
) -> None:
    torch.save({"state_dict": net.state_dict(), **more}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"tells mean=\(0.3\), std=\(0.4\) beside the weights.*normalize=none"):
        loaded(code, tmp_path / "net.pt")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt", ";normalize=none").module(X), net(X))


def test_numbers_of_a_log_are_no_normalisation(code: Path, net: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": net.state_dict(), "mean": 0.97, "std": 0.01, "log": THIRD}, tmp_path / "net.pt")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt").module(X), net(X))


@pytest.mark.parametrize(
    "beside",
    [
        {"logit_scale": torch.tensor(4.6)},
        {"normalize.scale": torch.ones(1)},
        {"head.normalization.weight": torch.ones(10), "head.normalization.bias": torch.ones(10)},
        {"loss_metric.mean": torch.ones(1), "loss_metric.var": torch.ones(1)},
    ],
)
def test_small_numbers_of_other_layers_are_no_question(
    code: Path, net: nn.Module, tmp_path: Path, beside: State
) -> None:
    torch.save(under("net.", net.state_dict()) | beside, tmp_path / "net.pt")
    assert loaded(code, tmp_path / "net.pt", ";normalize=none").notes["loading"]["left_out"]["count"] == len(beside)
    assert loaded(code, tmp_path / "net.pt").trained


def test_a_part_of_flat_names_keeps_the_question_of_what_stood_before(
    code: Path, net: nn.Module, tmp_path: Path
) -> None:
    torch.save(under("module.1.", net.state_dict()), tmp_path / "net.pt")
    for part in ("1", "module.1"):
        with pytest.raises(UserError, match="a part without weights stood before"):
            loaded(code, tmp_path / "net.pt", f";part={part}")


def test_parts_are_found_inside_names_and_in_lists(code: Path, net: nn.Module, tmp_path: Path) -> None:
    state = net.state_dict()
    files: dict[str, Any] = {
        "encoder_q": {"state_dict": under("module.encoder_q.", state) | under("module.encoder_k.", other(state))},
        "1": [other(state), state],
        "2": {1: other(state), 2: state},
    }
    for part, held in files.items():
        torch.save(held, tmp_path / "net.pt")
        torch.testing.assert_close(loaded(code, tmp_path / "net.pt", f";part={part}").module(X), net(X))
    torch.save({"a": {"model": state}, "b": {"model": other(state)}}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"holds several networks: a\.model, b\.model; choose one with ;part=a\.model"):
        loaded(code, tmp_path / "net.pt", ";part=model")


def test_equal_constants_of_three_colours_are_one_for_grey_images(code: Path, net: nn.Module, tmp_path: Path) -> None:
    constants = {"mean": torch.full((3,), 0.3), "std": torch.full((3,), 0.4)}
    torch.save(under("net.", net.state_dict()) | constants, tmp_path / "net.pt")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt").module(X), net((X - 0.3) / 0.4))


@pytest.mark.parametrize(
    "prefix, beside",
    [
        ("student.", lambda one: {"ema": {"model": other(one)}, "student": one}),
        ("student", lambda one: {"model": other(one), "student": under("module.", one)}),
        ("ema.model.", lambda one: {"ema": {"model": one}, "student": other(one)}),
        ("body.", lambda one: {"model": under("net.", other(one)), "ema": under("body.", one)}),
        ("body.", lambda one: {"model": other(one), "more": {"own": under("body.", one)}}),
    ],
)
def test_a_prefix_is_looked_for_in_the_whole_file(
    code: Path, net: nn.Module, tmp_path: Path, prefix: str, beside: Any
) -> None:
    torch.save(beside(net.state_dict()), tmp_path / "net.pt")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt", f";prefix={prefix}").module(X), net(X))


def test_a_prefix_of_several_parts_is_a_question(code: Path, net: nn.Module, tmp_path: Path) -> None:
    here = under("net.", net.state_dict())
    torch.save({"model": net.state_dict(), "a": here, "b": under("net.", other(net.state_dict()))}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"holds several networks: a, b; choose one with ;part=a"):
        loaded(code, tmp_path / "net.pt", ";prefix=net.")
    torch.testing.assert_close(loaded(code, tmp_path / "net.pt", ";prefix=net.;part=a").module(X), net(X))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_right_permission_is_asked_for_at_once(code: Path, tmp_path: Path, zipped: bool, protocol: int) -> None:
    how: dict[str, Any] = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    path, network = tmp_path / "net.pt", nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    words = {"state_dict": network.state_dict(), "act": "torch.nn.modules.activation.ReLU"}
    for held, flag in ((network, "--allow-code"), ({"model": network}, "--allow-code"), (words, "--allow-pickle")):
        torch.save(held, path, **how)
        with pytest.raises(UserError, match=rf"pass {flag}( |$)"):
            zoo.load(f"{code}:Net;weights={path}", **DIGITS)


@pytest.mark.parametrize("head", ["1.", "1.module.", "module.1.", "model.2.", "_orig_mod.1.", "net.1.backbone."])
def test_a_part_without_weights_that_is_gone_is_a_question(
    code: Path, net: nn.Module, tmp_path: Path, head: str
) -> None:
    torch.save(under(head, dict(net.state_dict())), tmp_path / "have.pt")
    for spec in (f"{code}:Net;weights={tmp_path}/have.pt", f"checkpoint:{tmp_path}/have.pt;arch=({code}:Net)"):
        with pytest.raises(UserError, match=r"a part without weights stood before them, .*normalize=.*mean and std"):
            zoo.load(spec, **DIGITS, allow_pickle=True)
        for options, x in ((";mean=(0.3);std=(0.4)", (X - 0.3) / 0.4), (";normalize=none", X), (";mean=0;std=1", X)):
            found = zoo.load(spec + options, **DIGITS, allow_pickle=True)
            torch.testing.assert_close(found.module(X), net(x))


def test_weights_of_the_part_go_into_a_network_that_holds_it(code: Path, net: nn.Module, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "have.pt")
    assert torch.equal(loaded(code, tmp_path / "have.pt", name="Inside").module(X), net(X))


def test_old_and_new_names_of_weight_normalisation_load(code: Path, tmp_path: Path) -> None:
    network = shaken(made(code, "Weighted"))
    state = dict(network.state_dict())
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for rename in ({}, old):
        held = {}
        for key, value in state.items():
            new = next((key.replace(a, b) for a, b in rename.items() if a in key), key)
            held[new] = value
        torch.save({"net": under("module.", held)}, tmp_path / "have.pt")
        assert torch.equal(loaded(code, tmp_path / "have.pt", name="Weighted").module(X), network(X))


def test_tied_lazy_and_partly_compiled_networks_load(code: Path, tmp_path: Path) -> None:
    tied = shaken(made(code, "Tied"))
    once = {key: value for key, value in tied.state_dict().items() if key != "b.weight"}
    torch.save(once, tmp_path / "tied.pt")
    assert torch.equal(loaded(code, tmp_path / "tied.pt", name="Tied").module(X), tied(X))
    lazy = nn.Sequential(collections.OrderedDict(flat=nn.Flatten(), fc=nn.Linear(64, 10)))
    torch.save(lazy.state_dict(), tmp_path / "lazy.pt")
    assert torch.equal(loaded(code, tmp_path / "lazy.pt", name="Lazy").module(X), lazy(X))
    partly = shaken(made(code, "Partly"))
    for word in ("_orig_mod.", ""):
        torch.save({k.replace("_orig_mod.", word): v for k, v in partly.state_dict().items()}, tmp_path / "partly.pt")
        assert torch.equal(loaded(code, tmp_path / "partly.pt", name="Partly").module(X), partly(X))


def without(*keys: str) -> Content:
    return lambda s: {key: value for key, value in s.items() if key not in keys}


@pytest.mark.parametrize(
    "content, options, message",
    [
        (without("fc.bias"), "", r"fc\.bias is missing \(1 keys missing, 0 too many\)"),
        (lambda s: under("model.", without("fc.bias")(s)), "", r"fc\.bias is missing"),
        (without("layer1.0.bn.running_mean"), "", r"layer1\.0\.bn\.running_mean is missing"),
        (lambda s: {**s, "fc.bias": torch.zeros(7)}, "", r"fc\.bias has shape \(7,\), not \(10,\)"),
        (lambda s: {**s, "fc.bias": torch.zeros(10).int()}, "", r"fc\.bias is torch\.int32, not torch\.float32"),
        (lambda s: {**s, "fc.bias": torch.full((10,), torch.nan)}, "", r"NaN or infinite weights \(fc\.bias\)"),
        (
            lambda s: {**s, "fc.weight": s["fc.weight"].to_sparse()},
            "",
            "fc.weight as a sparse tensor; accepted: numbers",
        ),
        (lambda s: {**s, "fc.weight": s["fc.weight"].to("meta")}, "", "fc.weight as a meta tensor; accepted: numbers"),
        (lambda s: {"a.b": torch.ones(2)}, "", "missing, .*too many"),
        (
            lambda s: {"params_ema": s, "params": s},
            "",
            "several networks: params_ema, params; choose one with ;part=params_ema",
        ),
        (lambda s: {"model": {"student": s, "teacher": s}}, "", "several networks: .* with ;part=model.student"),
        (
            lambda s: {"params_ema": s, "params": s},
            ";part=param",
            "unknown part of have.pt 'param'; did you mean 'params'",
        ),
        (lambda s: {"ema": {"model": s}, "x": 1}, ";part=ema.net", "unknown part of have.pt 'ema.net'"),
        (lambda s: s, ";prefix=student.", "no name in .* begins with prefix=student."),
        (lambda s: under("student.", s), ";prefix=studnet.", "did you mean student"),
        (lambda s: {"optimizer": {"state": {0: {"exp": torch.ones(1)}}}}, "", "holds no state dict"),
        (lambda s: [s], "", "holds no state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    code: Path, net: nn.Module, tmp_path: Path, content: Content, options: str, message: str
) -> None:
    torch.save(content(dict(net.state_dict())), tmp_path / "have.pt")
    with pytest.raises(UserError, match=message):
        loaded(code, tmp_path / "have.pt", options)


def test_the_first_layers_of_a_deeper_network_are_not_taken_for_the_network(code: Path, tmp_path: Path) -> None:
    deep = made(code, "deep").state_dict()
    torch.save(deep, tmp_path / "have.pt")
    with pytest.raises(
        UserError, match=r"a deeper network than the architecture: layer1, layer2 go on in it \(36 keys\)"
    ):
        loaded(code, tmp_path / "have.pt")


def test_one_layer_is_not_picked_out_of_another_network(tmp_path: Path) -> None:
    torch.save(
        {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10), "conv.weight": torch.rand(3, 3)}, tmp_path / "a.pt"
    )
    with pytest.raises(UserError, match=r"does not fit the architecture: 1.bias is missing"):
        zoo.load(f"linear;weights={tmp_path / 'a.pt'}", **DIGITS, allow_pickle=True)


# ------------------------------------------------------------------------------------------------ what lies beside weights


def omegaconf() -> Any:
    """As OmegaConf pickles its containers, without the package."""
    made: dict[str, Any] = {}
    for name, classes in (
        ("omegaconf", ()),
        ("omegaconf.dictconfig", ("DictConfig",)),
        ("omegaconf.listconfig", ("ListConfig",)),
        ("omegaconf.base", ("ContainerMetadata", "Metadata")),
        ("omegaconf.nodes", ("AnyNode",)),
    ):
        sys.modules[name] = ModuleType(name)
        for kind in classes:
            made[kind] = type(kind, (), {"__module__": name})
            setattr(sys.modules[name], kind, made[kind])

    def held(kind: str, **state: Any) -> Any:
        one = made[kind]()
        vars(one).update(state)
        return one

    node = held("AnyNode", _val=3, _metadata=held("Metadata", ref_type=Any, key="a"))
    metadata = held("ContainerMetadata", element_type=Any, optional=True, resolver_cache=collections.defaultdict(dict))
    items = held("ListConfig", _content=[node], _metadata=metadata)
    return held("DictConfig", _content={"lr": node, "sizes": items}, _metadata=metadata, _parent=None)


def optimisers() -> Any:
    weight = nn.Parameter(torch.ones(2))
    steps = torch.optim.SGD([weight], lr=0.1)
    return [
        steps,
        steps.state_dict(),
        torch.optim.lr_scheduler.OneCycleLR(torch.optim.Adam([weight]), 0.1, 10).state_dict(),
    ]


BESIDE: dict[str, Callable[[], Any]] = {
    "numbers of numpy": lambda: [np.float64(91.7), np.int64(3), np.float32(1), np.bool_(True), np.str_("a")],
    "dtypes": lambda: [np.dtype("f4"), np.dtype("<i8"), np.float32, torch.float16],
    "arrays": lambda: {"a": np.arange(6).reshape(2, 3), "b": np.array(["x"]), "c": np.array([None])},
    "a namespace": lambda: argparse.Namespace(lr=0.1, sizes=[1, 2], where=pathlib.Path("a")),
    "another": lambda: SimpleNamespace(lr=0.1),
    "paths": lambda: [pathlib.Path("/tmp/a"), pathlib.PurePosixPath("b"), {pathlib.Path("c"): 1}],
    "dictionaries": lambda: [
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.defaultdict(int),
        collections.Counter("aab"),
        collections.deque([1, 2]),
    ],
    "dates": lambda: [
        datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2024, 1, 2),
        datetime.timedelta(1),
        datetime.time(1),
    ],
    "torch": lambda: [torch.Size([1, 2]), torch.float32, torch.device("cpu"), torch.__version__],
    "sets and ranges": lambda: [{1, 2}, frozenset({3}), range(3), slice(1, 2), 1j, b"bytes", bytearray(b"b")],
    "optimisers": optimisers,
    "random states": lambda: [
        np.random.RandomState(0),
        np.random.default_rng(0),
        np.random.get_state(),
        torch.get_rng_state(),
    ],
    "partial functions and types": lambda: [functools.partial(int, base=2), type(None), int, Settings.__name__],
    "identifiers": lambda: uuid.UUID(int=3),
    "OmegaConf": omegaconf,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", BESIDE)
def test_what_research_code_keeps_beside_weights_is_read_without_code(
    code: Path, net: nn.Module, tmp_path: Path, name: str, zipped: bool
) -> None:
    content = {"state_dict": net.state_dict(), "extra": BESIDE[name](), "epoch": 3}
    torch.save(content, tmp_path / "have.pt", _use_new_zipfile_serialization=zipped)
    for module in [module for module in sys.modules if module.partition(".")[0] == "omegaconf"]:
        del sys.modules[module]  # it need not be installed
    assert torch.equal(loaded(code, tmp_path / "have.pt").module(X), net(X))
    assert "omegaconf" not in sys.modules


def renamed(path: Path, old: bytes, new: bytes) -> None:
    """The name of a module in a file of torch's old format; a global is written in lines, so that lengths may change."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_both_numpys_are_read(code: Path, net: nn.Module, tmp_path: Path, module: bytes) -> None:
    torch.save(
        {"state_dict": net.state_dict(), "acc": np.float64(3)},
        tmp_path / "have.pt",
        _use_new_zipfile_serialization=False,
    )
    old = (
        b"numpy._core.multiarray" if b"numpy._core" in (tmp_path / "have.pt").read_bytes() else b"numpy.core.multiarray"
    )
    renamed(tmp_path / "have.pt", old, module)
    assert torch.equal(loaded(code, tmp_path / "have.pt").module(X), net(X))


class Settings:
    """A class of the user's own."""


def test_any_other_type_is_refused_by_its_name(code: Path, net: nn.Module, tmp_path: Path) -> None:
    for extra, name in (
        (Settings(), r"[\w.]*Settings"),
        (nn.CrossEntropyLoss(), r"torch\.nn\.modules\.loss\.CrossEntropyLoss"),
        (nn.ReLU(), ""),
        (len, r"[\w.]*len"),
    ):
        torch.save({"state_dict": net.state_dict(), "extra": extra}, tmp_path / "have.pt")
        wanted = f"holds an object of type {name}, which takes code to be read" if name else "holds a whole network"
        with pytest.raises(UserError, match=f"{wanted}.*--allow-code"):
            loaded(code, tmp_path / "have.pt")
        assert torch.equal(loaded(code, tmp_path / "have.pt", allow_code=True).module(X), net(X))


class Ran:
    """Writes a file when it is read by pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (pathlib.Path.touch, (self.path,))


def test_nothing_runs_unless_it_is_allowed(code: Path, net: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": net.state_dict(), "extra": Ran(tmp_path / "ran")}, tmp_path / "have.pt")
    with pytest.raises(UserError, match=r"holds an object that is made by a function, .*--allow-code"):
        loaded(code, tmp_path / "have.pt")
    assert not (tmp_path / "ran").exists()
    loaded(code, tmp_path / "have.pt", allow_code=True)
    assert (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ whole networks


def test_a_whole_network_is_a_model_where_code_is_allowed(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mynets

    network = shaken(mynets.Net())
    torch.save(network, "whole.pt")
    torch.save({"model": network, "epoch": 3}, "inside.pt")
    torch.save({"a": network, "b": network}, "two.pt")
    del sys.modules["mynets"]
    for file, part in (("whole.pt", ""), ("inside.pt", ""), ("two.pt", ";part=b")):
        with pytest.raises(UserError, match=r"holds an object of type mynets\.Net, .*--allow-code"):
            zoo.load(f"checkpoint:{file}{part}", **DIGITS, allow_pickle=True)
        found = zoo.load(f"checkpoint:{file}{part}", **DIGITS, allow_code=True)
        assert torch.equal(found.module(X), network.eval()(X))
        assert found.notes["loading"]["made"] == "a whole network"
        assert (found.trained, found.fresh) == (True, None)
    scaled = zoo.load("checkpoint:whole.pt;normalize=0.5", **DIGITS, allow_code=True)
    torch.testing.assert_close(scaled.module(X), network((X - 0.5) / 0.5))
    with pytest.raises(UserError, match="several networks: a, b; choose one with ;part=NAME"):
        zoo.load("checkpoint:two.pt", **DIGITS, allow_code=True)
    assert torch.equal(loaded(code, tmp_path / "whole.pt", allow_code=True).module(X), network(X))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    monkeypatch.chdir(code.parent)
    sys.modules.pop("mynets", None)
    with pytest.raises(UserError, match=r"holds objects whose class is not here .*start rbl where it can be imported"):
        zoo.load(f"checkpoint:{tmp_path}/whole.pt", **DIGITS, allow_code=True)


def test_a_pickled_state_dict_still_needs_an_architecture(tmp_path: Path) -> None:
    torch.save(nn.Linear(64, 10).state_dict(), tmp_path / "have.pt")
    with pytest.raises(UserError, match="holds no whole network; name the architecture of its weights"):
        zoo.load(f"checkpoint:{tmp_path}/have.pt", **DIGITS, allow_code=True)
