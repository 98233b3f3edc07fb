"""Writes the bundle features-only/ beside itself: features only, from a MoCo v3 checkpoint without
classifier.

Run from the repository's root as `python -m tests.goldens.make_features`. The network is a
ResNet-10 of width 4, its weights random, its BN statistics drawn too.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from exporters import community, models
from exporters.data import Options
from exporters.tests import layouts

OPTIONS = {"width": 4, "stem": "small", "channels": 1, "classes": 10}


def main() -> None:
    torch.manual_seed(0)
    model = models.build("resnet10", OPTIONS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    state = dict(model.state_dict())
    backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
    head = {key.removeprefix("fc."): value for key, value in state.items() if key.startswith("fc.")}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "moco-v3.pth"
        torch.save(layouts.moco_v3(backbone, head), checkpoint)
        community.export_community(
            checkpoint,
            Path(folder),
            Path(__file__).parent,
            options={"stem": OPTIONS["stem"]},  # no tensor tells it
            chosen=Options("fashion-mnist"),
            name="features-only",
            replace=True,
        )


if __name__ == "__main__":
    main()
