"""Tensors out of checkpoints that hold more: `python -m exporters convert FILE CLEAN.pt`.

Training scripts pickle their options, loggers or whole classes beside the weights, which torch's
safe loader refuses. Here such objects become stand-ins that hold their attributes: nothing of the
file is imported or called except what rebuilds tensors. A whole pickled module becomes its state
dict.
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
from .files import check_kind, save_checkpoint, unreadable

# Not torch.storage._load_from_bytes: it would unpickle again, unguarded.
REBUILDERS = {
    ("builtins", "frozenset"),
    ("builtins", "set"),
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


PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""What pickles of protocol 2, which torch writes, call modules that have another name now."""
SETTINGS = {
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "easydict.EasyDict",
    "torch.device",
    "torch.torch_version.TorchVersion",
    "yacs.config.CfgNode",
    *(f"builtins.{name}" for name in (
        "bytearray", "complex", "dict", "float", "int", "list", "object", "range", "slice", "tuple"
    )),
}  # fmt: skip
SETTINGS_MODULES = ("datetime.", "numpy.", "omegaconf.", "pathlib.", "typing.")
"""With `SETTINGS`, where a script's settings and figures are from. Networks are tensors, so none
hides in these."""


class StandIn:
    """What any other class or function of the file becomes: takes everything, keeps what a
    dictionary would."""

    items: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        made.items = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return StandIn()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.items |= state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


def convert(path: Path, output: Path, *, say: Callable[[str], None] = print) -> Path:
    """Writes the tensors of `path` to `output`, in the dictionaries where they were; nothing else
    of it is kept."""
    content, replaced = _read(path)
    tensors = _tensors_of(content)
    if not tensors:
        raise InputError(
            f"{path} holds no tensors in dictionaries and no module; a JAX pickle must be converted to torch's names "
            "and layouts where its classes are installed"
        )
    save_checkpoint(output, tensors)
    say(
        f"{output}: {_count(tensors)} tensors; left out: {', '.join(sorted(replaced)) or 'nothing'}"
    )
    return output


def read_without_settings(path: Path) -> tuple[dict[str, Any], list[str]] | None:
    """The dictionary in `path` if all that the safe loader refuses of it are a script's settings
    and figures.

    Those become dictionaries of their attributes, `{}` where they have none; their classes' names
    are returned beside.
    """
    content, replaced = _read(path)
    known = all(name in SETTINGS or name.startswith(SETTINGS_MODULES) for name in replaced)
    if not isinstance(content, dict) or not known:
        return None
    return _plain(content), sorted(replaced)


def _plain(content: Any) -> Any:
    if isinstance(content, StandIn):
        content = content.items
    return (
        {key: _plain(value) for key, value in content.items()}
        if isinstance(content, dict)
        else content
    )


def _read(path: Path) -> tuple[Any, set[str]]:
    """What `path` holds, with stand-ins for all that is neither tensor nor plain value, and what
    those stand for."""
    replaced: set[str] = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = PYTHON_2.get(module, module)
            if (module, name) in REBUILDERS:
                return OrderedDict if name == "OrderedDict" else super().find_class(module, name)
            replaced.add(f"{module}.{name}")
            return type(name, (StandIn,), {})

    guarded = types.ModuleType("guarded_pickle")
    vars(guarded).update(
        Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )
    check_kind(path)
    try:
        content = torch.load(path, map_location="cpu", pickle_module=guarded, weights_only=False)
    except Exception as error:  # damaged files make torch raise nearly anything
        raise unreadable(path, error) from error
    return content, replaced


def _tensors_of(content: Any) -> dict[str, Any]:
    """Dictionaries and tensors of `content`, empty dictionaries left out; of a pickled module its
    state dict."""
    if isinstance(content, StandIn):
        content = _state(content.items) if "_modules" in content.items else content.items
    if not isinstance(content, dict):
        return {}
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            kept[str(key)] = value.detach()
        elif below := _tensors_of(value):
            kept[str(key)] = below
    return kept


def _state(module: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of a pickled `nn.Module`, of which `module` are the attributes."""
    transient = module.get("_non_persistent_buffers_set", ())
    own = {**module.get("_parameters", {}), **module.get("_buffers", {})}
    state = {
        name: value
        for name, value in own.items()
        if isinstance(value, Tensor) and name not in transient
    }
    for name, child in module["_modules"].items():
        if isinstance(child, StandIn) and "_modules" in child.items:
            state |= {f"{name}.{key}": value for key, value in _state(child.items).items()}
    return state


def _count(content: dict[str, Any]) -> int:
    return sum(_count(value) if isinstance(value, dict) else 1 for value in content.values())
