"""Supervised training with cross entropy."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Generator, Tensor

from ..augment import CropFlip
from .base import Method


@dataclass(frozen=True)
class SupervisedConfig:
    label_smoothing: float = 0.0
    augmentation: CropFlip = field(default_factory=CropFlip)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be in 0..1")


class Supervised(Method):
    Config = SupervisedConfig
    trains_head = True

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        return [self.config.augmentation(images, generator)]

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        return F.cross_entropy(
            self.encode(self.model, views[0]), labels, label_smoothing=self.config.label_smoothing
        )
