"""The VAE's divergence, its code, and the collapse that must not pass."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from robustbench_lite.errors import UserError
from robustbench_lite.generators import Code, resolve_generator, train_generator
from robustbench_lite.generators.vae import VariationalNetwork, kl_to_prior


def test_the_divergence_is_that_of_torch() -> None:
    code = Code(mean=torch.randn(50, 7), log_variance=2 * torch.randn(50, 7))
    assert code.log_variance is not None
    theirs = kl_divergence(Normal(code.mean, (code.log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_prior(code), theirs)


def test_the_divergence_is_the_mean_of_log_ratios() -> None:
    code = Code(mean=torch.tensor([[0.5, -1.0]]), log_variance=torch.tensor([[-1.0, 0.3]]))
    assert code.log_variance is not None
    noise = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0))
    own, prior = Normal(code.mean, (code.log_variance / 2).exp()), Normal(0.0, 1.0)
    z = code.sample(noise)
    estimate = float((own.log_prob(z) - prior.log_prob(z)).sum(1).mean())
    assert estimate == pytest.approx(float(kl_to_prior(code)), rel=0.01)


def test_a_sample_of_a_code_has_its_mean_and_spread() -> None:
    code = Code(mean=torch.tensor([[2.0]]), log_variance=torch.tensor([[0.25]]).log() * 2)
    z = code.sample(torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0)))
    assert float(z.mean()) == pytest.approx(2, abs=0.01)
    assert float(z.std()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(Code(mean=z).sample(torch.randn_like(z)), z)


def test_gradients_reach_mean_and_variance() -> None:
    network = resolve_generator("vae").build((1, 8, 8), 10)
    code = network.encode(torch.rand(4, 1, 8, 8))
    assert code.log_variance is not None
    image = network.decode(code.sample(torch.randn_like(code.mean)))
    for part in (code.mean, code.log_variance):
        (slope,) = torch.autograd.grad(image.sum(), part, retain_graph=True)
        assert bool((slope != 0).any())


def test_the_bound_is_below_the_importance_weighted_one() -> None:
    """ELBO <= IWAE-64 <= ln p(x) (Burda et al. 2016, arXiv 1509.00519, th. 1), in expectation over the noise."""
    network = train_generator("vae:latent=4", "digits", epochs=20, use_cache=False).network
    assert isinstance(network, VariationalNetwork)
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        code = network.encode(x)
        assert code.log_variance is not None
        own, image_scale = Normal(code.mean, (code.log_variance / 2).exp()), (network.log_sigma_x2 / 2).exp()
        weights = []
        for number in range(64):
            noise = torch.randn(code.mean.shape, generator=torch.Generator().manual_seed(number))
            z = code.sample(noise)
            likelihood = Normal(network.decode(z), image_scale).log_prob(x).flatten(1).sum(1)
            weights.append(likelihood + (Normal(0.0, 1.0).log_prob(z) - own.log_prob(z)).sum(1))
        ratios = torch.stack(weights)
    elbo, tight = ratios.mean(0), torch.logsumexp(ratios, 0) - torch.tensor(64.0).log()
    assert bool((elbo <= tight + 1e-4).all())
    assert float((tight - elbo).mean()) > 0


def test_the_literal_loss_collapses_and_is_told() -> None:
    with pytest.raises(UserError, match="no latent unit is active"):
        train_generator("vae:sigma_x2=1", "digits", epochs=40, use_cache=False)


def test_a_small_observation_variance_keeps_units_alive() -> None:
    trained = train_generator("vae:latent=8", "digits", epochs=60, use_cache=False)
    assert trained.card["outcome"]["active_units"] >= 3


@pytest.mark.parametrize(
    "shape, expected",
    [((1, 8, 8), 0.05), ((3, 16, 16), 0.05), ((1, 20, 16), 0.2), ((1, 28, 28), 0.2), ((3, 64, 64), 0.2)],
)
@pytest.mark.parametrize("name", ["vae", "conditional-vae"])
def test_the_observation_variance_suits_the_size(name: str, shape: tuple[int, int, int], expected: float) -> None:
    network = resolve_generator(name).build(shape, 10)
    assert isinstance(network, VariationalNetwork)
    assert float(network.log_sigma_x2.exp()) == pytest.approx(expected)
    given = resolve_generator(f"{name}:sigma_x2=0.1").build(shape, 10)
    assert isinstance(given, VariationalNetwork)
    assert float(given.log_sigma_x2.exp()) == pytest.approx(0.1)


def test_a_learned_variance_is_told() -> None:
    trained = train_generator("vae:latent=8,sigma_x2=learned", "digits", epochs=60, use_cache=False)
    assert 0 < trained.card["outcome"]["sigma_x2"] < 0.5


def test_a_conditional_one_needs_labels() -> None:
    network = resolve_generator("conditional-vae").build((1, 8, 8), 10)
    with pytest.raises(UserError, match="needs labels"):
        network.decode(torch.zeros(1, network.latent))
    with pytest.raises(UserError, match="labels from 10"):
        network.decode(torch.zeros(1, network.latent), torch.tensor([10]))
