"""VICReg (arXiv 2105.04906): invariance, variance and covariance terms; lightly's head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, require


@dataclass(frozen=True)
class VicRegConfig:
    """The weights of the three terms, and the projector's widths."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    hidden_dim: int = 512
    output_dim: int = 512
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(
            self,
            positive=("invariance", "variance", "covariance"),
            counts=("hidden_dim", "output_dim"),
        )


class VicReg(TwoViews):
    Config = VicRegConfig

    def __init__(self, model: nn.Module, feature_dim: int, config: VicRegConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = VICRegProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.criterion = VICRegLoss(config.invariance, config.variance, config.covariance)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        one, other = (self.projector(self.encode(self.model, view)) for view in views)
        return self.criterion(one, other)
