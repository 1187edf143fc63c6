"""What is done for speed changes no answer: the fast copy, the order of images in memory, the verdict's settings."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.run import fast
from robustbench_lite.run.exact import exact_math
from robustbench_lite.run.fast import fast_copy, in_fast_layout
from robustbench_lite.system import System


class Net(nn.Module):
    """Two convolutions with batch normalisation between them."""

    def __init__(self, *, viewed: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 5, 3, stride=2)
        self.viewed = viewed
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        if self.viewed:
            x = x.view(len(x), -1).view(x.shape)  # only of what lies in order
        inner = torch.relu(self.norm(self.first(x)))
        return self.second(inner).mean((2, 3))


def system(**options: bool) -> System:
    torch.manual_seed(0)
    return System(model=Net(**options).eval(), num_classes=5, input_shape=(3, 9, 9))


@pytest.fixture
def x() -> Tensor:
    return torch.rand((8, 3, 9, 9), generator=torch.Generator().manual_seed(1))


def test_a_network_of_convolutions_is_shown_its_images_in_channels_last_order(x: Tensor) -> None:
    given = system()
    found = in_fast_layout(given, x)
    assert found.channels_last
    assert found.model is given.model
    assert found.digest == given.digest
    torch.testing.assert_close(found(x).scores, given(x).scores, rtol=1e-5, atol=1e-5)


def test_a_network_that_cannot_take_the_order_is_shown_its_images_as_they_are(x: Tensor) -> None:
    given = system(viewed=True)
    assert in_fast_layout(given, x) is given
    torch.testing.assert_close(given(x).scores, system()(x).scores)


def test_a_network_that_answers_otherwise_in_that_order_is_shown_its_images_as_they_are(x: Tensor) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 5, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).flatten(1) + (0.0 if x.is_contiguous() else 1.0)

    given = System(model=Reads().eval(), num_classes=5, input_shape=(3, 9, 9))
    assert in_fast_layout(given, x) is given


def test_random_networks_and_those_without_convolutions_are_left_alone(x: Tensor) -> None:
    plain = System(model=nn.Sequential(nn.Flatten(), nn.Linear(243, 5)), num_classes=5, input_shape=(3, 9, 9))
    assert in_fast_layout(plain, x) is plain
    noisy = system().with_random_purifier(lambda x, draws, index: x, name="noise")
    assert in_fast_layout(noisy, x) is noisy


def test_the_fast_copy_has_the_answers_and_gradients_of_the_original(x: Tensor) -> None:
    given = system()
    copy = fast_copy(given, x)
    assert copy.notes["fast"] == "folded"
    assert copy.model is not given.model
    grads = []
    for one in (given, copy):
        leaf = x.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(one(leaf).scores[:, 1].sum(), leaf)
        grads.append(grad)
    torch.testing.assert_close(copy(x).scores, given(x).scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_exact_math_puts_every_setting_back() -> None:
    def settings() -> tuple[object, ...]:
        fill = torch.utils.deterministic.fill_uninitialized_memory
        return fill, torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32

    before = settings()
    with exact_math():
        assert settings() == (False, True, False)
    assert settings() == before
    with pytest.raises(ValueError, match="inside"):
        _fail_inside()
    assert settings() == before


def _fail_inside() -> None:
    with exact_math():
        raise ValueError("inside")


def test_one_activation_that_turns_by_rounding_is_no_disagreement_and_a_wrong_fold_is() -> None:
    margins, grads = torch.randn(8), torch.randn(8, 3, 4, 4)
    kinked, wrong = grads.clone(), grads * 1.01
    kinked[2, :, 0, 0] *= 1.05
    expected = (torch.zeros(8), margins, grads)
    assert fast._agree(expected, (torch.zeros(8), margins, kinked))
    assert not fast._agree(expected, (torch.zeros(8), margins, wrong))
    assert not fast._agree(expected, (torch.zeros(8), margins * 1.01, grads))
    kinked[2] = 0
    assert not fast._agree(expected, (torch.zeros(8), margins, kinked))
