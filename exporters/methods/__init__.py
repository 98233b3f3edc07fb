"""Pretraining methods, one file each, by the name that configs give them."""

from .barlow_twins import BarlowTwins
from .base import Method
from .byol import Byol
from .dino import Dino
from .moco_v2 import MocoV2
from .moco_v3 import MocoV3
from .simclr import SimClr
from .simsiam import SimSiam
from .supervised import Supervised
from .swav import Swav
from .vicreg import VicReg

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "moco_v2": MocoV2,
    "moco_v3": MocoV3,
    "simclr": SimClr,
    "byol": Byol,
    "simsiam": SimSiam,
    "barlow_twins": BarlowTwins,
    "vicreg": VicReg,
    "swav": Swav,
    "dino": Dino,
}

__all__ = ["METHODS", "Method"]
