"""SimSiam (arXiv 2011.10566): a predictor and a stopped gradient instead of negatives; lightly's
heads and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, require


@dataclass(frozen=True)
class SimSiamConfig:
    """`bottleneck` is the predictor's hidden width, a quarter of the output's in the paper."""

    hidden_dim: int = 512
    output_dim: int = 512
    bottleneck: int = 128
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(self, counts=("hidden_dim", "output_dim", "bottleneck"))


class SimSiam(TwoViews):
    Config = SimSiamConfig

    def __init__(self, model: nn.Module, feature_dim: int, config: SimSiamConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = SimSiamProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.predictor = SimSiamPredictionHead(
            config.output_dim, config.bottleneck, config.output_dim
        )
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        projected = [self.projector(self.encode(self.model, view)) for view in views]
        predicted = [self.predictor(projection) for projection in projected]
        return 0.5 * (
            self.criterion(predicted[0], projected[1].detach())
            + self.criterion(predicted[1], projected[0].detach())
        )
