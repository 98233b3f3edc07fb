"""Tensors out of checkpoints that hold more: `python -m exporters convert FILE CLEAN.pt`.

Training scripts pickle their options, loggers or whole classes beside the weights, which torch's safe loader refuses.
Here such objects become empty stand-ins: nothing of the file is imported or called except what rebuilds tensors.
"""

from __future__ import annotations

import pickle
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .files import save_checkpoint

# Not torch.storage._load_from_bytes: it would unpickle again, unguarded.
REBUILDERS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    *(("torch", f"{kind}Storage") for kind in (
        "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped"
    )),
    ("torch.storage", "UntypedStorage"),
}  # fmt: skip


class StandIn:
    """What any other class or function of the file becomes: takes everything, keeps what a dictionary would."""

    items: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        made.items = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return StandIn()

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


def convert(path: Path, output: Path, *, say: Callable[[str], None] = print) -> Path:
    """Writes the tensors of `path` to `output`, in the dictionaries where they were; nothing else of it is kept."""
    replaced: set[str] = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in REBUILDERS:
                return OrderedDict if name == "OrderedDict" else super().find_class(module, name)
            replaced.add(f"{module}.{name}")
            return type(name, (StandIn,), {})

    guarded = types.ModuleType("guarded_pickle")
    guarded.Unpickler = Unpickler
    guarded.load = lambda file, **options: Unpickler(file, **options).load()
    try:
        content = torch.load(path, map_location="cpu", pickle_module=guarded, weights_only=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except Exception as error:  # damaged files make torch raise nearly anything
        raise InputError(f"{path} is not a readable torch checkpoint: {error}") from error
    tensors = _tensors_of(content)
    if not tensors:
        raise InputError(
            f"{path} holds no tensors in dictionaries; a pickled module must be saved as its state_dict() where its "
            "classes are installed, a JAX pickle must be converted to torch's names and layouts there"
        )
    save_checkpoint(output, tensors)
    say(f"{output}: {_count(tensors)} tensors; left out: {', '.join(sorted(replaced)) or 'nothing'}")
    return output


def _tensors_of(content: Any) -> dict[str, Any]:
    """Dictionaries and tensors of `content`, empty dictionaries left out."""
    if isinstance(content, StandIn):
        content = content.items
    if not isinstance(content, dict):
        return {}
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            kept[str(key)] = value.detach()
        elif below := _tensors_of(value):
            kept[str(key)] = below
    return kept


def _count(content: dict[str, Any]) -> int:
    return sum(_count(value) if isinstance(value, dict) else 1 for value in content.values())
