"""Architectures, built by name and options.

A network is an `nn.Module` from images `[N, channels, H, W]` to logits `[N, classes]`. Its
classifier is one `nn.Linear`, found under the attribute that `Architecture.head` names; what enters
it are the features that self-supervised methods train.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from .cifar_networks import (
    DENSENET_BLOCKS,
    PREACT_BLOCKS,
    VGG,
    VGG_CONVOLUTIONS,
    WIDE_DEPTHS,
    DenseNet,
    MobileNetV2,
    PreactResNet,
    ShuffleNetV2,
    WideResNet,
)
from .config import KINDS
from .errors import InputError

if TYPE_CHECKING:
    from .data import DatasetInfo

# timm takes seconds to import, so it is imported where a network of its is wanted.

STEMS = {
    "small": (3, 1, 1, False),
    "small_pool": (3, 1, 1, True),
    "small_pad2": (3, 1, 2, False),
    "imagenet": (7, 2, 3, True),
}
"""A ResNet's first convolution by the name of its stem: kernel, stride, padding, and whether a
max-pooling follows."""


class ResNet(TorchvisionResNet):
    """torchvision's ResNet with a free base width and a stem for small images; same module names
    and initialisation.

    `width` is the number of channels of the first stage (64 in the paper); the stages have 1, 2, 4
    and 8 times as many. Stem `small` is a 3x3 convolution of stride 1 without pooling, as usual on
    images of 28 to 64 pixels; `small_pool` is `small` with the max-pooling kept; `small_pad2` is
    solo-learn's, `small` with two pixels of padding; `imagenet` is the 7x7 stride 2 one with
    pooling. `inner` is the share, above 0 and at most 1, of the channels between the convolutions
    of a block that are there, as pruning leaves them.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: list[int],
        width: int,
        stem: str,
        inner: float,
        channels: int,
        classes: int,
    ) -> None:
        nn.Module.__init__(self)
        if not 0 < inner <= 1:
            raise InputError(f"inner is {inner}; it must be above 0 and at most 1")
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        if stem not in STEMS:
            raise InputError(f"stem is {stem!r}; it must be one of {', '.join(STEMS)}")
        kernel, stride, padding, pooled = STEMS[stem]
        self.conv1 = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if pooled else nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._make_layer(block, width, blocks[0])
        self.layer2 = self._make_layer(block, width * 2, blocks[1], stride=2)
        self.layer3 = self._make_layer(block, width * 4, blocks[2], stride=2)
        self.layer4 = self._make_layer(block, width * 8, blocks[3], stride=2)
        if inner < 1:
            self._narrow(inner)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width * 8 * block.expansion, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _narrow(self, inner: float) -> None:
        for path in inner_layers(self):
            first, second = self.get_submodule(path[0]), self.get_submodule(path[2])
            kept = inner_channels(first.out_channels, inner)
            self.set_submodule(path[0], _resized(first, first.in_channels, kept))
            self.set_submodule(path[1], nn.BatchNorm2d(kept))
            self.set_submodule(path[2], _resized(second, kept, second.out_channels))


def _resized(wide: Any, inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, wide.kernel_size, wide.stride, wide.padding, bias=False)


def inner_channels(channels: int, share: float) -> int:
    """How many of `channels` a `share` of them is, at least one."""
    return max(1, round(channels * share))


def inner_layers(model: nn.Module) -> list[tuple[str, str, str, str]]:
    """The convolutions of residual blocks whose outputs nothing but the next convolution sees: the
    names of such a one, its BN, the next one and the BN of that."""
    found = []
    for name, block in model.named_modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            for index in range(1, 3 if isinstance(block, Bottleneck) else 2):
                parts = (f"conv{index}", f"bn{index}", f"conv{index + 1}", f"bn{index + 1}")
                first, norm, second, last = (f"{name}.{part}" for part in parts)
                found.append((first, norm, second, last))
    return found


