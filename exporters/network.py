"""The checkpoint that passes between `pretrain`, `probe` and `export`: one network and what is
known about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import data, registry
from .config import parse
from .errors import InputError
from .files import load_checkpoint, save_checkpoint

FORMAT = "scdd-network-1"


@dataclass(frozen=True)
class Pretraining:
    """How the weights came about; goes into the bundle's manifest.

    `head` is joint, linear_probe, unknown or none; `probe` is the recipe of the linear probe whose
    accuracy is `probe_accuracy`; `images` is how many training images there were; `statistics` is
    training (BN statistics as the training left them) or recalibrated (measured on clean training
    images). `wall_seconds` include what other programs took of the machine, `cpu_seconds` don't.
    """

    scheme: str
    dataset: str
    epochs: int | None
    command: str
    wall_seconds: float | None
    head: str
    probe_accuracy: float | None = None
    knn_accuracy: float | None = None
    probe: str | None = None
    statistics: str = "training"
    cpu_seconds: float | None = None
    images: int | None = None


@dataclass(frozen=True)
class OwnData:
    """What is known of a data set that is not in the registry, or of one that was taken otherwise
    than that says."""

    channels: int
    size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def own_data(dataset: data.DatasetInfo) -> OwnData | None:
    """What of `dataset` the registry does not have."""
    known = dataset.name in registry.names() and data.info(dataset.name)
    if known == replace(dataset, place=None):
        return None
    return OwnData(dataset.channels, dataset.size, dataset.classes, dataset.mean, dataset.std)


@dataclass(frozen=True)
class Checkpoint:
    """`state` has torchvision's parameter names; the classifier is missing from it where
    `pretraining.head` is none.

    `own` is of the images, where the registry does not have it.
    """

    name: str
    architecture: str
    options: dict[str, Any]
    pretraining: Pretraining
    state: dict[str, Tensor] = field(repr=False)
    own: OwnData | None = None

    def save(self, path: Path) -> None:
        content = {
            "format": FORMAT,
            "name": self.name,
            "architecture": self.architecture,
            "options": self.options,
            "pretraining": asdict(self.pretraining),
            "state": {key: value.detach().contiguous() for key, value in self.state.items()},
        }
        if self.own is not None:
            content["own"] = asdict(self.own)
        save_checkpoint(path, content)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        content = load_checkpoint(path)
        if content.pop("format", None) != FORMAT:
            raise InputError(
                f"{path} was not written by `python -m exporters pretrain` or `probe` (no format {FORMAT}); a "
                f"checkpoint of others becomes a bundle by `export --checkpoint {path}`"
            )
        if not isinstance(content.get("state"), dict):
            raise InputError(f"{path}: state is missing")
        return parse(cls, content, str(path))

    def dataset(self) -> data.DatasetInfo:
        """What it was trained on."""
        if self.own is None:
            return data.info(self.pretraining.dataset)
        own = self.own
        return data.DatasetInfo(
            self.pretraining.dataset, own.channels, own.size, own.classes, own.mean, own.std
        )

    def network(self) -> nn.Module:
        """The network in evaluation mode; without a classifier in the checkpoint it returns
        features `[N, D]`."""
        from . import models  # with torchvision, which takes seconds that `import` can do without

        with torch.random.fork_rng():
            model = models.build(self.architecture, self.options)
        if self.pretraining.head == "none":
            models.take_head(self.architecture, model)
        try:
            model.load_state_dict(self.state, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"checkpoint {self.name} does not fit architecture {self.architecture}: {error}"
            ) from error
        return model.eval()
