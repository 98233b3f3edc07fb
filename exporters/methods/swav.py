"""SwAV (arXiv 2006.09882): predicts the other view's cluster assignment; lightly's head, prototypes
and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import Method, require


@dataclass(frozen=True)
class SwavConfig:
    """`frozen` is the share of the training during which the prototypes keep their initial values.

    Besides two views by `augmentation` there are `local_views` more by `local_augmentation`
    (multi-crop).
    """

    temperature: float = 0.1
    epsilon: float = 0.05
    prototypes: int = 128
    frozen: float = 0.0
    hidden_dim: int = 512
    output_dim: int = 128
    augmentation: SslView = field(default_factory=SslView)
    local_views: int = 0
    local_augmentation: SslView = field(default_factory=lambda: SslView(scale=(0.05, 0.2), size=14))

    def __post_init__(self) -> None:
        require(
            self,
            positive=("temperature", "epsilon"),
            shares=("frozen",),
            counts=("prototypes", "hidden_dim", "output_dim"),
        )
        if self.local_views < 0:
            raise ValueError("local_views must not be negative")


class Swav(Method):
    Config = SwavConfig
    trains_head = False

    def __init__(self, model: nn.Module, feature_dim: int, config: SwavConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = SwaVProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.prototypes = SwaVPrototypes(config.output_dim, config.prototypes)
        self.criterion = SwaVLoss(temperature=config.temperature, sinkhorn_epsilon=config.epsilon)

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        augmentations = [self.config.augmentation] * 2 + [
            self.config.local_augmentation
        ] * self.config.local_views
        return [augmentation(images, generator) for augmentation in augmentations]

    def before_step(self, progress: float) -> None:
        self.prototypes.normalize()
        self.prototypes.requires_grad_(progress >= self.config.frozen)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        scores = [
            self.prototypes(F.normalize(self.projector(self.encode(self.model, view)), dim=1))
            for view in views
        ]
        return self.criterion(scores[:2], scores[2:]).squeeze(0)
