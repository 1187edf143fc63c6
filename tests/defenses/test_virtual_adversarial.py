"""Virtual adversarial training: the divergence, the direction of a known Hessian, and images without labels."""

import numpy as np
import pytest
import torch
from learners import SHAPE, blobs, lively, plain, same, system_of, weights
from torch import Tensor, nn

from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.virtual_adversarial import (
    VirtualAdversarial,
    direction,
    divergence,
    labelled,
    supervised,
)
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.system import System
from robustbench_lite.training import Batch, Moment


def shop(**options: object) -> Workshop:
    return Workshop(**{"train": blobs(), "seed": 3, **options})  # type: ignore[arg-type]


def quick(**options: object) -> VirtualAdversarial:
    return VirtualAdversarial(**{"epochs": 3, "batch_size": 32, **options})  # type: ignore[arg-type]


def batch(y: Tensor | None = None) -> Batch:
    data, at = blobs(), range(32)
    x, labels = data.batch(at), data.labels_at(at)
    return Batch(x=x, y=labels if y is None else y, indices=torch.arange(32), draws=Draws.for_images(0, x, labels))


def logistic(classes: int, seed: int) -> tuple[nn.Module, Tensor]:
    """z = W x of 2-D images, and W."""
    w = torch.randn((classes, 2), generator=torch.Generator().manual_seed(seed))
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, classes, bias=False))
    model[1].load_state_dict({"weight": w})
    return model.requires_grad_(False), w.double()


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 1, 1, 2), generator=generator), torch.randn((count, 1, 1, 2), generator=generator)


def test_the_divergence_is_never_negative_and_zero_at_home():
    generator = torch.Generator().manual_seed(0)
    z = 5 * torch.randn((1000, 10), generator=generator)
    for width in (1e-4, 1e-2, 1.0, 30.0):
        assert float(divergence(z, z + width * torch.randn(z.shape, generator=generator)).min()) >= 0
    assert float(divergence(z, z).abs().max()) == 0


def test_the_divergence_is_the_one_on_paper_and_holds_its_first_side_fixed():
    before, after = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 0.0]], requires_grad=True)
    value = divergence(before, after)
    p = 1 / (1 + np.exp(-2))
    assert float(value.detach()) == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    value.sum().backward()
    assert before.grad is None
    torch.testing.assert_close(after.grad, torch.tensor([[0.5 - p, p - 0.5]], dtype=torch.float32))


@pytest.mark.parametrize("probe", [1e-1, 1e-2, 1e-3])
def test_with_two_classes_one_round_finds_the_direction(probe):
    """The Hessian of the divergence is p (1 - p) v v^T with v = w_1 - w_0: any start that is not orthogonal will do."""
    model, w = logistic(2, seed=1)
    x, start = points(64, seed=2)
    found = direction(model, x, start, 1, probe).flatten(1).double()
    v = (w[1] - w[0]) / (w[1] - w[0]).norm()
    assert float((found @ v).abs().min()) > 0.999


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_rounds_align_with_the_top_eigenvector_of_the_hessian(seed):
    model, w = logistic(3, seed)
    x, start = points(64, seed + 10)
    p = (x.flatten(1).double() @ w.T).softmax(1)
    hessian = torch.einsum("ci,nc,cj->nij", w, p, w) - torch.einsum("nc,ci,nd,dj->nij", p, w, p, w)
    values, vectors = torch.linalg.eigh(hessian)
    found = direction(model, x, start, 40, 1e-2).flatten(1).double()
    clear = values[:, 1] > 1.3 * values[:, 0]
    assert int(clear.sum()) > 10
    assert float((found * vectors[:, :, 1]).sum(1).abs()[clear].min()) > 0.99


def test_directions_are_unit_vectors_also_where_nothing_changes():
    x, start = points(8, seed=0)
    model, _ = logistic(2, seed=0)
    for scores in (model, lambda x: x.flatten(1) * 0):
        found = direction(scores, x, start, 2, 1e-3)
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(8))


def test_at_length_zero_there_is_nothing_to_smooth():
    told = [
        quick(eps=eps, alpha=alpha).defend(system_of(plain()), shop()).notes["training"]["last"]["loss"]
        for eps, alpha in ((0.0, 5.0), (1.0, 0.0))
    ]
    assert told[0] == told[1]


