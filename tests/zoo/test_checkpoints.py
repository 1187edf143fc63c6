"""Checkpoints: written whole, read back to the bit, and refused when anything about them is off."""

import json
import pickle
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robustbench_lite import plugins, zoo
from robustbench_lite.errors import UserError

DIGITS = {"num_classes": 10, "input_shape": (1, 8, 8)}
CARD = {"architecture": "small-cnn:width=4,hidden=8", "num_classes": 10, "input_shape": [1, 8, 8], "seed": 3}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint, the module in it, and its logits on some images."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = zoo.load(CARD["architecture"], **DIGITS).fresh()
    path = tmp_path / "net.safetensors"
    zoo.save_checkpoint(path, module, CARD)
    return path, module.eval()


X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_checkpoint_comes_back_to_bit_equal_logits(saved, suffix):
    path, module = saved
    found = zoo.load(f"checkpoint:{path.with_suffix(suffix)}", **DIGITS)
    assert torch.equal(found.module(X), module(X))
    assert (found.trained, found.num_classes, found.input_shape) == (True, 10, (1, 8, 8))
    assert found.card["seed"] == 3
    assert found.card["versions"]["torch"] == torch.__version__
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    assert not torch.equal(next(found.fresh().parameters()), next(module.parameters()))


@pytest.mark.parametrize("architecture", ["mlp:hidden=8", "linear", "resnet20;mean=(0.4,0.5,0.6);std=(0.2,0.3,0.4)"])
def test_normalisation_and_buffers_come_back_too(tmp_path, architecture):
    shape = (3, 9, 9)
    module = zoo.load(architecture, num_classes=4, input_shape=shape).fresh()
    module(torch.rand(8, *shape))  # batch statistics move
    card = {"architecture": architecture, "num_classes": 4, "input_shape": shape}
    zoo.save_checkpoint(tmp_path / "net.safetensors", module, card)
    found = zoo.load_checkpoint(tmp_path / "net.safetensors")
    x = torch.rand(3, *shape)
    assert torch.equal(found.module(x), module.eval()(x))


def test_hub_models_come_back_without_fetching_anything(tmp_path):
    spec = "timm:test_vit;resize=160;random=true"
    shape = (3, 16, 16)
    found = zoo.load(spec, num_classes=5, input_shape=shape)
    card = {"architecture": spec.replace("random=true", "pretrained=true"), "num_classes": 5, "input_shape": shape}
    zoo.save_checkpoint(tmp_path / "net.safetensors", found.module, card)
    x = torch.rand(2, *shape)
    assert torch.equal(zoo.load_checkpoint(tmp_path / "net.safetensors").module(x), found.module(x))


