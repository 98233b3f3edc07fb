"""DINO (arXiv 2104.14294): distillation from a centred, sharpened momentum copy; lightly's head and
loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Generator, Tensor, nn

from ..augment import SslView
from .base import Method, momentum_at, require


@dataclass(frozen=True)
class DinoConfig:
    """The teacher's temperature goes from `warmup_teacher_temperature` to `teacher_temperature`
    over the first third.

    `momentum` is the teacher's at the start, it rises to 1; `frozen` is the share of the training
    during which the student's last layer keeps its initial values. Besides two views by
    `augmentation`, the student sees `local_views` more by `local_augmentation`.
    """

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    center_momentum: float = 0.9
    momentum: float = 0.99
    frozen: float = 0.1
    hidden_dim: int = 512
    bottleneck: int = 64
    output_dim: int = 1024
    augmentation: SslView = field(default_factory=SslView)
    local_views: int = 0
    local_augmentation: SslView = field(default_factory=lambda: SslView(scale=(0.05, 0.4), size=14))

    def __post_init__(self) -> None:
        require(
            self,
            positive=("student_temperature", "teacher_temperature", "warmup_teacher_temperature"),
            shares=("center_momentum", "momentum", "frozen"),
            counts=("hidden_dim", "bottleneck", "output_dim"),
        )
        if self.local_views < 0:
            raise ValueError("local_views must not be negative")


class Dino(Method):
    Config = DinoConfig
    trains_head = False

    def __init__(self, model: nn.Module, feature_dim: int, config: DinoConfig) -> None:
        super().__init__(model, feature_dim, config)
        self.projector = self._head()
        self.teacher_model = copy.deepcopy(self.model)
        self.teacher_projector = self._head()
        self.teacher_projector.load_state_dict(self.projector.state_dict())
        deactivate_requires_grad(self.teacher_model)
        deactivate_requires_grad(self.teacher_projector)
        self.criterion = DINOLoss(
            config.output_dim,
            student_temp=config.student_temperature,
            center_momentum=config.center_momentum,
        )
        self.teacher_temperature = config.warmup_teacher_temperature

    def _head(self) -> nn.Module:
        config = self.config
        return DINOProjectionHead(
            self.feature_dim,
            config.hidden_dim,
            config.bottleneck,
            config.output_dim,
            batch_norm=True,
        )

    def views(self, images: Tensor, generator: Generator) -> list[Tensor]:
        augmentations = [self.config.augmentation] * 2 + [
            self.config.local_augmentation
        ] * self.config.local_views
        return [augmentation(images, generator) for augmentation in augmentations]

    def before_step(self, progress: float) -> None:
        config = self.config
        momentum = momentum_at(progress, config.momentum)
        update_momentum(self.model, self.teacher_model, momentum)
        update_momentum(self.projector, self.teacher_projector, momentum)
        self.projector.get_parameter("last_layer.weight_v").requires_grad_(
            progress >= config.frozen
        )
        warmed = min(1.0, 3 * progress)
        self.teacher_temperature = config.warmup_teacher_temperature + warmed * (
            config.teacher_temperature - config.warmup_teacher_temperature
        )

    def loss(self, views: list[Tensor], labels: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            teacher = [
                self.teacher_projector(self.encode(self.teacher_model, view)) for view in views[:2]
            ]
        student = [self.projector(self.encode(self.model, view)) for view in views]
        return self.criterion(teacher, student, teacher_temp=self.teacher_temperature)
