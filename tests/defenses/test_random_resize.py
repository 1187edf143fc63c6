"""Random resizing and padding: torch's own resizing of each image, at sizes and places of its own."""

import pytest
import torch
import torch.nn.functional as F
from learners import blobs, plain, system_of
from torch import Tensor

from robustbench_lite.defense import Workshop, resolve_defense
from robustbench_lite.defenses.random_resize import RandomResizePad
from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws


def images(count: int, channels: int = 1, height: int = 8, width: int = 8) -> tuple[Tensor, Draws]:
    x = torch.rand((count, channels, height, width), generator=torch.Generator().manual_seed(0))
    return x, Draws.for_images(0, x, torch.arange(count))


def shrunk(x: Tensor, size: tuple[int, int], at: tuple[int, int]) -> Tensor:
    """One image (c, h, w), resized by torch, with black around it."""
    small = F.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]
    canvas = torch.zeros_like(x)
    canvas[:, at[0] : at[0] + size[0], at[1] : at[1] + size[1]] = small
    return canvas


@pytest.mark.parametrize("shape, smallest", [((1, 8, 8), 0.6), ((3, 9, 13), 0.7), ((3, 12, 7), 0.8)])
def test_every_draw_is_torchs_resizing_of_some_size_at_some_place(shape, smallest):
    defense = RandomResizePad(smallest=smallest)
    x, draws = images(6, *shape)
    longer = max(shape[1:])
    known = []
    for side in range(defense.least(longer), longer + 1):
        size = tuple(max(1, (2 * side * one + longer) // (2 * longer)) for one in shape[1:])
        known += [(size, (i, j)) for i in range(shape[1] - size[0] + 1) for j in range(shape[2] - size[1] + 1)]
    for number in range(4):
        for image, made in zip(x, defense.resized(x, draws, number), strict=True):
            assert any(torch.allclose(shrunk(image, *how), made, atol=1e-6) for how in known)


def test_all_sizes_and_places_come():
    defense = RandomResizePad(smallest=0.7)
    x = torch.ones(400, 1, 8, 8)
    draws = Draws.of(0, [number.to_bytes(8, "little") for number in range(400)])
    inside = defense.resized(x, draws, 0)[:, 0] > 0
    corners = {
        (int(mask.any(1).nonzero()[0]), int(mask.any(0).nonzero()[0]), int(mask.any(1).sum())) for mask in inside
    }
    assert corners == {(i, j, size) for size in (6, 7, 8) for i in range(9 - size) for j in range(9 - size)}
    share = (inside.flatten(1).sum(1) == 64).double().mean()
    assert float(share) == pytest.approx(1 / 3, abs=0.08)


def test_an_image_has_the_same_draw_alone_and_another_one_next_time():
    defense = RandomResizePad(smallest=0.6)
    x, draws = images(8)
    whole = defense.resized(x, draws, 3)
    alone = torch.cat([defense.resized(x[i : i + 1], draws[torch.tensor([i])], 3) for i in range(8)])
    assert torch.equal(whole, alone)
    assert not torch.equal(whole, defense.resized(x, draws, 4))
    index = torch.tensor([3] * 4 + [4] * 4)
    mixed = defense.resized(x, draws, index)
    assert torch.equal(mixed[:4], whole[:4])
    assert torch.equal(mixed[4:], defense.resized(x, draws, 4)[4:])


@pytest.mark.parametrize("side", [2, 8, 28, 224])
def test_it_works_from_two_pixels_to_a_photograph(side):
    x, draws = images(2, 3, side, side)
    made = RandomResizePad().resized(x, draws, 0)
    assert made.shape == x.shape
    assert bool(((made >= 0) & (made <= 1)).all())
    assert RandomResizePad().least(side) < side


def test_its_gradient_is_that_of_its_draw():
    defense = RandomResizePad(smallest=0.6)
    x, draws = images(3)
    leaf = x.double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: defense.resized(z, draws, 0), (leaf,), eps=1e-6, atol=1e-6)


def test_the_system_is_random_and_says_so():
    (defense,) = resolve_defense("random-resize-pad:smallest=0.7")
    system = defense.defend(system_of(plain()), Workshop(train=blobs()))
    assert system.randomised
    assert defense.adaptivity == "adaptive"


def test_a_share_out_of_range_and_a_single_pixel_are_refused():
    with pytest.raises(UserError, match="smallest=1; accepted: between 0 and 1"):
        RandomResizePad(smallest=1.0)
    from robustbench_lite.system import System

    with pytest.raises(UserError, match="takes images of 2 pixels and more"):
        RandomResizePad().defend(System(model=plain(), num_classes=4, input_shape=(1, 1, 8)), Workshop(train=blobs()))
