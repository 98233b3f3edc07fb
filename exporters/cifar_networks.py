"""Networks for small images that the literature trains beside ResNets, as kuangliu's pytorch-cifar
and xternalz' WideResNet-pytorch have them.

CV-DD, FADRM, HALD and G-VBSM squeeze and test with these. Parameters have the names of that code.
All take images `[N, channels, H, W]` of 32 to 64 pixels and give logits `[N, classes]`;
initialisation is PyTorch's own.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .errors import InputError

MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage of MobileNetV2 (arXiv 1801.04381, table 2),
for CIFAR."""
SHUFFLENET_WIDTHS = {
    48: (96, 192, 1024),
    116: (232, 464, 1024),
    176: (352, 704, 1024),
    224: (488, 976, 2048),
}
"""Channels of the further stages and of the last convolution of ShuffleNetV2 by those of the first
stage.

These are its scales 0.5, 1, 1.5 and 2 (arXiv 1807.11164, table 5); that code has 224 where the
paper has 244.
"""
SHUFFLENET_BLOCKS = (3, 7, 3)
DENSENET_BLOCKS = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
"""Layers of the four dense blocks by the network's depth (arXiv 1608.06993, table 1)."""
VGG_MULTIPLES = (1, 2, 4, 8, 8)
VGG_CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of the five blocks by the network's depth (arXiv 1409.1556, table 1)."""
PREACT_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of the four stages by the network's depth (arXiv 1512.03385, table 1)."""
BOTTLENECKS_FROM = 50
WIDE_DEPTHS = (16, 22, 28, 40)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _averaged(images: Tensor) -> Tensor:
    """`[N, C]` of `[N, C, H, W]`."""
    return torch.flatten(nn.functional.adaptive_avg_pool2d(images, 1), 1)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; at stride 1 a shortcut, of 1x1 where the
    channels change."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv1, self.bn1 = _convolution(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = (
            _convolution(inner, inner, 3, stride, groups=inner),
            nn.BatchNorm2d(inner),
        )
        self.conv3, self.bn3 = _convolution(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.is_residual = stride == 1
        self.shortcut = nn.Sequential()
        if self.is_residual and inputs != outputs:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(images)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        projected = self.bn3(self.conv3(inner))
        return projected + self.shortcut(images) if self.is_residual else projected


class MobileNetV2(nn.Module):
    """MobileNetV2 (arXiv 1801.04381) whose stem and second stage keep the images' size."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(channels, 32, 3), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in MOBILENET_STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, 1 if index else stride))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = _convolution(inputs, 1280, 1), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layers(self.bn1(self.conv1(images)).relu())
        return self.linear(_averaged(self.bn2(self.conv2(features)).relu()))


def _shuffled(first: Tensor, second: Tensor) -> Tensor:
    """The channels of both in turn: one of the first, one of the second, and so on."""
    return torch.cat((first, second), 1).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, the others go through three convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = _convolution(half, half, 1), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = _convolution(half, half, 3, groups=half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _convolution(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, images: Tensor) -> Tensor:
        kept, changed = images.chunk(2, 1)
        changed = self.bn2(self.conv2(self.bn1(self.conv1(changed)).relu()))
        return _shuffled(kept, self.bn3(self.conv3(changed)).relu())


class ShuffleDown(nn.Module):
    """Two branches of stride 2, each for half of the outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = (
            _convolution(inputs, inputs, 3, 2, groups=inputs),
            nn.BatchNorm2d(inputs),
        )
        self.conv2, self.bn2 = _convolution(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _convolution(inputs, half, 1), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = _convolution(half, half, 3, 2, groups=half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = _convolution(half, half, 1), nn.BatchNorm2d(half)

    def forward(self, images: Tensor) -> Tensor:
        first = self.bn2(self.conv2(self.bn1(self.conv1(images)))).relu()
        second = self.bn4(self.conv4(self.bn3(self.conv3(images)).relu()))
        return _shuffled(first, self.bn5(self.conv5(second)).relu())


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 (arXiv 1807.11164) whose stem keeps the images' size; `width` is one of
    `SHUFFLENET_WIDTHS`."""

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        if width not in SHUFFLENET_WIDTHS:
            raise InputError(
                f"width is {width}; it must be one of {', '.join(map(str, SHUFFLENET_WIDTHS))}"
            )
        *further, last = SHUFFLENET_WIDTHS[width]
        self.conv1, self.bn1 = _convolution(channels, 24, 3), nn.BatchNorm2d(24)
        stages, inputs = [], 24
        for outputs, units in zip((width, *further), SHUFFLENET_BLOCKS, strict=True):
            stages.append(
                nn.Sequential(
                    ShuffleDown(inputs, outputs), *(ShuffleUnit(outputs) for _ in range(units))
                )
            )
            inputs = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2, self.bn2 = _convolution(inputs, last, 1), nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images)).relu()
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(_averaged(self.bn2(self.conv2(features)).relu()))


class DenseLayer(nn.Module):
    """Appends `growth` new channels, which come before those that enter."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _convolution(inputs, growth * 4, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(growth * 4), _convolution(growth * 4, growth, 3)

    def forward(self, images: Tensor) -> Tensor:
        added = self.conv2(self.bn2(self.conv1(self.bn1(images).relu())).relu())
        return torch.cat((added, images), 1)


class Transition(nn.Module):
    """Halves channels and size."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), _convolution(inputs, inputs // 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(self.bn(images).relu()), 2)


class DenseNet(nn.Module):
    """DenseNet-BC (arXiv 1608.06993) of `depth` layers whose stem keeps the images' size."""

    def __init__(self, depth: int, growth: int, channels: int, classes: int) -> None:
        super().__init__()
        inputs = growth * 2
        self.conv1 = _convolution(channels, inputs, 3)
        parts: list[nn.Module] = []
        for count in DENSENET_BLOCKS[depth]:
            if parts:
                parts.append(Transition(inputs))
                inputs //= 2
            parts.append(
                nn.Sequential(
                    *(DenseLayer(inputs + growth * index, growth) for index in range(count))
                )
            )
            inputs += growth * count
        (
            self.dense1,
            self.trans1,
            self.dense2,
            self.trans2,
            self.dense3,
            self.trans3,
            self.dense4,
        ) = parts
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trans1(self.dense1(self.conv1(images)))
        features = self.trans3(self.dense3(self.trans2(self.dense2(features))))
        return self.linear(_averaged(self.bn(self.dense4(features)).relu()))


class VGG(nn.Module):
    """VGG with BN (arXiv 1409.1556) of `depth` layers: five blocks of 3x3 convolutions, each with a
    max-pooling, and one linear layer.

    The first block has `width` channels, the last 8 times as many. `size` is the images' height, of
    which a 32nd is left. Images of 28x28 are padded to 32x32 by the first convolution, as in DC's
    code. If `hidden` is above 0, two linear layers of as many units come before the last one, as in
    the paper; their dropout, which serves training alone, is left out.
    """

    def __init__(
        self, depth: int, width: int, channels: int, size: int, hidden: int, classes: int
    ) -> None:
        super().__init__()
        if hidden < 0:
            raise InputError(f"hidden: {hidden} units; give 0 for one linear layer, or more")
        side = (32 if size == 28 else size) // 32
        if side < 1:
            raise InputError(f"images of {size}x{size} are too small for five poolings")
        layers: list[nn.Module] = []
        inputs = channels
        for multiple, count in zip(VGG_MULTIPLES, VGG_CONVOLUTIONS[depth], strict=True):
            outputs = width * multiple
            for _ in range(count):
                padding = 3 if not layers and size == 28 else 1
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=padding),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        inputs *= side * side
        self.hidden = nn.Sequential()
        for _ in range(2 if hidden else 0):
            self.hidden.extend([nn.Linear(inputs, hidden), nn.ReLU()])
            inputs = hidden
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.hidden(torch.flatten(self.features(images), 1)))


class PreactBlock(nn.Module):
    """A residual block whose BN and ReLU come before each convolution (arXiv 1603.05027).

    `plan` has inputs, outputs, kernel and stride of each convolution. Where the block changes size
    or channels, its shortcut is a 1x1 convolution of what the first ReLU gives.
    """

    def __init__(self, plan: list[tuple[int, int, int, int]], stride: int) -> None:
        super().__init__()
        for index, (inputs, outputs, kernel, step) in enumerate(plan, 1):
            self.add_module(f"bn{index}", nn.BatchNorm2d(inputs))
            self.add_module(f"conv{index}", _convolution(inputs, outputs, kernel, step))
        self.count = len(plan)
        inputs, outputs = plan[0][0], plan[-1][1]
        self.is_changing = stride != 1 or inputs != outputs
        if self.is_changing:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride))

    def forward(self, images: Tensor) -> Tensor:
        inner = beside = images
        for index in range(1, self.count + 1):
            inner = self.get_submodule(f"bn{index}")(inner).relu()
            if index == 1 and self.is_changing:
                beside = self.shortcut(inner)
            inner = self.get_submodule(f"conv{index}")(inner)
        return inner + beside


