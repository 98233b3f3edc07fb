"""Pretraining methods, one file each, by the name that configs give them."""

from .base import Method
from .moco_v2 import MocoV2
from .supervised import Supervised

METHODS: dict[str, type[Method]] = {"supervised": Supervised, "moco_v2": MocoV2}

__all__ = ["METHODS", "Method"]
