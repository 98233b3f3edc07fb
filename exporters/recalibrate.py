"""BN statistics of clean images: `python -m exporters recalibrate CHECKPOINT`.

Self-supervised methods leave the statistics of strongly augmented views. Here they are measured
anew on the training images as they are; the weights stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from . import data, models
from .errors import InputError
from .network import Checkpoint


@torch.no_grad()
def recalibrate_network(
    model: nn.Module, split: data.Split, dataset: data.DatasetInfo, batch_size: int = 1000
) -> None:
    """Replaces the running statistics of all BN layers by averages over `split` in batches of
    `batch_size`."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise InputError("the network has no BN layers to recalibrate")
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over batches
    model.train()
    for batch in split.images.split(batch_size):
        images = data.normalise(data.to_float(batch), dataset.mean, dataset.std)
        model(images.contiguous(memory_format=torch.channels_last))
    model.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def recalibrate(
    path: Path,
    data_root: Path,
    output: Path | None = None,
    *,
    chosen: data.Options = data.AS_KNOWN,
    train: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Measures BN statistics on the clean training images; returns the path of `recalibrated.pt`
    beside `path`.

    A probed classifier fits the old statistics only and is dropped; one that was trained with the
    network stays.
    """
    checkpoint = Checkpoint.load(path)
    dataset = chosen.of(checkpoint.dataset())
    train = train or data.load(dataset, data_root, "train", sample=chosen.sample)
    model = checkpoint.network()
    recalibrate_network(model, train, dataset)
    if checkpoint.pretraining.head == "linear_probe":
        models.take_head(checkpoint.architecture, model)
    pretraining = replace(
        checkpoint.pretraining,
        head="none"
        if checkpoint.pretraining.head == "linear_probe"
        else checkpoint.pretraining.head,
        probe_accuracy=None,
        knn_accuracy=None,
        probe=None,
        statistics="recalibrated" + (f" on {len(train.images)} images" if chosen.sample else ""),
    )
    output = output or path.with_name("recalibrated.pt")
    replace(checkpoint, pretraining=pretraining, state=model.state_dict()).save(output)
    say(
        f"{checkpoint.name}: BN statistics of {len(train.images)} clean images; probe {output} before exporting it"
    )
    return output