class PreactResNet(nn.Module):
    """The pre-activation ResNet (arXiv 1603.05027) of four stages for CIFAR.

    The last stage's sum is averaged as it is, without the BN and ReLU that the paper has there.
    """

    def __init__(self, depth: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width, 3)
        is_bottleneck = depth >= BOTTLENECKS_FROM
        inputs, stages = width, []
        for stage, count in enumerate(PREACT_BLOCKS[depth]):
            inner = width << stage
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                plan = [(inputs, inner, 3, stride), (inner, inner, 3, 1)]
                if is_bottleneck:
                    plan = [
                        (inputs, inner, 1, 1),
                        (inner, inner, 3, stride),
                        (inner, inner * 4, 1, 1),
                    ]
                blocks.append(PreactBlock(plan, stride))
                inputs = plan[-1][1]
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer2(self.layer1(self.conv1(images)))
        return self.linear(_averaged(self.layer4(self.layer3(features))))


class WideBlock(nn.Module):
    """A basic pre-activation block; where the channels change, the shortcut is a 1x1
    convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _convolution(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _convolution(outputs, outputs, 3)
        self.is_changing = inputs != outputs
        if self.is_changing:
            self.convShortcut = _convolution(inputs, outputs, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.bn1(images).relu()
        beside = self.convShortcut(inner) if self.is_changing else images
        return self.conv2(self.bn2(self.conv1(inner)).relu()) + beside


class WideResNet(nn.Module):
    """WideResNet (arXiv 1605.07146) of `depth` layers and three stages, of which the first has
    `16 * factor` channels."""

    def __init__(self, depth: int, factor: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, 16, 3)
        inputs, stages = 16, []
        for stage in range(3):
            outputs = 16 * factor << stage
            blocks = [
                WideBlock(outputs if index else inputs, outputs, 2 if stage and not index else 1)
                for index in range((depth - 4) // 6)
            ]
            stages.append(nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks))))
            inputs = outputs
        self.block1, self.block2, self.block3 = stages
        self.bn1 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(_averaged(self.bn1(features).relu()))
