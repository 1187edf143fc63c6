"""ResNets for 32x32 images (He et al. 2015, arXiv 1512.03385, sec. 4.2), with weightless shortcuts ("option A")."""

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.zoo.adapt import normalising

#: the usual constants of published weights for this architecture, which are ImageNet's
MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"


class Block(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus the shortcut, then ReLU.

    Where the width changes, the shortcut takes every second pixel and pads the channels with zeros on both sides.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = 1 if before == after else 2
        self.missing = (after - before) // 2
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing, self.missing))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """Three stages of n blocks at 16, 32 and 64 channels, global average pooling, one linear layer."""

    def __init__(self, blocks: int, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(x.mean((2, 3)))
        return scores


def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(before, after), *(Block(after, after) for _ in range(blocks - 1)))


def _build(depth: int, num_classes: int, input_shape: tuple[int, int, int], mean: str, std: str) -> nn.Module:
    return normalising(
        lambda channels: CifarResNet((depth - 2) // 6, num_classes, channels), f"resnet{depth}", input_shape, mean, std
    )


def resnet20(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """ResNet-20 in the CIFAR form, 0.27 M parameters.

    Args:
        mean, std: of the three channels of images in [0, 1]; the network normalises by them first.
    """
    return _build(20, num_classes, input_shape, mean, std)


def resnet32(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """ResNet-32 in the CIFAR form, 0.46 M parameters.

    Args:
        mean, std: of the three channels of images in [0, 1]; the network normalises by them first.
    """
    return _build(32, num_classes, input_shape, mean, std)


def resnet44(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """ResNet-44 in the CIFAR form, 0.66 M parameters.

    Args:
        mean, std: of the three channels of images in [0, 1]; the network normalises by them first.
    """
    return _build(44, num_classes, input_shape, mean, std)


def resnet56(*, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD) -> nn.Module:
    """ResNet-56 in the CIFAR form, 0.85 M parameters.

    Args:
        mean, std: of the three channels of images in [0, 1]; the network normalises by them first.
    """
    return _build(56, num_classes, input_shape, mean, std)
