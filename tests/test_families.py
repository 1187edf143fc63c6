"""Threats beside the norms: what they say, what they render, and what the verdict makes of a witness."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import affine, run, samples, two_layers

import robustbench_lite as rbl
from robustbench_lite.attack import Attack, Cost, Goal, Needs, State, resolve_attack
from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.adversarial_training import AdversarialTraining
from robustbench_lite.errors import PluginError, UserError
from robustbench_lite.families import PatchThreat, SpatialThreat
from robustbench_lite.oracle import Oracle
from robustbench_lite.randomness import Draws
from robustbench_lite.results.curve import goal_of
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.verdict import REASONS, Verdict, judge
from robustbench_lite.threat import Threat

SHAPES = Shapes(batch=64, floor=32)
SPATIAL = Threat.parse("spatial:translation=2,rotation=180")
PATCH = Threat.parse("patch:area=0.2")
TEXTS = {
    "spatial": "spatial:translation=3,rotation=30",
    "spatial:translation=10%,rotation=15": "spatial:translation=10%,rotation=15",
    "spatial:translation=2px": "spatial:translation=2,rotation=30",
    "spatial:0.5,translation=7%": "spatial:0.5,translation=7%,rotation=30",
    "spatial:rotation=0,goal=targeted,target=next": "spatial:translation=3,rotation=0,goal=targeted,target=next",
    "patch:area=0.05": "patch:area=0.05",
    "patch:1/8,rotation=0,shape=square": "patch:area=0.125,rotation=0,shape=square",
    "Patch:area=0.1,scale=0.5,goal=targeted,target=3": "patch:area=0.1,scale=0.5,goal=targeted,target=3",
}


def images(count: int = 4, shape: tuple[int, ...] = (2, 7, 6)) -> tuple[Tensor, Draws]:
    x = torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))
    return x, Draws.for_images(0, x, torch.zeros(count, dtype=torch.int64))


def moved(x: Tensor, right: float, down: float, angle: float) -> Tensor:
    return SPATIAL.render(x, torch.tensor([[right, down, angle]] * len(x)), images(len(x))[1])


@pytest.mark.parametrize("text", TEXTS)
def test_a_threat_is_read_and_prints_back(text: str) -> None:
    threat = Threat.parse(text)
    assert str(threat) == TEXTS[text]
    assert Threat.parse(str(threat)) == threat
    assert threat.aim == "fixed-eps"


@pytest.mark.parametrize(
    "text, says",
    [
        ("spatial:translation=-1", "accepted: pixels from 0"),
        ("spatial:translation=101%", "0% to 100%"),
        ("spatial:rotation=200", "0 to 180 degrees"),
        ("spatial:2,rotation=20", "eps=2"),
        ("spatial:shear=3", "threat spatial has no option 'shear'"),
        ("spatial:norm=Linf", "norm=Linf"),
        ("spatial:none", "accepted: 0 to 1"),
        ("patch:area=0.9", "accepted: 0 to 0.5"),
        ("patch:0.1,area=0.2", "give one of the two"),
        ("patch:area=0.1,shape=star", "accepted: circle, square"),
        ("patch:area=0.1,scale=0", "more than 0"),
        ("patch:area=0.1,target=3", "needs goal=targeted"),
    ],
)
def test_what_is_no_such_threat_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Threat.parse(text)


def test_attacks_refuse_threats_that_are_not_theirs() -> None:
    with pytest.raises(UserError, match="pgd does not support spatial; it supports Linf"):
        resolve_attack("pgd").check(SPATIAL, 10)
    with pytest.raises(UserError, match="spatial does not support Linf; it supports spatial"):
        resolve_attack("spatial").check(Threat(norm="Linf", eps=0.1), 10)
    with pytest.raises(UserError, match="one patch serves all images"):
        resolve_attack("patch").check(Threat.parse("patch:area=0.1,goal=targeted,target=random"), 10)
    with pytest.raises(UserError, match="from 0 to 9"):
        resolve_attack("patch").check(Threat.parse("patch:area=0.1,goal=targeted,target=10"), 10)


# -- turned and shifted ----------------------------------------------------------------------------------------


def test_no_turn_and_no_shift_change_no_bit() -> None:
    x, _ = images()
    assert torch.equal(moved(x, 0, 0, 0), x)


@pytest.mark.parametrize("quarters", [1, -1, 2])
def test_quarter_turns_are_exact_and_counter_clockwise(quarters: int) -> None:
    x, _ = images(shape=(1, 7, 7))
    assert torch.equal(moved(x, 0, 0, 90 * quarters), torch.rot90(x, quarters, (2, 3)))


def test_whole_shifts_are_exact_and_black_comes_in() -> None:
    x, _ = images()
    there = torch.zeros_like(x)
    there[:, :, 1:, :-2] = x[:, :, :-1, 2:]
    assert torch.equal(moved(x, -2, 1, 0), there)


def test_the_image_is_turned_about_its_centre_and_then_shifted() -> None:
    x, _ = images(shape=(1, 9, 9))
    both = moved(x, 2, 0, 90)
    assert torch.equal(both, moved(torch.rot90(x, 1, (2, 3)), 2, 0, 0))


@pytest.mark.parametrize("right, down, angle", [(0.5, 0.25, 0), (0, 0, 17), (1.5, -1, -30), (-0.3, 2, 100)])
def test_turns_and_shifts_are_those_of_bilinear_sampling(right: float, down: float, angle: float) -> None:
    x, _ = images(shape=(2, 9, 9))
    turn = torch.tensor(angle, dtype=torch.float64).deg2rad()
    c, s, dx, dy = turn.cos(), turn.sin(), 2 * right / 9, 2 * down / 9
    back = torch.stack((c, -s, -c * dx + s * dy, s, c, -s * dx - c * dy)).view(1, 2, 3).repeat(len(x), 1, 1)
    grid = F.affine_grid(back, list(x.shape), align_corners=False)
    wanted = F.grid_sample(x.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    assert torch.allclose(moved(x, right, down, angle).double(), wanted, atol=1e-4)


def test_percent_is_of_each_side() -> None:
    threat = Threat.parse("spatial:translation=10%,rotation=20")
    assert isinstance(threat, SpatialThreat)
    assert threat.at(0.5).limits(torch.zeros(1, 1, 20, 40)).tolist() == [2, 1, 10]  # type: ignore[attr-defined]


# -- pasted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["patch:area=0.1", "patch:area=0.1,shape=square", "patch:area=0.3,rotation=180"])
def test_a_patch_covers_its_area_on_average_and_lies_inside(text: str) -> None:
    threat, x = Threat.parse(text), torch.zeros(1, 1, 24, 30)
    draws = Draws.for_images(0, x, torch.zeros(1, dtype=torch.int64))
    white = torch.ones(1, 9)
    covered = torch.stack([threat.render(x, white, draws, number).sum() for number in range(300)]) / (24 * 30)
    assert abs(float(covered.mean()) - threat.radius) < 0.01 * threat.radius + 0.002
    assert float(covered.max()) < 1.15 * threat.radius
    anywhere = torch.stack([threat.render(x, white, draws, number)[0, 0] for number in range(300)]).amax(0)
    assert anywhere[:, 0].any()
    assert anywhere[:, -1].any()
    assert anywhere[0].any()
    assert anywhere[-1].any()


def test_a_smaller_scale_covers_less_and_no_area_nothing() -> None:
    x, draws = images(64)
    picture = torch.ones(64, 2 * 9)
    full, half = (Threat.parse(f"patch:area=0.3,scale={scale}") for scale in (1, 0.5))
    assert (half.render(x, picture, draws) != x).sum() < (full.render(x, picture, draws) != x).sum()
    assert torch.equal(full.at(0.0).render(x, picture, draws), x)


def test_pixels_outside_the_patch_keep_their_bits_and_places_differ() -> None:
    x, draws = images()
    witness = torch.rand(4, 2 * 16)
    first, second = (PATCH.render(x, witness, draws, number) for number in (0, 1))
    assert 0 < (first != x).any(1).float().mean() < 0.4
    assert not torch.equal(first, second)
    assert torch.equal(PATCH.render(x[2:3], witness[2:3], draws[2:3], 0), first[2:3])


def test_the_gradient_by_the_patch_is_that_of_bilinear_sampling() -> None:
    x, draws = images(3, (1, 5, 5))
    witness = torch.rand(3, 4, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda w: PATCH.render(x.double(), w, draws, 2), (witness,))


# -- the verdict ---------------------------------------------------------------------------------------------------


def judged(threat: Threat, witness: Tensor, adv: Tensor | None = None, count: int = 6) -> Verdict:
    system = affine(side=5)
    x, y, draws = samples(system, count)
    return judge(system, x, Goal(y=y), threat, x if adv is None else adv, draws, SHAPES, witness=witness)


@pytest.mark.parametrize("threat", [SPATIAL, PATCH], ids=str)
def test_the_verdict_looks_at_the_witness_and_never_at_the_pixels(threat: Threat) -> None:
    witness = torch.rand(6, 3 if threat is SPATIAL else 9)
    plain, spoilt = judged(threat, witness), judged(threat, witness, torch.full((6, 1, 5, 5), torch.nan))
    assert plain.valid.all()
    for name, value in plain._sliceable().items():
        assert torch.equal(value.nan_to_num(), getattr(spoilt, name).nan_to_num()), name


@pytest.mark.parametrize(
    "threat, spoil, reason",
    [
        (SPATIAL, lambda w: w + torch.tensor([2.1, 0, 0]), "outside-threat"),
        (SPATIAL, lambda w: w - torch.tensor([0, 0, 200.0]), "outside-threat"),
        (SPATIAL, lambda w: w * torch.nan, "not-finite"),
        (PATCH, lambda w: w + 1, "outside-threat"),
        (PATCH, lambda w: w * torch.inf, "not-finite"),
    ],
)
def test_a_witness_outside_the_limits_is_invalid_and_never_breaks(threat: Threat, spoil: Any, reason: str) -> None:
    witness = torch.full((6, 3 if threat is SPATIAL else 9), 0.5)
    found = judged(threat, spoil(witness))
    assert not found.valid.any()
    assert not found.broken.any()
    assert {REASONS[code] for code in found.reason.tolist()} == {reason}
    assert (found.norms == 0).all()


def test_no_witness_is_no_example() -> None:
    system = affine(side=5)
    x, y, draws = samples(system, 6)
    found = judge(system, x, Goal(y=y), SPATIAL, x.flip(0), draws, SHAPES)
    assert not found.valid.any()
    assert not found.broken.any()


def test_limits_are_met_by_their_own_numbers() -> None:
    threat = Threat.parse("spatial:translation=10%,rotation=30")
    x = torch.zeros(1, 1, 28, 28)
    assert threat.contains(x, x, torch.tensor([[2.8, -2.8, 30.0]])).all()
    assert not threat.contains(x, x, torch.tensor([[2.801, 0.0, 0.0]])).any()


def test_a_patch_is_judged_by_most_of_many_places() -> None:
    assert isinstance(PATCH, PatchThreat)
    found = judged(PATCH, torch.rand(40, 9), count=40)
    assert torch.equal(found.broken, found.break_rate > 0.5)
    assert ((found.break_rate > 0) & (found.break_rate < 1)).any()


# -- the way through -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Liar(Attack):
    """Shows another image than its witness means, or gives no witness at all."""

    name: ClassVar[str] = "liar"
    needs: ClassVar[Needs] = Needs.LABELS
    norms: ClassVar[tuple[str, ...]] = ("spatial",)
    says: bool = True

    def length(self) -> int:
        return 2

    def cost(self, num_classes: int) -> Cost:
        return Cost(2)

    def start(self, x: Tensor, goal: Goal, threat: Threat, draws: Draws, oracle: Oracle) -> State:
        return State.begin(x, goal, threat, draws, x, witness=x.new_zeros((len(x), 3)) if self.says else None)

    def step(self, state: State, oracle: Oracle) -> State:
        oracle.query(1 - state.x, witness=state.witness)
        return replace(state, adv=1 - state.x)


def test_a_picture_that_its_witness_does_not_mean_breaks_nothing() -> None:
    system = affine()
    x, y, _ = samples(system, 20)
    found = run(Liar(), system, x, y, SPATIAL)
    assert not found.verdict.broken.any()
    assert torch.equal(found.adv, x)


def test_an_attack_without_a_witness_is_told_so() -> None:
    system = affine()
    x, y, _ = samples(system, 4)
    with pytest.raises(PluginError, match="liar gave no witness under spatial"):
        run(Liar(says=False), system, x, y, SPATIAL)


def test_records_tell_the_witness_and_a_second_run_finds_them(tmp_path: Path) -> None:
    x, y, _ = samples(two_layers(), 24)
    given: dict[str, Any] = {
        "attacks": "spatial:translations=3,rotations=3",
        "threat": "spatial:translation=1,rotation=40",
    }
    first = rbl.evaluate(two_layers(), x, y, out=tmp_path, samples="first:12", **given)
    again = rbl.evaluate(two_layers(), x, y, out=tmp_path, samples="first:12", **given)
    rows = first.records
    assert rows.equals(again.records)
    assert rows["witness"].str.fullmatch(r"dx=-?[01],dy=-?[01],angle=-?(0|40)").all()
    assert set(rows["norm"]) == {"spatial"}
    assert rows["valid"].all()
    assert rows["broken"].any()
    shown = first.examples[rows["model"].iloc[0], "none", given["threat"], given["attacks"]]
    one = rows[rows["broken"]].iloc[0]
    numbers = [float(part.partition("=")[2]) for part in one["witness"].split(",")]
    place = int(one["index"])
    if place in shown:
        drawn = Threat.parse(given["threat"]).render(x[place : place + 1], torch.tensor([numbers]), images(1)[1])
        assert torch.allclose(torch.tensor(shown[place]), drawn[0], atol=1e-5)
    assert (tmp_path / "examples.png").exists()


def test_a_family_and_a_norm_are_never_in_one_table() -> None:
    x, y, _ = samples(two_layers(), 8)
    only: dict[str, Any] = {"diagnostics": False}
    parts = [
        rbl.evaluate(two_layers(), x, y, attacks=attack, threat=threat, **only).table
        for attack, threat in (("fgsm", "Linf:0.1"), ("spatial:rotations=1", "spatial:rotation=10"))
    ]
    assert [set(part["norm"]) for part in parts] == [{"Linf"}, {"spatial"}]
    with pytest.raises(UserError, match="fgsm does not support spatial"):
        rbl.evaluate(two_layers(), x, y, attacks=["fgsm", "spatial"], threat=["Linf:0.1", "spatial"], **only)


def test_what_cannot_be_done_with_a_family_is_refused() -> None:
    x, y, _ = samples(two_layers(), 8)
    given: dict[str, Any] = {"attacks": "spatial", "threat": "spatial:rotation=10"}
    with pytest.raises(UserError, match="physical is for threats in a norm; spatial:rotation=10"):
        rbl.evaluate(two_layers(), x, y, physical="camera-shake", **given)
    with pytest.raises(UserError, match="cannot average"):
        rbl.evaluate(two_layers(), x, y, attacks="spatial:eot=4", threat="spatial")


def test_adversarial_training_turns_images_only_where_its_attack_does() -> None:
    shop: Any = None  # a threat of its own is asked for first
    (turning,) = resolve_defense("adversarial-training:attack=(spatial:mode=random),threat=(spatial:rotation=10)")
    (climbing,) = resolve_defense("adversarial-training:threat=(spatial:rotation=10)")
    assert isinstance(turning, AdversarialTraining)
    assert isinstance(climbing, AdversarialTraining)
    assert turning.trained_against(shop) == Threat.parse("spatial:rotation=10")
    with pytest.raises(UserError, match="needs a threat with a radius"):
        climbing.trained_against(shop)


def test_the_area_of_a_patch_is_the_axis_of_its_curve() -> None:
    assert goal_of("patch:area=0.1,rotation=0") == goal_of("patch:0.2,rotation=0") == ",rotation=0"
    assert goal_of("spatial:0.5,rotation=30") == goal_of("spatial:rotation=30") == ",rotation=30"
    assert goal_of("Linf:0.1,goal=targeted") == ",goal=targeted"
