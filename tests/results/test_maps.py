"""Maps on a linear model have a closed form: the weights themselves, and what a patch takes from the sum."""

import pytest
import torch
from torch import Tensor, nn
from toys import two_layers

from robustbench_lite.errors import UserError
from robustbench_lite.randomness import Draws
from robustbench_lite.results.maps import METHODS, Method, Occlusion, Saliency, method
from robustbench_lite.system import System


class Linear(nn.Module):
    """z_k = sum W_k x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)


def linear(classes: int = 3, shape: tuple[int, int, int] = (3, 6, 8)) -> tuple[System, Tensor]:
    weight = torch.randn((classes, *shape), generator=torch.Generator().manual_seed(0))
    return System(model=Linear(weight), num_classes=classes, input_shape=shape), weight


def images(count: int = 5, shape: tuple[int, int, int] = (3, 6, 8)) -> tuple[Tensor, Tensor, Draws]:
    x = torch.rand((count, *shape), generator=torch.Generator().manual_seed(1))
    k = torch.arange(count) % 3
    return x, k, Draws.for_images(0, x, k)


@pytest.mark.parametrize("smooth", [0, 1, 7])
def test_the_saliency_of_a_linear_model_is_its_weights(smooth: int) -> None:
    system, weight = linear()
    x, k, draws = images()
    assert torch.allclose(Saliency(smooth=smooth).maps(system, x, k, draws), weight[k].abs().amax(1), atol=1e-6)


def test_times_input_is_what_each_pixel_adds() -> None:
    system, weight = linear()
    x, k, draws = images()
    found = Saliency(times_input=True).maps(system, x, k, draws)
    assert torch.allclose(found, (weight[k] * x).abs().amax(1), atol=1e-6)


@pytest.mark.parametrize("cover, base", [("grey", 0.5), ("black", 0.0), ("mean", None)])
def test_the_drop_of_a_linear_model_is_what_the_patch_added(cover: str, base: float | None) -> None:
    system, weight = linear()
    x, k, draws = images()
    how = method(f"occlusion:size=2,stride=2,show=drop,cover={cover}")
    found = how.maps(system, x, k, draws)
    under = x - (x.mean((2, 3), keepdim=True) if base is None else base)
    added = (weight[k] * under).sum(1)  # (n, h, w)
    wanted = added.unfold(1, 2, 2).unfold(2, 2, 2).sum((3, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_overlapping_windows_are_averaged() -> None:
    system, weight = linear()
    x, k, draws = images()
    found = Occlusion(size=3, stride=1, show="drop").maps(system, x, k, draws)
    added = (weight[k] * (x - 0.5)).sum(1)
    total, seen = torch.zeros_like(added), torch.zeros(added.shape[1:])
    for top in range(4):
        for left in range(6):
            place = (..., slice(top, top + 3), slice(left, left + 3))
            total[place] += added[place].sum((1, 2))[:, None, None]
            seen[place] += 1
    assert torch.allclose(found, total / seen, atol=1e-5)


@pytest.mark.parametrize("show", ["probability", "drop"])
@pytest.mark.parametrize("stride", ["none", "1", "3"])
def test_a_patch_as_large_as_the_image_gives_a_flat_map(show: str, stride: str) -> None:
    system, _ = linear()
    x, k, draws = images()
    found = method(f"occlusion:size=100,stride={stride},show={show}").maps(system, x, k, draws)
    assert (found.flatten(1).amax(1) == found.flatten(1).amin(1)).all()
    grey = torch.full_like(x, 0.5)
    if show == "probability":
        assert torch.allclose(found[:, 0, 0], system(grey).scores.softmax(1).gather(1, k[:, None]).squeeze(1))


@pytest.mark.parametrize("size, stride", [(2, 1), (3, 2), (4, 4), (5, 3), (1, 1), (2, 9)])
def test_windows_lie_inside_and_leave_no_pixel_out(size: int, stride: int) -> None:
    seen = torch.zeros(7, 9, dtype=torch.int64)
    for top, left, high, wide in Occlusion(size=size, stride=stride).windows(7, 9):
        assert top + high <= 7
        assert left + wide <= 9
        seen[top : top + high, left : left + wide] += 1
    assert (seen > 0).all()


@pytest.mark.parametrize("spec", ["saliency", "saliency:smooth=3", "occlusion", "occlusion:cover=blur"])
def test_other_weights_give_another_map(spec: str) -> None:
    one, other = two_layers(seed=0), two_layers(seed=1)
    x, k, draws = images(4, (1, 8, 8))
    maps = [method(spec).maps(system, x, k, draws) for system in (one, other)]
    assert all(part.shape == (4, 8, 8) and part.isfinite().all() for part in maps)
    assert not torch.allclose(*maps, atol=1e-3)


@pytest.mark.parametrize("spec", ["saliency:smooth=3", "occlusion:size=3"])
def test_batches_do_not_matter_and_nothing_is_changed(spec: str) -> None:
    system, _ = linear()
    x, k, draws = images(7)
    before = x.clone()
    whole, parts = (method(spec).maps(system, x, k, draws, batch=batch) for batch in (64, 2))
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.equal(x, before)
    assert not whole.requires_grad


def test_methods_print_back_and_mistakes_are_told() -> None:
    for text in ("saliency", "saliency:smooth=9,sigma=0.2", "occlusion:size=4,cover=mean"):
        assert str(method(text)) == text
    assert isinstance(method(Saliency()), Method)
    assert set(METHODS) == {"saliency", "occlusion"}
    for text, said in {
        "salience": "unknown method 'salience'; did you mean 'saliency'",
        "saliency:smooth=-1": "smooth=-1; accepted: 0 and more",
        "occlusion:size=0": "size=0; accepted: 1 and more",
        "occlusion:cover=gray": "did you mean grey",
    }.items():
        with pytest.raises(UserError, match=said):
            method(text)


class Outside(nn.Module):
    """A network that leaves torch on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().sum(1).reshape(len(x), -1)[:, :3].copy())


def test_a_model_without_a_gradient_has_no_saliency_and_says_so() -> None:
    x, k, draws = images()
    system = System(model=Outside(), num_classes=3, input_shape=(3, 6, 8))
    with pytest.raises(UserError, match="no gradient comes through"):
        Saliency().maps(system, x, k, draws)
    assert Occlusion().maps(system, x, k, draws).shape == (5, 6, 8)
