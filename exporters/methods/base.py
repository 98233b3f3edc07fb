"""What a pretraining method is to the training loop."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn


class Method(nn.Module):
    """Holds the network under training as `model` and what else the method needs (projector,
    momentum copy, queue).

    Everything that training changes must be a parameter or a buffer of this module: the checkpoint
    consists of those. Parameters that must not be trained by the optimiser have `requires_grad`
    off. `Config` is a dataclass of the method's options. Random numbers come from the generator
    that is passed in and from nowhere else, or a resumed run would differ.
    """

    Config: ClassVar[type]
    trains_head: ClassVar[bool]
    """Whether `model` keeps its classifier; self-supervised methods get a network that returns
    features."""

    def __init__(self, model: nn.Module, feature_dim: int, config: Any) -> None:
        super().__init__()
        self.model = model
        self.feature_dim = feature_dim
        self.config = config
        self.is_mixed = False
        """Whether networks run in mixed precision; heads, losses, parameters and BN statistics are
        float32 always."""

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        """The augmented images that `loss` wants, from pixels in 0..1 `[N, C, H, W]`; the loop
        normalises them."""
        raise NotImplementedError

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        """The scalar loss of one batch."""
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before every batch, for momentum updates; `progress` is the finished share of the
        training, 0..1."""

    def encode(self, network: nn.Module, images: Tensor) -> Tensor:
        """What `network` (`model` or a copy of it) returns for `images`, in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_mixed):
            return network(images).float()


class TwoViews(Method):
    """A self-supervised method that compares two equally augmented views; its Config has an
    `augmentation`."""

    trains_head = False

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        return [self.config.augmentation(images, generator) for _ in range(2)]


def momentum_at(progress: float, start: float) -> float:
    """A momentum encoder's momentum, from `start` at the beginning along a cosine to 1 at the
    end."""
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * progress))


def require(
    config: Any,
    *,
    positive: tuple[str, ...] = (),
    counts: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
):
    """Raises ValueError unless the named options are positive numbers, whole numbers from 1, or in
    0..1 without 1."""
    for name in positive:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be positive")
    for name in counts:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    for name in shares:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(
                f"{name} is {getattr(config, name)}; it must be at least 0 and below 1"
            )
