"""timm and torchvision, without a network."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

from robustbench_lite import zoo
from robustbench_lite.errors import UserError

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
RGB = {"num_classes": 6, "input_shape": (3, 32, 32)}
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options, trained", [("", False), (";random=true", True), (";pretrained=false", True), (";random=false", False)]
)
@pytest.mark.parametrize("hub", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_a_model_without_weights_is_trained_unless_the_user_says_otherwise(hub, options, trained):
    found = zoo.load(hub + options, **RGB)
    assert (found.trained, found.num_classes, found.module(X).shape) == (trained, 6, (2, 6))
    assert found.fresh().training


def test_random_weights_are_the_same_in_every_run():
    one, other = (zoo.load("timm:test_resnet;random=true", **RGB).module(X) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name, size", [("test_resnet", 32), ("test_vit", 160)])
def test_normalisation_comes_from_timms_metadata_and_resizing_is_inside(name, size):
    net = timm.create_model(name, num_classes=6).eval()
    config = net.pretrained_cfg
    found = zoo.load(f"timm:{name};resize={size};random=true", **RGB)
    found.module.network.load_state_dict(net.state_dict())
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = X if size == 32 else F.interpolate(X, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.module(X), net((x - mean) / std))


def test_local_weights_of_timm_and_torchvision_load(tmp_path):
    for spec, net in [
        ("timm:test_resnet", timm.create_model("test_resnet", num_classes=6)),
        ("torchvision:shufflenet_v2_x0_5", models.shufflenet_v2_x0_5(num_classes=6)),
    ]:
        save_file({key: tensor.clone() for key, tensor in net.state_dict().items()}, tmp_path / "net.safetensors")
        found = zoo.load(f"{spec};weights={tmp_path / 'net.safetensors'}", **RGB)
        own = found.module.mean.view(1, 3, 1, 1), found.module.std.view(1, 3, 1, 1)
        assert found.trained
        torch.testing.assert_close(found.module(X), net.eval()((X - own[0]) / own[1]))


def test_torchvisions_normalisation_is_that_of_its_weights():
    found = zoo.load("torchvision:shufflenet_v2_x0_5;random=true", **RGB)
    torch.testing.assert_close(found.module.mean, MEAN)
    torch.testing.assert_close(found.module.std, STD)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_inceptions_answer_with_one_tensor_in_training_too(name):
    fresh = zoo.load(f"torchvision:{name};resize=75", **RGB).fresh()
    assert isinstance(fresh(X), torch.Tensor)


def test_grey_images_are_repeated_on_request_only():
    grey = {"num_classes": 6, "input_shape": (1, 32, 32)}
    with pytest.raises(UserError, match="takes 3 channels but the images are 1x32x32; add ;grey=repeat"):
        zoo.load("timm:test_resnet;random=true", **grey)
    found = zoo.load("timm:test_resnet;random=true;grey=repeat", **grey)
    colour = zoo.load("timm:test_resnet;random=true", **RGB)
    torch.testing.assert_close(found.module(X[:, :1]), colour.module(X[:, :1].expand(-1, 3, -1, -1)))


def test_imagenet_heads_meet_imagenet_data_and_refuse_other_classes(monkeypatch):
    made = {}

    def offline(name, pretrained, **extra):
        made.update(extra, pretrained=pretrained)
        return models_made(name, **extra)

    models_made = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    found = zoo.load("timm:test_resnet;pretrained=true", num_classes=1000, input_shape=(3, 32, 32))
    assert (made, found.num_classes, found.trained) == ({"pretrained": True}, 1000, True)
    with pytest.raises(UserError, match="has 1000 classes but the data 2, cat and so on"):
        zoo.load("timm:test_resnet;pretrained=true", num_classes=2, input_shape=(3, 32, 32), class_names=("cat", "dog"))


@pytest.mark.parametrize(
    "spec, shape",
    [
        ("timm:test_resnet;in_chans=1;random=true", (1, 32, 32)),
        ("timm:test_vit;img_size=32;random=true", (3, 32, 32)),
        ("timm:test_vit;img_size=32;in_chans=1;random=true", (1, 32, 32)),
        ("timm:test_resnet;in_chans=5;normalize=none;random=true", (5, 32, 32)),
        ("timm:test_resnet;num_classes=9;random=true", (3, 32, 32)),
        ("torchvision:vit_b_32;img_size=32;random=true", (3, 32, 32)),
        ("torchvision:googlenet;aux_logits=true;random=true;resize=64", (3, 32, 32)),
        ("torchvision:googlenet;aux_logits=false;resize=64", (3, 32, 32)),
    ],
)
def test_options_of_the_hubs_own_functions(spec, shape):
    found = zoo.load(spec, num_classes=6, input_shape=shape)
    classes = 9 if "num_classes=9" in spec else 6
    assert found.module(torch.rand(2, *shape)).shape == (2, classes)
    assert len(found.notes["loading"]["mean"]) in (1, shape[0])
    assert found.notes.get("random", False) == ("random=true" in spec)


def test_one_channel_is_normalised_by_the_mean_of_three():
    found = zoo.load("timm:test_resnet;in_chans=1;random=true", num_classes=6, input_shape=(1, 32, 32))
    config = timm.create_model("test_resnet").pretrained_cfg
    assert found.module.mean.item() == pytest.approx(sum(config["mean"]) / 3)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("heads", [True, False])
def test_weights_with_and_without_auxiliary_heads_load(tmp_path, name, heads):
    net = models.get_model(name, num_classes=6, aux_logits=heads, init_weights=True)
    save_file({key: tensor.clone() for key, tensor in net.state_dict().items()}, tmp_path / "net.safetensors")
    for asked in (heads, False):
        spec = f"torchvision:{name};weights={tmp_path / 'net.safetensors'};aux_logits={str(asked).lower()};resize=75"
        found = zoo.load(spec, **RGB)
        left = found.notes["loading"].get("left_out", {"count": 0})
        assert (left["count"] > 0) == (heads and not asked)


def test_torchvision_tells_the_accuracy_of_its_own_weights_alone(monkeypatch):
    made = models.get_model
    monkeypatch.setattr(models, "get_model", lambda name, weights, **extra: made(name, weights=None, **extra))
    found = zoo.load(
        "torchvision:shufflenet_v2_x0_5;pretrained=true;resize=32", num_classes=1000, input_shape=(3, 32, 32)
    )
    assert found.notes["told"] == {
        "clean_acc": pytest.approx(0.60552),
        "dataset": "imagenet",
        "source": "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1",
    }
    assert "told" not in zoo.load("torchvision:shufflenet_v2_x0_5;random=true", **RGB).notes


@pytest.mark.parametrize(
    "text, expected",
    [
        ("torchvision:resnet18;pretrained=true", (256, (224, 224), "bilinear", 1000)),
        ("torchvision:inception_v3", (342, (299, 299), "bilinear", 1000)),
        ("torchvision:vit_b_16;img_size=112", (128, (112, 112), "bilinear", 1000)),
        ("timm:vit_base_patch16_224;pretrained=true", (248, (224, 224), "bicubic", 1000)),
        ("timm:resnet50.a1_in1k", (235, (224, 224), "bicubic", 1000)),
        ("timm:test_vit;img_size=80", (84, (80, 80), "bicubic", 1000)),
    ],
)
def test_the_recipe_of_pretrained_weights_is_told_without_a_network(monkeypatch, text, expected):
    def unasked(*args, **kwargs):
        raise AssertionError("a network was made")

    monkeypatch.setattr(timm, "create_model", unasked)
    monkeypatch.setattr(models, "get_model", unasked)
    found = zoo.preprocessing(text)
    assert (found.resize, found.crop, found.interpolation, found.num_classes) == expected
    assert len(found.mean) == len(found.std) == 3


@pytest.mark.parametrize("text", ["resnet20", "timm:nothing", "torchvision:nothing", "net.py:make", "checkpoint:a.pt"])
def test_other_models_have_no_recipe(text):
    assert zoo.preprocessing(text) is None


@pytest.mark.parametrize(
    "hub, module, name", [("timm:test_resnet", timm, "create_model"), ("torchvision:alexnet", models, "get_model")]
)
def test_weights_that_cannot_be_fetched_are_asked_for_as_a_file(monkeypatch, hub, module, name):
    def offline(*args, **kwargs):
        raise OSError("no network\nlong story")

    monkeypatch.setattr(module, name, offline)
    with pytest.raises(
        UserError, match=r"cannot fetch the pretrained weights \(OSError: no network\); .*;weights=FILE"
    ):
        zoo.load(f"{hub};pretrained=true", **RGB)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("timm:resnet188", "timm has no model 'resnet188'; did you mean timm:resnet1"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; did you mean torchvision:resnet1"),
        ("timm:", "timm has no model ''"),
        ("timm:zzzzqqqq", r"timm has no model 'zzzzqqqq'; it knows \d+, such as timm:resnet18"),
        ("torchvision:fcn_resnet50", "torchvision has no model"),
        ("timm:test_resnet;pretrain=true", "has no option 'pretrain'.*did you mean pretrained"),
        ("timm:test_resnet;pretrained=maybe", "pretrained=maybe"),
        ("timm:test_resnet;grey=average", "grey=average"),
        ("timm:test_resnet;resize=0", "resize=0; accepted: 1 and more"),
        ("timm:test_resnet;mean=(0.5)", "give mean and std together"),
        ("timm:test_resnet;mean=(0.5,0.5);std=(1,1)", r"mean=\(0.5,0.5\) has 2 numbers but the images have 3 channels"),
        ("timm:test_resnet;mean=(0.5);std=(0)", "std above 0"),
        ("timm:test_resnet;num_classes=1", "num_classes=1; accepted: 2 and more"),
        ("timm:test_resnet;num_classes=5;random=true", "labels reach 5 but .* has 5 classes"),
        ("timm:test_resnet;random=true;weights=a.safetensors", "weights and random say different things"),
        ("timm:test_resnet;pretrained=true;num_classes=6", "pretrained weights bring their own classes"),
        ("timm:vit_tiny_patch16_224;random=true", "cannot take images 3x32x32: AssertionError: Input height"),
        (
            "timm:test_resnet;mean=(124,116,104);std=(58,57,57)",
            r"are for images from 0 to 255.*write mean=\(0.486.*std=\(0.227",
        ),
        ("timm:test_resnet;mean=(103.9,116.8,123.7);std=(1,1,1)", r"std=\(0.00392157,0.00392157,0.00392157\)"),
        ("timm:test_resnet;normalize=imagnet", "normalize=imagnet; accepted: imagenet, .*did you mean imagenet"),
        ("timm:test_resnet;normalize=imagenet;mean=(0.5);std=(0.5)", "give the one or the other"),
        ("timm:test_resnet;part=ema", "part is for a file of weights"),
        ("timm:test_resnet;in_chans=0", "in_chans=0; accepted: 1 and more"),
        ("timm:test_resnet;img_size=32", "timm:test_resnet could not be made: .*img_size"),
        ("timm:test_resnet;in_chans=5", "has a mean and std for 3 channels, not 5; give mean and std"),
        ("torchvision:alexnet;in_chans=1", "in_chans=1; accepted: 3, or a model of timm"),
        ("torchvision:googlenet;aux_logits=true", "aux_logits=true is for weights with auxiliary heads"),
        ("timm:test_resnet;weights=", "the option 'weights' is empty"),
        ("timm:test_resnet;weights=none.pt", "there is no file 'none.pt'"),
    ],
)
def test_bad_names_and_options_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        zoo.load(spec, **RGB)


def test_constants_of_the_hubs_card_beside_the_weights_are_a_question_where_they_differ(tmp_path):
    net = timm.create_model("test_resnet", num_classes=6).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    spec, config = f"timm:test_resnet;weights={tmp_path}/model.safetensors", tmp_path / "config.json"
    own = {key: list(net.pretrained_cfg[key]) for key in ("mean", "std")}
    other = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    for card in ({"pretrained_cfg": own}, {"pretrained_cfg": {}}, [], {"pretrained_cfg": 3}):
        config.write_text(json.dumps(card))
        assert zoo.load(spec, **RGB).trained
    config.write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": other}))
    with pytest.raises(UserError, match=r"config\.json' tells mean=\(0\.1,0\.2,0\.3\), .*the model normalises by"):
        zoo.load(spec, **RGB)
    asked = zoo.load(f"{spec};mean=(0.1,0.2,0.3);std=(0.4,0.5,0.6)", **RGB).module
    mean, std = (torch.tensor(other[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(asked(X), net((X - mean) / std))
