"""Defense-GAN: what the generator can make is found again, and a projection is no gradient."""

from dataclasses import replace

import pytest
import torch
from generating import LinearPainter, untrained
from hardening import shop
from learners import lively, system_of
from toys import Affine

from robustbench_lite.attack import EOT, Goal, craft, resolve_attack
from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.defense_gan import DefenseGAN, Projection
from robustbench_lite.errors import UserError
from robustbench_lite.generators import Network, load_generator
from robustbench_lite.generators.inversion import nearest
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat


def draws(count: int, seed: int = 0) -> Draws:
    return Draws.of(seed, [bytes([row]) for row in range(count)])


def painter(latent: int = 3) -> LinearPainter:
    """Images of eight by eight in a plane of so many dimensions through mid-grey."""
    basis = torch.linalg.qr(torch.randn(64, latent, generator=torch.Generator().manual_seed(0))).Q
    return LinearPainter(0.5 * basis[None], (1, 8, 8)).eval().requires_grad_(False)


def projection(**options: object) -> Projection:
    given = {"restarts": 2, "steps": 80, "learning_rate": 60.0, **options}
    return Projection(network=painter(), defense=DefenseGAN(**given))  # type: ignore[arg-type]


def test_what_the_generator_can_make_stays_what_it_is():
    x = painter().decode(painter().prior(draws(6, seed=9)))
    torch.testing.assert_close(projection()(x, draws(6)), x, rtol=0, atol=1e-3)
    assert float(projection().latent(x, draws(6))[1].max()) < 1e-6


