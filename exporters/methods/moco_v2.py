"""MoCo v2 (arXiv 2003.04297): contrast with a queue of a momentum encoder's keys; lightly's head,
queue and loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, require


@dataclass(frozen=True)
class MocoV2Config:
    """`momentum` is the key encoder's, `queue` the number of negatives kept.

    `key_splits`: the key batch is shuffled and normalised in that many parts, so that the two
    encoders' batch statistics do not give away which images belong together (the paper's shuffled
    BN over several GPUs, on one device).
    """

    temperature: float = 0.2
    momentum: float = 0.999
    queue: int = 4096
    hidden_dim: int = 512
    output_dim: int = 128
    key_splits: int = 4
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(
            self,
            positive=("temperature",),
            shares=("momentum",),
            counts=("queue", "hidden_dim", "output_dim", "key_splits"),
        )


class MocoV2(TwoViews):
    Config = MocoV2Config

    def __init__(self, model: nn.Module, feature_dim: int, config: MocoV2Config) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = MoCoProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.key_model = copy.deepcopy(self.model)
        self.key_projector = copy.deepcopy(self.projector)
        deactivate_requires_grad(self.key_model)
        deactivate_requires_grad(self.key_projector)
        self.criterion = NTXentLoss(
            config.temperature, memory_bank_size=(config.queue, config.output_dim)
        )

    def before_step(self, progress: float) -> None:
        update_momentum(self.model, self.key_model, self.config.momentum)
        update_momentum(self.projector, self.key_projector, self.config.momentum)

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        queries = self.projector(self.encode(self.model, views[0]))
        with torch.no_grad():
            order = torch.randperm(len(views[1]), generator=generator)
            parts = views[1][order].chunk(self.config.key_splits)
            shuffled = torch.cat(
                [self.key_projector(self.encode(self.key_model, part)) for part in parts]
            )
            keys = torch.empty_like(shuffled).index_copy_(0, order, shuffled)
        return self.criterion(queries, keys)
