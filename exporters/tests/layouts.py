"""Checkpoints as the families write them, around any ResNet: one function per layout of `adapters.yaml`."""

from __future__ import annotations

import argparse
import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def junk(prefix: str, *shapes: tuple[int, ...]) -> State:
    """Other modules' parameters: weights of the given shapes, in order."""
    return {f"{prefix}{index}.weight": torch.randn(*shape) for index, shape in enumerate(shapes)}


def sequential(state: State) -> State:
    """The names under nn.Sequential(*resnet.children())."""
    return {f"{CHILDREN[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in state.items()}


def classifier(prefix: str, head: State) -> State:
    return under(prefix, head)


def moco_v1(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    momentum = under("module.encoder_k.", backbone) | {"module.encoder_k.fc.weight": torch.randn(128, features)}
    query = under("module.encoder_q.", backbone) | {
        "module.encoder_q.fc.weight": torch.randn(128, features),
        "module.encoder_q.fc.bias": torch.randn(128),
    }
    queue = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
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
    heads = junk("projection_head.", (16, head["weight"].shape[1]), (8, 16)) | {"prototypes.weight": torch.randn(30, 8)}
    return under("module.", backbone | heads)


def dino(backbone: State, head: State) -> dict[str, Any]:
    projector = junk("head.mlp.", (16, head["weight"].shape[1])) | {"head.last_layer.weight_v": torch.randn(32, 16)}
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
    return {"epoch": 1000, "model": under("module.", under("backbone.", backbone) | rest), "optimizer": {"state": {}}}


def vicreg(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("projector.", (16, head["weight"].shape[1]), (16, 16))
    return {"epoch": 1000, "model": under("module.", under("backbone.", backbone) | rest), "optimizer": {"state": {}}}


def vicreg_linear(backbone: State, head: State) -> dict[str, Any]:
    return {
        "epoch": 100,
        "best_acc": argparse.Namespace(top1=73.2, top5=91.1),
        "model": under("module.0.", backbone) | under("module.1.", head),
    }


def simsiam(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    projector = {"fc.0.weight": torch.randn(features, features), "fc.6.bias": torch.randn(features)}
    state = under("module.encoder.", backbone | projector) | junk("module.predictor.", (8, features), (features, 8))
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}}


def simclr_sthalles(backbone: State, head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    projector = {"fc.0.weight": torch.randn(features, features), "fc.2.weight": torch.randn(128, features)}
    return {"epoch": 100, "arch": "resnet18", "state_dict": under("backbone.", backbone | projector), "optimizer": {}}


def simclr_spijkervet(backbone: State, head: State) -> dict[str, Any]:
    return under("encoder.", backbone) | junk("projector.", (16, head["weight"].shape[1]), (8, 16))


def simclr_tf(backbone: State, head: State) -> dict[str, Any]:
    return {"state_dict": backbone | under("fc.", head)}


def byol_sthalles(backbone: State, head: State) -> dict[str, Any]:
    projector = {"projetion.net.0.weight": torch.randn(16, head["weight"].shape[1])}  # so spelt there
    online = under("encoder.", sequential(backbone)) | projector
    return {
        "online_network_state_dict": online,
        "encoder_state_dict": sequential(backbone),
        "target_network_state_dict": {key: value + 1 for key, value in online.items()},
        "optimizer_state_dict": {"state": {}},
    }


def pirl_pycontrast(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("head.", (128, head["weight"].shape[1])) | junk("head_jig.fc", (128, head["weight"].shape[1]))
    return {"opt": argparse.Namespace(method="PIRL"), "model": under("module.", under("encoder.", backbone) | rest)}


def pycontrast(backbone: State, head: State) -> dict[str, Any]:
    rest = junk("head.", (128, head["weight"].shape[1]))
    return {"opt": argparse.Namespace(method="InfoMin"), "model": under("module.", under("encoder.", backbone) | rest)}


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
    names = {"conv1": "0.Conv", "bn1": "0.bn", "layer1": "1", "layer2": "2", "layer3": "3", "layer4": "4"}
    state = {
        f"_feature_blocks.{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in backbone.items()
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
    return {"meta": {"epoch": 200}, "state_dict": under("backbone.", backbone) | under("head.fc_cls.", head)}


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

HEAD_INSIDE = {"vicreg-linear", "simclr-tf", "vissl", "solo-learn", "solo-learn-old", "mmselfsup", "lightly", "plain"}
REFUSED = {"dino", "dino-student", "vicreg-linear", "pirl-pycontrast", "pycontrast"}
"""Layouts that hold more than tensors and plain values."""


def swav_linear(head: State) -> dict[str, Any]:
    return {"epoch": 100, "state_dict": under("module.linear.", head), "optimizer": {}, "best_acc": 75.3}


def swav_linear_bn(head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    norm = {"module.bn.running_mean": torch.randn(features), "module.bn.running_var": torch.rand(features) + 0.5}
    affine = {"module.bn.weight": torch.rand(features) + 0.5, "module.bn.bias": torch.randn(features)}
    content = swav_linear(head)
    return content | {"state_dict": content["state_dict"] | norm | affine}


def dino_linear(head: State) -> dict[str, Any]:
    return {"epoch": 100, "state_dict": under("module.linear.", head), "best_acc": 75.3}


def vissl_heads(head: State) -> dict[str, Any]:
    features = head["weight"].shape[1]
    norm = {"0.channel_bn.running_mean": torch.randn(features), "0.channel_bn.running_var": torch.rand(features) + 0.5}
    return {"classy_state_dict": {"base_model": {"model": {"heads": under("0.clf.0.", head) | norm}}}}


def bare(head: State) -> dict[str, Any]:
    return copy.copy(head)


HEADS = {function.__name__: function for function in (swav_linear, swav_linear_bn, dino_linear, vissl_heads, bare)}
