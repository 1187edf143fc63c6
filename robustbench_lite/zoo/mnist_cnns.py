"""The two networks that robustness on MNIST is told of: Madry's and that of TRADES. Neither has batch normalisation."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.errors import UserError


class MadryCNN(nn.Module):
    """conv5x5x32-pool-conv5x5x64-pool-fc1024-fc (Madry et al. 2018, arXiv 1706.06083, sec. 5); pooling rounds sizes up."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * -(-height // 4) * -(-width // 4), 1024)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolve in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(convolve(x)), 2, ceil_mode=True)
        scores: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return scores


class TradesCNN(nn.Module):
    """Four 3x3 convolutions without padding, two hidden layers of 200 (Zhang et al. 2019, arXiv 1901.08573, sec. 5)."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int], drop: float) -> None:
        super().__init__()
        channels, *sides = input_shape
        height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
        self.feature_extractor = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        last = nn.Linear(200, num_classes)
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(64 * height * width, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(drop),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=last,
            )
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
                assert part.bias is not None
                nn.init.zeros_(part.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.feature_extractor(x).flatten(1))
        return scores


def madry_mnist(*, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Madry's CNN for MNIST, 3,274,634 parameters: conv1, conv2, fc1, fc2, channels first where the image is flattened."""
    if min(input_shape[1:]) < 4:
        raise UserError(f"madry-mnist takes images of 4 pixels and more, not {input_shape[1]}x{input_shape[2]}")
    return MadryCNN(num_classes, input_shape)


def trades_mnist(*, num_classes: int, input_shape: tuple[int, int, int], drop: float = 0.5) -> nn.Module:
    """The CNN for MNIST of TRADES (SmallCNN), 312,202 parameters, with the names of its published checkpoint.

    Args:
        drop: share of the hidden units that are dropped in training.
    """
    if min(input_shape[1:]) < 16:
        raise UserError(f"trades-mnist takes images of 16 pixels and more, not {input_shape[1]}x{input_shape[2]}")
    if not 0 <= drop < 1:
        raise UserError(f"trades-mnist: drop={drop:g}; accepted: 0 and more, below 1")
    return TradesCNN(num_classes, input_shape, drop)
