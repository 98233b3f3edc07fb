from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from exporters import models
from exporters.errors import InputError
from exporters.initialisation import initialisation


def test_full_width_resnets_are_torchvisions():
    for name in ("resnet18", "resnet34", "resnet50"):
        ours = models.build(name, {"width": 64, "stem": "imagenet", "channels": 3, "classes": 1000})
        theirs = getattr(torchvision.models, name)()
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
        theirs.load_state_dict(ours.state_dict())
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # 3x3 convolutions 16-32-64-128, two per block, 1x1 shortcuts, BN pairs, a linear layer
        ("resnet10", {"width": 16, "stem": "small", "channels": 1, "classes": 10}, 308_538),
        ("resnet18", {"width": 16, "stem": "small", "channels": 1, "classes": 10}, 701_178),
        # the counts of the paper's table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 millions, to the digit
        # as akamaster has them
        ("resnet20", {"width": 16, "shortcut": "pad", "channels": 3, "classes": 10}, 269_722),
        ("resnet32", {"width": 16, "shortcut": "pad", "channels": 3, "classes": 10}, 464_154),
        ("resnet44", {"width": 16, "shortcut": "pad", "channels": 3, "classes": 10}, 658_586),
        ("resnet56", {"width": 16, "shortcut": "pad", "channels": 3, "classes": 10}, 853_018),
        ("resnet110", {"width": 16, "shortcut": "pad", "channels": 3, "classes": 10}, 1_727_962),
        # two 1x1 convolutions with BN more: 16·32 + 2·32 + 32·64 + 2·64
        ("resnet20", {"width": 16, "shortcut": "conv", "channels": 3, "classes": 10}, 272_474),
        # 1·128·9+128 + 2·(128·128·9+128) + 3·2·128 + 2048·10+10
        (
            "convnet3",
            {"width": 128, "norm": "batch", "channels": 1, "size": 28, "classes": 10},
            317_706,
        ),
        # the literature's count for CIFAR-10
        (
            "convnet3",
            {"width": 128, "norm": "instance", "channels": 3, "size": 32, "classes": 10},
            320_010,
        ),
        # as kuangliu's code counts them for CIFAR-10
        ("cifar-mobilenetv2", {"channels": 3, "classes": 10}, 2_296_922),
        ("cifar-shufflenetv2", {"width": 48, "channels": 3, "classes": 10}, 352_042),
        ("cifar-shufflenetv2", {"width": 116, "channels": 3, "classes": 10}, 1_263_854),
        ("cifar-densenet121", {"growth": 32, "channels": 3, "classes": 10}, 6_956_298),
        ("cifar-vgg16", {"width": 64, "channels": 3, "size": 32, "classes": 10}, 14_728_266),
        # chenyaofo's table: 15.25 millions
        ("cifar-vgg16", {"hidden": 512, "channels": 3, "size": 32, "classes": 10}, 15_253_578),
        ("cifar-preact-resnet18", {"width": 64, "channels": 3, "classes": 10}, 11_171_146),
        # the paper's counts, table 5: 0.7, 2.2 and 36.5 millions
        ("cifar-wide-resnet16", {"factor": 2, "channels": 3, "classes": 10}, 691_674),
        ("cifar-wide-resnet40", {"factor": 2, "channels": 3, "classes": 10}, 2_243_546),
        ("cifar-wide-resnet28", {"factor": 10, "channels": 3, "classes": 10}, 36_479_194),
    ],
)
def test_parameter_counts_and_shapes(name: str, options: dict, parameters: int):
    model = models.build(name, options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    side = options.get("size", 28)
    images = torch.randn(3, options["channels"], side, side)
    assert model(images).shape == (3, 10)
    head = models.take_head(name, model)
    assert model(images).shape == (3, head.in_features)
    models.put_head(name, model, head)
    assert model(images).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"width": 32}),
        ("resnet50", {"width": 16, "stem": "imagenet"}),
        ("resnet20", {"shortcut": "pad"}),
        ("resnet20", {"shortcut": "conv"}),
        ("convnet3", {"norm": "batch"}),
        ("convnet3", {"norm": "instance", "size": 28, "channels": 1}),
        ("cifar-mobilenetv2", {}),
        ("cifar-shufflenetv2", {"width": 48}),
        ("cifar-densenet121", {"growth": 12}),
        ("resnet18", {"width": 16, "inner": 0.5}),
        ("cifar-vgg11", {"width": 16, "hidden": 8}),
        ("cifar-preact-resnet18", {"width": 16}),
        ("cifar-wide-resnet16", {"factor": 1}),
        ("torchvision/mobilenet_v2", {}),
        ("torchvision/squeezenet1_1", {}),
        ("torchvision/regnet_y_400mf", {}),
        ("timm/resnet18", {}),
        ("timm/test_efficientnet", {}),
        ("timm/test_vit", {}),
    ],
)
def test_initialisation_is_what_build_draws(name: str, options: dict):
    model = models.build(name, options)
    recipes = initialisation(model)
    parameters = dict(model.named_parameters())
    assert list(recipes) == list(parameters)
    for key, recipe in recipes.items():
        drawn = parameters[key].detach()
        if recipe["type"] == "constant":
            assert (drawn == recipe["value"]).all()
        elif recipe["type"] == "uniform":
            assert drawn.abs().max() <= recipe["bound"]
            if drawn.numel() > 1000:
                assert drawn.abs().max() > 0.98 * recipe["bound"]
        elif drawn.numel() > 1000:
            assert drawn.std().item() == pytest.approx(recipe["std"], rel=0.1)


