"""Checkpoints as the families write them: one function per layout of `adapters.yaml` that holds any
ResNet, and `ORIGINALS` with the networks that families build themselves, each written here without
a look at the adapters.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

State = dict[str, Tensor]
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def junk(prefix: str, *shapes: tuple[int, ...]) -> State:
    """Other modules' parameters: weights of the given shapes, in order."""
    return {f"{prefix}{index}.weight": torch.randn(*shape) for index, shape in enumerate(shapes)}


def sequential(state: State) -> State:
    """The names under nn.Sequential(*resnet.children())."""
    return {
        f"{CHILDREN[key.split('.')[0]]}.{key.split('.', 1)[1]}": value
        for key, value in state.items()
    }


def classifier(prefix: str, head: State) -> State:
    return under(prefix, head)


def moco_v1(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    momentum = under("module.encoder_k.", backbone) | {
        "module.encoder_k.fc.weight": torch.randn(128, features)
    }
    query = under("module.encoder_q.", backbone) | {
        "module.encoder_q.fc.weight": torch.randn(128, features),
        "module.encoder_q.fc.bias": torch.randn(128),
    }
    queue = {
        "module.queue": torch.randn(128, 64),
        "module.queue_ptr": torch.zeros(1, dtype=torch.int64),
    }
    state = OrderedDict(query | momentum | queue)
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


def moco_v2(backbone: State, head: State) -> dict[str, Any]:
    content = moco_v1(backbone, head)
    state = content["state_dict"]
    del state["module.encoder_q.fc.weight"], state["module.encoder_q.fc.bias"]
    features = head["weight"].shape[1]
    state["module.encoder_q.fc.0.weight"] = torch.randn(features, features)
    state["module.encoder_q.fc.2.weight"] = torch.randn(128, features)
    return content


def moco_v3(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    projector = {"fc.0.weight": torch.randn(16, features), "fc.1.running_mean": torch.randn(16)}
    state = (
        under("module.base_encoder.", backbone | projector)
        | under("module.momentum_encoder.", backbone | projector)
        | junk("module.predictor.", (16, 16), (16, 16))
    )
    return {"epoch": 1000, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}


def swav(backbone: State, head: State) -> dict[str, Any]:
    heads = junk("projection_head.", (16, head["weight"].shape[1]), (8, 16)) | {
        "prototypes.weight": torch.randn(30, 8)
    }
    return under("module.", backbone | heads)


def dino(backbone: State, head: State) -> dict[str, Any]:
    projector = junk("head.mlp.", (16, head["weight"].shape[1])) | {
        "head.last_layer.weight_v": torch.randn(32, 16)
    }
    other = {key: value + 1 for key, value in backbone.items()}
    return {
        "student": under("module.backbone.", other) | under("module.", projector),
        "teacher": under("backbone.", backbone) | projector,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 800,
        "dino_loss": {"center": torch.zeros(1, 32)},
        "args": argparse.Namespace(arch="resnet50", lr=0.3),
    }


def dino_student(backbone: State, head: State) -> dict[str, Any]:
    content = dino(backbone, head)
    content["student"], content["teacher"] = content["teacher"], content["student"]
    return content


def barlow_twins(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projector.", (16, head["weight"].shape[1])) | {"bn.running_mean": torch.randn(16)}
    return {
        "epoch": 1000,
        "model": under("module.", under("backbone.", backbone) | rest),
        "optimizer": {"state": {}},
    }


def vicreg(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projector.", (16, head["weight"].shape[1]), (16, 16))
    return {
        "epoch": 1000,
        "model": under("module.", under("backbone.", backbone) | rest),
        "optimizer": {"state": {}},
    }


def vicreg_linear(backbone: State, head: State) -> dict[str, Any]:
    return {
        "epoch": 100,
        "best_acc": argparse.Namespace(top1=73.2, top5=91.1),
        "model": under("module.0.", backbone) | under("module.1.", head),
    }


def simsiam(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    projector = {"fc.0.weight": torch.randn(features, features), "fc.6.bias": torch.randn(features)}
    state = under("module.encoder.", backbone | projector) | junk(
        "module.predictor.", (8, features), (features, 8)
    )
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}}


def simclr_sthalles(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    projector = {
        "fc.0.weight": torch.randn(features, features),
        "fc.2.weight": torch.randn(128, features),
    }
    return {
        "epoch": 100,
        "arch": "resnet18",
        "state_dict": under("backbone.", backbone | projector),
        "optimizer": {},
    }


def simclr_spijkervet(backbone: State, head: State) -> dict[str, Any]:
    return under("encoder.", backbone) | junk("projector.", (16, head["weight"].shape[1]), (8, 16))


def simclr_tf(backbone: State, head: State) -> dict[str, Any]:
    return {"state_dict": backbone | under("fc.", head)}


def byol_sthalles(backbone: State, head: State) -> dict[str, Any]:
    projector = {
        "projetion.net.0.weight": torch.randn(16, head["weight"].shape[1])
    }  # so spelt there
    online = under("encoder.", sequential(backbone)) | projector
    return {
        "online_network_state_dict": online,
        "encoder_state_dict": sequential(backbone),
        "target_network_state_dict": {key: value + 1 for key, value in online.items()},
        "optimizer_state_dict": {"state": {}},
    }


def pirl_pycontrast(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("head.", (128, head["weight"].shape[1])) | junk(
        "head_jig.fc", (128, head["weight"].shape[1])
    )
    return {
        "opt": argparse.Namespace(method="PIRL"),
        "model": under("module.", under("encoder.", backbone) | rest),
    }


def pycontrast(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("head.", (128, head["weight"].shape[1]))
    return {
        "opt": argparse.Namespace(method="InfoMin"),
        "model": under("module.", under("encoder.", backbone) | rest),
    }


def vissl(backbone: State, head: State) -> dict[str, Any]:
    trunk = under("_feature_blocks.", backbone)
    return {
        "phase_idx": 199,
        "classy_state_dict": {
            "train_phase_idx": 199,
            "base_model": {"model": {"trunk": trunk, "heads": under("0.clf.0.", head)}, "meta": {}},
        },
    }


def obow(backbone: State, head: State) -> dict[str, Any]:
    names = {
        "conv1": "0.Conv",
        "bn1": "0.bn",
        "layer1": "1",
        "layer2": "2",
        "layer3": "3",
        "layer4": "4",
    }
    state = {
        f"_feature_blocks.{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": value
        for key, value in backbone.items()
    }
    return {"epoch": 200, "network": state, "meters": None}


def obow_torchvision(backbone: State, head: State) -> dict[str, Any]:
    words = {"fc.weight": torch.randn(8192, head["weight"].shape[1]), "fc.bias": torch.zeros(8192)}
    return {"network": backbone | words}


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 399,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {}}],
        "hyper_parameters": {"lr": 0.1},
    }


def solo_learn(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projector.", (16, head["weight"].shape[1])) | under("momentum_backbone.", backbone)
    return lightning(under("backbone.", backbone) | under("classifier.", head) | rest)


def solo_learn_old(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projector.", (16, head["weight"].shape[1])) | under("momentum_encoder.", backbone)
    return lightning(under("encoder.", backbone) | under("classifier.", head) | rest)


def mmselfsup(backbone: State, head: State) -> dict[str, Any]:
    return {
        "meta": {"epoch": 200},
        "state_dict": under("backbone.", backbone) | under("head.fc_cls.", head),
    }


def lightly(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projection_head.layers.", (16, head["weight"].shape[1]))
    online = under("online_classifier.classification_head.", head)
    return lightning(under("backbone.", backbone) | rest | online)


def lightly_sequential(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projection_head.layers.", (16, head["weight"].shape[1]))
    return lightning(under("backbone.", sequential(backbone)) | rest)


def plain(backbone: State, head: State) -> dict[str, Any]:
    return dict(backbone) | under("fc.", head)


LAYOUTS: dict[str, Callable[[State, State], dict[str, Any]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        moco_v1, moco_v2, moco_v3, swav, dino, dino_student, barlow_twins, vicreg, vicreg_linear, simsiam,
        simclr_sthalles, simclr_spijkervet, simclr_tf, byol_sthalles, pirl_pycontrast, pycontrast, vissl, obow,
        obow_torchvision, solo_learn, solo_learn_old, mmselfsup, lightly, lightly_sequential, plain,
    )
}  # fmt: skip

HEAD_INSIDE = {
    "vicreg-linear",
    "simclr-tf",
    "vissl",
    "solo-learn",
    "solo-learn-old",
    "mmselfsup",
    "lightly",
    "plain",
}
WITH_SETTINGS = {"dino", "dino-student", "vicreg-linear", "pirl-pycontrast", "pycontrast"}
"""Layouts that hold more than tensors and plain values: argparse's."""


def swav_linear(head: State) -> dict[str, Any]:
    return {
        "epoch": 100,
        "state_dict": under("module.linear.", head),
        "optimizer": {},
        "best_acc": 75.3,
    }


def swav_linear_bn(head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    norm = {
        "module.bn.running_mean": torch.randn(features),
        "module.bn.running_var": torch.rand(features) + 0.5,
    }
    affine = {
        "module.bn.weight": torch.rand(features) + 0.5,
        "module.bn.bias": torch.randn(features),
    }
    content = swav_linear(head)
    return content | {"state_dict": content["state_dict"] | norm | affine}


def dino_linear(head: State) -> dict[str, Any]:
    return {"epoch": 100, "state_dict": under("module.linear.", head), "best_acc": 75.3}


def vissl_heads(head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    norm = {
        "0.channel_bn.running_mean": torch.randn(features),
        "0.channel_bn.running_var": torch.rand(features) + 0.5,
    }
    return {
        "classy_state_dict": {"base_model": {"model": {"heads": under("0.clf.0.", head) | norm}}}
    }


def bare(head: State) -> dict[str, Any]:
    return copy.copy(head)


HEADS = {
    function.__name__: function
    for function in (swav_linear, swav_linear_bn, dino_linear, vissl_heads, bare)
}


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def residual_layers(
    inputs: int, width: int, stride: int, bottleneck: bool
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions of a residual block, each with its BN."""
    plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, width * 4, 1, 1)]
    if not bottleneck:
        plan = [(inputs, width, 3, stride), (width, width, 3, 1)]
    return [(convolution(*each), nn.BatchNorm2d(each[1])) for each in plan]


def chained(layers: list[tuple[nn.Module, nn.Module]], images: Tensor) -> Tensor:
    """Convolutions with their BN, and ReLU between them."""
    for index, (first, second) in enumerate(layers):
        images = second(first(images.relu() if index else images))
    return images


def stages(
    block: Callable[..., nn.Module], width: int, inputs: int, blocks: list[int], expansion: int
) -> list:
    """One nn.Sequential of blocks for each stage; the first block of all but the first halves the
    images."""
    found = []
    for index, count in enumerate(blocks):
        outputs, stage = width << index, []
        for position in range(count):
            stage.append(block(inputs, outputs, 2 if index and not position else 1))
            inputs = outputs * expansion
        found.append(nn.Sequential(*stage))
    return found


class Kuangliu(nn.Module):
    class Block(nn.Module):
        def __init__(
            self, inputs: int, width: int, stride: int, bottleneck: bool, option: str
        ) -> None:
            super().__init__()
            self.count = 3 if bottleneck else 2
            for index, (conv, norm) in enumerate(
                residual_layers(inputs, width, stride, bottleneck), 1
            ):
                setattr(self, f"conv{index}", conv)
                setattr(self, f"bn{index}", norm)
            outputs = width * 4 if bottleneck else width
            self.shortcut = nn.Sequential()
            self.zeros = 0
            if inputs != outputs and option == "A":
                self.zeros = outputs // 4
            elif inputs != outputs or stride != 1:
                self.shortcut = nn.Sequential(
                    convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, images: Tensor) -> Tensor:
            layers = [
                (getattr(self, f"conv{i}"), getattr(self, f"bn{i}"))
                for i in range(1, self.count + 1)
            ]
            beside = self.shortcut(images)
            if self.zeros:
                halved = images[..., ::2, ::2]
                blank = torch.zeros_like(halved[:, : self.zeros])
                beside = torch.cat([blank, halved, blank], 1)
            return (chained(layers, images) + beside).relu()

    def __init__(
        self, blocks: list[int], width: int, bottleneck: bool = False, option: str = "B"
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, width, 3), nn.BatchNorm2d(width)
        expansion = 4 if bottleneck else 1

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return self.Block(inputs, outputs, stride, bottleneck, option)

        self.count = len(blocks)
        for index, stage in enumerate(stages(block, width, width, blocks, expansion), 1):
            setattr(self, f"layer{index}", stage)
        self.linear = nn.Linear((width << (self.count - 1)) * expansion, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.bn1(self.conv1(images)).relu()
        for index in range(1, self.count + 1):
            images = getattr(self, f"layer{index}")(images)
        return self.linear(images.mean((2, 3)))


class KuangliuUnit(nn.Module):
    """Numbered convolutions with their BN, in the order of `plan`: inputs, outputs, kernel, stride,
    groups."""

    def __init__(self, *plan: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        for index, (inputs, outputs, kernel, stride, groups) in enumerate(plan, 1):
            conv = nn.Conv2d(
                inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
            )
            setattr(self, f"conv{index}", conv)
            setattr(self, f"bn{index}", nn.BatchNorm2d(outputs))

    def step(self, index: int, images: Tensor) -> Tensor:
        return getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(images))


class KuangliuMobile(KuangliuUnit):
    class Block(KuangliuUnit):
        def __init__(self, inputs: int, outputs: int, times: int, stride: int) -> None:
            inner = inputs * times
            super().__init__(
                (inputs, inner, 1, 1, 1),
                (inner, inner, 3, stride, inner),
                (inner, outputs, 1, 1, 1),
            )
            self.stride, self.shortcut = stride, nn.Sequential()
            if stride == 1 and inputs != outputs:
                self.shortcut = nn.Sequential(
                    convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs)
                )

        def forward(self, images: Tensor) -> Tensor:
            made = self.step(3, self.step(2, self.step(1, images).relu()).relu())
            return made + self.shortcut(images) if self.stride == 1 else made

    def __init__(self) -> None:
        super().__init__((3, 32, 3, 1, 1), (320, 1280, 1, 1, 1))
        rows = "1 16 1 1, 6 24 2 1, 6 32 3 2, 6 64 4 2, 6 96 3 1, 6 160 3 2, 6 320 1 1"
        blocks: list[nn.Module] = []
        inputs = 32
        for times, outputs, count, stride in (map(int, row.split()) for row in rows.split(", ")):
            for each in [stride] + [1] * (count - 1):
                blocks.append(self.Block(inputs, outputs, times, each))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(1280, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.step(2, self.layers(self.step(1, images).relu())).relu()
        return self.linear(images.mean((2, 3)))


class KuangliuShuffle(KuangliuUnit):
    @staticmethod
    def mixed(images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        pairs = images.view(count, 2, channels // 2, height, width).permute(0, 2, 1, 3, 4)
        return pairs.reshape(count, channels, height, width)

    class Same(KuangliuUnit):
        def __init__(self, half: int) -> None:
            super().__init__((half, half, 1, 1, 1), (half, half, 3, 1, half), (half, half, 1, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            first, second = images[:, : images.shape[1] // 2], images[:, images.shape[1] // 2 :]
            second = self.step(3, self.step(2, self.step(1, second).relu())).relu()
            return KuangliuShuffle.mixed(torch.cat([first, second], 1))

    class Half(KuangliuUnit):
        def __init__(self, inputs: int, half: int) -> None:
            left = (inputs, inputs, 3, 2, inputs), (inputs, half, 1, 1, 1)
            super().__init__(
                *left, (inputs, half, 1, 1, 1), (half, half, 3, 2, half), (half, half, 1, 1, 1)
            )

        def forward(self, images: Tensor) -> Tensor:
            left = self.step(2, self.step(1, images)).relu()
            right = self.step(5, self.step(4, self.step(3, images).relu())).relu()
            return KuangliuShuffle.mixed(torch.cat([left, right], 1))

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__((3, 24, 3, 1, 1), (widths[2], widths[3], 1, 1, 1))
        inputs = 24
        for index, (width, count) in enumerate(zip(widths[:3], (3, 7, 3), strict=True), 1):
            units = [self.Half(inputs, width // 2)] + [self.Same(width // 2) for _ in range(count)]
            setattr(self, f"layer{index}", nn.Sequential(*units))
            inputs = width
        self.linear = nn.Linear(widths[3], 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.layer3(self.layer2(self.layer1(self.step(1, images).relu())))
        return self.linear(self.step(2, images).relu().mean((2, 3)))


class KuangliuDense(nn.Module):
    class Layer(nn.Module):
        def __init__(self, inputs: int, growth: int) -> None:
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, 4 * growth, 1)
            self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), convolution(4 * growth, growth, 3)

        def forward(self, images: Tensor) -> Tensor:
            made = self.conv2(self.bn2(self.conv1(self.bn1(images).relu())).relu())
            return torch.cat([made, images], 1)

    class Transition(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.bn, self.conv = nn.BatchNorm2d(inputs), convolution(inputs, inputs // 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(self.conv(self.bn(images).relu()), 2)

    def __init__(self, blocks: list[int], growth: int) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1 = convolution(3, width, 3)
        for index, count in enumerate(blocks, 1):
            layers = [self.Layer(width + growth * each, growth) for each in range(count)]
            setattr(self, f"dense{index}", nn.Sequential(*layers))
            width += growth * count
            if index < 4:
                setattr(self, f"trans{index}", self.Transition(width))
                width //= 2
        self.bn, self.linear = nn.BatchNorm2d(width), nn.Linear(width, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.conv1(images)
        for index in (1, 2, 3):
            images = getattr(self, f"trans{index}")(getattr(self, f"dense{index}")(images))
        return self.linear(self.bn(self.dense4(images)).relu().mean((2, 3)))


class KuangliuVgg(nn.Sequential):
    """`plan` is that of the family's table: channels, and M for a pooling."""

    def __init__(self, plan: str, channels: int = 3, side: int = 1) -> None:
        layers: list[nn.Module] = []
        inputs = channels
        for each in plan.split():
            if each == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            padding = 3 if channels == 1 and not layers else 1
            outputs = int(each)
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=padding),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        layers.append(nn.AvgPool2d(1, 1))
        children = {
            "features": nn.Sequential(*layers),
            "flatten": nn.Flatten(),
            "classifier": nn.Linear(inputs * side * side, 7),
        }
        super().__init__(OrderedDict(children))


class HiddenVgg(nn.Module):
    """The VGGs with BN of chenyaofo (`hidden` 512, a dropout behind both hidden layers) and
    weiaicunzai (4096, behind the first alone)."""

    def __init__(self, depth: int, hidden: int, dropouts: int) -> None:
        super().__init__()
        blocks = {11: "11222", 13: "22222", 16: "22333", 19: "22444"}[depth]
        layers: list[nn.Module] = []
        inputs = 3
        for count, outputs in zip(map(int, blocks), (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
                layers.extend((conv, nn.BatchNorm2d(outputs), nn.ReLU()))
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        second = [nn.Linear(hidden, hidden), nn.ReLU()] + [nn.Dropout()] * (dropouts - 1)
        self.classifier = nn.Sequential(
            nn.Linear(512, hidden), nn.ReLU(), nn.Dropout(), *second, nn.Linear(hidden, 7)
        )
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class KuangliuPreact(nn.Module):
    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
            super().__init__()
            self.convs = []
            for index, (conv, _) in enumerate(
                residual_layers(inputs, width, stride, bottleneck), 1
            ):
                setattr(self, f"bn{index}", nn.BatchNorm2d(conv.in_channels))
                setattr(self, f"conv{index}", conv)
                self.convs.append(index)
            outputs = width * 4 if bottleneck else width
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride))

        def forward(self, images: Tensor) -> Tensor:
            made = images
            for index in self.convs:
                made = getattr(self, f"bn{index}")(made).relu()
                if index == 1:
                    beside = self.shortcut(made) if hasattr(self, "shortcut") else images
                made = getattr(self, f"conv{index}")(made)
            return made + beside

    def __init__(self, blocks: list[int], bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = convolution(3, 4, 3)
        expansion = 4 if bottleneck else 1

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return self.Block(inputs, outputs, stride, bottleneck)

        self.layer1, self.layer2, self.layer3, self.layer4 = stages(block, 4, 4, blocks, expansion)
        self.linear = nn.Linear(32 * expansion, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return self.linear(images.mean((2, 3)))


class Xternalz(nn.Module):
    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, outputs, 3, stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(outputs), convolution(outputs, outputs, 3)
            self.convShortcut = None
            if inputs != outputs:
                self.convShortcut = convolution(inputs, outputs, 1, stride)

        def forward(self, images: Tensor) -> Tensor:
            begun = self.bn1(images).relu()
            made = self.conv2(self.bn2(self.conv1(begun)).relu())
            return made + (images if self.convShortcut is None else self.convShortcut(begun))

    def __init__(self, depth: int, widen: int) -> None:
        super().__init__()
        self.conv1 = convolution(3, 16, 3)
        made = stages(self.Block, 16 * widen, 16, [(depth - 4) // 6] * 3, 1)
        for index, stage in enumerate(made, 1):
            setattr(self, f"block{index}", nn.Sequential(OrderedDict(layer=stage)))
        self.bn1, self.fc = nn.BatchNorm2d(64 * widen), nn.Linear(64 * widen, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(self.bn1(images).relu().mean((2, 3)))


class Chenyaofo(nn.Module):
    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            (self.conv1, self.bn1), (self.conv2, self.bn2) = residual_layers(
                inputs, width, stride, False
            )
            self.downsample = None
            if inputs != width:
                self.downsample = nn.Sequential(
                    convolution(inputs, width, 1, stride), nn.BatchNorm2d(width)
                )

        def forward(self, images: Tensor) -> Tensor:
            beside = images if self.downsample is None else self.downsample(images)
            return (
                chained([(self.conv1, self.bn1), (self.conv2, self.bn2)], images) + beside
            ).relu()

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 4, 3), nn.BatchNorm2d(4)
        self.layer1, self.layer2, self.layer3 = stages(self.Block, 4, 4, [3, 3, 3], 1)
        self.fc = nn.Linear(16, 7)

    def forward(self, images: Tensor) -> Tensor:
        images = self.bn1(self.conv1(images)).relu()
        return self.fc(self.layer3(self.layer2(self.layer1(images))).mean((2, 3)))


class Weiaicunzai(nn.Module):
    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for pair in residual_layers(inputs, width, stride, bottleneck):
                layers += [*pair, nn.ReLU()]
            self.residual_function = nn.Sequential(*layers[:-1])
            outputs = width * 4 if bottleneck else width
            self.shortcut = nn.Sequential()
            if inputs != outputs or stride != 1:
                self.shortcut = nn.Sequential(
                    convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, images: Tensor) -> Tensor:
            return (self.residual_function(images) + self.shortcut(images)).relu()

    def __init__(self, blocks: list[int], bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(convolution(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        expansion = 4 if bottleneck else 1

        def block(inputs: int, width: int, stride: int) -> nn.Module:
            return self.Block(inputs, width, stride, bottleneck)

        self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x = stages(
            block, 4, 4, blocks, expansion
        )
        self.fc = nn.Linear(32 * expansion, 7)

    def forward(self, images: Tensor) -> Tensor:
        for part in (self.conv1, self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x):
            images = part(images)
        return self.fc(images.mean((2, 3)))


class RdedConvNet(nn.Module):
    def __init__(self, depth: int, norm: str, channels: int, side: int) -> None:
        super().__init__()
        widths = [channels] + [5] * depth
        paddings = [3 if channels == 1 and index == 0 else 1 for index in range(depth)]
        kinds = {"batch": lambda: nn.BatchNorm2d(5), "instance": lambda: nn.GroupNorm(5, 5)}
        convolutions = [nn.Conv2d(widths[i], 5, 3, padding=paddings[i]) for i in range(depth)]
        self.layers = nn.ModuleDict({
            "conv": nn.ModuleList(convolutions),
            "norm": nn.ModuleList(kinds[norm]() for _ in range(depth)),
        })  # fmt: skip
        self.classifier = nn.Linear(5 * side * side, 7)

    def forward(self, images: Tensor) -> Tensor:
        for conv, norm in zip(self.layers["conv"], self.layers["norm"], strict=True):
            images = nn.functional.avg_pool2d(norm(conv(images)).relu(), 2)
        return self.classifier(images.flatten(1))


class DcConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(3):
            layers += [
                nn.Conv2d(5 if index else 3, 5, 3, padding=1),
                nn.GroupNorm(5, 5),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(80, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class HuggingFace(nn.Module):
    class Layer(nn.Module):
        def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
            super().__init__()
            self.convolution, self.normalization = conv, norm

        def forward(self, images: Tensor) -> Tensor:
            return self.normalization(self.convolution(images))

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
            super().__init__()
            layer = HuggingFace.Layer
            self.layer = nn.Sequential(
                *(layer(*pair) for pair in residual_layers(inputs, width, stride, bottleneck))
            )
            outputs = width * 4 if bottleneck else width
            self.shortcut = nn.Identity()
            if inputs != outputs or stride != 1:
                self.shortcut = layer(
                    convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )

        def forward(self, images: Tensor) -> Tensor:
            beside = self.shortcut(images)
            for index, layer in enumerate(self.layer):
                images = layer(images.relu() if index else images)
            return (images + beside).relu()

    def __init__(self, blocks: list[int], bottleneck: bool) -> None:
        super().__init__()
        expansion = 4 if bottleneck else 1

        def block(inputs: int, width: int, stride: int) -> nn.Module:
            return self.Block(inputs, width, stride, bottleneck)

        def holder(**children: nn.Module) -> nn.Module:
            made = nn.Module()
            for name, child in children.items():
                made.add_module(name, child)
            return made

        first = self.Layer(nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4))
        made = [holder(layers=stage) for stage in stages(block, 4, 4, blocks, expansion)]
        encoder = holder(stages=nn.ModuleList(made))
        self.resnet = holder(embedder=holder(embedder=first), encoder=encoder)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * expansion, 7))

    def forward(self, images: Tensor) -> Tensor:
        images = nn.functional.max_pool2d(self.resnet.embedder.embedder(images).relu(), 3, 2, 1)
        for stage in self.resnet.encoder.stages:
            images = stage.layers(images)
        return self.classifier(images.mean((2, 3), keepdim=True))


class Mmpretrain(nn.Module):
    """`ResNet_CIFAR` of depth 18 with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        backbone = torchvision.models.resnet18()
        backbone.conv1, backbone.maxpool, backbone.fc = (
            convolution(3, 64, 3),
            nn.Identity(),
            nn.Identity(),
        )
        self.backbone = backbone
        self.head = nn.ModuleDict({"fc": nn.Linear(512, 7)})

    def forward(self, images: Tensor) -> Tensor:
        return self.head["fc"](self.backbone(images))


def library(name: str) -> nn.Module:
    return torchvision.models.get_model(name, num_classes=7)


@dataclass(frozen=True)
class Original:
    """A network as a family builds it, what its script writes, and what ours is called."""

    layout: str
    network: Callable[[], nn.Module]
    write: Callable[[State], dict[str, Any]]
    architecture: str
    shape: tuple[int, int, int] = (3, 32, 32)


def as_kuangliu(state: State) -> dict[str, Any]:
    return {"net": under("module.", state), "acc": 95.4, "epoch": 180}


def as_dc(state: State) -> dict[str, Any]:
    """DC's ResNets are kuangliu's with another name of the classifier."""
    return {key.replace("linear.", "classifier."): value for key, value in state.items()}


def as_repdistiller(state: State) -> dict[str, Any]:
    return {"epoch": 240, "model": state, "best_acc": torch.tensor(75.6), "optimizer": {}}


def as_akamaster(state: State) -> dict[str, Any]:
    return {
        "epoch": 200,
        "state_dict": OrderedDict(under("module.", state)),
        "best_prec1": torch.tensor(91.7),
    }


def as_reference(state: State) -> dict[str, Any]:
    """torchvision's reference training, whose average of the weights comes later than the
    weights."""
    averaged = {"n_averaged": torch.tensor(7)} | under("module.", state)
    settings = argparse.Namespace(model="resnet18", data_path=Path("data"), lr=0.1)
    return {
        "model": {key: value + 1 for key, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3, "_last_lr": [np.float64(0.1)]},
        "epoch": 3,
        "args": settings,
        "model_ema": averaged,
    }


def as_timm(state: State) -> dict[str, Any]:
    return {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": {key: value + 1 for key, value in state.items()},
        "args": argparse.Namespace(model="resnet18"),
        "state_dict_ema": state,
        "metric": np.float64(71.3),
    }


def as_lightning(state: State) -> dict[str, Any]:
    return lightning(under("model.net.", state))


def as_mmpretrain(state: State) -> dict[str, Any]:
    others = {key: value + 1 for key, value in state.items()}
    return {"meta": {"epoch": 9}, "state_dict": state, "ema_state_dict": under("module.", others)}


def as_named(name: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {name: state, "epoch": 3}


def as_published_densenet(state: State) -> dict[str, Any]:
    """The names that torchvision's first releases had, as its published files still have them."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
    }


ORIGINALS = (
    Original("kuangliu", lambda: Kuangliu([2, 2, 2, 2], 4), as_kuangliu, "resnet18"),
    Original(
        "kuangliu",
        lambda: Kuangliu([3, 4, 6, 3], 4, bottleneck=True),
        dict,
        "resnet50",
        (3, 64, 64),
    ),
    Original("kuangliu", lambda: Kuangliu([3, 4, 6, 3], 4), as_reference, "resnet34"),
    Original("kuangliu", lambda: Kuangliu([2, 2, 2, 2], 4), as_lightning, "resnet18"),
    Original(
        "kuangliu", lambda: Kuangliu([2, 2, 2, 2], 4), as_named("teacher_weights"), "resnet18"
    ),
    Original("kuangliu-others", KuangliuMobile, dict, "cifar-mobilenetv2"),
    Original(
        "kuangliu-others", lambda: KuangliuShuffle((48, 96, 192, 1024)), dict, "cifar-shufflenetv2"
    ),
    Original(
        "kuangliu-others",
        lambda: KuangliuShuffle((116, 232, 464, 1024)),
        as_kuangliu,
        "cifar-shufflenetv2",
        (3, 64, 64),
    ),
    Original(
        "kuangliu-others",
        lambda: KuangliuDense([6, 12, 24, 16], 4),
        as_kuangliu,
        "cifar-densenet121",
    ),
    Original(
        "kuangliu-others",
        lambda: KuangliuDense([6, 12, 36, 24], 4),
        dict,
        "cifar-densenet161",
        (3, 64, 64),
    ),
    Original(
        "kuangliu-preact",
        lambda: KuangliuPreact([2, 2, 2, 2], False),
        as_kuangliu,
        "cifar-preact-resnet18",
    ),
    Original(
        "kuangliu-preact",
        lambda: KuangliuPreact([3, 4, 6, 3], True),
        dict,
        "cifar-preact-resnet50",
        (3, 64, 64),
    ),
    Original(
        "kuangliu-vgg", lambda: KuangliuVgg("4 M 8 M 16 16 M 32 32 M 32 32 M"), dict, "cifar-vgg11"
    ),
    Original(
        "kuangliu-vgg",
        lambda: KuangliuVgg("4 M 8 M 16 16 M 32 32 M 32 32 M", channels=1),
        dict,
        "cifar-vgg11",
        (1, 28, 28),
    ),
    Original(
        "kuangliu-vgg",
        lambda: KuangliuVgg("4 4 M 8 8 M 16 16 16 M 32 32 32 M 32 32 32 M", side=2),
        as_kuangliu,
        "cifar-vgg16",
        (3, 64, 64),
    ),
    Original("dc-resnet", lambda: Kuangliu([2, 2, 2, 2], 4), as_dc, "resnet18"),
    Original("xternalz", lambda: Xternalz(16, 2), as_akamaster, "cifar-wide-resnet16"),
    Original("xternalz", lambda: Xternalz(40, 1), as_repdistiller, "cifar-wide-resnet40"),
    Original("akamaster", lambda: Kuangliu([3, 3, 3], 4, option="A"), as_akamaster, "resnet20"),
    Original("akamaster", lambda: Kuangliu([9, 9, 9], 4, option="A"), as_akamaster, "resnet56"),
    Original("akamaster", lambda: Kuangliu([5, 5, 5], 4), as_akamaster, "resnet32"),
    Original("chenyaofo", Chenyaofo, dict, "resnet20"),
    Original(
        "chenyaofo",
        Chenyaofo,
        lambda state: {"opt": argparse.Namespace(), "model": state},
        "resnet20",
    ),
    *(
        Original("chenyaofo-vgg", partial(HiddenVgg, depth, 512, 2), dict, f"cifar-vgg{depth}")
        for depth in (11, 13, 16, 19)
    ),
    Original("weiaicunzai-vgg", lambda: HiddenVgg(16, 4096, 1), dict, "cifar-vgg16"),
    Original("weiaicunzai-vgg", lambda: HiddenVgg(11, 4096, 2), dict, "cifar-vgg11"),
    Original("weiaicunzai", lambda: Weiaicunzai([2, 2, 2, 2], False), dict, "resnet18"),
    Original("weiaicunzai", lambda: Weiaicunzai([3, 4, 23, 3], True), dict, "resnet101"),
    Original("rded-convnet", lambda: RdedConvNet(3, "batch", 3, 4), as_named("model"), "convnet3"),
    Original(
        "rded-convnet",
        lambda: RdedConvNet(4, "batch", 3, 4),
        as_named("model"),
        "convnet4",
        (3, 64, 64),
    ),
    Original(
        "rded-convnet", lambda: RdedConvNet(3, "instance", 1, 4), dict, "convnet3", (1, 28, 28)
    ),
    Original(
        "rded-convnet",
        lambda: RdedConvNet(6, "batch", 3, 2),
        as_named("model"),
        "convnet6",
        (3, 128, 128),
    ),
    Original("dc-convnet", DcConvNet, dict, "convnet3"),
    Original(
        "hugging-face", lambda: HuggingFace([2, 2, 2, 2], False), dict, "resnet18", (3, 64, 64)
    ),
    Original(
        "hugging-face", lambda: HuggingFace([3, 4, 6, 3], True), dict, "resnet50", (3, 64, 64)
    ),
    Original("mmpretrain", Mmpretrain, as_mmpretrain, "resnet18"),
    Original("plain", lambda: library("resnet18"), as_reference, "resnet18", (3, 64, 64)),
    Original("plain", lambda: library("resnet18"), as_timm, "resnet18", (3, 64, 64)),
    Original(
        "plain", lambda: library("squeezenet1_1"), dict, "torchvision/squeezenet1_1", (3, 64, 64)
    ),
    Original("plain", lambda: library("vit_b_32"), dict, "torchvision/vit_b_32", (3, 224, 224)),
    Original(
        "torchvision-densenet",
        lambda: library("densenet121"),
        as_published_densenet,
        "torchvision/densenet121",
        (3, 64, 64),
    ),
)
