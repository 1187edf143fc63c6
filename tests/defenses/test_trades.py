"""TRADES: the divergence by hand, its gradient through both sides, an ascent that needs a push to begin."""

import math

import pytest
import torch
from hardening import THREAT, batch_of, on_few_digits, saying, shop, some, system_saying, undefended
from learners import lively, plain, same, system_of, weights
from torch import nn

from robustbench_lite.attack import craft
from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.inner import Clean, Nearby, divergence, kl
from robustbench_lite.defenses.trades import Trades
from robustbench_lite.errors import UserError
from robustbench_lite.objectives import Goal
from robustbench_lite.randomness import Draws
from robustbench_lite.system import Outputs

HALF, QUARTER = (0.0, 0.0), (0.0, math.log(3))  # probabilities 1/2, 1/2 and 1/4, 3/4
KL = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # of the first to the second


def quick(**options: object) -> Trades:
    return Trades(**{"steps": 3, "epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_the_loss_is_the_one_on_paper(beta):
    batch = batch_of(saying(HALF, HALF, QUARTER), torch.tensor([0, 1, 1]))
    adv = saying(QUARTER, HALF, QUARTER)
    loss = Trades(beta=beta).descended(system_saying(), batch, adv, THREAT)
    clean = (2 * math.log(2) - math.log(3 / 4)) / 3
    assert loss.item() == pytest.approx(clean + beta * KL / 3, rel=1e-5)


def test_the_divergence_is_summed_over_classes_and_averaged_over_images_alone():
    """`mean` instead of `batchmean` would divide by the number of classes as well."""
    clean = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    moved = clean.roll(1, 1)
    p, q = clean.softmax(1), moved.softmax(1)
    torch.testing.assert_close(kl(clean, moved), (p * (p / q).log()).sum(1))
    whole = torch.nn.functional.kl_div(moved.log_softmax(1), p, reduction="batchmean")
    torch.testing.assert_close(kl(clean, moved).mean(), whole)


def test_the_gradient_flows_through_both_sides():
    """f(x) = w x with w = 1: the derivative by w of both logits, and of the clean ones alone held fast."""
    system = system_saying()
    clean, adv = (0.0, 1.0), (0.5, -0.5)
    batch = batch_of(saying(clean), torch.tensor([0]))
    (slope,) = torch.autograd.grad(
        Trades(beta=1.0).descended(system, batch, saying(adv), THREAT)
        - Trades(beta=0.0).descended(system, batch, saying(adv), THREAT),
        system.model.scale,
    )

    def by_hand(w_clean: float, w_adv: float) -> float:
        p = torch.tensor(clean, dtype=torch.float64).mul(w_clean).softmax(0)
        q = torch.tensor(adv, dtype=torch.float64).mul(w_adv).softmax(0)
        return float((p * (p / q).log()).sum())

    h = 1e-5
    both = (by_hand(1 + h, 1 + h) - by_hand(1 - h, 1 - h)) / (2 * h)
    one = (by_hand(1, 1 + h) - by_hand(1, 1 - h)) / (2 * h)
    assert slope.item() == pytest.approx(both, rel=1e-4)
    assert abs(both - one) > 0.05


def balanced() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Two classes, as likely as each other at x: the divergence is flat there, and grows to either side."""
    w = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    w = torch.where(w.abs() < 0.1, 0.1, w)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model[1].load_state_dict({"weight": torch.cat((-w, w)), "bias": torch.stack((0.5 * w.sum(), -0.5 * w.sum()))})
    return model, torch.full((4, 1, 8, 8), 0.5), w.view(1, 1, 8, 8)


def climbed(attack: Nearby, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return craft(attack, model, x, Goal(y=y), THREAT, Draws.of(0, [bytes([row]) for row in range(len(x))]))


def test_from_the_image_itself_the_divergence_cannot_be_climbed():
    class Even(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] - 0.5

    x = torch.full((4, 1, 8, 8), 0.5)  # both logits are exactly 0
    y = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(climbed(Nearby(noise=0.0), Even(), x, y), x)
    moved = (climbed(Nearby(), Even(), x, y) - x).flatten(1)[:, :2]
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, THREAT.eps), rtol=1e-5, atol=0)


def test_the_ascent_reaches_an_end_of_the_ball_where_the_divergence_is_largest():
    model, x, w = balanced()
    delta = climbed(Nearby(), model, x, torch.zeros(4, dtype=torch.int64)) - x
    side = (delta * w).flatten(1).sum(1).sign().view(-1, 1, 1, 1)
    torch.testing.assert_close(delta, side * THREAT.eps * w.sign().expand_as(delta), rtol=1e-4, atol=1e-6)


def test_the_ascent_looks_at_no_label():
    batch, model = some(), plain()
    points = [craft(Nearby(), model, batch.x, Goal(y=y), THREAT, batch.draws) for y in (batch.y, (batch.y + 1) % 4)]
    assert torch.equal(*points)


def test_the_objective_compares_with_what_the_context_holds():
    goal = Goal(y=torch.tensor([0, 1]), context=Clean(probabilities=torch.tensor([[0.5, 0.5], [0.0, 1.0]])))
    scores = torch.tensor([QUARTER, QUARTER])
    torch.testing.assert_close(divergence(Outputs(scores=scores), goal), torch.tensor([KL, math.log(4 / 3)]))
    torch.testing.assert_close(divergence(Outputs(scores=scores[1:]), goal[1:]), torch.tensor([math.log(4 / 3)]))


def test_crafting_is_in_eval_mode_and_the_loss_in_train_mode():
    model = lively()
    quick(early_stopping=False).defend(system_of(model), shop())
    assert int(model[2].num_batches_tracked) == 9 * 2  # clean and adversarial images, not those of the ascent


def test_one_seed_gives_the_same_bits():
    made = [quick(early_stopping=False).defend(system_of(lively()), shop()) for _ in range(2)]
    assert same(weights(made[0].model), weights(made[1].model))
    assert made[0].notes["training"]["attack"] == "nearby:steps=3"


def test_on_digits_it_resists_what_breaks_the_undefended_model():
    score = on_few_digits(
        resolve_defense("trades:steps=5,early_stopping=false,epochs=8,batch_size=25,learning_rate=3e-3")[0]
    )
    assert score.clean > 0.7
    assert score.robust > undefended().robust + 0.12


def test_the_recipe_tells_all_that_decides_the_weights():
    variants = [quick(), quick(beta=1.0), quick(steps=4), quick(step_size=0.5), quick(awp=0.005), quick(ramp=0.5)]
    recipes = [repr(variant.recipe(shop())) for variant in variants]
    assert len(set(recipes)) == len(recipes)


@pytest.mark.parametrize(
    "text", ["trades", "trades:beta=1,steps=40,step_size=1/30", "trades:awp=0.005,threat=(L2:0.5)", "trades:epochs=3"]
)
def test_it_is_written_and_read_as_one_word(text):
    (read,) = resolve_defense(text)
    assert resolve_defense(str(read)) == (read,)


@pytest.mark.parametrize(
    "text, words",
    [
        ("beta=-1", "beta=-1; accepted: 0 and more"),
        ("steps=0", "steps=0; accepted: 1 and more"),
        ("step_size=0", "step_size=0; accepted: more than 0"),
        ("awp=0", "awp=0; accepted: more than 0"),
        ("ramp=2", "ramp=2; accepted: a share"),
        ("epochs=0", "epochs=0"),
        ("attack=(fgsm)", "no option 'attack'"),
    ],
)
def test_what_it_cannot_read_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        resolve_defense(f"trades:{text}")
