"""JPEG is libjpeg's, bit for bit: compared with Pillow, whose files are written and read by libjpeg-turbo."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_lite.physical.jpeg import jpeg, tables

QUALITIES = (1, 10, 30, 50, 75, 90, 95, 100)
SHAPES = [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 28, 28), (3, 33, 47), (3, 4, 3), (3, 5, 5), (3, 64, 80)]


def pillow(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(h, w, c) uint8 through a file."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).reshape(pixels.shape)


def pictures(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Noise and waves, (h, w, c) uint8."""
    channels, height, width = shape
    noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(y / 5)[..., None] + np.cos(x / 7)[..., None] * np.array([1, 0.5, -1])[:channels] + 2) * 60
    return [noise, waves.astype(np.uint8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_pixel_is_that_of_pillow(shape: tuple[int, ...]) -> None:
    """Tolerance: none."""
    for pixels in pictures(shape):
        x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        batch, quality = x.expand(len(QUALITIES), *x.shape), torch.tensor(QUALITIES)
        ours = (jpeg(batch, quality) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        for row, own in enumerate(QUALITIES):
            np.testing.assert_array_equal(ours[row], pillow(pixels, own))


def test_tables_are_those_in_the_file() -> None:
    for quality in (5, 50, 85):
        file = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(file, "JPEG", quality=quality)
        written = Image.open(file).quantization  # type: ignore[attr-defined]
        for ours, theirs in zip(tables(torch.tensor([quality])), (written[0], written[1]), strict=True):
            assert sorted(ours.flatten().tolist()) == sorted(map(float, theirs))


def test_two_channels_are_two_grey_images() -> None:
    x = torch.rand(3, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([30.0, 60.0, 90.0])
    assert torch.equal(jpeg(x, quality), torch.cat([jpeg(x[:, :1], quality), jpeg(x[:, 1:], quality)], 1))
