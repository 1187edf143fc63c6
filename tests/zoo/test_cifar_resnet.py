"""ResNets in the CIFAR form, against the published weights and a plain reading of the paper."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from shared_data import cifar_test, shared_data
from torch.nn import functional as F

from robustbench_lite import zoo
from robustbench_lite.errors import UserError


def published(depth):
    return shared_data() / "models" / f"resnet{depth}.safetensors"


def batch_norm(w, name, x):
    running = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *running, w[f"{name}.weight"], w[f"{name}.bias"])


def by_the_paper(w, x, blocks):
    """He et al. 2015, section 4.2, straight from the tensors."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = F.relu(batch_norm(w, "bn1", F.conv2d((x - mean) / std, w["conv1.weight"], padding=1)))
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = F.relu(batch_norm(w, f"{name}.bn1", F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1)))
            out = batch_norm(w, f"{name}.bn2", F.conv2d(out, w[f"{name}.conv2.weight"], padding=1))
            if stride == 2:
                zeros = torch.zeros(len(x), x.shape[1] // 2, *out.shape[2:])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = F.relu(out + x)
    return F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])


@pytest.mark.parametrize("depth, parameters", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_the_published_weights_load_and_give_the_papers_function(depth, parameters):
    found = zoo.load(f"resnet{depth};weights={published(depth)}", num_classes=10, input_shape=(3, 32, 32))
    assert found.trained
    assert round(sum(p.numel() for p in found.module.parameters()) / 1e6, 2) == parameters
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = by_the_paper(load_file(published(depth)), x, (depth - 2) // 6)
    torch.testing.assert_close(found.module(x), expected, rtol=1e-4, atol=1e-4)


def test_resnet20_is_right_on_real_images():
    images, labels = cifar_test(200)
    found = zoo.load(f"resnet20;weights={published(20)}", num_classes=10, input_shape=(3, 32, 32))
    with torch.no_grad():
        scores = found.module(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert (scores.argmax(1).numpy() == labels).mean() > 0.88


def test_a_state_dict_of_the_plain_network_and_one_of_the_whole_module_both_load(tmp_path):
    plain = zoo.load("resnet20", num_classes=10, input_shape=(3, 32, 32)).module
    x = torch.rand(2, 3, 32, 32)
    for name, module in (("whole", plain), ("network", plain.network)):
        state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        save_file(state, tmp_path / f"{name}.safetensors")
        spec = f"resnet20;weights={tmp_path / name}.safetensors"
        assert torch.equal(zoo.load(spec, num_classes=10, input_shape=(3, 32, 32)).module(x), plain(x))


def test_other_normalisation_can_be_said():
    half = zoo.load("resnet20;mean=(0.5,0.5,0.5);std=(0.25,0.25,0.25)", num_classes=10, input_shape=(3, 32, 32)).module
    one = zoo.load("resnet20:mean=(0,0,0),std=(1,1,1)", num_classes=10, input_shape=(3, 32, 32)).module
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(half(x), one((x - 0.5) / 0.25))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("linear.bias"), r"linear\.bias is missing \(1 keys missing, 0 too many\)"),
        (lambda w: w.update({"linear.bias": torch.zeros(100)}), r"linear\.bias has shape \(100,\), not \(10,\)"),
        (
            lambda w: w.update({"linear.bias": torch.full((10,), float("nan"))}),
            r"NaN or infinite weights \(linear\.bias",
        ),
        (lambda w: w.update({"linear.bias": torch.full((10,), float("inf"))}), "NaN or infinite weights"),
        (lambda w: w.update({"linear.bias": torch.zeros(10, dtype=torch.int64)}), r"linear\.bias is torch\.int64"),
        (lambda w: w.clear(), "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    network = zoo.load("resnet20", num_classes=10, input_shape=(3, 32, 32)).module.network
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    change(weights)
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=message):
        zoo.load(f"resnet20;weights={tmp_path / 'net.safetensors'}", num_classes=10, input_shape=(3, 32, 32))


def test_weights_for_other_classes_are_refused():
    with pytest.raises(UserError, match=r"linear\.weight has shape \(10, 64\), not \(100, 64\)"):
        zoo.load(f"resnet20;weights={published(20)}", num_classes=100, input_shape=(3, 32, 32))
