"""EOT: which way it climbs where the mean over a camera's draws is known, and what is judged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.physical import resolve_camera
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

EPS = 0.05


def halves(weights: Tensor) -> System:
    """Two classes of 1 x 8 x 8 images, told apart by weights . x."""
    linear = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([weights.flatten(), -weights.flatten()]))
    net = nn.Sequential(nn.Flatten(), linear)
    return System(model=net, num_classes=2, input_shape=(1, 8, 8), name="halves")


def weights() -> Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(1))


def ends(spec: str, system: System, threat: Threat) -> tuple[Tensor, Tensor]:
    x = 0.4 + 0.2 * torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    y = system(x).prediction()
    return x, craft(resolve_attack(spec), system, x, Goal(y=y), threat, Draws.for_images(0, x, y)) - x


@pytest.mark.parametrize("camera", ["none", "brightness=±0.1", "contrast=0.5..1.5", "noise=0.02"])
def test_light_and_noise_do_not_turn_the_slope_of_an_affine_model(camera: str) -> None:
    system = halves(weights())
    x, moved = ends(f"eot:camera=({camera}),draws=3,steps=5", system, Threat(norm="Linf", eps=EPS))
    away = -torch.where(system(x).prediction() == 0, 1.0, -1.0)
    torch.testing.assert_close(moved, EPS * away[:, None, None, None] * weights().sign().expand_as(moved))


def test_seen_upside_down_it_climbs_the_weights_upside_down() -> None:
    system = halves(weights())
    x, moved = ends("eot:camera=(rotation=180),draws=1,steps=5", system, Threat(norm="Linf", eps=EPS))
    away = -torch.where(system(x).prediction() == 0, 1.0, -1.0)
    turned = weights().flip(0, 1)
    torch.testing.assert_close(moved, EPS * away[:, None, None, None] * turned.sign().expand_as(moved))


def test_what_it_finds_outlives_the_camera_that_it_prepared_for_better_than_what_pgd_finds() -> None:
    system = two_layers(side=12)
    x, y, _ = samples(system, 200)
    camera, kept = resolve_camera("rotation=±40,scale=0.7..1.3,noise=0.1"), {}
    for spec in ("pgd:restarts=1", "eot:camera=(rotation=±40,scale=0.7..1.3,noise=0.1),draws=8"):
        draws = Draws.for_images(0, x, y)
        adv = craft(resolve_attack(spec), system, x, Goal(y=y), Threat(norm="Linf", eps=0.1), draws, stop_early=False)
        fresh = Draws.for_images(7, x, y)
        said = [system(camera.photograph(adv, fresh, number)).prediction() for number in range(20)]
        kept[spec[:3]] = float(torch.stack([answer != y for answer in said]).double().mean())
    assert kept["eot"] > kept["pgd"]


def test_every_photograph_is_counted_and_the_end_alone_is_judged() -> None:
    system = two_layers()
    x, y, _ = samples(system, 12)
    attack = "eot:steps=4,draws=3,restarts=2"
    rows = rbl.evaluate(system, x, y, attacks=attack, threat="Linf:0.0001", diagnostics=False).records
    attacked = rows[rows["forwards"] > 0]
    assert set(attacked["forwards"]) == set(attacked["backwards"]) == {4 * 3 * 2}


def test_the_camera_is_kept_by_its_settings_so_that_a_changed_file_is_another_attack(tmp_path: Path) -> None:
    file = tmp_path / "street.toml"
    file.write_text("rotation = [-5, 5]\n")
    before = resolve_attack(f"eot:camera={file}")
    file.write_text("rotation = [-6, 6]\n")
    after = resolve_attack(f"eot:camera={file}")
    assert before != after
    assert resolve_attack(str(before)) == before == resolve_attack("eot:camera=(rotation=±5)")


@pytest.mark.parametrize(
    "spec, message",
    [("eot:draws=0", "draws=0; accepted: 1 and more"), ("eot:camera=prnt", "did you mean 'print-photo'")],
)
def test_mistakes_are_told_in_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_attack(spec)
