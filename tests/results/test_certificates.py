"""What counts prove: constants that are known, and shares of images."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustbench_lite.results.certificates import COUNTS, certificates, certified_accuracy, radius, summary
from robustbench_lite.results.statistics import share_at_least


@pytest.mark.parametrize("n, expected", [(100, 1.5005), (1000, 2.4633), (10**4, 3.1986), (10**5, 3.8115)])
def test_the_radius_when_every_draw_agrees(n, expected):
    assert radius(n, n, 0.001, 1.0) == pytest.approx(expected, abs=5e-5)
    assert radius(n, n, 0.001, 0.25) == pytest.approx(0.25 * expected, abs=2e-5)


def test_the_radius_of_nine_in_ten():
    assert share_at_least(900, 1000, 0.999) == pytest.approx(0.86746, abs=5e-6)
    assert radius(900, 1000, 0.001, 1.0) == pytest.approx(1.1145, abs=5e-5)


@pytest.mark.parametrize("hits, n", [(0, 10), (7, 10), (520, 1000), (999, 1000), (1000, 1000)])
def test_it_is_the_published_formula(hits, n):
    low = 0.0 if hits == 0 else float(stats.beta.ppf(0.001, hits, n - hits + 1))
    expected = 0.25 * float(stats.norm.ppf(low)) if low > 0.5 else 0.0
    assert radius(hits, n, 0.001, 0.25) == pytest.approx(expected, abs=1e-12)


def test_more_agreement_more_draws_and_more_noise_prove_more():
    radii = [radius(hits, 1000, 0.001, 0.25) for hits in range(1001)]
    assert radii == sorted(radii)
    assert radii[540] == 0.0
    assert radii[600] > 0.0
    assert radius(9000, 10000, 0.001, 0.25) > radius(900, 1000, 0.001, 0.25)
    assert radius(900, 1000, 0.01, 0.25) > radius(900, 1000, 0.001, 0.25)


def test_a_bound_is_too_high_no_more_often_than_alpha():
    random, p, n, alpha = np.random.default_rng(0), 0.8, 200, 0.05
    hits, counts = np.unique(random.binomial(n, p, size=20000), return_counts=True)
    above = sum(count for k, count in zip(hits, counts, strict=True) if share_at_least(int(k), n, 1 - alpha) > p)
    assert above / 20000 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 20000)


def table(*rows: tuple[int, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COUNTS))


def test_what_follows_from_the_counts():
    counts = table(
        (0, 3, 3, 1000, 3, 1000, 0),  # certain and right
        (1, 3, 5, 1000, 5, 1000, 0),  # certain and wrong
        (2, 3, 3, 510, 3, 510, 490),  # too close: neither certificate nor answer
        (3, 3, 5, 100, 3, 900, 100),  # selected wrongly: no certificate, but an answer
        (4, 3, 3, 450, 3, 450, 250),  # an answer, below one half
    )
    rows = certificates(counts, n=1000, alpha=0.001, sigma=0.5)
    assert rows["certified"].tolist() == [True, True, False, False, False]
    assert rows["correct"].tolist() == [True, False, False, False, False]
    assert rows["radius"].tolist() == pytest.approx([0.5 * 2.46326, 0.5 * 2.46326, 0, 0, 0], abs=1e-5)
    assert rows["answer"].tolist() == [3, 5, -1, 3, 3]
    assert rows["right"].tolist() == [True, False, False, True, True]
    assert summary(rows) == {
        "images": 5,
        "accuracy": 0.6,
        "answers_abstained": 0.2,
        "certificates_abstained": 0.6,
        "mean_radius": pytest.approx(0.5 * 2.46326 / 5, abs=1e-5),
    }


def test_the_table_counts_all_images_and_a_radius_that_is_just_reached():
    counts = table(*[(i, 0, 0, hits, 0, hits, 1000 - hits) for i, hits in enumerate((1000, 900, 700, 500))])
    rows = certificates(counts, n=1000, alpha=0.001, sigma=1.0)
    reached = rows["radius"].tolist()
    found = certified_accuracy(rows, [0.0, reached[1], reached[1] + 1e-9, 10.0], dimensions=64)
    assert found["certified"].tolist() == [3, 2, 1, 0]
    assert found["accuracy"].tolist() == [0.75, 0.5, 0.25, 0.0]
    assert found["linf"].tolist() == pytest.approx([r / 8 for r in found["radius"]])
    assert found["high"].iloc[-1] == pytest.approx(1 - 0.025 ** (1 / 4))
    assert (found["low"] <= found["accuracy"]).all()
    assert (found["accuracy"] <= found["high"]).all()
