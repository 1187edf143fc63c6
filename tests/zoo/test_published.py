"""Published architectures and checkpoints: sizes, key names, functions written again, and what is stripped around weights."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite import plugins, zoo
from robustbench_lite.errors import UserError

CIFAR: dict[str, Any] = {"num_classes": 10, "input_shape": (3, 32, 32)}
MNIST: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 28, 28)}
TINY = "wrn:depth=10,width=1"
SIDES = ((1, 32), (32, 32), (32, 64), (64, 64))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(before: int, after: int, side: int, bias: bool = False) -> int:
    return before * after * side * side + bias * after


def wide(depth: int, width: int) -> int:
    """The parameters of a wide ResNet, counted by hand from the paper's table 1."""
    widths, blocks = (16, 16 * width, 32 * width, 64 * width), (depth - 4) // 6
    total = conv(3, 16, 3) + 2 * widths[3] + 10 * widths[3] + 10
    for before, after in pairwise(widths):
        total += 2 * before + conv(before, after, 3) + 2 * after + conv(after, after, 3)
        total += conv(before, after, 1) if before != after else 0
        total += (blocks - 1) * (4 * after + 2 * conv(after, after, 3))
    return total


# -- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, data, published, counted",
    [
        ("wrn-28-10", CIFAR, 36.48, wide(28, 10)),
        ("wrn-34-10", CIFAR, 46.16, wide(34, 10)),
        ("preactresnet18", CIFAR, 11.17, 11_172_170),
        ("madry-mnist", MNIST, 3.27, 3_274_634),
        (
            "trades-mnist",
            MNIST,
            0.31,
            sum(conv(*sides, 3, True) for sides in SIDES) + 1025 * 200 + 201 * 200 + 201 * 10,
        ),
    ],
)
def test_sizes_are_the_published_ones(name: str, data: dict[str, Any], published: float, counted: int) -> None:
    with torch.device("meta"):
        module = plugins.load("model", name)(**data)
    assert parameters(module) == counted
    assert round(counted / 1e6, 2) == published


def test_any_depth_and_width() -> None:
    with torch.device("meta"):
        assert parameters(plugins.load("model", "wrn")(depth=16, width=4, **CIFAR)) == wide(16, 4)
    for wrong in ("depth=30", "depth=4", "width=0"):
        with pytest.raises(UserError, match=f"wrn: {wrong}; accepted"):
            zoo.load(f"wrn:{wrong}", **CIFAR)


# -- key names --------------------------------------------------------------------------------------------------


def wide_keys(blocks: int) -> set[str]:
    """As the authors' code of TRADES names them, without the counters of batch normalisation."""
    bn, keys = ("weight", "bias", "running_mean", "running_var"), {"conv1.weight", "fc.weight", "fc.bias"}
    keys |= {f"bn1.{part}" for part in bn}
    for stage in (1, 2, 3):
        for block in range(blocks):
            at = f"block{stage}.layer.{block}"
            keys |= {f"{at}.{norm}.{part}" for norm in ("bn1", "bn2") for part in bn}
            keys |= {f"{at}.conv1.weight", f"{at}.conv2.weight"}
        keys.add(f"block{stage}.layer.0.convShortcut.weight")
    return keys


def preact_keys() -> set[str]:
    bn, keys = ("weight", "bias", "running_mean", "running_var"), {"conv1.weight", "linear.weight", "linear.bias"}
    keys |= {f"bn.{part}" for part in bn}
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            keys |= {f"{at}.{norm}.{part}" for norm in ("bn1", "bn2") for part in bn}
            keys |= {f"{at}.conv1.weight", f"{at}.conv2.weight"}
        keys |= {f"layer{stage}.0.shortcut.0.weight"} if stage > 1 else set()
    return keys