def normal(fan: float) -> dict:
    return {"type": "normal", "std": pytest.approx((2 / fan) ** 0.5)}


@pytest.mark.parametrize(
    ("name", "some"),
    [
        (
            "torchvision/mobilenet_v2",
            {
                "features.0.0.weight": normal(32 * 9),
                "features.1.conv.0.0.weight": normal(32 * 9),
                "classifier.1.weight": {"type": "normal", "std": 0.01},
                "classifier.1.bias": {"type": "constant", "value": 0.0},
            },
        ),
        # fan_in, where MobileNet's is fan_out
        ("torchvision/densenet121", {"features.conv0.weight": normal(3 * 49)}),
        # by the outputs of a group
        ("timm/mobilenetv3_small_050", {"blocks.0.0.conv_dw.weight": normal(9)}),
        # residual branches begin as nothing
        ("timm/resnet18", {"layer1.0.bn2.weight": {"type": "constant", "value": 0.0}}),
        ("torchvision/squeezenet1_1", {"classifier.1.weight": {"type": "normal", "std": 0.01}}),
    ],
)
def test_initialisation_follows_each_librarys_rule(name: str, some: dict):
    recipes = initialisation(models.build(name, {}))
    assert {key: recipes[key] for key in some} == some


@pytest.mark.parametrize("seed", range(8))
def test_few_values_are_taken_for_what_is_usual(seed: int):
    torch.manual_seed(seed)
    recipes = initialisation(models.build("convnet5", {"width": 4}))
    uniform = {"type": "uniform", "bound": pytest.approx(4**-0.5)}
    assert recipes["classifier.weight"] == recipes["classifier.bias"] == uniform


def test_an_unknown_initialisation_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    with torch.no_grad():
        model[1].weight.normal_(0.1, 0.1)
        model[3].weight.exponential_()
    with pytest.raises(
        InputError,
        match=r"known for 2 parameters, such as 1\.weight: they are neither constant nor drawn",
    ):
        initialisation(model)


def test_a_regnet_has_shapes_and_draws_nothing_for_them():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    name = "torchvision/regnet_y_400mf"
    models._foreign.cache_clear()
    assert models.architecture(name).head == "fc"
    assert models.shapes(name, {"classes": 7})["fc.weight"] == (7, 440)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_padded_shortcut_halves_images_and_adds_channels_of_zeros():
    images = torch.randn(2, 5, 7, 6)
    out = models.PaddedShortcut(3, 2)(images)
    assert out.shape == (2, 8, 4, 3)
    assert torch.equal(out[:, 1:6], images[:, :, [0, 2, 4, 6]][..., [0, 2, 4]])
    assert not out[:, 0].any()
    assert not out[:, 6:].any()


def test_a_classifier_that_is_a_convolution_stays():
    model = models.build("torchvision/squeezenet1_1", {"classes": 7})
    assert models.architecture("torchvision/squeezenet1_1").head == "classifier.1"
    with pytest.raises(
        InputError, match="squeezenet1_1 can't do without its classifier or have another"
    ):
        models.take_head("torchvision/squeezenet1_1", model)


def test_options_are_checked():
    facts = {"channels": 1, "size": 28, "classes": 10}
    assert models.resolve("resnet18", {"width": 16}, **facts) == {
        "width": 16, "stem": "small", "inner": 1.0, "channels": 1, "classes": 10,
    }  # fmt: skip
    for name, options, message in (
        ("resnet19", {}, "unknown"),
        ("timm/resnet10t.none", {}, "architecture 'timm/resnet10t.none' is unknown"),
        ("resnet18", {"widht": 16}, "no option 'widht'"),
        ("resnet18", {"width": "16"}, "a whole number is wanted"),
        ("resnet18", {"width": 0}, "at least 1"),
        ("resnet18", {"classes": 100}, "the data set has 10"),
    ):
        with pytest.raises(InputError, match=message):
            models.resolve(name, options, **facts)
    with pytest.raises(InputError, match="stem"):
        models.build("resnet18", {"stem": "tiny"})
    with pytest.raises(InputError, match=r"inner is 1\.5; it must be above 0 and at most 1"):
        models.build("resnet18", {"inner": 1.5})
    with pytest.raises(InputError, match="shortcut is 'none'; it must be 'pad' or 'conv'"):
        models.build("resnet20", {"shortcut": "none"})
    with pytest.raises(InputError, match="norm"):
        models.build("convnet3", {"norm": "layer"})
    with pytest.raises(InputError, match="width is 50; it must be one of 48, 116, 176, 224"):
        models.build("cifar-shufflenetv2", {"width": 50})
    with pytest.raises(InputError, match="too small for five poolings"):
        models.build("cifar-vgg11", {"size": 16})
    with pytest.raises(InputError, match="hidden: -1 units; give 0 for one linear layer"):
        models.build("cifar-vgg11", {"hidden": -1})
    with pytest.raises(InputError, match="too small for 3"):
        models.build("convnet3", {"size": 4})
