"""Small networks without batch normalisation, for digits and MNIST sizes: trained on the spot."""

from itertools import pairwise

from torch import nn

from robustbench_lite.errors import UserError


def small_cnn(
    *, num_classes: int, input_shape: tuple[int, int, int], width: int | None = None, hidden: int = 128
) -> nn.Module:
    """Two 3x3 convolutions and a hidden layer; images of 20 pixels and more are pooled twice.

    Args:
        width: channels of the first convolution, the second has twice as many; 16, or 32 for larger images.
        hidden: units of the hidden layer.
    """
    channels, height, breadth = input_shape
    _check(width=16 if width is None else width, hidden=hidden)
    if min(height, breadth) < 2:
        raise UserError(f"small-cnn takes images of 2 pixels and more, not {height}x{breadth}")
    large = min(height, breadth) >= 20
    first = width or (32 if large else 16)
    shrink = 4 if large else 2
    early = [nn.MaxPool2d(2)] if large else []
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        *early,
        nn.Conv2d(first, 2 * first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * first * (height // shrink) * (breadth // shrink), hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )


def mlp(*, num_classes: int, input_shape: tuple[int, int, int], hidden: int = 256, depth: int = 2) -> nn.Module:
    """Fully connected layers.

    Args:
        hidden: units of each hidden layer. depth: how many of them.
    """
    _check(hidden=hidden, depth=depth)
    channels, height, breadth = input_shape
    sizes = [channels * height * breadth, *[hidden] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))


def linear(*, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Logistic regression: its worst case under every norm is known in closed form."""
    channels, height, breadth = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * breadth, num_classes))


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}={size}; accepted: 1 and more")