def test_tied_weights_and_channels_last_can_be_saved(tmp_path):
    def tied(*, num_classes, input_shape):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, num_classes))
        net[2].weight = net[1].weight
        return net

    plugins.register("model", "tied", tied)
    try:
        module = tied(**DIGITS)
        zoo.save_checkpoint(tmp_path / "net.safetensors", module, {**CARD, "architecture": "tied"})
        assert torch.equal(zoo.load_checkpoint(tmp_path / "net.safetensors").module(X), module(X))
    finally:
        plugins.unregister("model", "tied")
    conv = zoo.load("small-cnn", **DIGITS).module.to(memory_format=torch.channels_last)
    zoo.save_checkpoint(tmp_path / "conv.safetensors", conv, {**CARD, "architecture": "small-cnn"})
    found = zoo.load_checkpoint(tmp_path / "conv.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(conv.parameters(), found.module.parameters(), strict=True))


def test_saving_leaves_no_half_written_file_behind(saved, tmp_path):
    path, module = saved
    whole = path.read_bytes()
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        zoo.save_checkpoint(tmp_path / "net.pt", module, CARD)
    (tmp_path / "blocked.json").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  # what it says is the system's
        zoo.save_checkpoint(tmp_path / "blocked.safetensors", module, CARD)
    with pytest.raises(UserError, match="there is no file"):
        zoo.load_checkpoint(tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match="cannot read the card"):
        zoo.load_checkpoint(tmp_path / "blocked.safetensors")
    assert path.read_bytes() == whole
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def card_change(**changes):
    def change(path, module):
        card = json.loads(path.with_suffix(".json").read_text())
        card.update(changes)
        kept = {key: value for key, value in card.items() if value is not None}
        path.with_suffix(".json").write_text(json.dumps(kept))

    return change


def written(suffix, content):
    return lambda path, module: path.with_suffix(suffix).write_bytes(content)


def retrained(path, module):
    other = path.with_name("other.safetensors")
    with torch.no_grad():
        next(module.parameters()).add_(1)
    zoo.save_checkpoint(other, module, CARD)
    path.write_bytes(other.read_bytes())


def poisoned(path, module):
    with torch.no_grad():
        next(module.parameters())[0] = float("nan")
    zoo.save_checkpoint(path, module, CARD)


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path, module: path.unlink(), "there is no file"),
        (lambda path, module: path.with_suffix(".json").unlink(), "there is no card .*FILE.json beside it"),
        (written(".json", b"{"), "the card .* is corrupt"),
        (written(".json", b"[" * 100_000), "the card .* is corrupt"),
        (written(".json", b"\xff\xfe"), "the card .* is corrupt"),
        (written(".json", b"[1]"), "is no table of facts"),
        (written(".safetensors", b""), "corrupt or truncated"),
        (written(".safetensors", pickle.dumps({"a": 1})), "corrupt or truncated"),
        (written(".safetensors", b"\xff" * 64), "corrupt or truncated"),
        (card_change(format=99), "has format 99; this version reads 1"),
        (card_change(architecture=None), "lacks architecture"),
        (card_change(architecture=5), "lacks architecture"),
        (card_change(num_classes="ten"), "lacks architecture .* num_classes"),
        (card_change(num_classes=0), "lacks"),
        (card_change(num_classes=10**12), "lacks"),
        (card_change(input_shape=[8, 8]), "lacks"),
        (card_change(input_shape="1x8x8"), "lacks"),
        (card_change(weights="0" * 32), "does not hold the weights that its card was written for"),
        (card_change(weights=None), "does not hold the weights"),
        (card_change(architecture="small-cnn"), "does not fit the architecture"),
        (card_change(architecture="linear"), "does not fit the architecture"),
        (card_change(num_classes=7), "does not fit the architecture"),
        (card_change(architecture="small-cmm"), "unknown model 'small-cmm'"),
        (card_change(architecture="checkpoint:net.json"), "accepted: the name of an architecture"),
        (card_change(architecture="torchscript:net.ts"), "accepted: the name of an architecture"),
        (retrained, "does not hold the weights"),
        (poisoned, "NaN or infinite weights"),
    ],
)
def test_a_checkpoint_with_anything_off_is_refused(saved, harm, message):
    harm(*saved)
    with pytest.raises(UserError, match=message):
        zoo.load(f"checkpoint:{saved[0]}", **DIGITS)


def test_a_file_cut_or_hit_anywhere_is_refused(saved):
    path, _ = saved
    whole = path.read_bytes()
    for place in [*range(0, 700, 23), *range(700, len(whole), 997)]:
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]):
            path.write_bytes(content)
            with pytest.raises(UserError):
                zoo.load_checkpoint(path)


def test_a_checkpoint_for_other_data_is_refused(saved):
    spec = f"checkpoint:{saved[0]}"
    with pytest.raises(UserError, match="takes images 1x8x8 but the data has 1x28x28"):
        zoo.load(spec, num_classes=10, input_shape=(1, 28, 28))
    with pytest.raises(UserError, match=r"labels reach 10 but .* has 10 classes"):
        zoo.load(spec, num_classes=11, input_shape=(1, 8, 8))
    with pytest.raises(UserError, match=r"has 10 classes but the data 2, cat and so on"):
        zoo.load(spec, num_classes=2, input_shape=(1, 8, 8), class_names=("cat", "dog"))
    with pytest.raises(UserError, match=r"has no option 'arhc'; it has .*did you mean arch"):
        zoo.load(f"{spec};arhc=linear", **DIGITS)


