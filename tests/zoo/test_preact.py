"""PreActResNet-18: the paper's function, written again from its weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite import zoo
from robustbench_lite.errors import UserError

WIDTHS = {1: 1, 2: 2, 3: 2, 4: 2}


def by_the_paper(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """He et al. 2016, fig. 1b: each block adds conv(relu(bn(conv(relu(bn(x)))))) to its input."""

    def norm(x: Tensor, at: str) -> Tensor:
        return F.relu(
            F.batch_norm(x, w[f"{at}.running_mean"], w[f"{at}.running_var"], w[f"{at}.weight"], w[f"{at}.bias"])
        )

    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage, first in WIDTHS.items():
        for block, stride in enumerate((first, 1)):
            at = f"layer{stage}.{block}"
            active = norm(x, f"{at}.bn1")
            short = f"{at}.shortcut.0.weight"
            skip = F.conv2d(active, w[short], stride=stride) if short in w else x
            out = F.conv2d(active, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            x = F.conv2d(norm(out, f"{at}.bn2"), w[f"{at}.conv2.weight"], padding=1) + skip
    return F.linear(norm(x, "bn").mean((2, 3)), w["linear.weight"], w["linear.bias"])


def test_it_is_the_function_of_the_paper_and_has_its_size() -> None:
    module = zoo.load("preactresnet18:mean=(0,0,0),std=(1,1,1)", num_classes=10, input_shape=(3, 32, 32)).module.eval()
    network = module.network
    assert sum(p.numel() for p in network.parameters()) == 11_172_170
    generator = torch.Generator().manual_seed(0)
    for name, buffer in network.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("var") else -0.5))
    x = torch.rand(2, 3, 32, 32, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(module(x), by_the_paper(network.state_dict(), x), rtol=1e-4, atol=1e-4)


def test_other_images_and_classes() -> None:
    assert zoo.load("preactresnet18", num_classes=7, input_shape=(1, 28, 28)).module.eval()(
        torch.rand(2, 1, 28, 28)
    ).shape == (2, 7)
    with pytest.raises(UserError, match="preactresnet18 takes images of 8 pixels and more, not 4x4"):
        zoo.load("preactresnet18", num_classes=7, input_shape=(3, 4, 4))
