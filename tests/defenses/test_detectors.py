"""Detectors: scores by their formulas, a threshold that keeps its promise, and an adversary who has something to follow."""

import numpy as np
import pytest
import torch
from guarded import COUNT, THREAT, attacked, digits, guarded, learned, passes_wrongly
from torch import Tensor, nn

from robustbench_lite import training
from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.activations import listen
from robustbench_lite.defenses.detectors import HELD_OUT, threshold_at
from robustbench_lite.defenses.detectors_by_neighbours import Distances
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.results.detection import auc
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

#: with what a quick fit needs; and the area under the curve that FGSM's successes must reach on digits
DETECTORS = {
    "safetynet:attacks=fgsm": 0.7,
    "mahalanobis:attacks=fgsm": 0.7,
    "mahalanobis:attacks=fgsm,magnitude=0.005": 0.7,
    "lid:attacks=fgsm": 0.55,
    "kde": 0.6,
    "feature-squeezing:bits=2": 0.3,
    "softmax-threshold": 0.3,
}


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": digits()[0], "threats": (THREAT,), "seed": 0, **options})  # type: ignore[arg-type]


def scores(text: str, x: Tensor) -> Tensor:
    detector = guarded(text).detector
    assert detector is not None
    with torch.no_grad():
        return detector.score(x)


@pytest.mark.parametrize("text", DETECTORS)
def test_successful_examples_score_higher_than_clean_images(text):
    _, x, y = digits()
    adv = attacked(learned(), "fgsm", x, y)
    wrong = learned()(adv).prediction() != y
    right = learned()(x).prediction() == y
    assert int(wrong.sum()) > 50
    assert auc(scores(text, x[right]).numpy(), scores(text, adv[wrong]).numpy()) > DETECTORS[text]


@pytest.mark.parametrize("text", ["kde", "softmax-threshold"])
@pytest.mark.parametrize("fpr", [0.05, 0.2])
def test_the_threshold_rejects_the_stated_share_of_the_held_out_images(text, fpr):
    system = guarded(f"{text}:fpr={fpr}")
    train = digits()[0]
    held = np.random.default_rng([0, 0xDE7EC7]).permutation(COUNT)[: round(HELD_OUT * COUNT)]
    rejected = int((~system(train.batch(held)).accepted()).sum())
    assert fpr * len(held) - 1.5 <= rejected <= fpr * len(held) + 1e-9


def test_the_threshold_is_the_lowest_that_keeps_the_promise():
    values = torch.arange(100.0)
    assert float(threshold_at(0.05, values)) == 94
    assert float(threshold_at(0.01, values)) == 98
    assert float(threshold_at(0.001, values)) == 99
    tied = torch.tensor([1.0] * 9 + [2.0])
    assert float((tied > threshold_at(0.15, tied)).float().mean()) <= 0.15


@pytest.mark.parametrize(
    "text",
    [
        "softmax-threshold",
        "feature-squeezing:bits=2",
        "kde",
        "mahalanobis:attacks=fgsm",
        "mahalanobis:attacks=fgsm,magnitude=0.005",
        "lid:attacks=fgsm",
    ],
)
def test_whoever_knows_the_detector_gets_past_it_more_often(text):
    """Type I against type II on the images that are right and accepted."""
    system, (_, x, y) = guarded(text), digits()
    rows = ((system(x).prediction() == y) & system(x).accepted()).nonzero().squeeze(1)[:60]
    x, y = x[rows], y[rows]
    plain = passes_wrongly(system, attacked(system.without_detector(), "pgd:restarts=1,steps=20", x, y), y)
    knows = passes_wrongly(system, attacked(system, "pgd:restarts=1,steps=60,momentum=0.9", x, y), y)
    assert int(knows.sum()) >= int(plain.sum())
    assert float(knows.float().mean()) > 0.6


def test_softmax_threshold_is_the_log_odds_of_the_largest_probability():
    _, x, _ = digits()
    p = learned()(x).scores.double().softmax(1).amax(1)
    assert torch.allclose(scores("softmax-threshold", x), ((1 - p) / p).log(), atol=1e-3)