def test_the_same_classes_in_another_order_are_refused(tmp_path, saved):
    names = list("0123456789")
    zoo.save_checkpoint(saved[0], saved[1], {**CARD, "class_names": names})
    spec = f"checkpoint:{saved[0]}"
    zoo.load(spec, **DIGITS, class_names=tuple(names))
    zoo.load(spec, **DIGITS, class_names=tuple(f"{name} - word" for name in names))
    with pytest.raises(UserError, match="has class 1 as '1' but the data has it as '9'"):
        zoo.load(spec, **DIGITS, class_names=("0", *reversed(names[1:])))


def test_a_card_cannot_have_code_run_but_the_user_can(tmp_path):
    witness, code = tmp_path / "witness", tmp_path / "net.py"
    code.write_text(
        f"from torch import nn\nopen({str(witness)!r}, 'w').close()\n"
        "def build(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    module = zoo.load(f"{code}:build", **DIGITS).module
    zoo.save_checkpoint(tmp_path / "net.safetensors", module, {**CARD, "architecture": f"{code}:build"})
    witness.unlink()
    with pytest.raises(UserError, match=r"names the Python code .*net\.py:build.*; to have it run, add ;arch="):
        zoo.load(f"checkpoint:{tmp_path / 'net.safetensors'}", **DIGITS)
    assert not witness.exists()
    found = zoo.load(f"checkpoint:{tmp_path / 'net.safetensors'};arch=({code}:build)", **DIGITS)
    assert torch.equal(found.module(X), module(X))


# ------------------------------------------------------------------------------------------------ pickles


class Payload:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".PT", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_payload_is_refused_and_never_runs(tmp_path, suffix, zipped):
    path, witness = tmp_path / f"net{suffix}", tmp_path / "witness"
    torch.save({"state_dict": Payload(witness)}, path, _use_new_zipfile_serialization=zipped)
    for spec in (f"checkpoint:{path}", f"checkpoint:{path};arch=linear", f"linear;weights={path}"):
        with pytest.raises(UserError, match=r"is a pickle and could run code; convert it .*or pass --allow-pickle"):
            zoo.load(spec, **DIGITS)
        with pytest.raises(
            UserError,
            match=r"holds an object of type [\w.]*open, which takes code to be read, and was not loaded; .*--allow-code",
        ):
            zoo.load(spec, **DIGITS, allow_pickle=True)
    assert not witness.exists()


def test_a_pickled_module_is_refused_even_when_pickles_are_allowed(tmp_path):
    torch.save(nn.Linear(64, 10), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"holds a whole network.*save its state_dict, or pass --allow-code"):
        zoo.load(f"checkpoint:{tmp_path / 'net.pt'};arch=linear", **DIGITS, allow_pickle=True)


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    "wrap, stripped",
    [
        (lambda s: s, {}),
        (lambda s: {"state_dict": s, "epoch": 3}, {"part": "state_dict"}),
        (lambda s: {"model_state_dict": s, "optimizer": {}}, {"part": "model_state_dict"}),
        (lambda s: {"model": {"net": s}}, {"part": "model.net"}),
        (
            lambda s: {"net": {f"module.{key}": tensor for key, tensor in s.items()}},
            {"part": "net", "stripped": ["module."]},
        ),
        (lambda s: {f"module.model.{key}": tensor for key, tensor in s.items()}, {"stripped": ["module.model."]}),
    ],
)
def test_the_usual_wrappings_are_stripped_and_listed(tmp_path, wrap, stripped):
    torch.save(wrap(LINEAR.state_dict()), tmp_path / "net.pt")
    for spec in (f"checkpoint:{tmp_path / 'net.pt'};arch=linear", f"linear;weights={tmp_path / 'net.pt'}"):
        found = zoo.load(spec, **DIGITS, allow_pickle=True)
        assert torch.equal(found.module(X), LINEAR(X))
        assert found.notes["loading"] == {"weights": "net.pt", **stripped}
        assert found.name == spec
        assert found.trained
    assert zoo.load(f"checkpoint:{tmp_path / 'net.pt'};arch=linear", **DIGITS, allow_pickle=True).card == {
        "architecture": "linear"
    }


