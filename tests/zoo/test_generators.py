"""Generators as systems: what `vae:FILE`, `autoencoder:FILE`, `generator:FILE`, `discriminator:FILE` and `versus:FILE` mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from generating import untrained
from torch import nn
from torch.testing import assert_close

from robustbench_lite import data, zoo
from robustbench_lite.errors import UserError
from robustbench_lite.generators import load_generator
from robustbench_lite.randomness import Draws
from robustbench_lite.run.fast import fast_copy
from robustbench_lite.system import System
from robustbench_lite.zoo.generators import Discriminator, Reconstructor

SHAPE = (1, 8, 8)


def judge(text: str) -> System:
    """A fresh classifier of ten classes."""
    found = zoo.load(text, num_classes=10, input_shape=SHAPE)
    return System(model=found.module, num_classes=10, input_shape=SHAPE, name=text)


def reconstructing(text: str) -> System:
    return zoo.load_reconstructing(text, input_shape=SHAPE, judge=judge)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return untrained(tmp_path / "vae.safetensors", "vae:latent=4", classes=10)


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    return untrained(tmp_path / "gan.safetensors", "gan:latent=4", classes=10)


def test_a_vae_is_a_system_whose_answer_is_the_judges(vae: Path) -> None:
    system, trained = reconstructing(f"vae:{vae};judge=linear"), load_generator(vae)
    x = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(0))
    said, code = system(x), trained.network.encode(x)
    assert_close(said.code, code.mean)
    assert_close(said.log_variance, code.log_variance)
    assert_close(said.image, trained.network.reconstruct(x))
    assert_close(said.sigma_x2, torch.full((5,), 0.05))
    assert_close(said.scores, judge("linear").model(trained.network.reconstruct(x)))
    assert system.num_classes == 10
    assert not any(parameter.requires_grad for parameter in system.model.parameters())


def test_a_draw_of_the_code_is_decoded_and_judged(vae: Path) -> None:
    system, trained = reconstructing(f"generator:{vae};judge=linear"), load_generator(vae)
    x = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(0))
    draws = Draws.for_images(0, x, torch.zeros(5, dtype=torch.int64))
    assert isinstance(system.model, Reconstructor)
    z = trained.network.encode(x).sample(draws.normal((4,), "code", 3))
    assert_close(system.model.drawn(x, draws, 3), judge("linear").model(trained.network.decode(z)))


def test_a_copy_made_for_speed_would_say_less_so_there_is_none(vae: Path) -> None:
    system = reconstructing(f"vae:{vae}")  # its judge has convolutions
    assert any(isinstance(part, nn.Conv2d) for part in system.model.modules())
    assert fast_copy(system, torch.rand((4, *SHAPE))) is system


def test_systems_differ_in_their_digest_where_generator_or_judge_do(tmp_path: Path, vae: Path) -> None:
    other = untrained(tmp_path / "other.safetensors", "vae:latent=4", classes=10, seed=1)
    digests = {reconstructing(text).digest for text in (f"vae:{vae}", f"vae:{other}", f"vae:{vae};judge=linear")}
    assert len(digests) == 3
    assert reconstructing(f"generator:{vae}").digest in digests


@pytest.mark.parametrize(
    "text, message",
    [
        ("vae:{gan}", "holds gan:latent=4, which has no encoder; accepted: an autoencoder or a VAE"),
        ("autoencoder:{vae}", "holds vae:latent=4; write vae:"),
        ("vae:{vae};latent=3", "has no option 'latent'; it has judge"),
        ("vae:", "names no file"),
        ("vae:{folder}/none.safetensors", "there is no file"),
        ("generator:{told}", "which is told the label of every image"),
    ],
)
def test_messages_say_what_is_accepted(text: str, message: str, tmp_path: Path, vae: Path, gan: Path) -> None:
    told = untrained(tmp_path / "told.safetensors", "conditional-vae:latent=4", classes=10)
    with pytest.raises(UserError, match=message):
        reconstructing(text.format(vae=vae, gan=gan, told=told, folder=tmp_path))


def test_images_of_another_size_are_refused(vae: Path) -> None:
    with pytest.raises(UserError, match="makes images 1x8x8 but the data has 3x32x32"):
        zoo.load_reconstructing(f"vae:{vae}", input_shape=(3, 32, 32), judge=judge)


def test_what_reconstructs_is_no_classifier(vae: Path) -> None:
    with pytest.raises(UserError, match="is no classifier: it reconstructs images; attack it with --task reconstruct"):
        zoo.load(f"vae:{vae}", num_classes=10, input_shape=SHAPE)


def test_a_discriminator_is_a_classifier_of_two(gan: Path) -> None:
    found = zoo.load(f"discriminator:{gan}", num_classes=2, input_shape=SHAPE, class_names=("fake", "real"))
    x = torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(0))
    scores, real = found.module(x), load_generator(gan).network.judge(x)
    assert isinstance(found.module, Discriminator)
    assert_close(scores.softmax(1)[:, 1], real.sigmoid())
    assert torch.equal(scores.argmax(1) == 1, real > 0)
    assert found.trained


@pytest.mark.parametrize(
    "spec, classes, message",
    [
        ("vae:latent=4", 2, "which has no discriminator; accepted: a GAN"),
        ("conditional-gan:latent=4", 2, "which judges the label too"),
        ("gan:latent=4,packing=2", 2, "which judges several images at once"),
        ("gan:latent=4", 10, "write --dataset versus:.*;dataset=NAME"),
    ],
)
def test_a_discriminator_says_why_it_cannot(spec: str, classes: int, message: str, tmp_path: Path) -> None:
    file = untrained(tmp_path / "one.safetensors", spec, classes=10)
    with pytest.raises(UserError, match=message):
        zoo.load(f"discriminator:{file}", num_classes=classes, input_shape=SHAPE)


def test_versus_is_real_and_generated_images_in_turn(gan: Path) -> None:
    both, real = data.load(f"versus:{gan};dataset=digits"), data.load("digits")
    assert both.labels.tolist() == [1, 0] * len(real)
    assert both.class_names == ("fake", "real")
    assert_close(both.batch(np.arange(0, 20, 2)), real.batch(np.arange(10)), rtol=0, atol=0)
    fake = both.batch(np.arange(1, 21, 2))
    assert_close((fake * 255).round() / 255, fake)
    assert len({image.numpy().tobytes() for image in fake}) == 10
    again, other = data.load(f"versus:{gan}"), data.load(f"versus:{gan};seed=1")
    assert again.digest() == both.digest() != other.digest()
    train = data.load(f"versus:{gan}", "train")
    assert not torch.equal(train.batch([1]), both.batch([1]))


def test_versus_refuses_what_nothing_can_be_drawn_from(tmp_path: Path) -> None:
    file = untrained(tmp_path / "ae.safetensors", "autoencoder:latent=4", classes=10)
    with pytest.raises(UserError, match="without a prior"):
        data.load(f"versus:{file}")
    with pytest.raises(UserError, match="makes images"):
        data.load(f"versus:{untrained(tmp_path / 'small.safetensors', 'gan', shape=(1, 16, 16))}")
