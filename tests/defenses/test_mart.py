"""MART: its formula by hand, term by term."""

import math

import pytest
import torch
from hardening import THREAT, batch_of, on_few_digits, saying, shop, system_saying, undefended
from learners import lively, plain, same, system_of, weights

from robustbench_lite.defense import resolve_defense
from robustbench_lite.defenses.mart import Mart, boosted_cross_entropy
from robustbench_lite.errors import UserError


def quick(**options: object) -> Mart:
    return Mart(**{"steps": 3, "epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


def log(*p: float) -> tuple[float, ...]:
    return tuple(math.log(value) for value in p)


@pytest.mark.parametrize(
    "p, y, expected",
    [
        ((0.5, 0.3, 0.2), 0, -math.log(0.5) - math.log(1.0001 - 0.3)),
        ((0.5, 0.3, 0.2), 1, -math.log(0.3) - math.log(1.0001 - 0.5)),
        ((0.5, 0.3, 0.2), 2, -math.log(0.2) - math.log(1.0001 - 0.5)),
        ((0.25, 0.25, 0.5), 0, -math.log(0.25) - math.log(1.0001 - 0.5)),
    ],
)
def test_the_boosted_cross_entropy_by_hand(p, y, expected):
    found = boosted_cross_entropy(torch.tensor([log(*p)]), torch.tensor([y]))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_it_is_finite_where_another_class_has_all_the_probability():
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = boosted_cross_entropy(logits, torch.tensor([0])).sum()
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(400 - math.log(1e-4), rel=1e-3)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_the_loss_is_the_one_on_paper(beta):
    clean, moved, labels = ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3)), ((0.3, 0.4, 0.3), (0.2, 0.5, 0.3)), (0, 2)
    expected = 0.0
    for p, q, y in zip(clean, moved, labels, strict=True):
        other = max(value for k, value in enumerate(q) if k != y)
        boosted = -math.log(q[y]) - math.log(1.0001 - other + 1e-12)
        apart = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected += (boosted + beta * apart * (1 - p[y])) / 2
    x, adv = (saying(*(log(*p) for p in rows)) for rows in (clean, moved))
    batch = batch_of(x, torch.tensor(labels))
    assert Mart(beta=beta).descended(system_saying(3), batch, adv, THREAT).item() == pytest.approx(expected, rel=1e-5)


def test_a_clean_image_that_is_certain_has_no_divergence():
    x, adv = saying((40.0, 0.0)), saying(log(0.6, 0.4))
    batch = batch_of(x, torch.tensor([0]))
    losses = [Mart(beta=beta).descended(system_saying(), batch, adv, THREAT).item() for beta in (0.0, 100.0)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_it_crafts_with_the_cross_entropy_beside_the_image():
    (attack,) = Mart().inner()
    assert (attack.objective, attack.noise, attack.steps, attack.step_size) == ("ce", 0.001, 10, 0.25)
    model = lively()
    quick(early_stopping=False).defend(system_of(model), shop())
    assert int(model[2].num_batches_tracked) == 9 * 2


def test_one_seed_gives_the_same_bits():
    made = [quick().defend(system_of(plain()), shop()) for _ in range(2)]
    assert same(weights(made[0].model), weights(made[1].model))


def test_on_digits_it_resists_what_breaks_the_undefended_model():
    score = on_few_digits(
        resolve_defense("mart:steps=5,early_stopping=false,epochs=8,batch_size=25,learning_rate=3e-3")[0]
    )
    assert score.clean > 0.65
    assert score.robust > undefended().robust + 0.12


@pytest.mark.parametrize("text", ["mart", "mart:beta=6,steps=20,step_size=1/10", "mart:awp=0.005"])
def test_it_is_written_and_read_as_one_word(text):
    (read,) = resolve_defense(text)
    assert resolve_defense(str(read)) == (read,)


@pytest.mark.parametrize(
    "text, words", [("beta=-1", "beta=-1; accepted: 0 and more"), ("steps=0", "steps=0; accepted: 1 and more")]
)
def test_what_it_cannot_read_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        resolve_defense(f"mart:{text}")
