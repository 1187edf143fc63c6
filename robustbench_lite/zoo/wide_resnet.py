"""Wide ResNets for 32x32 images (Zagoruyko and Komodakis 2016, arXiv 1605.07146), named as in the published robust weights.

The usual checkpoints of adversarial training (TRADES, 1901.08573, and most that came after it) hold these keys: conv1,
block1.layer.0.bn1, block1.layer.0.convShortcut, bn1, fc. Those networks see [0, 1] as it is.
"""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.errors import UserError
from robustbench_lite.zoo.adapt import normalising
from robustbench_lite.zoo.preact import PreActivation

#: nothing is subtracted, nothing divided
MEAN, STD = "0,0,0", "1,1,1"


class WideBlock(PreActivation):
    """Its shortcut is a 1x1 convolution where the width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride)
        self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    @property
    def short(self) -> nn.Module | None:
        return self.convShortcut


class Stage(nn.Module):
    """n blocks; the first changes the width and takes the stride."""

    def __init__(self, before: int, after: int, stride: int, blocks: int) -> None:
        super().__init__()
        rest = (WideBlock(after, after, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(WideBlock(before, after, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """A 3x3 convolution, three stages of (depth - 4) / 6 blocks, BN-ReLU, global average pooling, one linear layer."""

    #: a second first stage that the authors' code of TRADES makes and never calls; its weights are in many checkpoints
    unused_weights: ClassVar[tuple[str, ...]] = ("sub_block1.",)

    def __init__(self, depth: int, width: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        sizes = list(pairwise((16, 16 * width, 32 * width, 64 * width)))
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1 = Stage(*sizes[0], 1, blocks)
        self.block2 = Stage(*sizes[1], 2, blocks)
        self.block3 = Stage(*sizes[2], 2, blocks)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        scores: Tensor = self.fc(F.relu(self.bn1(x)).mean((2, 3)))
        return scores


def wide_resnet(
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    depth: int = 28,
    width: int = 10,
    mean: str = MEAN,
    std: str = STD,
) -> nn.Module:
    """A wide ResNet of any size: WRN-16-4 is `wrn:depth=16,width=4`.

    Args:
        depth: 6 n + 4 layers. width: how many times wider than a ResNet.
        mean, std: of the channels of images in [0, 1]; the network normalises by them first, if they are given.
    """
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f"wrn: depth={depth}; accepted: 10, 16, 22, 28, 34 and so on")
    if width < 1:
        raise UserError(f"wrn: width={width}; accepted: 1 and more")
    what = f"wrn-{depth}-{width}"
    return normalising(lambda channels: WideResNet(depth, width, num_classes, channels), what, input_shape, mean, std)


def wrn_28_10(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """WRN-28-10, 36.5 M parameters; with the names of the published robust checkpoints.

    Args:
        mean, std: of the channels of images in [0, 1]; the network normalises by them first, if they are given.
    """
    return wide_resnet(num_classes=num_classes, input_shape=input_shape, depth=28, width=10, mean=mean, std=std)


def wrn_34_10(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """WRN-34-10, 46.2 M parameters; with the names of the published robust checkpoints.

    Args:
        mean, std: of the channels of images in [0, 1]; the network normalises by them first, if they are given.
    """
    return wide_resnet(num_classes=num_classes, input_shape=input_shape, depth=34, width=10, mean=mean, std=std)