def test_the_roughness_does_not_depend_on_labels():
    loss = VirtualAdversarial(unlabelled=1).loss(system_of(model := plain()), shop())
    given = batch()
    shuffled = batch(given.y.flip(0))
    assert torch.equal(loss(model, given, Moment(0, 0)), loss(model, shuffled, Moment(0, 0)))


def test_a_batch_without_any_label_is_learned_from():
    model = plain()
    system = system_of(model)
    model.requires_grad_(True)
    loss = VirtualAdversarial(unlabelled=1).loss(system, shop())(model, batch(), Moment(0, 0))
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in model.parameters() if p.dim() > 1)
    assert (
        float(supervised(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool))) == 0
    )


@pytest.mark.parametrize("share, kept", [(0.0, 24), (0.9, 3), (0.95, 2), (1.0, 0)])
def test_every_class_keeps_the_same_share_of_its_labels(share, kept):
    labels = blobs().labels
    known = labelled(labels, share, seed=0)
    assert [int(known[labels == label].sum()) for label in range(4)] == [kept] * 4
    if 0 < share < 1:
        assert not np.array_equal(known, labelled(labels, share, seed=1))


def test_labels_that_are_unknown_play_no_part():
    """Wrong ones in their place train the same weights."""
    train = blobs()
    known = labelled(train.labels, 0.5, seed=3)
    corrupted = np.where(known, train.labels, (train.labels + 1) % 4)
    losses = []
    for labels in (train.labels, corrupted):
        y = torch.from_numpy(labels[:32])
        losses.append(quick(unlabelled=0.5).loss(system_of(model := plain()), shop())(model, batch(y), Moment(0, 0)))
    assert torch.equal(losses[0], losses[1])


class Counted(nn.Module):
    """Notes every pass in training mode, and the dropout mask it drew."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last, self.masks = (
            nn.BatchNorm1d(64),
            nn.Dropout(0.5),
            nn.Linear(64, 4),
            list[Tensor](),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.flatten(1))
        self.masks.append(self.drop(torch.ones_like(h)))
        return self.last(h * self.masks[-1])


def test_passes_share_their_dropout_and_only_the_first_moves_statistics():
    model = Counted()
    system = system_of(model)
    loss = VirtualAdversarial(rounds=2).loss(system, shop())
    model.train().requires_grad_(True)
    loss(model, batch(), Moment(0, 0)).backward()
    assert len(model.masks) == 5  # clean, clean again for the direction, two rounds, x + r
    assert all(torch.equal(mask, model.masks[0]) for mask in model.masks)
    assert int(model.norm.num_batches_tracked) == 1
    assert model.norm.track_running_stats
    loss(model, batch(), Moment(0, 0.5))
    assert not torch.equal(model.masks[5], model.masks[0])


def test_one_seed_gives_the_same_bits_and_another_seed_others():
    bits = [weights(quick(unlabelled=0.5).defend(system_of(lively()), shop(seed=seed)).model) for seed in (3, 3, 4)]
    assert same(bits[0], bits[1])
    assert not same(bits[0], bits[2])


def test_it_smooths_the_model_around_the_data():
    """Trained with and without, the answers move less along the worst direction; for any seed."""
    x = blobs().batch(range(96))
    start = torch.randn((96, *SHAPE), generator=torch.Generator().manual_seed(0))

    def moved(system: System) -> float:
        model = system.model
        r = direction(model, x, start, 5, 1e-2)
        return float(divergence(model(x), model(x + r)).mean())

    rough, smooth = (
        moved(
            VirtualAdversarial(alpha=alpha, epochs=15, batch_size=32, learning_rate=0.01).defend(
                system_of(plain()), shop()
            )
        )
        for alpha in (0.0, 5.0)
    )
    assert smooth < 0.7 * rough


@pytest.mark.parametrize(
    "options, told",
    [
        ("unlabelled=1.5", "a share from 0 to 1"),
        ("probe=0", "above 0"),
        ("rounds=0", "1 and more"),
        ("eps=-1", "0 and more"),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        resolve_defense(f"virtual-adversarial:{options}")