def layers(*names: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize(
    "name, data, keys",
    [
        ("wrn-28-10", CIFAR, wide_keys(4)),
        ("wrn-34-10", CIFAR, wide_keys(5)),
        ("preactresnet18", CIFAR, preact_keys()),
        ("madry-mnist", MNIST, layers("conv1", "conv2", "fc1", "fc2")),
        (
            "trades-mnist",
            MNIST,
            layers(
                *(f"feature_extractor.conv{number}" for number in (1, 2, 3, 4)),
                *(f"classifier.fc{number}" for number in (1, 2, 3)),
            ),
        ),
    ],
)
def test_keys_are_those_of_the_published_state_dicts(name: str, data: dict[str, Any], keys: set[str]) -> None:
    with torch.device("meta"):
        module = plugins.load("model", name)(**data)
    own = getattr(module, "network", module).state_dict()
    assert {key for key in own if not key.endswith("num_batches_tracked")} == keys


# -- functions --------------------------------------------------------------------------------------------------


def wide_by_the_paper(w: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    def norm(x: Tensor, at: str) -> Tensor:
        stats = (w[f"{at}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *stats))

    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active, short = norm(x, f"{at}.bn1"), f"{at}.convShortcut.weight"
            skip = F.conv2d(active, w[short], stride=stride) if short in w else x
            out = F.conv2d(active, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            x = F.conv2d(norm(out, f"{at}.bn2"), w[f"{at}.conv2.weight"], padding=1) + skip
    return F.linear(F.avg_pool2d(norm(x, "bn1"), 8).flatten(1), w["fc.weight"], w["fc.bias"])


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and biases that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            low = 0.5 if name.endswith("var") else -0.3
            tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return module.eval()


@pytest.mark.parametrize("depth, width", [(10, 1), (16, 2)])
def test_a_wide_resnet_is_the_function_of_the_paper(depth: int, width: int) -> None:
    module = zoo.load(f"wrn:depth={depth},width={width}", **CIFAR).module
    network = shaken(module.network)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = wide_by_the_paper(network.state_dict(), x, (depth - 4) // 6)
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(network(x), module(x), rtol=0, atol=0)  # [0, 1] as it is


def test_the_mnist_networks_are_the_published_functions() -> None:
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    madry, trades = (shaken(zoo.load(name, **MNIST).module) for name in ("madry-mnist", "trades-mnist"))
    nn.init.normal_(trades.classifier.fc3.weight)  # published as zeros: nothing would be compared
    with torch.no_grad():
        w = madry.state_dict()
        out = x
        for at in ("conv1", "conv2"):
            out = F.max_pool2d(F.relu(F.conv2d(out, w[f"{at}.weight"], w[f"{at}.bias"], padding=2)), 2)
        assert out.shape == (2, 64, 7, 7)
        hidden = F.relu(F.linear(out.flatten(1), w["fc1.weight"], w["fc1.bias"]))
        torch.testing.assert_close(madry(x), F.linear(hidden, w["fc2.weight"], w["fc2.bias"]))
        w, out = trades.state_dict(), x
        for number in (1, 2, 3, 4):
            at = f"feature_extractor.conv{number}"
            out = F.relu(F.conv2d(out, w[f"{at}.weight"], w[f"{at}.bias"]))
            out = out if number % 2 else F.max_pool2d(out, 2)
        assert out.shape == (2, 64, 4, 4)
        out = out.flatten(1)
        for number in (1, 2, 3):
            at = f"classifier.fc{number}"
            out = F.linear(out, w[f"{at}.weight"], w[f"{at}.bias"])
            out = out if number == 3 else F.relu(out)
        torch.testing.assert_close(trades(x), out)


def test_the_mnist_networks_take_other_sizes_and_refuse_too_small_ones() -> None:
    for name, side in (("madry-mnist", 9), ("trades-mnist", 16)):
        found = zoo.load(name, num_classes=3, input_shape=(3, side, side + 1)).module
        assert found(torch.rand(2, 3, side, side + 1)).shape == (2, 3)
        with pytest.raises(UserError, match=f"{name} takes images of .* pixels and more, not 3x40"):
            zoo.load(name, num_classes=3, input_shape=(1, 3, 40))
    with pytest.raises(UserError, match="drop=1; accepted"):
        zoo.load("trades-mnist:drop=1", **MNIST)


# -- what is stripped -------------------------------------------------------------------------------------------

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """A small wide ResNet with statistics of its own."""
    return shaken(zoo.load(TINY, **CIFAR).module.network)


X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
GREYISH = {"mean": torch.tensor([0.4914, 0.4822, 0.4465]), "std": torch.tensor([0.2471, 0.2435, 0.2616])}
WRAPPED: list[tuple[Callable[[State], Any], dict[str, Any]]] = [
    (lambda s: s, {}),
    (lambda s: {"net": s, "acc": 0.5, "epoch": 7}, {"part": "net"}),
    (
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        {"part": "model_state_dict", "stripped": ["module."]},
    ),
    (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()}, {"stripped": ["_orig_mod.module."]}),
    (lambda s: {"ema": {"module": s, "decay": 0.995}}, {"part": "ema.module"}),
    (lambda s: {f"model_ema.{k}": v for k, v in s.items()}, {"stripped": ["model_ema."]}),
    (
        lambda s: {"n_averaged": torch.tensor(9), **{f"module.{k}": v for k, v in s.items()}},
        {"stripped": ["module."], "left_out": {"count": 1, "keys": ["n_averaged"]}},
    ),
    (
        lambda s: {**s, "sub_block1.layer.0.conv1.weight": torch.zeros(16, 16, 3, 3)},
        {"left_out": {"count": 1, "keys": ["sub_block1.layer.0.conv1.weight"]}},
    ),
    (lambda s: {**s, "mu": torch.zeros(1, 3, 1, 1), "sigma": torch.ones(1, 3, 1, 1)}, {}),
    (
        lambda s: {"state_dict": {f"module.1.{k}": v for k, v in s.items()} | {"module.0.mean": torch.zeros(3)}},
        {"part": "state_dict", "stripped": ["module.1."]},
    ),
]


@pytest.mark.parametrize("wrap, told", WRAPPED)
def test_what_is_around_published_weights_is_stripped_and_told(
    tmp_path: Path, tiny: nn.Module, wrap: Callable[[State], Any], told: dict[str, Any]
) -> None:
    torch.save(wrap(tiny.state_dict()), tmp_path / "net.pt")
    for spec in (f"{TINY};weights={tmp_path}/net.pt", f"checkpoint:{tmp_path}/net.pt;arch=({TINY})"):
        found = zoo.load(spec, **CIFAR, allow_pickle=True)
        none = {"mean": [0.0] * 3, "std": [1.0] * 3}
        assert found.notes == {"loading": {**none, "weights": "net.pt", **told}}
        assert found.trained
        assert torch.equal(found.module(X), tiny(X))


@pytest.mark.parametrize("place", ["{}", "module.{}", "normalize.{}", "0.{}"])
def test_the_normalisation_of_a_file_is_the_models(tmp_path: Path, tiny: nn.Module, place: str) -> None:
    body = {f"1.{key}" if place == "0.{}" else key: tensor for key, tensor in tiny.state_dict().items()}
    torch.save({**body, **{place.format(key): value for key, value in GREYISH.items()}}, tmp_path / "net.pt")
    expected = tiny((X - GREYISH["mean"].view(3, 1, 1)) / GREYISH["std"].view(3, 1, 1))
    found = zoo.load(f"checkpoint:{tmp_path}/net.pt;arch=({TINY})", **CIFAR, allow_pickle=True)
    torch.testing.assert_close(found.module(X), expected)
    assert found.notes["loading"]["mean"] == [0.4914, 0.4822, 0.4465]
    assert found.notes["loading"]["std"] == [0.2471, 0.2435, 0.2616]
    assert found.card is not None
    assert "mean=(0.4914,0.4822,0.4465)" in found.card["architecture"]
    assert found.fresh is not None
    assert torch.equal(found.fresh().mean, found.module.mean)
    bare = zoo.load(f"{TINY};weights={tmp_path}/net.pt;normalize=none", **CIFAR, allow_pickle=True)
    assert torch.equal(bare.module(X), tiny(X))
    asked = f"{TINY},mean=(0.5,0.5,0.5),std=(1,1,1);weights={tmp_path}/net.pt"
    with pytest.raises(UserError, match=r"normalises by mean=\(0.4914,.*the model by mean=\(0.5,0.5,0.5\)"):
        zoo.load(asked, **CIFAR, allow_pickle=True)


def test_our_own_file_of_the_whole_module_brings_its_normalisation(tmp_path: Path) -> None:
    module = zoo.load(f"{TINY},mean=(0.1,0.2,0.3),std=(1,2,3)", **CIFAR).module
    torch.save(module.state_dict(), tmp_path / "net.pt")
    found = zoo.load(f"{TINY};weights={tmp_path}/net.pt", **CIFAR, allow_pickle=True)
    assert torch.equal(found.module(X), module(X))
    with pytest.raises(UserError, match=r"normalises by mean=\(0.1,0.2,0.3\).*the model by mean=\(0.0,0.0,0.0\)"):
        zoo.load(f"{TINY},mean=(0,0,0);weights={tmp_path}/net.pt", **CIFAR, allow_pickle=True)


def test_constants_in_a_file_count_for_a_network_that_does_not_normalise_by_itself(tmp_path: Path) -> None:
    module = zoo.load("madry-mnist", **MNIST).module
    state, x = module.state_dict(), torch.rand(2, 1, 28, 28)
    torch.save({**state, "mean": torch.tensor([0.1307]), "std": torch.tensor([0.3081])}, tmp_path / "net.pt")
    found = zoo.load(f"madry-mnist;weights={tmp_path}/net.pt", **MNIST, allow_pickle=True)
    torch.testing.assert_close(found.module(x), module((x - 0.1307) / 0.3081))
    assert found.notes["loading"] == {"mean": [0.1307], "std": [0.3081], "weights": "net.pt"}
    assert "mean=0.1307;std=0.3081" in found.name
    with pytest.raises(UserError, match=r"normalises by mean=\(0.1307\), std=\(0.3081\), the model by mean=\(0.5\)"):
        zoo.load(f"madry-mnist;weights={tmp_path}/net.pt;mean=(0.5);std=(0.5)", **MNIST, allow_pickle=True)
    bare = zoo.load(f"madry-mnist;weights={tmp_path}/net.pt;normalize=none", **MNIST, allow_pickle=True)
    assert torch.equal(bare.module(x), module(x))
    torch.save({**state, "a.mean": torch.zeros(1), "b.mean": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"several normalisations \(a.mean, b.mean\)"):
        zoo.load(f"madry-mnist;weights={tmp_path}/net.pt", **MNIST, allow_pickle=True)


def test_constants_in_units_of_bytes_are_read_as_such(tmp_path: Path, tiny: nn.Module) -> None:
    pixels = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]), "pixel_std": torch.tensor([58.395, 57.12, 57.375])}
    torch.save({**tiny.state_dict(), **pixels}, tmp_path / "net.pt")
    found = zoo.load(f"{TINY};weights={tmp_path}/net.pt", **CIFAR, allow_pickle=True)
    assert found.notes["loading"]["mean"] == [0.485, 0.456, 0.406]
    assert found.notes["loading"]["std"] == [0.229, 0.224, 0.225]


def test_of_several_networks_in_a_file_one_is_chosen(tmp_path: Path, tiny: nn.Module) -> None:
    best = {key: tensor + 1 if key == "fc.bias" else tensor for key, tensor in tiny.state_dict().items()}
    torch.save({"last": tiny.state_dict(), "best": best, "epoch": 3}, tmp_path / "net.pt")
    where = f"{tmp_path}/net.pt"
    for part, shift in (("last", 0), ("best", 1)):
        for spec in (f"{TINY};weights={where};part={part}", f"checkpoint:{where};arch=({TINY});part={part}"):
            found = zoo.load(spec, **CIFAR, allow_pickle=True)
            torch.testing.assert_close(found.module(X), tiny(X) + shift)
            assert found.notes["loading"]["part"] == part
    with pytest.raises(UserError, match=r"holds several networks: last, best; choose one with ;part=last"):
        zoo.load(f"{TINY};weights={where}", **CIFAR, allow_pickle=True)
    torch.save({"state_dict": best}, tmp_path / "one.pt")
    with pytest.raises(UserError, match=r"unknown part of one\.pt 'stat'; did you mean 'state_dict'"):
        zoo.load(f"{TINY};weights={tmp_path}/one.pt;part=stat", **CIFAR, allow_pickle=True)
    with pytest.raises(UserError, match="wrn: part is for a file of weights"):
        zoo.load(f"{TINY};part=best", **CIFAR)


def test_keys_that_do_not_fit_are_named_in_one_sentence(tmp_path: Path, tiny: nn.Module) -> None:
    state = dict(tiny.state_dict())
    for key in ("fc.bias", "bn1.weight"):
        del state[key]
    state |= {f"head{number}.weight": torch.zeros(1) for number in range(5)}
    torch.save(state, tmp_path / "net.pt")
    said = (
        r"net\.pt' does not fit the architecture: bn1\.weight is missing, and so is fc\.bias; head0\.weight is not in it,"
        r" and neither are head1\.weight, head2\.weight and 2 more \(2 keys missing, 5 too many\)$"
    )
    with pytest.raises(UserError, match=said):
        zoo.load(f"{TINY};weights={tmp_path}/net.pt", **CIFAR, allow_pickle=True)
