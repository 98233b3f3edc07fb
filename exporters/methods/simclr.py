"""SimCLR (arXiv 2002.05709): contrast within the batch; lightly's head and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import TwoViews, require


@dataclass(frozen=True)
class SimClrConfig:
    temperature: float = 0.2
    hidden_dim: int = 512
    output_dim: int = 128
    augmentation: SslView = field(default_factory=SslView)

    def __post_init__(self) -> None:
        require(self, positive=("temperature",), counts=("hidden_dim", "output_dim"))


class SimClr(TwoViews):
    Config = SimClrConfig

    def __init__(self, model: nn.Module, feature_dim: int, config: SimClrConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = SimCLRProjectionHead(feature_dim, config.hidden_dim, config.output_dim)
        self.criterion = NTXentLoss(config.temperature)
        self.criterion.memory_bank.bank_ptr.zero_()  # lightly leaves it unset where there is no bank

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        one, other = (self.projector(self.encode(self.model, view)) for view in views)
        return self.criterion(one, other)
