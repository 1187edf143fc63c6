"""The patch: what it learns, on what, and how it is judged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Asker, Attack, Goal, Setup, craft, resolve_attack
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.threat import Threat

QUIET: dict[str, Any] = {"diagnostics": False}
SHORT = "patch:steps=60,learning_rate=0.1"


class Sum(nn.Module):
    """Class 1 where the image is bright, with as many classes as wanted."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).sum(1)
        return torch.stack((torch.zeros_like(bright), bright - 20, torch.full_like(bright, -3)), 1)


def learned(spec: str, text: str, system: System, x: Tensor, y: Tensor) -> tuple[Attack, Asker]:
    attack, threat = resolve_attack(spec), Threat.parse(text)
    asker = Asker(attack, system, threat)
    setup = Setup(x=x, y=y, draws=Draws.for_images(0, x, y), threat=threat, num_classes=system.num_classes, ask=asker)
    return attack.prepare(setup), asker


def picture(attack: Attack) -> Tensor:
    assert attack.learned is not None
    return attack.learned.tensors["patch"]


@pytest.mark.parametrize(
    "text, label, wanted",
    [
        ("patch:area=0.2", 0, 1.0),
        ("patch:area=0.2", 1, 0.0),
        ("patch:area=0.2,goal=targeted,target=0", 1, 0.0),
        ("patch:area=0.2,goal=targeted,target=1", 0, 1.0),
    ],
)
def test_the_patch_is_the_best_one_on_a_linear_model(text: str, label: int, wanted: float) -> None:
    system = System(model=Sum(), num_classes=3, input_shape=(1, 8, 8))
    x = torch.rand((40, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 0.5
    attack, asker = learned("patch:steps=25,learning_rate=0.1", text, system, x, torch.full((40,), label))
    assert torch.allclose(picture(attack), torch.full_like(picture(attack), wanted))
    assert asker.forwards == asker.backwards == 25 * 32
    assert attack.cost(3).forwards == 0


def test_a_targeted_patch_learns_nothing_of_images_of_its_class() -> None:
    system = System(model=Sum(), num_classes=3, input_shape=(1, 8, 8))
    x = torch.rand((6, 1, 8, 8))
    with pytest.raises(UserError, match="are of class 2"):
        learned("patch:steps=2", "patch:area=0.2,goal=targeted,target=2", system, x, torch.full((6,), 2))


def test_the_same_lessons_teach_the_same_and_are_recalled() -> None:
    system = two_layers()
    x, y, draws = samples(system, 50)
    one, other = (learned("patch:steps=5", "patch:area=0.1", system, x, y)[0] for _ in range(2))
    assert torch.equal(picture(one), picture(other))
    threat = Threat.parse("patch:area=0.1")
    setup = Setup(x=x, y=y, draws=draws, threat=threat, num_classes=5, ask=Asker(one, system, threat))
    assert one.learned is not None
    again = resolve_attack("patch:steps=5").recall(one.learned, setup)
    assert torch.equal(picture(again), picture(one))
    assert str(again) == str(one) == "patch:steps=5"


def test_success_rises_with_the_area_and_beats_a_random_patch(tmp_path: Path) -> None:
    system = System(model=Sum(), num_classes=3, input_shape=(1, 8, 8))
    # White pixels reach 20 from an area of 22 % on, random ones, of 0.5 each, from 53 %.
    x = torch.rand((160, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 0.2
    y = system(x).prediction()
    given: dict[str, Any] = {
        "attacks": [SHORT, "patch:learn=false"],
        "threat": [f"patch:area={area}" for area in (0.0, 0.05, 0.3)],
        "samples": "first:60",
        "out": tmp_path,
    }
    found = rbl.evaluate(system, x, y, **given, **QUIET).records
    rates = found.groupby(["attack", "eps"])["break_rate"].mean()
    assert rates[SHORT, 0.0] == rates["patch:learn=false", 0.0] == 0
    assert rates[SHORT, 0.05] == 0
    assert rates[SHORT, 0.3] > 0.9
    assert rates["patch:learn=false", 0.3] == 0
    own = found[(found["attack"] == SHORT) & (found["eps"] == 0.3)]
    assert own["witness"].nunique() == 1  # universal
    assert (own["draws"] == 20).all()
    assert (own["forwards"] == 0).all()
    assert (own["broken"] == (own["break_rate"] > 0.5)).all()
    assert rbl.evaluate(system, x, y, **given, **QUIET).records.equals(found)
    assert (tmp_path / "curve.csv").exists()
    assert (tmp_path / "survival.csv").exists()


def test_a_patch_that_has_not_learned_is_no_random_one() -> None:
    system = two_layers()
    x, y, draws = samples(system, 4)
    with pytest.raises(UserError, match="learn=false"):
        craft(resolve_attack("patch"), system, x, Goal(y=y), Threat.parse("patch:area=0.1"), draws)


def test_it_learns_on_images_that_are_not_evaluated() -> None:
    x, y, _ = samples(two_layers(), 20)
    with pytest.raises(UserError, match=r"samples"):
        rbl.evaluate(two_layers(), x, y, attacks=SHORT, threat="patch:area=0.1", samples="all", **QUIET)
    control = rbl.evaluate(two_layers(), x, y, attacks="patch:learn=false", threat="patch:area=0.1", **QUIET)
    assert control.records["witness"].nunique() == 20


def test_more_verdict_draws_are_other_places() -> None:
    x, y, _ = samples(two_layers(), 20)
    some = {"attacks": "patch:learn=false", "threat": "patch:area=0.3", "verdict_draws": 40}
    found = rbl.evaluate(two_layers(), x, y, **some, **QUIET).records
    assert (found["draws"] == 40).all()
    assert ((found["break_rate"] * 40).round(9) % 1 == 0).all()


@pytest.mark.parametrize(
    "spec", ["patch:steps=0", "patch:objective=loss", "patch:learning_rate=0", "patch:resolution=0"]
)
def test_bad_options_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"patch: .*accepted"):
        resolve_attack(spec)