def test_feature_squeezing_is_the_largest_distance_of_probabilities():
    _, x, _ = digits()
    grey = (x * 3).round() / 3
    padded = torch.nn.functional.pad(x, (1, 0, 1, 0), mode="replicate")
    four = torch.stack([padded[:, :, i : i + 8, j : j + 8] for i in (0, 1) for j in (0, 1)])
    smooth = four.sort(0).values[2]
    said, one, other = (learned()(image).scores.double().softmax(1) for image in (x, grey, smooth))
    expected = torch.maximum((said - one).abs().sum(1), (said - other).abs().sum(1))
    assert torch.allclose(scores("feature-squeezing:bits=2", x), expected, atol=1e-6)


def test_mahalanobis_is_the_distance_to_the_nearest_mean():
    _, x, _ = digits()
    figures = guarded("mahalanobis:attacks=fgsm,layers=1").detector.score.figures  # type: ignore[union-attr]
    means, factor = (figures.get_buffer(f"{name}_0").numpy() for name in ("means", "factor"))
    units = learned().model[:3](x).detach().double().numpy()
    inverse = factor @ factor.T
    gaps = units[:, None] - means
    expected = np.einsum("ncd,de,nce->nc", gaps, inverse, gaps).min(1)
    assert np.allclose(figures(x)[:, 0].detach().numpy(), expected, rtol=1e-6)


