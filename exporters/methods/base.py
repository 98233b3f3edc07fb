"""What a pretraining method is to the training loop."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Generator, Tensor, nn


class Method(nn.Module):
    """Holds the network under training as `model` and what else the method needs (projector, momentum copy, queue).

    Everything that training changes must be a parameter or a buffer of this module: the checkpoint consists of those.
    Parameters that must not be trained by the optimiser have `requires_grad` off. `Config` is a dataclass of the
    method's options. Random numbers come from the generator that is passed in and from nowhere else, or a resumed run
    would differ.
    """

    Config: ClassVar[type]
    trains_head: ClassVar[bool]
    """Whether `model` keeps its classifier; self-supervised methods get a network that returns features."""

    def __init__(self, model: nn.Module, feature_dim: int, config: Any) -> None:
        super().__init__()
        self.model = model
        self.feature_dim = feature_dim
        self.config = config

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        """The augmented images that `loss` wants, from pixels in 0..1 `[N, C, H, W]`; the loop normalises them."""
        raise NotImplementedError

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        """The scalar loss of one batch."""
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before every batch, for momentum updates; `progress` is the finished share of the training, 0..1."""
