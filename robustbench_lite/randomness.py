"""Random numbers that belong to a sample, not to a batch.

Every number is a function of (seed, sample, lane, stream, index, position): the counter-based generator Philox 4x32-10
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11) keyed by the seed and by the digest of the
sample's own pixels and label. No state is kept, so a sample draws the same numbers alone, in any batch, in any order and
after a restart; the global generators of torch and numpy are never touched.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import hashing
from robustbench_lite.rows import Rows

_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four 32-bit words from a counter of four and a key of two, all int64 tensors that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The low 64 bits of an int64 product are right even where it wraps; the mask undoes the sign of the shift.
        first, second = c0 * _MULTIPLY[0], c2 * _MULTIPLY[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & _MASK) ^ c1 ^ k0,
            second & _MASK,
            ((first >> 32) & _MASK) ^ c3 ^ k1,
            first & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def digest_of(image: np.ndarray, label: int) -> bytes:
    """Eight bytes that stand for one sample: its pixels (float32, as the system sees them) and its label."""
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    state = hashing.new(8)
    state.update(pixels.tobytes())
    state.update(int(label).to_bytes(8, "little", signed=True))
    return state.digest()


@dataclass(frozen=True, kw_only=True)
class Draws(Rows):
    """The random streams of n samples.

    A stream is named by a word ("start", "noise"), an `index` (the step, say; one number or one a sample) and a `draw`
    (which of several at that step, also one number or one a sample); within it, positions count the elements of one
    sample.

    Args:
        key: (n, 2) int64, two 32-bit words a sample, from the seed and the sample's digest.
        lane: (n,) int64, the restart or target that a row runs; lanes draw different numbers.
    """

    key: Tensor
    lane: Tensor

    @classmethod
    def of(cls, seed: int, digests: Sequence[bytes], device: torch.device | str = "cpu") -> Self:
        """The streams of the samples with these digests, in lane 0."""
        start = hashing.raw(int(seed).to_bytes(16, "little", signed=True), 16)
        raw = b"".join(hashing.raw(digest, 8, key=start) for digest in digests)
        words = np.frombuffer(raw, dtype="<u4").astype(np.int64).reshape(len(digests), 2)
        key = torch.from_numpy(words).to(device)
        return cls(key=key, lane=torch.zeros(len(digests), dtype=torch.int64, device=device))

    @classmethod
    def numbered(cls, seed: int, numbers: Iterable[int], device: torch.device | str = "cpu") -> Self:
        """The streams of samples that are known by their numbers, 0 and more, and not by their pixels."""
        return cls.of(seed, [number.to_bytes(8, "little") for number in numbers], device)

    @classmethod
    def for_images(cls, seed: int, x: Tensor, y: Tensor) -> Self:
        """The streams of the samples x (n, c, h, w) with labels y (n,)."""
        images, labels = x.detach().cpu().numpy(), y.detach().cpu().tolist()
        return cls.of(seed, [digest_of(image, label) for image, label in zip(images, labels, strict=True)], x.device)

    def in_lane(self, lane: int | Tensor) -> Self:
        """The same samples in another lane (or one lane a row)."""
        return replace(self, lane=torch.zeros_like(self.lane) + lane)

    def fold(self, salt: int) -> Self:
        """New streams for the same samples, such as the next epoch's."""
        word = torch.full_like(self.lane, salt & _MASK)
        zero = torch.zeros_like(word)
        first, second, _, _ = philox((word, zero + 1, zero, zero), (self.key[:, 0], self.key[:, 1]))
        return replace(self, key=torch.stack((first, second), 1))

    def words(self, count: int, stream: str, index: int | Tensor = 0, draw: int | Tensor = 0) -> Tensor:
        """Random 32-bit words, (n, count) int64."""
        block = torch.arange(-(-count // 4), device=self.key.device)[None, :]
        step = torch.zeros_like(self.lane) + index
        # One counter word holds the lane and the draw: 2**12 lanes, 2**20 draws.
        place = ((self.lane & 0xFFF) << 20) | (draw & 0xFFFFF)
        counter = (block, (step & _MASK)[:, None], torch.full_like(block, _stream(stream)), place[:, None])
        four = philox(counter, (self.key[:, :1], self.key[:, 1:]))
        return torch.stack(torch.broadcast_tensors(*four), 2).flatten(1)[:, :count]

    def uniform(self, shape: Sequence[int], stream: str, index: int | Tensor = 0, draw: int | Tensor = 0) -> Tensor:
        """Uniform on [0, 1), (n, *shape) float32, in steps of 2**-24."""
        words = self.words(math.prod(shape), stream, index, draw)
        return ((words >> 8).to(torch.float32) * 2.0**-24).view(-1, *shape)

    def normal(self, shape: Sequence[int], stream: str, index: int | Tensor = 0, draw: int | Tensor = 0) -> Tensor:
        """Standard normal, (n, *shape) float32 (Box and Muller 1958)."""
        count = math.prod(shape)
        pairs = -(-count // 2)
        words = self.words(2 * pairs, stream, index, draw).to(torch.float64)
        # In float64, so that the last bit of a logarithm (vectorised or not) is gone after rounding to float32.
        radius = torch.sqrt(-2.0 * torch.log((words[:, :pairs] + 0.5) * 2.0**-32))
        angle = words[:, pairs:] * (2.0 * math.pi * 2.0**-32)
        both = torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), 1)
        return both[:, :count].to(torch.float32).view(-1, *shape)

    def signs(self, shape: Sequence[int], stream: str, index: int | Tensor = 0, draw: int | Tensor = 0) -> Tensor:
        """-1 or +1 with equal chance, (n, *shape) float32; 32 signs to a word."""
        count = math.prod(shape)
        words = self.words(-(-count // 32), stream, index, draw)
        bits = (words[:, :, None] >> torch.arange(32, device=words.device)) & 1
        return (bits.flatten(1)[:, :count].to(torch.float32) * 2 - 1).view(-1, *shape)

    def integers(
        self, high: int | Tensor, shape: Sequence[int], stream: str, index: int | Tensor = 0, draw: int | Tensor = 0
    ) -> Tensor:
        """Whole numbers from 0 to high - 1, (n, *shape) int64; `high` is one number or one a sample."""
        words = self.words(math.prod(shape), stream, index, draw)
        bound = torch.zeros_like(self.lane) + high
        return ((words * bound[:, None]) >> 32).view(-1, *shape)


@lru_cache(maxsize=256)
def _stream(name: str) -> int:
    return hashing.hash_number(name.encode(), 4)