def test_mahalanobis_whitens_by_the_covariance_within_classes():
    from sklearn.covariance import empirical_covariance

    figures = guarded("mahalanobis:attacks=fgsm,layers=1").detector.score.figures  # type: ignore[union-attr]
    factor = figures.get_buffer("factor_0").numpy()
    train = digits()[0]
    chosen = np.random.default_rng([0, 0xDE7EC7]).permutation(COUNT)
    rest = chosen[round(HELD_OUT * COUNT) :]
    fit = rest[: len(rest) // 2]
    units, labels = learned().model[:3](train.batch(fit)).detach().double().numpy(), train.labels[fit]
    centred = units - np.stack([units[labels == label].mean(0) for label in labels])
    covariance = empirical_covariance(centred, assume_centered=True)
    ridge = 1e-3 * np.diag(covariance).mean() * np.eye(len(covariance))
    assert np.allclose(np.linalg.inv(factor @ factor.T), covariance + ridge, atol=1e-8)


def test_mahalanobis_moves_the_image_towards_the_nearest_mean_in_each_layer_by_itself():
    """Lee et al. 2018, algorithm 1: the distance at x - m sign(its gradient), against steps of one's own."""
    _, x, _ = digits()
    generator = torch.Generator().manual_seed(0)
    with training.seeded(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    fitted = {}
    for place, width in enumerate((12, 6)):
        fitted[f"means_{place}"] = torch.rand((3, width), generator=generator).double()
        fitted[f"factor_{place}"] = torch.rand((width, width), generator=generator).double()
    still, moved = (Distances(net.requires_grad_(False), 2, fitted, magnitude) for magnitude in (0.0, 0.005))
    for place in range(2):
        leaf = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(still(leaf)[:, place].sum(), leaf)
        found = moved(x)[:, place]
        torch.testing.assert_close(found, still((x - 0.005 * slope.sign()).detach())[:, place])
        assert bool((found < still(x)[:, place]).all())
    leaf = x[:8].clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(moved(leaf).sum(), leaf)
    assert bool((grad.flatten(1) != 0).any(1).all()), "who knows it has something to follow"


def test_lid_is_the_estimate_of_its_paper():
    _, x, _ = digits()
    figures = guarded("lid:attacks=fgsm,layers=1,neighbours=10").detector.score.figures  # type: ignore[union-attr]
    batch, units = figures.get_buffer("batch_0").numpy(), learned().model[:3](x).detach().double().numpy()
    far = np.sort(np.linalg.norm(units[:, None] - batch, axis=2), axis=1)[:, :10]
    expected = -1 / np.log(far / far[:, -1:]).mean(1)
    assert np.allclose(figures(x)[:, 0].detach().numpy(), expected, rtol=0.05)


def test_kde_is_a_kernel_density_in_the_predicted_class():
    from sklearn.neighbors import KernelDensity

    _, x, _ = digits()
    score = guarded("kde").detector.score  # type: ignore[union-attr]
    width, said = float(score.width), learned()(x).prediction()
    units = learned().model[:3](x).detach().double().numpy()
    own = score.units[score.labels == said[0]].numpy()
    theirs = KernelDensity(bandwidth=width).fit(own).score_samples(units[:1])[0]
    constant = own.shape[1] / 2 * np.log(2 * np.pi * width**2)
    assert float(score(x[:1])) == pytest.approx(-(theirs + constant), rel=1e-6)


class Functional(nn.Module):
    """Activations that are functions and methods, one of them in place, and a map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.act = nn.Conv2d(1, 3, 3), nn.Linear(3, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.relu(self.first(x), inplace=True)
        pooled = self.act(self.act(hidden.mean((2, 3)) - 0.1))
        return self.last(torch.relu(-pooled))


def test_activations_are_heard_however_they_are_called():
    x = torch.rand((4, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    net = Functional().requires_grad_(False)
    scores, heard = listen(net, x, 10)
    assert torch.equal(scores, net(x))
    assert len(heard) == 4
    mapped = heard[0]
    assert bool((mapped.before < 0).any())  # kept from before it was overwritten
    assert torch.equal(mapped.after, mapped.before.relu())
    assert torch.equal(mapped.pooled(), mapped.after.mean((2, 3)))
    assert torch.equal(heard[1].potential().relu(), heard[1].pooled())
    assert len(listen(net, x, 2)[1]) == 2


def test_a_linear_model_is_heard_by_what_its_layer_is_given():
    x = torch.rand((4, 1, 6, 6))
    _, (layer,) = listen(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), x, 3)
    assert torch.equal(layer.pooled(), x.flatten(1))
    with pytest.raises(UserError, match="no activation"):
        listen(nn.Flatten(), x, 1)


def test_it_looks_at_what_comes_out_of_the_purifiers():
    inverted = learned().with_purifier(lambda x: 1 - x, name="negative")
    (defense,) = resolve_defense("softmax-threshold")
    system = defense.defend(inverted, shop())
    _, x, _ = digits()
    reject = system(1 - x).reject
    assert reject is not None
    assert torch.allclose(reject, scores("softmax-threshold", x) - system.detector.threshold)  # type: ignore[union-attr]


def test_it_is_fitted_behind_random_purifiers_as_well():
    (defense,) = resolve_defense("mahalanobis:attacks=fgsm")
    system = defense.defend(learned().with_noise(0.05), shop())
    _, x, y = digits()
    draws = Draws.for_images(0, x, y)
    rejected = system(x, draws).accepted().logical_not()
    assert float(rejected.float().mean()) < 0.3
    assert defense.defend(learned().with_noise(0.05), shop()).digest == system.digest


@pytest.mark.parametrize("text", ["safetynet", "mahalanobis", "lid"])
def test_what_learns_from_attacks_needs_a_threat_with_a_radius(text):
    (defense,) = resolve_defense(text)
    with pytest.raises(UserError, match="needs a threat with a radius"):
        defense.defend(learned(), shop(threats=(Threat(norm="L2"),)))


def test_attacks_that_fool_nobody_teach_nothing():
    (defense,) = resolve_defense("safetynet:threat=(Linf:0.0001),attacks=fgsm")
    system = System(model=Sure(), num_classes=10, input_shape=(1, 8, 8))
    with pytest.raises(UserError, match="fools the classifier on none"):
        defense.defend(system, shop())


class Sure(nn.Module):
    """Answers alike to everything."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(10)[0] * 9 + torch.relu(x.flatten(1)[:, :10]) * 1e-3


def test_a_system_has_one_detector():
    (defense,) = resolve_defense("kde")
    with pytest.raises(UserError, match="rejects by kde already; it can have one"):
        defense.defend(guarded("kde"), shop())


@pytest.mark.parametrize(
    "text",
    [
        *(
            "kde:fpr=0",
            "kde:fpr=1",
            "kde:apart=1",
            "kde:apart=-0.1",
            "kde:images=3",
            "kde:bandwidth=0",
            "lid:batch=5",
            "lid:neighbours=1",
        ),
        *(
            "mahalanobis:layers=0",
            "mahalanobis:magnitude=-0.1",
            "feature-squeezing:bits=9",
            "feature-squeezing:window=0",
        ),
    ],
)
def test_bad_options_are_refused(text):
    with pytest.raises(UserError, match="accepted"):
        resolve_defense(text)


def test_unknown_attacks_are_refused():
    with pytest.raises(UserError, match="pgd"):
        resolve_defense("safetynet:attacks=(fgsm+pgdd)")
