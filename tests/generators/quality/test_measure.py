"""All figures of a generator, by what the data are."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import data
from robustbench_lite.data.points import RING, to_images
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Code, Network, Trained
from robustbench_lite.generators.quality import PUBLISHED, Row, measure, table, taught


class HalfRing(Network):
    """Four of the ring's modes, without noise."""

    def __init__(self) -> None:
        super().__init__((2, 1, 1), 0, 2)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        mode = 4 * (z[:, 0] > 0) + 2 * (z[:, 1] > 0)
        return to_images(RING.centres[mode].float())


class Recall(Network):
    """Training images of the label that is asked for, or of any, brightened by the first latent coordinate."""

    def __init__(self, train: data.Dataset, conditional: bool) -> None:
        super().__init__(train.shape, train.num_classes if conditional else 0, 8)
        self.x, self.y = train.batch(range(300)), train.labels_at(range(300))
        self.anchors = nn.Parameter(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        apart = torch.cdist(z, self.anchors)
        if self.conditional:
            apart = apart + 100 * (y[:, None] != self.y)
        return self.x[apart.argmin(1)] * (1 - 0.05 * z[:, 0].sigmoid()).view(-1, 1, 1, 1)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Code:
        apart = torch.cdist(x.flatten(1), self.x.flatten(1))
        return Code(mean=self.anchors[apart.argmin(1)])


def trained(network: Network, architecture: str) -> Trained:
    card = {"architecture": architecture}
    return Trained(network=network.eval().requires_grad_(False), card=card, name=architecture, digest="")


@pytest.fixture(scope="module")
def splits():
    return data.load("digits", "train"), data.load("digits", "test")


@pytest.fixture(scope="module")
def judge(splits):
    return taught(splits[0], epochs=5)


def test_points_are_measured_by_their_modes():
    train, test = data.load("ring", "train"), data.load("ring", "test")
    found = measure(trained(HalfRing(), "gan"), train, test, samples=400, repeats=3)
    assert (found["modes"], found["modes_sd"], found["high_quality"]) == (4, 0, 1)
    assert found["reverse_kl"] == pytest.approx(math.log(2), abs=0.05)
    assert found["reverse_kl_sd"] > 0
    assert (found["modes_real"], found["modes_strict_real"]) == (8, 8)
    assert measure(trained(HalfRing(), "gan"), train, test, samples=400, repeats=3) == found


class Nowhere(HalfRing):
    """Hardly ever a mode, and else the origin."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.where((z[:, 0] > 2.3).view(-1, 1, 1, 1), super().decode(z), to_images(torch.zeros(len(z), 2)))


def test_a_divergence_is_the_mean_over_the_samplings_that_have_one():
    train, test = data.load("ring", "train"), data.load("ring", "test")
    found = measure(trained(Nowhere(), "gan"), train, test, samples=50, repeats=8)
    assert 0 < found["modes"] < 1.5
    assert found["modes_sd"] > 0
    assert 1 < found["reverse_kl"] <= math.log(8)
    none = measure(trained(Nowhere(), "gan"), train, test, samples=10, repeats=1, seed=1)
    assert (none["modes"], math.isnan(none["reverse_kl"])) == (0, True)


def test_images_have_all_figures_and_a_generator_that_copies_is_found_out(splits, judge):
    found = measure(
        trained(Recall(splits[0], conditional=True), "conditional-gan"), *splits, judge=judge,
        samples=200, repeats=2, inverted=6, restarts=1, steps=3,
    )  # fmt: skip
    assert found["memorised"] > 0.9
    assert found["nearest_train"] < found["nearest_train_real"] / 2
    assert found["precision"] > 0.8
    assert found["support"] < found["support_real"]
    assert found["agreement"] > 0.8
    assert found["agreement_shuffled"] < 0.3
    assert found["frechet_floor"] < found["frechet_noise"] / 5
    assert found["frechet"] < found["frechet_noise"] / 5
    assert found["usefulness"] > 0.7
    assert found["usefulness_real"] > 0.7
    assert {"kid", "recall", "density", "coverage", "score", "ivom_se", "ivom_train", "slant_change"} <= set(found)
    assert all(math.isfinite(value) for value in found.values())


class Levels(Recall):
    """A pyramid whose level of 4 draws real detail, and that of 2 noise."""

    def completed(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> dict[int, Tensor]:
        return {4: x, 2: z.repeat(1, 8).view(x.shape).sigmoid()}


def test_each_level_of_a_pyramid_is_held_against_held_out_images(splits, judge):
    network = Levels(splits[0], conditional=False)
    found = measure(
        trained(network, "lapgan"), *splits, judge=judge, samples=300, repeats=1, inverted=2, restarts=1, steps=1
    )
    assert found["frechet_from_4"] == pytest.approx(found["frechet_floor"], rel=1e-6)
    assert found["frechet_from_2"] > 3 * found["frechet_from_4"]
    assert "frechet_from_4_sd" not in found


def test_an_autoencoder_is_not_sampled_but_told_how_well_it_restores(splits, judge):
    network = Recall(splits[0], conditional=False)
    found = measure(trained(network, "autoencoder"), *splits, judge=judge, inverted=4, restarts=1, steps=3)
    assert "frechet" not in found
    assert found["restored_train"] < found["restored"]
    x = splits[1].batch(range(450))
    assert found["restored"] == pytest.approx(float((network.reconstruct(x) - x).pow(2).mean()), rel=1e-4)


def test_stacks_are_measured_by_a_judge_of_single_channels(splits, judge):
    stacks = [data.load("stacked-digits:triples=4000", split) for split in ("train", "test")]
    network = Recall(stacks[0], conditional=False)
    found = measure(trained(network, "dcgan"), *stacks, judge=judge, samples=600, repeats=2)
    assert found["modes"] < 300
    assert found["modes_real"] > 400
    assert found["kl"] > found["kl_real"]
    assert found["confident_noise"] < found["confident_real"] / 2


@pytest.mark.parametrize(
    "options, message",
    [({"repeats": 0}, "repeats=0"), ({"samples": 5}, "samples=5; accepted: .*samples from 10"), ({}, "give a judge")],
)
def test_measures_that_cannot_be_taken_are_refused(splits, options, message):
    with pytest.raises(UserError, match=message):
        measure(trained(Recall(splits[0], conditional=False), "gan"), *splits, **options)


def test_a_generator_of_other_images_is_refused(splits):
    with pytest.raises(UserError, match=r"gan makes images \(2, 1, 1\); the data has \(1, 8, 8\)"):
        measure(trained(HalfRing(), "gan"), *splits)


def test_published_rows_have_a_source_and_shares_that_are_shares():
    assert {row.data for row in PUBLISHED} == {"ring", "grid", "points-1200", "stacked-mnist", "cifar10"}
    limits = {"ring": 8, "grid": 25, "points-1200": 10, "stacked-mnist": 1000}
    for row in PUBLISHED:
        assert row.kind == "published"
        assert "arXiv" in row.source
        assert row.figures.get("modes", 0) <= limits.get(row.data, 0)
        assert 0 <= row.figures.get("high_quality", 0) <= 1
        assert row.figures.get("kl", 0) <= math.log(1000)
    veegan = next(row for row in PUBLISHED if row.generator == "veegan" and row.data == "stacked-mnist")
    assert dict(veegan.figures) == {"modes": 150.0, "kl": 2.95}


def test_the_table_puts_ours_beside_the_published_rows_on_the_same_data():
    ours = Row(generator="gan", data="ring:points=1000", figures={"modes": 5.2, "modes_sd": 0.4, "zest": 1.0})
    frame = table([ours])
    assert list(frame.columns[:6]) == ["generator", "data", "kind", "setting", "modes", "modes_sd"]
    assert frame.columns[-1] == "source"
    assert frame.kind.tolist() == ["measured", *["published"] * 9]
    assert set(frame.data) == {"ring:points=1000", "ring"}
    assert frame.loc[0, "zest"] == 1
    assert frame.zest.isna().sum() == 9
    assert frame[frame.generator == "veegan"].modes.item() == 8
    assert table([]).empty
