"""The laws that every plugin is held to, and how strong this one is where that is known exactly."""

import pytest
import torch
from rbl_example_attack import LineSearch
from torch import Tensor, nn

import robustbench_lite as rbl


def test_the_laws() -> None:
    rbl.check_attack(LineSearch(looks=4))


def test_looks_below_one_are_refused() -> None:
    with pytest.raises(rbl.UserError, match="looks=0; accepted: 1 and more"):
        LineSearch(looks=0)


def test_on_an_affine_model_it_leaves_what_the_closed_form_leaves() -> None:
    """An Linf ball takes eps |w|₁ from the difference of the two scores, no more; on grey images no wall is near."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(16, generator=draws)
    x = 0.5 + 0.2 * (torch.rand((100, 1, 4, 4), generator=draws) - 0.5)
    gap = (x.flatten(1) - 0.5) @ weight  # how far class 1 is ahead of class 0
    middle = gap.abs().sort().values[49:51].mean()  # half of the images are robust, and none is at the edge
    eps = float(middle / weight.abs().sum())
    assert eps < 0.3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model[1].load_state_dict(
        {"weight": torch.stack((0 * weight, weight)), "bias": torch.tensor([0, -0.5 * weight.sum()])}
    )
    attack = LineSearch(looks=3)
    found = rbl.evaluate(model, x, (gap > 0).long(), attacks=attack, threat=f"Linf:{eps}", diagnostics=False)
    assert found.table["robust_acc"].iloc[0] == 0.5


class Bump(nn.Module):
    """Class 1 where the mean of the image is near 0.6, else class 0: beyond the bump all is well again."""

    def forward(self, x: Tensor) -> Tensor:
        peak = 1 - 20 * (x.flatten(1).mean(1) - 0.6).abs()
        return torch.stack((torch.zeros_like(peak), peak), 1)


def test_it_finds_what_one_large_step_steps_over() -> None:
    attacks = ["fgsm:objective=margin", LineSearch()]
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    found = rbl.evaluate(Bump(), x, y, attacks=attacks, threat="Linf:0.3", diagnostics=False)
    left = found.table.set_index("attack")["robust_acc"]
    assert left["fgsm:objective=margin"] == 1
    assert left["line-search"] == 0
