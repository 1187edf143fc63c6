"""`normalize`, `mean` and `std` mean the same for every source of models, and what was applied is told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite import plugins, zoo
from robustbench_lite.errors import UserError
from robustbench_lite.results.loading import loading_rows, loading_text
from robustbench_lite.zoo.adapt import Normalized

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
RGB: dict[str, Any] = {"num_classes": 10, "input_shape": (3, 8, 8)}
GREY: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CODE = "from torch import nn\ndef make(input_shape): return nn.Sequential(nn.Flatten(), nn.Linear(64 * input_shape[0], 10))\n"
MEANS = {"imagenet": (0.485, 0.456, 0.406), "cifar10": (0.4914, 0.4822, 0.4465), "0.5": (0.5,), "none": (0.0,)}
STDS = {"imagenet": (0.229, 0.224, 0.225), "cifar10": (0.2471, 0.2435, 0.2616), "0.5": (0.5,), "none": (1.0,)}
KINDS = ("built in", "built in, with its own", "code", "torchscript", "export", "weights", "checkpoint", "hub")


def sources(folder: Path) -> dict[str, str]:
    """A spec of every kind, up to its options."""
    (folder / "net.py").write_text(CODE)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    torch.save(net.state_dict(), folder / "net.pt")
    torch.jit.trace(net, X).save(str(folder / "net.torchscript"))
    torch.export.save(torch.export.export(net, (X[:1],)), folder / "net.pt2")
    return {
        "built in": "small-cnn",
        "built in, with its own": "resnet20",
        "code": f"{folder}/net.py:make",
        "torchscript": f"torchscript:{folder}/net.torchscript",
        "export": f"export:{folder}/net.pt2",
        "weights": f"linear;weights={folder}/net.pt",
        "checkpoint": f"checkpoint:{folder}/net.pt;arch=linear",
        "hub": "timm:test_resnet;random=true",
    }


def load(spec: str, data: dict[str, Any]) -> zoo.LoadedModel:
    return zoo.load(spec, **data, allow_pickle=True, allow_code=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MEANS)
def test_a_named_normalisation_is_the_same_as_its_numbers(tmp_path: Path, kind: str, name: str) -> None:
    spec = sources(tmp_path)[kind]
    mean, std = (
        ",".join(map(str, values if len(values) > 1 or "own" not in kind else values * 3))
        for values in (MEANS[name], STDS[name])
    )
    named, written = load(f"{spec};normalize={name}", RGB), load(f"{spec};mean=({mean});std=({std})", RGB)
    torch.testing.assert_close(named.module(X), written.module(X))
    plain = named.module.network if isinstance(named.module, Normalized) else named.module
    m, s = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEANS[name], STDS[name]))
    torch.testing.assert_close(named.module(X), plain((X - m) / s))
    if named.fresh is not None:
        again = named.fresh()
        assert again.state_dict().keys() == named.module.state_dict().keys()


def test_grey_images_get_the_mean_of_the_channels(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    for spec in (f"{tmp_path}/net.py:make", "small-cnn", "resnet20"):
        found = zoo.load(f"{spec};normalize=imagenet", **GREY)
        assert isinstance(found.module, Normalized)
        assert found.module.mean.item() == pytest.approx(0.449)


@pytest.mark.parametrize("spec", ["small-cnn", "wrn:depth=10,width=1", "timm:test_resnet"])
@pytest.mark.parametrize(
    "options, message",
    [
        (
            "mean=(125,123,114);std=(63,62,67)",
            r"from 0 to 255, .*write mean=\(0.490196,0.482353,0.447059\), std=\(0.247",
        ),
        ("mean=(0,0,0);std=(255,255,255)", r"write mean=\(0,0,0\), std=\(1,1,1\)"),
        ("normalize=0.4", "normalize=0.4; accepted: imagenet, cifar10, 0.5, none"),
        ("normalize=none;mean=(0,0,0);std=(1,1,1)", "give the one or the other"),
    ],
)
def test_constants_that_cannot_be_meant_are_refused_with_the_right_ones(spec: str, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.load(f"{spec};{options}", **RGB)


def test_what_a_builder_does_not_take_is_put_around_it() -> None:
    found = zoo.load("small-cnn:width=4;resize=8;grey=repeat;normalize=0.5", num_classes=10, input_shape=(1, 16, 16))
    assert found.notes["loading"] == {
        "mean": [0.5],
        "std": [0.5],
        "resize": [8, 8],
        "interpolation": "bilinear",
        "grey": "repeat",
    }
    assert found.module.network[0].weight.shape == (4, 3, 3, 3)
    assert zoo.load(zoo.architecture_of(found.name), num_classes=10, input_shape=(1, 16, 16)).name == found.name


def test_a_checkpoint_of_such_a_model_comes_back(tmp_path: Path) -> None:
    found = zoo.load("small-cnn:width=4;normalize=cifar10", **RGB)
    card = {"architecture": found.name, "num_classes": 10, "input_shape": [3, 8, 8]}
    zoo.save_checkpoint(
        tmp_path / "net.safetensors", found.module, card | {"clean_accuracy": 0.75, "data": {"name": "digits"}}
    )
    again = zoo.load(f"checkpoint:{tmp_path}/net.safetensors", **RGB)
    assert torch.equal(again.module(X), found.module(X))
    assert again.notes["loading"] == found.notes["loading"]
    assert again.notes["told"] == {"clean_acc": 0.75, "dataset": "digits", "source": "the card of net.safetensors"}
    with pytest.raises(UserError, match="has no option 'normalize' beside its card, which tells what the network is"):
        zoo.load(f"checkpoint:{tmp_path}/net.safetensors;normalize=0.5", **RGB)


@pytest.mark.parametrize("clean", [None, "0.9", 3, -1, True, [0.5], float("nan")])
def test_a_card_that_tells_no_accuracy_tells_none(tmp_path: Path, clean: Any) -> None:
    found = zoo.load("linear", **RGB)
    card = {"architecture": "linear", "num_classes": 10, "input_shape": [3, 8, 8], "data": {"name": "digits"}}
    zoo.save_checkpoint(tmp_path / "net.safetensors", found.module, card | {"clean_accuracy": clean})
    assert "told" not in zoo.load(f"checkpoint:{tmp_path}/net.safetensors", **RGB).notes


def test_third_parties_builders_get_the_same_options() -> None:
    def own(
        *, num_classes: int, input_shape: tuple[int, int, int], mean: str = "0,0,0", std: str = "1,1,1"
    ) -> nn.Module:
        scale = torch.tensor([float(value) for value in std.split(",")]).view(1, -1, 1, 1)

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(192, num_classes)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                answer: torch.Tensor = self.fc((x / scale).flatten(1))
                return answer

        return Net()

    plugins.register("model", "own", own)
    try:
        plain, half = (zoo.load(f"own;normalize={name}", **RGB).module for name in ("none", "0.5"))
        torch.testing.assert_close(half(X), plain(X / 0.5))
        assert not isinstance(half, Normalized)
    finally:
        plugins.unregister("model", "own")


def test_what_was_applied_is_one_sentence() -> None:
    told = {
        "made": "a function", "resize": [8, 8], "interpolation": "bilinear", "grey": "repeat", "mean": [0.5], "std": [0.25],
        "input": "a copy, as the network changes it", "precision": "float16", "output": ".logits", "batch": "one image at a time",
        "weights": "net.pt", "part": "ema.model", "stripped": ["module."], "left_out": {"count": 9, "keys": ["a", "b"]},
    }  # fmt: skip
    assert loading_text(told) == (
        "given as a function; images resized to 8x8 (bilinear); grey images shown in three channels; normalised by mean (0.5),"
        " std (0.25); images given as a copy, as the network changes it; computed in float16; logits taken from output.logits;"
        " asked with one image at a time; weights from net.pt, part ema.model, names without 'module.', 9 left out (a, b, …)"
    )
    assert loading_text({}) == ""
    environment = {"systems": {"net | none": {"loading": {"mean": [0], "std": [1]}}, "other | none": {"digest": "a"}}}
    assert loading_rows(environment) == [("net | none", "normalised by mean (0), std (1)")]
    for odd in ({}, {"systems": []}, {"systems": {"a": 3}}, {"systems": {"a": {"loading": 3}}}):
        assert loading_rows(odd) == []
