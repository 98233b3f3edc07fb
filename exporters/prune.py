"""Data-free structured pruning: `python -m exporters prune BUNDLE --keep SHARE`.

Of the channels between the convolutions of each residual block as many are kept as SHARE says; what
the blocks hand on keeps its channels. Weights and BN statistics tell which: no image is read. What
is left may learn from a distilled set.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import data, models
from .bundle import write_teacher
from .distilled import DistilledSet, learn
from .errors import InputError
from .files import sha256
from .network import Checkpoint
from .unpack import unpack

LEARNING_RATE = 0.001
LEAST_VARIANCE = 0.1
"""The share of a variance that is left at least: the estimate of what goes may exceed it."""


@dataclass(frozen=True)
class Inner:
    """A convolution whose outputs go through its BN and ReLU to the next convolution alone, and the
    BN of that."""

    first: nn.Conv2d
    norm: nn.BatchNorm2d
    second: nn.Conv2d
    last: nn.BatchNorm2d

    def rectified(self) -> tuple[Tensor, Tensor]:
        """Mean and variance `[C]` of what the second convolution sees.

        What leaves a BN is taken as normal with its bias as mean and its weight as deviation, and
        rectified.
        """
        deviation = self.norm.weight.double().abs().clamp_min(1e-12)
        mean = self.norm.bias.double()
        ratio = mean / deviation
        above = torch.special.ndtr(ratio)
        density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
        first = mean * above + deviation * density
        second = (mean.square() + deviation.square()) * above + mean * deviation * density
        return first, (second - first.square()).clamp_min(0)

    def shares(self) -> tuple[Tensor, Tensor]:
        """What each channel gives to mean and variance of the outputs of the second convolution,
        both `[outputs, C]`. Pixels and channels are taken as independent."""
        weight = self.second.weight.double()
        mean, variance = self.rectified()
        return mean * weight.sum((2, 3)), variance * weight.square().sum((2, 3))


def by_statistics(layer: Inner, _: torch.Generator) -> Tensor:
    """Which share of the variances of the next BN goes with each channel `[C]`, summed over that
    BN's channels. Its means go too, but are taken back."""
    variance = layer.shares()[1]
    before = cast(Tensor, layer.last.running_var).double() + layer.last.eps
    return (variance / before[:, None]).sum(0)


def by_magnitude(layer: Inner, _: torch.Generator) -> Tensor:
    """The sum of the absolute weights that make each channel (arXiv 1608.08710)."""
    return layer.first.weight.abs().sum((1, 2, 3))


def at_random(layer: Inner, generator: torch.Generator) -> Tensor:
    return torch.rand(layer.first.out_channels, generator=generator)


CRITERIA: dict[str, Callable[[Inner, torch.Generator], Tensor]] = {
    "statistics": by_statistics,
    "magnitude": by_magnitude,
    "random": at_random,
}
"""How much each channel matters, by the name of the criterion."""


@torch.no_grad()
def prune_network(
    checkpoint: Checkpoint, keep: float, by: str = "statistics", seed: int = 0
) -> Checkpoint:
    """`checkpoint` with the share `keep` of the inner channels of each block, those that matter
    most by the criterion `by`.

    The running statistics of the next BN lose what the removed channels gave to them, variances
    at most to a tenth, so that they stay those of the network.
    """
    if not 0 < keep < 1:
        raise InputError(f"--keep {keep}: it must be above 0 and below 1; 0.8 keeps four fifths")
    if checkpoint.architecture not in models.RESNETS:
        raise InputError(
            f"{checkpoint.name} is a {checkpoint.architecture}; only inner channels of {', '.join(models.RESNETS)} are "
            "pruned"
        )
    if checkpoint.options.get("inner", 1.0) != 1:
        raise InputError(
            f"{checkpoint.name} is pruned already; prune the network that it was made of"
        )
    model = checkpoint.network()
    generator = torch.Generator().manual_seed(seed)
    state = dict(model.state_dict())
    for names in models.inner_layers(model):
        modules: list[Any] = [model.get_submodule(name) for name in names]
        layer = Inner(*modules)
        first, norm, second, last = names
        importance = CRITERIA[by](layer, generator)
        count = models.inner_channels(len(importance), keep)
        order = importance.argsort(descending=True, stable=True)
        kept, removed = order[:count].sort().values, order[count:]
        mean, variance = (share[:, removed].sum(1).float() for share in layer.shares())
        state[f"{first}.weight"] = state[f"{first}.weight"][kept]
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = state[f"{norm}.{part}"][kept]
        state[f"{second}.weight"] = state[f"{second}.weight"][:, kept]
        before = state[f"{last}.running_var"]
        state[f"{last}.running_mean"] = state[f"{last}.running_mean"] - mean
        state[f"{last}.running_var"] = torch.maximum(before - variance, LEAST_VARIANCE * before)
    options = checkpoint.options | {"inner": keep}
    return replace(checkpoint, options=options, state=state)


def prune(
    folder: Path,
    data_root: Path,
    output: Path,
    *,
    keep: float,
    by: str = "statistics",
    seed: int = 0,
    tune: Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the teacher's bundle in `folder`, pruned, as the bundle `output/name`.

    It learns from the distilled set in `tune`, if that is given. The test images, where they are
    there, only measure its accuracy.
    """
    with tempfile.TemporaryDirectory() as aside:
        whole = Checkpoint.load(unpack(folder, Path(aside) / "whole.pt", say=lambda _: None))
    dataset = whole.dataset()
    distilled = None if tune is None else _distilled(tune, dataset)
    command = f"python -m exporters prune {folder.name} --keep {keep} --by {by} --seed {seed}"
    if tune is not None:
        command += f" --tune {tune.name}"
    pretraining = replace(
        whole.pretraining,
        command=command,
        wall_seconds=None,
        cpu_seconds=None,
        probe_accuracy=None,
        knn_accuracy=None,
        statistics="training, less what was pruned" if distilled is None else "tuning",
    )
    tuned = "" if distilled is None else "-tuned"
    name = name or f"{whole.name}-pruned-{round(100 * keep)}-by-{by}{tuned}"
    pruned = replace(prune_network(whole, keep, by, seed), name=name, pretraining=pretraining)
    counts = [sum(map(torch.numel, _parameters(each))) for each in (whole, pruned)]
    say(f"{name}: {counts[1]:,} of {counts[0]:,} parameters")
    if distilled is not None:
        say(f"{name}: learns from {distilled.name}, {distilled.store.epochs} epochs")
        model = pruned.network()
        learn(model, distilled, torch.arange(len(dataset.classes)), dataset, LEARNING_RATE)
        pruned = replace(pruned, state=model.state_dict())
    source = {"file": f"{folder.name}/model.onnx", "sha256": sha256(folder / "model.onnx")}
    test = data.test_split(dataset, data_root, say)
    return write_teacher(
        pruned, dataset, test, source, output, name=name, replace=overwrite, say=say
    )


def _distilled(folder: Path, dataset: data.DatasetInfo) -> DistilledSet:
    found = DistilledSet.read(folder)
    if found.store.classes != len(dataset.classes):
        raise InputError(
            f"{folder} has labels of {found.store.classes} classes, but the network has {len(dataset.classes)}: name a "
            "set of its own"
        )
    return found


def _parameters(checkpoint: Checkpoint) -> list[Tensor]:
    return list(checkpoint.network().parameters())