class PaddedShortcut(nn.Module):
    """The shortcut of He et al. 2016 (arXiv 1512.03385, section 3.3, option A), which has no
    parameters.

    Every `stride`-th pixel of every `stride`-th row, with channels of zeros before and after. [N,
    C, H, W] becomes [N, C + before + after, H / stride, W / stride], rounded up.
    """

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = added // 2, added - added // 2, stride

    def forward(self, images: Tensor) -> Tensor:
        kept = images[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(kept, (0, 0, 0, 0, self.before, self.after))


class CifarResNet(nn.Module):
    """The ResNet of three stages for CIFAR (arXiv 1512.03385, section 4.2): `blocks` basic blocks
    in each stage.

    `width` is the number of channels of the first stage (16 in the paper); the others have 2 and 4
    times as many. Shortcut `pad` is the paper's option A, which has no parameters; `conv` is its
    option B, a 1x1 convolution with BN. Parameters have torchvision's names.
    """

    def __init__(self, blocks: int, width: int, shortcut: str, channels: int, classes: int) -> None:
        super().__init__()
        if shortcut not in ("pad", "conv"):
            raise InputError(f"shortcut is {shortcut!r}; it must be 'pad' or 'conv'")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(blocks, width, width, 1, shortcut)
        self.layer2 = self._stage(blocks, width, width * 2, 2, shortcut)
        self.layer3 = self._stage(blocks, width * 2, width * 4, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width * 4, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
        first: nn.Module | None = None
        if inputs != outputs and shortcut == "pad":
            first = PaddedShortcut(outputs - inputs, stride)
        elif inputs != outputs:
            first = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        rest = [BasicBlock(outputs, outputs) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(inputs, outputs, stride, first), *rest)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(torch.flatten(self.avgpool(features), 1))


class ConvNet(nn.Module):
    """The ConvNet of the distillation literature: `depth` blocks, then a linear layer.

    A block is a 3x3 convolution, a norm, ReLU and 2x2 average pooling.

    Images of 28x28 are padded to 32x32 by the first convolution (padding 3), as the literature does
    for MNIST and Fashion-MNIST.
    """

    def __init__(
        self, depth: int, width: int, norm: str, channels: int, size: int, classes: int
    ) -> None:
        super().__init__()
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "instance": lambda features: nn.InstanceNorm2d(features, affine=True),
        }
        if norm not in norms:
            raise InputError(f"norm is {norm!r}; it must be one of {', '.join(norms)}")
        layers: list[nn.Module] = []
        side, inputs = (32 if size == 28 else size), channels
        for index in range(depth):
            padding = 3 if index == 0 and size == 28 else 1
            layers += [
                nn.Conv2d(inputs, width, 3, padding=padding),
                norms[norm](width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            side, inputs = side // 2, width
        if side < 1:
            raise InputError(f"images of {size}x{size} are too small for {depth} poolings")
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))


def _resnet(block: type[BasicBlock | Bottleneck], blocks: list[int]) -> Callable[..., nn.Module]:
    def build(
        *,
        width: int = 64,
        stem: str = "small",
        inner: float = 1.0,
        channels: int = 3,
        classes: int = 10,
    ) -> nn.Module:
        return ResNet(block, blocks, width, stem, inner, channels, classes)

    return build


def _cifar_resnet(depth: int) -> Callable[..., nn.Module]:
    def build(
        *, width: int = 16, shortcut: str = "pad", channels: int = 3, classes: int = 10
    ) -> nn.Module:
        return CifarResNet((depth - 2) // 6, width, shortcut, channels, classes)

    return build


def _convnet(depth: int) -> Callable[..., nn.Module]:
    def build(
        *,
        width: int = 128,
        norm: str = "batch",
        channels: int = 3,
        size: int = 32,
        classes: int = 10,
    ) -> nn.Module:
        return ConvNet(depth, width, norm, channels, size, classes)

    return build


def _cifar_mobilenet(*, channels: int = 3, classes: int = 10) -> nn.Module:
    return MobileNetV2(channels, classes)


def _cifar_shufflenet(*, width: int = 116, channels: int = 3, classes: int = 10) -> nn.Module:
    return ShuffleNetV2(width, channels, classes)


def _cifar_densenet(depth: int) -> Callable[..., nn.Module]:
    def build(
        *, growth: int = 48 if depth == 161 else 32, channels: int = 3, classes: int = 10
    ) -> nn.Module:
        return DenseNet(depth, growth, channels, classes)

    return build


def _cifar_vgg(depth: int) -> Callable[..., nn.Module]:
    def build(
        *,
        width: int = 64,
        channels: int = 3,
        size: int = 32,
        hidden: int = 0,
        classes: int = 10,
    ) -> nn.Module:
        return VGG(depth, width, channels, size, hidden, classes)

    return build


def _cifar_preact_resnet(depth: int) -> Callable[..., nn.Module]:
    def build(*, width: int = 64, channels: int = 3, classes: int = 10) -> nn.Module:
        return PreactResNet(depth, width, channels, classes)

    return build


def _cifar_wide_resnet(depth: int) -> Callable[..., nn.Module]:
    def build(*, factor: int = 2, channels: int = 3, classes: int = 10) -> nn.Module:
        return WideResNet(depth, factor, channels, classes)

    return build


@dataclass(frozen=True)
class Architecture:
    """A registry entry: how to build the network, and the attribute that holds its classifier.

    The classifier is linear, except SqueezeNet's, a 1x1 convolution before the pooling. Names of
    parameters that begin with one of `auxiliary` are of classifiers that serve training alone,
    which checkpoints may have and networks here don't.
    """

    build: Callable[..., nn.Module]
    head: str
    auxiliary: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """The options and their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.build).parameters.items()
        }


ARCHITECTURES: dict[str, Architecture] = {
    "resnet10": Architecture(_resnet(BasicBlock, [1, 1, 1, 1]), "fc"),
    "resnet18": Architecture(_resnet(BasicBlock, [2, 2, 2, 2]), "fc"),
    "resnet34": Architecture(_resnet(BasicBlock, [3, 4, 6, 3]), "fc"),
    "resnet50": Architecture(_resnet(Bottleneck, [3, 4, 6, 3]), "fc"),
    "resnet101": Architecture(_resnet(Bottleneck, [3, 4, 23, 3]), "fc"),
    "resnet152": Architecture(_resnet(Bottleneck, [3, 8, 36, 3]), "fc"),
    **{
        f"resnet{depth}": Architecture(_cifar_resnet(depth), "fc")
        for depth in (20, 32, 44, 56, 110)
    },
    **{f"convnet{depth}": Architecture(_convnet(depth), "classifier") for depth in (3, 4, 5, 6)},
    "cifar-mobilenetv2": Architecture(_cifar_mobilenet, "linear"),
    "cifar-shufflenetv2": Architecture(_cifar_shufflenet, "linear"),
    **{
        f"cifar-densenet{depth}": Architecture(_cifar_densenet(depth), "linear")
        for depth in DENSENET_BLOCKS
    },
    **{
        f"cifar-vgg{depth}": Architecture(_cifar_vgg(depth), "classifier")
        for depth in VGG_CONVOLUTIONS
    },
    **{
        f"cifar-preact-resnet{depth}": Architecture(_cifar_preact_resnet(depth), "linear")
        for depth in PREACT_BLOCKS
    },
    **{
        f"cifar-wide-resnet{depth}": Architecture(_cifar_wide_resnet(depth), "fc")
        for depth in WIDE_DEPTHS
    },
}

RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
CONVNETS = ("convnet3", "convnet4", "convnet5", "convnet6")
CIFAR_DENSENETS = tuple(f"cifar-densenet{depth}" for depth in DENSENET_BLOCKS)
CIFAR_VGGS = tuple(f"cifar-vgg{depth}" for depth in VGG_CONVOLUTIONS)
CIFAR_PREACT_RESNETS = tuple(f"cifar-preact-resnet{depth}" for depth in PREACT_BLOCKS)
CIFAR_WIDE_RESNETS = tuple(f"cifar-wide-resnet{depth}" for depth in WIDE_DEPTHS)

TORCHVISION_FAMILIES = {
    "alexnet": "features.0.",
    "convnext": "features.1.0.block.",
    "densenet": "features.denseblock1.",
    "efficientnet": "features.1.0.block.",
    "googlenet": "inception3a.branch1.",
    "inception_v3": "Mixed_5b.branch1x1.",
    "mnasnet": "layers.0.",
    "mobilenet_v2": "features.1.conv.",
    "mobilenet_v3": "features.1.block.",
    "regnet": "trunk_output.",
    "resnext": "layer1.0.conv3.",
    "shufflenet": "stage2.",
    "squeezenet": "features.3.squeeze.",
    "swin": "features.1.0.attn.",
    "vgg": "features.0.",
    "vit": "encoder.layers.encoder_layer_0.",
    "wide_resnet": "layer1.0.conv3.",
}
"""How the names of torchvision's networks begin, and how that of some tensor in them does."""

AUXILIARY = {
    "torchvision/googlenet": ("aux1.", "aux2."),
    "torchvision/inception_v3": ("AuxLogits.",),
    "timm/inception_v3": ("AuxLogits.",),
}
"""Networks of libraries whose published checkpoints have auxiliary classifiers, and how their
tensors' names begin."""


def architecture(name: str) -> Architecture:
    """The registry's entry, or one for `torchvision/NAME` and `timm/NAME`."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    library, _, model = name.partition("/")
    if library == "torchvision" and model in torchvision.models.list_models(
        module=torchvision.models
    ):
        return _foreign(name)
    if library == "timm" and _is_timm(model):
        return _foreign(name)
    raise InputError(
        f"architecture {name!r} is unknown; known are {', '.join(ARCHITECTURES)}, torchvision/NAME and timm/NAME"
    )


def full_name(name: str) -> str:
    """`name`, or where we have no such architecture, torchvision's or else timm's one of that
    name."""
    if name in ARCHITECTURES or "/" in name:
        return name
    if name in torchvision.models.list_models(module=torchvision.models):
        return f"torchvision/{name}"
    return f"timm/{name}" if _is_timm(name) else name


def _is_timm(name: str) -> bool:
    """Whether timm has `name`, and where a tag follows a dot, weights of that tag."""
    import timm

    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the tag is none of the network's
        return False
    return timm.is_model(name)


@dataclass(frozen=True)
class Preprocessing:
    """What a network was trained on: `mean` and `std` of pixels in 0..1 per channel, and the
    images' height and width.

    `tag` is what timm calls the weights that want it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    tag: str = ""


def published_preprocessing(name: str) -> list[Preprocessing]:
    """Those that the weights want which torchvision or timm publishes for `name`, the default
    first.

    No two have the same mean and standard deviation.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        found = [weights.transforms() for weights in torchvision.models.get_model_weights(model)]
        size = min((each.crop_size[0] for each in found), default=0)
        each_of = [Preprocessing(tuple(each.mean), tuple(each.std), size) for each in found]
    elif library == "timm":
        import timm

        tagged = [model] if "." in model else [model, *timm.list_pretrained(f"{model}.*")]
        known = [each for each in map(timm.models.get_pretrained_cfg, tagged) if each is not None]
        each_of = [
            Preprocessing(tuple(k.mean), tuple(k.std), k.input_size[1], k.tag)
            for k in known
            if k.tag
        ]
    else:
        each_of = []
    distinct: dict[tuple[tuple[float, ...], ...], Preprocessing] = {}
    for each in each_of:
        distinct.setdefault((each.mean, each.std), each)
    return list(distinct.values())


def torchvision_names(tensors: Iterable[str]) -> list[str]:
    """Those of torchvision's classifiers, as `architecture` takes them, that may have `tensors`."""
    tensors = list(tensors)
    families = tuple(
        family
        for family, start in TORCHVISION_FAMILIES.items()
        if any(tensor.startswith(start) for tensor in tensors)
    )
    names = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision/{name}" for name in names if name.startswith(families)]


def timm_may_have(tensors: Iterable[str]) -> bool:
    """Whether some network of timm's begins with a convolution that has a name of `tensors`."""
    import timm

    known = (timm.models.get_pretrained_cfg(name) for name in timm.list_models())
    firsts = {
        first
        for config in known
        if config is not None and isinstance(first := config.first_conv, str)
    }
    return not {f"{first}.weight" for first in firsts}.isdisjoint(tensors)


def _torchvision(model: str) -> Callable[..., nn.Module]:
    def build(*, channels: int = 3, classes: int = 1000) -> nn.Module:
        if channels != 3:
            raise InputError(f"torchvision's {model} takes images of 3 channels, not {channels}")
        return torchvision.models.get_model(model, weights=None, num_classes=classes)

    return build


INCEPTIONS = {
    "googlenet": torchvision.models.GoogLeNet,
    "inception_v3": torchvision.models.Inception3,
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _inception(model: str) -> Callable[..., nn.Module]:
    """torchvision's GoogLeNet or Inception v3 without auxiliary classifiers, with PyTorch's own
    initialisation.

    With `transform_input` the network takes images that are normalised as ImageNet's, and begins
    with normalising them by mean 0.5 and standard deviation 0.5. All weights that torchvision
    publishes for them want that.
    """

    base: Any = INCEPTIONS[model]

    class Inception(base):
        def __init__(self, classes: int, transform_input: bool) -> None:
            super().__init__(
                classes, aux_logits=False, transform_input=transform_input, init_weights=False
            )
            # In float32, as the graph holds them: a probe in float64 must begin with the same
            # images as the graph.
            scale = [std / 0.5 for std in IMAGENET_STD]
            shift = [(mean - 0.5) / 0.5 for mean in IMAGENET_MEAN]
            self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
            self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

        def _transform_input(self, x: Tensor) -> Tensor:
            return x * self.scale + self.shift if self.transform_input else x

    def build(
        *, channels: int = 3, classes: int = 1000, transform_input: bool = False
    ) -> nn.Module:
        if channels != 3:
            raise InputError(f"torchvision's {model} takes images of 3 channels, not {channels}")
        return Inception(classes, transform_input)

    return build


def _timm(model: str) -> Callable[..., nn.Module]:
    def build(*, channels: int = 3, classes: int = 1000) -> nn.Module:
        import timm

        return timm.create_model(model, pretrained=False, num_classes=classes, in_chans=channels)

    return build


def _without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """The network whose tensors have shapes alone, or with all its values where its constructor
    computes with tensors.

    Torchvision's RegNets do so. Neither draws from torch's global generator.
    """
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        with torch.random.fork_rng(devices=[]):
            return build()


@functools.cache
def _foreign(name: str) -> Architecture:
    """Such a network's classifier is its last linear layer, or its last 1x1 convolution if it has
    no linear layer."""
    library, _, model = name.partition("/")
    builders = {"torchvision": _inception if model in INCEPTIONS else _torchvision, "timm": _timm}
    build = builders[library](model)
    modules = list(_without_values(build).named_modules())
    linear = [key for key, module in modules if isinstance(module, nn.Linear)]
    pointwise = [
        key
        for key, module in modules
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    ]
    if not linear and not pointwise:
        raise InputError(
            f"architecture {name} has no classifier: neither a linear layer nor a 1x1 convolution"
        )
    return Architecture(build, (linear or pointwise)[-1], AUXILIARY.get(name.partition(".")[0], ()))


def check_option(name: str, key: str, value: Any) -> None:
    """InputError if architecture `name` has no option `key`, or if `value` is none for it."""
    defaults = architecture(name).options()
    if key not in defaults:
        raise InputError(f"architecture {name} has no option {key!r}; it has {', '.join(defaults)}")
    if type(value) is not type(defaults[key]):
        raise InputError(
            f"architecture {name}: option {key} is {value!r}; {KINDS[type(defaults[key])]} is wanted"
        )
    if type(value) is int and value < 1:
        raise InputError(f"architecture {name}: option {key} is {value}; it must be at least 1")


def resolve(
    name: str, options: dict[str, Any], *, channels: int, size: int, classes: int
) -> dict[str, Any]:
    """All options of `name`: the given ones, the data set's channels, size and classes, and
    defaults for the rest."""
    defaults = architecture(name).options()
    given = {"channels": channels, "size": size, "classes": classes}
    resolved = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
    for key, value in options.items():
        check_option(name, key, value)
        if key in given and value != given[key]:
            raise InputError(
                f"architecture {name}: option {key} is {value}, but the data set has {given[key]}"
            )
        resolved[key] = value
    return resolved


def resolve_for(dataset: DatasetInfo, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """As `resolve`, with the channels, size and classes of `dataset`."""
    return resolve(
        name, options, channels=dataset.channels, size=dataset.size, classes=len(dataset.classes)
    )


def build(name: str, options: dict[str, Any]) -> nn.Module:
    """A freshly initialised network (from torch's global generator); `options` as `resolve` returns
    them."""
    return architecture(name).build(**options)


def take_head(name: str, model: nn.Module) -> nn.Linear:
    """Removes the classifier from `model`, which then returns features `[N, D]`, and returns that
    classifier."""
    parent, _, last = architecture(name).head.rpartition(".")
    holder = model.get_submodule(parent)
    head = getattr(holder, last)
    if not isinstance(head, nn.Linear):
        raise InputError(
            f"architecture {name} can't do without its classifier or have another: it is a convolution"
        )
    setattr(holder, last, nn.Identity())
    return head


def put_head(name: str, model: nn.Module, head: nn.Linear) -> None:
    """The reverse of `take_head`."""
    parent, _, last = architecture(name).head.rpartition(".")
    setattr(model.get_submodule(parent), last, head)


def shapes(name: str, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters and buffers, without building the network's tensors."""
    return dict(_shapes(name, tuple(sorted(options.items()))))


@functools.cache
def _shapes(name: str, options: tuple[tuple[str, Any], ...]) -> dict[str, tuple[int, ...]]:
    state = _without_values(lambda: build(name, dict(options))).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
