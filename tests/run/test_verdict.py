"""The verdict: what counts as broken, and what never does."""

import pytest
import torch
from torch import Tensor, nn
from toys import affine, samples, two_layers

from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.shapes import Shapes
from robustbench_lite.run.verdict import RANDOM_DRAWS, REASONS, eight_bits, judge
from robustbench_lite.system import Detector, System
from robustbench_lite.threat import Threat

SHAPES = Shapes(batch=64, floor=32)
WHOLE = Threat(norm="Linf", eps=1)


def verdict(system: System, x: Tensor, y: Tensor, adv: Tensor, threat: Threat = WHOLE):
    return judge(system, x, Goal(y=y), threat, adv, Draws.for_images(0, x, y), SHAPES)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda adv: adv.index_fill(3, torch.tensor([0]), torch.nan), "not-finite"),
        (lambda adv: adv.index_fill(3, torch.tensor([0]), torch.inf), "not-finite"),
        (lambda adv: adv + 1.5, "outside-box"),
        (lambda adv: -adv - 0.1, "outside-box"),
    ],
)
def test_an_invalid_example_never_breaks(spoil, reason: str) -> None:
    system = affine()
    x, y, _ = samples(system, 10)
    other = x[(y[:, None] != y[None, :]).int().argmax(1)]
    found = verdict(system, x, y, spoil(other))
    assert not found.valid.any()
    assert not found.broken.any()
    assert {REASONS[code] for code in found.reason.tolist()} == {reason}


def test_float_dust_is_inside_and_a_thousandth_of_eps_is_not() -> None:
    system = affine()
    x = torch.full((1, 1, 4, 4), 0.5)
    y = system(x).prediction()
    threat = Threat(norm="Linf", eps=0.1)
    assert verdict(system, x, y, x + 0.1, threat).valid.all()
    assert not verdict(system, x, y, x + 0.1001, threat).valid.any()


def test_nan_scores_at_a_valid_point_break_with_a_flag() -> None:
    class Blank(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), torch.nan)

    system = System(model=Blank(), num_classes=3, input_shape=(1, 4, 4))
    x = torch.rand((4, 1, 4, 4))
    found = verdict(system, x, torch.tensor([0, 1, 2, 0]), x)
    assert found.broken.all()
    assert {REASONS[code] for code in found.reason.tolist()} == {"nan-scores"}


def test_a_rejected_example_does_not_break() -> None:
    system = affine()
    x, y, _ = samples(system, 20)
    other = x[(y[:, None] != y[None, :]).int().argmax(1)]
    alarm = system.with_detector(Detector(score=lambda image: torch.ones(len(image)), threshold=0.5))
    assert verdict(system, x, y, other).broken.all()
    found = verdict(alarm, x, y, other)
    assert not found.broken.any()
    assert found.rejected.all()
    assert (found.score == 1).all()


def test_norms_are_measured_in_double_precision() -> None:
    system = affine()
    x, y, _ = samples(system, 6)
    adv = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    delta = (adv.double() - x.double()).flatten(1)
    found = verdict(system, x, y, adv).norms
    expected = torch.stack(
        [delta.abs().amax(1), delta.norm(dim=1), delta.abs().sum(1), (delta != 0).sum(1).double()], 1
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_eight_bits_stay_on_the_grid_and_in_the_ball() -> None:
    x = torch.randint(0, 256, (50, 1, 6, 6)) / 255
    threat = Threat(norm="Linf", eps=8 / 255)
    adv = threat.project(x + (torch.rand_like(x) - 0.5) * 0.2, x)
    rounded = eight_bits(adv, x, threat)
    torch.testing.assert_close(rounded * 255, (rounded * 255).round(), rtol=0, atol=1e-4)
    assert threat.contains(rounded, x).all()


def test_a_break_that_needs_less_than_a_level_is_gone_after_rounding() -> None:
    class Threshold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).double().mean(1)
            return torch.stack((torch.full_like(mean, 0.5 + 0.3 / 255), mean), 1).float()

    system = System(model=Threshold(), num_classes=2, input_shape=(1, 2, 2))
    x = torch.full((1, 1, 2, 2), 127 / 255)
    y = torch.tensor([0])
    small, large = x + 0.85 / 255, x + 2 / 255
    threat = Threat(norm="Linf", eps=3 / 255)
    assert bool(verdict(system, x, y, small, threat).broken)
    assert bool(verdict(system, x, y, small, threat).broken_8bit)  # 127.85 rounds up to 128, further away
    near = System(model=Threshold(), num_classes=2, input_shape=(1, 2, 2))
    assert bool(verdict(near, x, y, large, threat).broken_8bit)
    tight = Threat(norm="Linf", eps=0.9 / 255)
    found = verdict(system, x, y, small, tight)
    assert bool(found.broken)
    assert not bool(found.broken_8bit)  # the next level lies outside the ball, the one before it does not break


def test_one_lucky_draw_does_not_break_a_randomised_system() -> None:
    def coin(share: float) -> System:
        def apply(x: Tensor, draws: Draws | None, index: Tensor | int) -> Tensor:
            assert draws is not None
            wrong = draws.uniform((), "coin", index).view(-1) < share
            return torch.where(wrong[:, None, None, None], 1 - x, x)

        return affine(classes=2).with_random_purifier(apply, name=f"coin {share}")

    plain = affine(classes=2)
    x, y, _ = samples(plain, 60)
    flips = (plain(1 - x).prediction() != y).nonzero().squeeze(1)
    x, y = x[flips], y[flips]
    rare, often = verdict(coin(0.2), x, y, x), verdict(coin(0.8), x, y, x)
    assert float(rare.broken.double().mean()) < 0.1
    assert float(often.broken.double().mean()) > 0.9
    assert abs(float(rare.break_rate.mean()) - 0.2) < 3 * (0.16 / (len(x) * RANDOM_DRAWS)) ** 0.5 + 1e-9


def test_the_callers_settings_come_back() -> None:
    flags = torch.backends.cudnn
    flags.benchmark = True
    try:
        with exact_math():
            assert torch.are_deterministic_algorithms_enabled()
            assert not flags.benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        assert flags.benchmark
    finally:
        flags.benchmark = False


def test_alone_and_in_company_the_verdict_has_the_same_bits() -> None:
    system = two_layers()
    x, y, _ = samples(system, 70)
    adv = (x + 0.1 * torch.rand_like(x)).clamp(0, 1)
    together = verdict(system, x, y, adv)
    for row in (0, 33, 69):
        one = torch.tensor([row])
        alone = verdict(system, x[one], y[one], adv[one])
        for name, value in vars(alone).items():
            assert torch.equal(value.nan_to_num(), getattr(together, name)[one].nan_to_num()), name
