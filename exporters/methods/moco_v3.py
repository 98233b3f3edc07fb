"""MoCo v3 (arXiv 2104.02057): contrast of predictions with a momentum copy's keys of the same
batch, both ways.

The heads are lightly's; its NT-Xent also takes negatives from the query's own view, which MoCo v3
does not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, momentum_at, require


@dataclass(frozen=True)
class MocoV3Config:
    """`momentum` is the key encoder's at the start; it rises to 1."""

    temperature: float = 0.2
    momentum: float = 0.99
    hidden_dim: int = 512
    output_dim: int = 128
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(
            self,
            positive=("temperature",),
            shares=("momentum",),
            counts=("hidden_dim", "output_dim"),
        )


class MocoV3(TwoViews):
    Config = MocoV3Config

    def __init__(self, model: nn.Module, feature_dim: int, config: MocoV3Config) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = MoCoProjectionHead(
            feature_dim, config.hidden_dim, config.output_dim, batch_norm=True
        )
        self.predictor = MoCoProjectionHead(
            config.output_dim, config.hidden_dim, config.output_dim, batch_norm=True
        )
        self.key_model = copy.deepcopy(self.model)
        self.key_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.key_model)
        deactivate_requires_grad(self.key_projector)

    def before_step(self, progress: float) -> None:
        momentum = momentum_at(progress, self.config.momentum)
        update_momentum(self.model, self.key_model, momentum)
        update_momentum(self.projector, self.key_projector, momentum)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        queries = [self.predictor(self.projector(self.encode(self.model, view))) for view in views]
        with torch.no_grad():
            keys = [self.key_projector(self.encode(self.key_model, view)) for view in views]
        return self._contrast(queries[0], keys[1]) + self._contrast(queries[1], keys[0])

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / self.config.temperature
        return 2 * self.config.temperature * F.cross_entropy(logits, torch.arange(len(queries)))