def test_everything_else_is_projected_onto_what_it_can_make():
    """Onto a plane the nearest point is known: the part of x - 1/2 that lies in it."""
    basis, x = painter().weight[0] / 0.5, 0.5 + 0.1 * torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    expected = 0.5 + (x - 0.5) @ basis @ basis.T
    found = projection()(x.view(6, 1, 8, 8), draws(6)).flatten(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("option, values", [("restarts", (1, 2, 6)), ("steps", (2, 10, 60))])
def test_more_restarts_and_steps_come_nearer(tmp_path, option, values):
    network = load_generator(untrained(tmp_path / "net.safetensors", "wgan-gp")).network
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    errors = []
    for value in values:
        given = {"restarts": 2, "steps": 10, option: value}
        errors.append(Projection(network=network, defense=DefenseGAN(**given)).latent(x, draws(8))[1])
    assert float(errors[0].mean()) > float(errors[1].mean()) > float(errors[2].mean())
    if option == "restarts":
        assert (errors[2] <= errors[1] + 1e-6).all()


def test_an_image_is_projected_alone_as_in_a_batch_from_starts_of_its_own():
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    short = projection(steps=3)
    first, again, other = (short(x, draws(5), index) for index in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    alone = short(x[3:4], draws(5)[torch.tensor([3])], 0)
    torch.testing.assert_close(alone[0], first[3], rtol=0, atol=1e-5)
    mixed = short(x, draws(5), torch.tensor([0, 1, 0, 1, 0]))
    torch.testing.assert_close(mixed[:2], torch.stack((first[0], other[1])), rtol=0, atol=1e-5)


def test_its_derivative_is_the_shadow_on_what_the_generator_can_make():
    """Of a plane the derivative is known, but for the damping: (1 + 1/100) times it is the orthogonal projection."""
    basis, guard = painter().weight[0] / 0.5, projection()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    way = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    shown = guard.derived(x, draws(6))
    assert torch.equal(shown.detach(), guard(x, draws(6)))
    (slope,) = torch.autograd.grad((shown * way).sum(), x)
    expected = (way.flatten(1) @ basis @ basis.T).view_as(way) / 1.01
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5)


class Circle(Network):
    """Points at a distance of 0.3 from the middle of the plane: z is their angle."""

    def __init__(self) -> None:
        super().__init__((2, 1, 1), 0, 1)

    def decode(self, z: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return 0.5 + 0.3 * torch.cat((z.cos(), z.sin()), 1).view(-1, 2, 1, 1)


def test_its_derivative_follows_a_bend():
    """On a circle the nearest point turns with x: along the tangent one for one, across it not at all."""
    z = torch.linspace(0, 6, 7, dtype=torch.float64)[:, None]
    tangent = torch.cat((-z.sin(), z.cos()), 1)
    x = Circle().decode(z).requires_grad_()
    for axis in range(2):
        (slope,) = torch.autograd.grad(nearest(Circle(), x, z)[:, axis].sum(), x)
        torch.testing.assert_close(slope.view(7, 2), tangent[:, axis : axis + 1] * tangent / 1.01)


def test_an_images_derivative_feels_no_neighbour(tmp_path):
    network = load_generator(untrained(tmp_path / "net.safetensors", "wgan-gp")).network
    z, x = network.prior(draws(5)), torch.rand(5, 1, 8, 8, requires_grad=True)
    way = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    (every,) = torch.autograd.grad((nearest(network, x, z) * way).sum(), x)
    (alone,) = torch.autograd.grad((nearest(network, x[3:4], z[3:4]) * way[3:4]).sum(), x)
    torch.testing.assert_close(every[3], alone[3], rtol=1e-3, atol=1e-5)


def test_the_plain_adversary_has_no_gradient_and_the_adaptive_one_may_take_the_identitys(tmp_path):
    path = untrained(tmp_path / "net.safetensors", "wgan-gp")
    (defense,) = resolve_defense(f"defense-gan:generator={path},restarts=1,steps=3,backward=identity")
    bare = system_of(lively())
    guarded = defense.defend(bare, shop())
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    assert guarded.randomised
    assert not guarded(x, draws(3)).scores.requires_grad
    (slope,) = torch.autograd.grad(guarded(x, draws(3), adaptive=True).scores[:, 0].sum(), x)
    shown = guarded.purifiers[0].apply(x.detach(), draws(3), 0).requires_grad_()
    (expected,) = torch.autograd.grad(bare(shown).scores[:, 0].sum(), shown)
    torch.testing.assert_close(slope, expected)
    assert guarded.notes["generator"]["digest"] == load_generator(path).digest


@pytest.mark.parametrize("backward", ["derivative", "identity"])
def test_who_knows_it_breaks_it(backward):
    """Either gradient, averaged over two sets of starts, judged by starts that the search has not seen."""
    network, threat = painter(), Threat(norm="Linf", eps=0.2)
    w = network.weight[0] @ torch.tensor([1.0, -2.0, 1.5])  # looks at nothing but what the generator can make
    middle = torch.stack((w.sum(), -w.sum())) / 2
    bare = System(model=Affine(torch.stack((-w, w)), middle), num_classes=2, input_shape=(1, 8, 8))
    gan = DefenseGAN(restarts=1, steps=25, learning_rate=60.0, backward=backward)
    guarded = replace(bare, purifiers=(gan.part(network),))
    x = network.decode(network.prior(draws(12, seed=5)))

    def answer(points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            looks = [guarded(points, draws(12), 1000 + number).prediction() for number in range(5)]
        return torch.stack(looks).mode(0).values

    y = answer(x)
    assert (y == bare(x).prediction()).sum() >= 10  # the projection keeps what it can make
    attack = resolve_attack("pgd:steps=5,step_size=1/4,restarts=1,objective=margin")
    adv = craft(attack, guarded, x, Goal(y=y), threat, draws(12), eot=EOT(draws=2))
    assert (answer(adv) != y).sum() >= 10


def test_left_out_the_generator_is_trained_on_the_training_images_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RBL_CACHE", str(tmp_path))
    (defense,) = resolve_defense("defense-gan:epochs=1,restarts=1,steps=2")
    one, two = (defense.defend(system_of(lively()), shop()) for _ in range(2))
    assert one.digest == two.digest
    assert one.notes["generator"]["data"]["digest"] == shop().train.digest()
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "generator, message",
    [("conditional-gan", "is told the label"), ("autoencoder", "has no prior to start from")],
)
def test_generators_that_cannot_serve_are_refused(tmp_path, generator, message):
    path = untrained(tmp_path / "net.safetensors", generator)
    with pytest.raises(UserError, match=message):
        DefenseGAN(generator=str(path)).defend(system_of(lively()), shop())


def test_a_generator_of_other_images_is_refused(tmp_path):
    path = untrained(tmp_path / "net.safetensors", "wgan-gp", shape=(1, 6, 6))
    with pytest.raises(UserError, match=r"makes images \(1, 6, 6\), not \(1, 8, 8\)"):
        DefenseGAN(generator=str(path)).defend(system_of(lively()), shop())


@pytest.mark.parametrize("options", ["restarts=0", "steps=0", "learning_rate=0", "epochs=0"])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"defense-gan: {options.split('=')[0]}="):
        resolve_defense(f"defense-gan:{options}")


def test_a_file_is_not_trained():
    with pytest.raises(UserError, match="trained already"):
        resolve_defense("defense-gan:generator=net.safetensors,epochs=3")
