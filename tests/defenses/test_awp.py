"""Adversarial weight perturbation: there and back, as long as the weights, biases untouched, in the published order."""

import pytest
import torch
from hardening import shop
from learners import lively, plain, same, system_of, weights
from torch import Tensor, nn

from robustbench_lite.attack import resolve_attack
from robustbench_lite.defenses import awp
from robustbench_lite.defenses.adversarial_training import AdversarialTraining
from robustbench_lite.defenses.trades import Trades
from robustbench_lite.training import Recipe

ATTACK = resolve_attack("pgd:steps=2,step_size=1/2,restarts=1")


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(32, 1, 8, 8, generator=generator), torch.arange(32) % 4


def uphill(model: nn.Module) -> dict[str, Tensor]:
    x, y = data()
    return awp.worst_direction(model, lambda: nn.functional.cross_entropy(model(x), y))


def test_each_direction_is_as_long_as_its_weights():
    model = plain()
    for name, move in uphill(model).items():
        torch.testing.assert_close(move.norm(), dict(model.named_parameters())[name].norm())


def test_weights_of_one_dimension_are_not_perturbed():
    model = lively().train()
    assert set(uphill(model)) == {"1.weight", "5.weight"}


def test_there_and_back_changes_nothing():
    model = lively().train()
    before, moves = weights(model), {name: 0.01 * move for name, move in uphill(model).items()}
    assert same(before, weights(model))  # the ascent's own forward moved no batch statistics
    with awp.moved(model, moves):
        for name, move in moves.items():
            torch.testing.assert_close(model.state_dict()[name], before[name] + move)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-7)


def test_the_weights_come_back_after_an_error():
    model = plain()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt), awp.moved(model, uphill(model)):
        raise KeyboardInterrupt
    for name, value in weights(model).items():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-6)


def test_along_the_direction_the_loss_grows():
    model = plain()
    x, y = data()
    before = nn.functional.cross_entropy(model(x), y).item()
    with awp.moved(model, {name: 0.01 * move for name, move in uphill(model).items()}):
        assert nn.functional.cross_entropy(model(x), y).item() > before


def test_a_weight_of_zeros_stays_and_a_slope_of_zeros_moves_nothing():
    model = plain()
    nn.init.zeros_(model[3].weight)
    assert not uphill(model)["3.weight"].any()
    moves = awp.worst_direction(model, lambda: 0.0 * sum(weight.sum() for weight in model.parameters()))
    assert not any(move.any() for move in moves.values())


class Noted(nn.Module):
    """Notes the weights with which it is shown images in train mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(self.inner[1].weight.detach().clone())
        return self.inner(x)


def test_a_step_is_taken_from_the_perturbed_weights_and_the_perturbation_subtracted():
    """Plain gradient descent by hand: w' = (w + v) - rate * slope at w + v - v."""
    model, options = Noted(plain()), {"attack": ATTACK, "epochs": 1, "batch_size": 96, "early_stopping": False}
    before = model.inner[1].weight.detach().clone()
    training = AdversarialTraining(awp=0.1, **options)
    training.defend(system_of(model), shop())
    ascent, descent = model.seen
    torch.testing.assert_close(ascent, before)
    torch.testing.assert_close((descent - before).norm(), 0.1 * before.norm(), rtol=1e-4, atol=0)
    # One step of Adam moves each weight by its learning rate at the most; the perturbation is ten times that and gone.
    rate = Recipe(epochs=1).learning_rate
    assert float((model.inner[1].weight - before).abs().max()) <= 1.01 * rate
    assert float((descent - before).abs().max()) > 5 * rate


def test_cut_batches_are_perturbed_as_a_whole():
    made = []
    for accumulate in (1, 3):
        model = plain()
        options = {"attack": ATTACK, "epochs": 2, "batch_size": 48, "early_stopping": False, "accumulate": accumulate}
        AdversarialTraining(awp=0.01, **options).defend(system_of(model), shop())
        made.append(weights(model))
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name], rtol=1e-3, atol=1e-5)


def test_trades_perturbs_after_a_tenth_of_the_training():
    model = Noted(plain())
    Trades(awp=0.05, steps=2, epochs=20, batch_size=96, early_stopping=False).defend(system_of(model), shop())
    # Without perturbation a step has two forwards in train mode, with it four.
    assert len(model.seen) == 2 * 2 + 18 * 4


def test_it_changes_the_training_and_keeps_one_seed_one_result():
    made = []
    for gamma in (None, 0.01, 0.01):
        model = lively()
        AdversarialTraining(awp=gamma, attack=ATTACK, epochs=2, batch_size=32).defend(system_of(model), shop())
        made.append(weights(model))
    assert same(made[1], made[2])
    assert not same(made[0], made[1])
    assert int(made[0]["2.num_batches_tracked"]) == int(made[1]["2.num_batches_tracked"])
