"""Trainings that follow from their seed, go on after a kill, and come back from files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.generators import load_generator, resolve_generator, train_generator
from robustbench_lite.randomness import Draws


def streams(count: int) -> Draws:
    return Draws.of(0, [number.to_bytes(8, "little") for number in range(count)])


@pytest.mark.parametrize("text", ["vae:latent=4", "gan", "conditional-gan:packing=2", "linear-autoencoder", "wgan-gp"])
def test_the_file_brings_back_the_same_generator(text: str, tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    trained = train_generator(text, "digits", epochs=2, out=file)
    again = load_generator(file)
    assert again.digest == trained.digest
    z, y = trained.network.prior(streams(4)), torch.arange(4)
    assert torch.equal(trained.network.decode(z, y), again.network.decode(z, y))
    assert again.card["data"]["name"] == "digits"
    assert not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


@pytest.mark.parametrize("text", ["vae:latent=4", "gan"])
def test_the_seed_decides_everything(text: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (train_generator(text, "digits", epochs=2, seed=seed, use_cache=False) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", ["vae:latent=4", "gan", "wgan-gp", "lapgan:width=4"])
def test_a_killed_training_goes_on_to_the_same_bits(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_lite.training.resume.INTERVAL", 0.0)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "whole"))
    whole = train_generator(text, "digits", epochs=3)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "killed"))

    class KilledError(Exception):
        pass

    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("robustbench_lite.generators.train.time", clock)

    def kill(done: int, total: int, line: str) -> None:
        if done == 1:
            now[0] += 400.0
        if done > 0.5 * total:
            raise KilledError

    with pytest.raises(KilledError):
        train_generator(text, "digits", epochs=3, progress=kill)
    seen: list[int] = []
    went_on = train_generator(text, "digits", epochs=3, progress=lambda done, total, line: seen.append(done))
    assert seen[0] > 1  # not from the start
    assert went_on.digest == whole.digest
    assert went_on.card["training"]["figures"] == whole.card["training"]["figures"]
    assert went_on.card["seconds"] == 400.0  # what the killed one has spent is told, too


def test_the_same_content_is_not_trained_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBL_CACHE", str(tmp_path))
    train_generator("gan", "digits", epochs=1)
    seen: list[int] = []
    train_generator("gan", "digits", epochs=1, progress=lambda done, total, line: seen.append(done))
    assert not seen
    train_generator("gan:latent=8", "digits", epochs=1, progress=lambda done, total, line: seen.append(done))
    assert seen


def test_a_file_that_is_no_generator_is_told(tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    train_generator("vae:latent=4", "digits", epochs=30, out=file)
    card = json.loads(file.with_suffix(".json").read_text())

    def written(changes: dict[str, Any]) -> Path:
        file.with_suffix(".json").write_text(json.dumps({**card, **changes}))
        return file

    with pytest.raises(UserError, match="classifier, not a generator"):
        load_generator(written({"kind": None}))
    with pytest.raises(UserError, match="not hold the weights"):
        load_generator(written({"weights": "0"}))
    with pytest.raises(UserError, match="does not fit the architecture"):
        load_generator(written({"architecture": "vae:latent=5"}))
    with pytest.raises(UserError, match="lacks input_shape"):
        load_generator(written({"input_shape": "8"}))
    with pytest.raises(UserError, match="there is no file"):
        load_generator(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is no generator"):
        load_generator(tmp_path / "other.pt")


def test_samples_belong_to_their_streams() -> None:
    trained = train_generator("vae:latent=4", "digits", epochs=30)
    together, alone = trained.sample(streams(5)), [trained.sample(streams(5)[[number]]) for number in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert torch.equal(together, trained.sample(streams(5)))


def test_out_must_be_safetensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        train_generator("vae", "digits", out=tmp_path / "vae.pt")


@pytest.mark.parametrize(
    "text", ["conditional-vae", "conditional-gan", "dcgan:conditional=true,packing=3", "wgan-gp", "lapgan:width=4"]
)
def test_images_that_lie_channels_last_are_learned_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(resolve_generator(text)), "verdict", lambda *_: {})  # four steps come to nothing
    images = torch.rand(48, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    data = Dataset(
        name="noise", images=ArrayImages(images.numpy()), labels=(torch.arange(48) % 4).numpy(), num_classes=4,
        shape=(1, 20, 20), split="train",
    )  # fmt: skip
    trained = train_generator(text, data, epochs=2, batch_size=24, use_cache=False)
    made = trained.network.decode(trained.network.prior(streams(4)), torch.arange(4))
    assert made.shape == (4, 1, 20, 20)
    assert trained.card["training"]["last"]["epoch"] == 2
