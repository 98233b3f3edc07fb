"""Barlow Twins (arXiv 2103.03230): the two views' cross-correlation becomes the identity; lightly's
head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, require


@dataclass(frozen=True)
class BarlowTwinsConfig:
    """`redundancy` weighs the off-diagonal terms, `scale` the whole loss (the official code's
    scale-loss)."""

    redundancy: float = 0.005
    scale: float = 1.0
    hidden_dim: int = 512
    output_dim: int = 512
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(self, positive=("redundancy", "scale"), counts=("hidden_dim", "output_dim"))


class BarlowTwins(TwoViews):
    Config = BarlowTwinsConfig

    def __init__(self, model: nn.Module, feature_dim: int, config: BarlowTwinsConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = BarlowTwinsProjectionHead(
            feature_dim, config.hidden_dim, config.output_dim
        )
        self.criterion = BarlowTwinsLoss(config.redundancy)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        one, other = (self.projector(self.encode(self.model, view)) for view in views)
        return self.config.scale * self.criterion(one, other)
