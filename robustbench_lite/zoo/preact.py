"""PreActResNet-18 for 32x32 images (He et al. 2016, arXiv 1603.05027): the usual network of adversarial training."""

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.zoo.adapt import normalising

#: of CIFAR-10's training images
MEAN, STD = "0.4914,0.4822,0.4465", "0.2471,0.2435,0.2616"


class PreActivation(nn.Module):
    """BN-ReLU-conv3x3 twice, plus the shortcut: what its `short` makes of the activated input, or the input itself."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)

    @property
    def short(self) -> nn.Module | None:
        """Under the name that published weights have for it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        short = x if self.short is None else self.short(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + short
        return out


class PreActBlock(PreActivation):
    """Its shortcut is a 1x1 convolution where shape or width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__(before, after, stride)
        changes = stride != 1 or before != after
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False)) if changes else None

    @property
    def short(self) -> nn.Module | None:
        return self.shortcut


class PreActResNet(nn.Module):
    """A 3x3 convolution, four stages of two blocks at 64 to 512 channels, BN-ReLU, global average pooling, one linear layer."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        scores: Tensor = self.linear(F.relu(self.bn(x)).mean((2, 3)))
        return scores


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreActBlock(before, after, stride), PreActBlock(after, after, 1))


def preactresnet18(
    *, num_classes: int, input_shape: tuple[int, int, int], mean: str = MEAN, std: str = STD
) -> nn.Module:
    """PreActResNet-18 in the CIFAR form, 11.2 M parameters.

    Args:
        mean, std: of the channels of images in [0, 1]; the network normalises by them first.
    """
    return normalising(lambda channels: PreActResNet(num_classes, channels), "preactresnet18", input_shape, mean, std)