@pytest.mark.parametrize(
    "content, message",
    [
        ({"epoch": 3}, "holds no state dict; accepted: one, or one under state_dict"),
        ([torch.zeros(3)], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
        ({}, "holds no state dict"),
        ({"1.weight": torch.zeros(10, 64), "1.bias": 3}, "1.bias is missing"),
    ],
)
def test_a_pickle_without_weights_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(UserError, match=message):
        zoo.load(f"linear;weights={tmp_path / 'net.pt'}", **DIGITS, allow_pickle=True)


def test_a_damaged_pickle_is_refused_wherever_it_is_cut_or_hit(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(LINEAR.state_dict(), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 61):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(content)
            with suppress(UserError):  # a hit in the numbers themselves cannot be seen: there is no card
                assert zoo.load(f"linear;weights={path}", **DIGITS, allow_pickle=True).module(X).shape == (5, 10)


def test_a_pickle_without_a_named_architecture_is_refused(tmp_path):
    torch.save(LINEAR.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"has no card; name its architecture, such as .*;arch=resnet20"):
        zoo.load(f"checkpoint:{tmp_path / 'net.pt'}", **DIGITS, allow_pickle=True)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("checkpoint:nothing.safetensors", "there is no file"),
        ("checkpoint:nothing.pt", "there is no file"),
        ("linear;weights=nothing.pt", "there is no file"),
        ("linear;weights=near.pt", "there is no file 'near.pt'; did you mean 'nearly.pt'"),
        ("checkpoint:nothing.safetensors;arch=linear", "there is no file"),
        ("checkpoint:net.txt", "is no checkpoint; accepted: FILE.safetensors"),
        ("checkpoint:", "the name of a file is empty"),
        ("checkpoint:/;arch=linear", "is no checkpoint"),
        ("linear;weights=net.txt", "there is no file"),
        ("linear;weights=.", "is a folder; name the file in it; it holds nearly.pt"),
        ("linear;weights=~nobody-of-that-name/net.pt", "cannot read the path"),
        (f"linear;weights={'x' * 5000}.pt", "there is no file"),
    ],
)
def test_files_that_are_not_there_are_refused(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nearly.pt").touch()
    with pytest.raises(UserError, match=message) as caught:
        zoo.load(spec, **DIGITS)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text, architecture",
    [
        ("resnet20;weights=weights/resnet20.safetensors", "resnet20"),
        ("small-cnn;width=16;weights=net.safetensors;mean=(0.1);std=(0.3)", "small-cnn;width=16;mean=0.1;std=0.3"),
        ("timm:resnet18;pretrained=true", "timm:resnet18"),
    ],
)
def test_an_architecture_does_not_tell_where_its_weights_are_from(text, architecture):
    assert zoo.architecture_of(text) == architecture


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content, message",
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "is a pointer of Git LFS and holds no weights",
        ),
        (b"\n<!DOCTYPE html><html>", "is a web page and holds no weights"),
    ],
)
def test_a_download_that_went_wrong_is_told_by_what_it_is(tmp_path, suffix, content, message):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        zoo.load(f"linear;weights={path}", **DIGITS, allow_pickle=True)


def test_a_file_under_the_name_of_another_kind_is_told_by_what_it_is(tmp_path):
    weights = {"weight": torch.ones(2)}
    torch.save(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "b.pt")
    for name, message in {
        "a.safetensors": "a pickle",
        "old.safetensors": "a pickle",
        "b.pt": "a safetensors file",
    }.items():
        with pytest.raises(UserError, match=f"is {message}.* by its content; rename it"):
            zoo.load(f"linear;weights={tmp_path / name}", **DIGITS, allow_pickle=True)


def test_a_part_of_a_pickle_that_is_not_there_is_refused_by_name(tmp_path):
    torch.save({"ema": nn.Linear(64, 10), "model": nn.Linear(64, 10)}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"unknown part of net.pt 'emma'; did you mean 'ema'"):
        zoo.load(f"checkpoint:{tmp_path / 'net.pt'};part=emma", **DIGITS, allow_code=True)


class Leaves:
    def __reduce__(self):
        return sys.exit, ("bye",)


def test_code_of_a_pickle_that_ends_the_process_is_told_as_such(tmp_path):
    torch.save(Leaves(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"the code in .* raised SystemExit: bye"):
        zoo.load(f"checkpoint:{tmp_path / 'net.pt'}", **DIGITS, allow_code=True)
