"""The random streams: right, and everybody's own."""

import pytest
import torch
from scipy import stats

from robustbench_lite.randomness import Draws, philox

X = torch.rand((6, 1, 5, 5), generator=torch.Generator().manual_seed(0))
Y = torch.arange(6)
STREAMS = Draws.for_images(0, X, Y)


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # the known answers that Random123 publishes for philox4x32-10
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected) -> None:
    as_tensors = [tuple(torch.tensor([word]) for word in words) for words in (counter, key)]
    assert tuple(int(word) for word in philox(*as_tensors)) == expected


@pytest.mark.parametrize("kind", ["uniform", "normal", "signs"])
def test_a_sample_draws_the_same_alone_and_in_company(kind: str) -> None:
    together = getattr(STREAMS, kind)((3, 7), "noise", 4)
    for row in range(len(X)):
        one = torch.tensor([row])
        assert torch.equal(getattr(STREAMS[one], kind)((3, 7), "noise", 4), together[one])
        assert torch.equal(getattr(Draws.for_images(0, X[one], Y[one]), kind)((3, 7), "noise", 4), together[one])


def test_an_index_for_each_row_is_the_same_as_for_all() -> None:
    index = torch.tensor([3, 1, 4, 1, 5, 9])
    mixed = STREAMS.uniform((4,), "noise", index)
    for row, step in enumerate(index.tolist()):
        assert torch.equal(STREAMS.uniform((4,), "noise", step)[row], mixed[row])


def test_every_coordinate_of_a_stream_matters() -> None:
    base = STREAMS.words(16, "noise")
    others = (
        STREAMS.words(16, "other"),
        STREAMS.words(16, "noise", 1),
        STREAMS.words(16, "noise", 0, 1),
        STREAMS.in_lane(1).words(16, "noise"),
        STREAMS.fold(1).words(16, "noise"),
        Draws.for_images(1, X, Y).words(16, "noise"),
        Draws.for_images(0, X, Y.flip(0)).words(16, "noise"),
    )
    for other in others:
        assert not (other == base).any(1).any()


def test_a_longer_draw_begins_like_a_shorter_one() -> None:
    assert torch.equal(STREAMS.words(64, "noise")[:, :10], STREAMS.words(10, "noise"))


@pytest.mark.parametrize("kind, law", [("uniform", stats.uniform()), ("normal", stats.norm())])
def test_the_law_is_the_named_one(kind: str, law) -> None:
    drawn = getattr(STREAMS, kind)((4000,), "law").flatten().double().numpy()
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-4


def test_signs_and_integers_are_fair() -> None:
    signs = STREAMS.signs((4000,), "fair")
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5 / signs.numel() ** 0.5
    counts = STREAMS.integers(7, (7000,), "fair").flatten().bincount(minlength=7).double()
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    STREAMS.normal((100,), "noise")
    assert torch.equal(before, torch.get_rng_state())
