"""Autoencoders: the linear one is principal components, the deep one beats it, the denoising one takes noise out."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from robustbench_lite import data as datasets
from robustbench_lite.data.base import ArrayImages, Dataset
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Trained, resolve_generator, train_generator
from robustbench_lite.generators.autoencoders import LinearNetwork

#: squared error a sample that the first q components leave of all digits, by the eigenvalues
_LEFT = {2: 3.3553, 5: 2.1356, 10: 1.2286}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    everything = load_digits()
    pixels = (everything.images / 16).astype(np.float32)
    return Dataset(
        name="all-digits", images=ArrayImages(pixels), labels=everything.target.astype(np.int64), num_classes=10,
        shape=(1, 8, 8), split="train",
    )  # fmt: skip


def error(trained: Trained, data: Dataset) -> float:
    x = data.batch(range(len(data)))
    with torch.no_grad():
        return float((trained.network.reconstruct(x) - x).square().flatten(1).sum(1).mean())


def test_linear_is_pca(digits: Dataset) -> None:
    count = 5
    trained = train_generator(f"linear-autoencoder:latent={count}", digits, epochs=200, use_cache=False)
    x = digits.batch(range(len(digits))).flatten(1).double().numpy()
    pca = PCA(count).fit(x)
    best = float(((x - pca.inverse_transform(pca.transform(x))) ** 2).sum(1).mean())
    assert best == pytest.approx(_LEFT[count], abs=2e-3)
    assert error(trained, digits) == pytest.approx(best, rel=0.01)
    assert isinstance(trained.network, LinearNetwork)
    basis = np.linalg.qr(trained.network.matrix.detach().double().numpy().T)[0]
    cosines = np.linalg.svd(basis.T @ pca.components_.T, compute_uv=False)
    assert np.degrees(np.arccos(cosines.min().clip(-1, 1))) < 2


def test_the_mean_is_that_of_the_training_images(digits: Dataset) -> None:
    network = resolve_generator("linear-autoencoder:latent=3").build(digits.shape, 10)
    resolve_generator("linear-autoencoder:latent=3").prepare(network, digits)
    assert isinstance(network, LinearNetwork)
    expected = digits.batch(range(len(digits))).mean(0).flatten()
    torch.testing.assert_close(network.mean, expected)


@pytest.mark.slow
def test_deep_beats_linear_on_test_images() -> None:
    test = datasets.load("digits", "test")
    deep = train_generator("autoencoder:latent=5", "digits", use_cache=False, epochs=150)
    linear = train_generator("linear-autoencoder:latent=5", "digits", use_cache=False, epochs=200)
    assert error(deep, test) < error(linear, test)


def test_denoising_takes_noise_out() -> None:
    test = datasets.load("digits", "test")
    trained = train_generator("denoising-autoencoder:sigma=0.3,latent=16", "digits", use_cache=False, epochs=100)
    x = test.batch(range(len(test)))
    noisy = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    with torch.no_grad():
        back = trained.network.reconstruct(noisy)
    assert float((back - x).square().mean()) < 0.7 * float((noisy - x).square().mean())


def test_an_autoencoder_has_nothing_to_sample_from(digits: Dataset) -> None:
    from robustbench_lite.randomness import Draws

    trained = train_generator("autoencoder", digits, epochs=1, use_cache=False)
    with pytest.raises(UserError, match="without a prior"):
        trained.sample(Draws.of(0, [b"1"]))


@pytest.mark.parametrize(
    "text,told",
    [
        ("vae:latent=0", "latent=0"),
        ("vae:sigma_x2=0", "sigma_x2=0"),
        ("vae:width=0", "width=0"),
        ("denoising-autoencoder:sigma=0", "sigma=0"),
        ("gan:packing=0", "packing=0"),
        ("gan:critic=0", "critic=0"),
        ("gan:critic=2,update=alternating", "simultaneous"),
        ("gan:generator_steps=2,update=simultaneous", "alternating"),
        ("gan:penalty=-1", "penalty=-1"),
        ("lapgan:levels=0", "levels=0"),
        ("dcgn", "dcgan"),
        ("vae:latnt=3", "latent"),
    ],
)
def test_mistakes_are_told(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        resolve_generator(text)


@pytest.mark.parametrize(
    "text,shape,told",
    [
        ("linear-autoencoder:latent=70", (1, 8, 8), "up to 64"),
        ("dcgan", (1, 9, 9), "4 divides"),
        ("dcgan", (1, 10, 12), "4 divides"),
        ("vae", (3, 128, 128), "up to 64"),
        ("lapgan", (1, 4, 4), "8x8 to 64x64"),
        ("lapgan:levels=4", (1, 8, 8), "leave nothing"),
    ],
)
def test_sizes_that_do_not_fit_are_told(text: str, shape: tuple[int, int, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        resolve_generator(text).build(shape, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 12, 20)])
@pytest.mark.parametrize(
    "text", ["linear-autoencoder", "autoencoder", "vae", "conditional-vae", "gan", "dcgan", "conditional-gan:packing=2",
             "wgan-gp", "lapgan:conditional=true"],
)  # fmt: skip
def test_every_generator_makes_images_of_every_size(text: str, shape: tuple[int, int, int]) -> None:
    network = resolve_generator(text).build(shape, 10).eval()
    y = torch.arange(4)
    images = network.decode(torch.zeros(4, network.latent), y)
    assert images.shape == (4, *shape)
    if network.encodes:
        assert network.encode(torch.rand(4, *shape), y).mean.shape == (4, network.latent)
    if network.judges:
        packing = getattr(network, "packing", 1)
        assert network.judge(images, y).shape == (4 // packing,)
    if text != "linear-autoencoder":
        assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1
