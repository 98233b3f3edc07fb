"""BYOL (arXiv 2006.07733): predicts a momentum copy's projection of the other view; lightly's heads
and loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, momentum_at, require


@dataclass(frozen=True)
class ByolConfig:
    """`momentum` is the target network's at the start; it rises to 1."""

    momentum: float = 0.99
    hidden_dim: int = 512
    output_dim: int = 128
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(self, shares=("momentum",), counts=("hidden_dim", "output_dim"))


class Byol(TwoViews):
    Config = ByolConfig

    def __init__(self, model: nn.Module, feature_dim: int, config: ByolConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = BYOLProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.predictor = BYOLPredictionHead(config.output_dim, config.hidden_dim, config.output_dim)
        self.target_model = copy.deepcopy(self.model)
        self.target_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.target_model)
        deactivate_requires_grad(self.target_projector)
        self.criterion = NegativeCosineSimilarity()

    def before_step(self, progress: float) -> None:
        momentum = momentum_at(progress, self.config.momentum)
        update_momentum(self.model, self.target_model, momentum)
        update_momentum(self.projector, self.target_projector, momentum)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        predicted = [
            self.predictor(self.projector(self.encode(self.model, view))) for view in views
        ]
        with torch.no_grad():
            targets = [
                self.target_projector(self.encode(self.target_model, view)) for view in views
            ]
        return 0.5 * (
            self.criterion(predicted[0], targets[1]) + self.criterion(predicted[1], targets[0])
        )
