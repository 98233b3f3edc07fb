"""Typed configurations out of YAML: unknown keys and wrong types are errors that say where and what
was meant."""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import InputError, check_there

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that `path` holds."""
    check_there(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return content


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping that `text` is in YAML."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{where}: a mapping such as '{{width: 64}}' is wanted, not {text!r}")
    return content


def parse(cls: type[T], mapping: Any, where: str) -> T:
    """Builds the dataclass `cls` from `mapping`, which errors call `where` (such as
    `moco.yaml: optimizer`)."""
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: a mapping is wanted, not {mapping!r}")
    hints = get_type_hints(cls)
    for key in mapping:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(hints)}"
            raise InputError(f"{where}: unknown key {key!r}; {meant}")
    values = {}
    for field in fields(cls):
        if field.name in mapping:
            values[field.name] = _value(
                hints[field.name], mapping[field.name], f"{where}: {field.name}"
            )
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: key {field.name!r} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return parse(hint, value, where)
    if origin in (Union, types.UnionType):
        return (
            None
            if value is None
            else _value(next(a for a in get_args(hint) if a is not type(None)), value, where)
        )
    if origin is tuple:
        wanted = get_args(hint)
        if wanted[1:] == (Ellipsis,) and isinstance(value, list | tuple):
            wanted = wanted[:1] * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(wanted):
            raise InputError(f"{where}: a list of {len(wanted)} values is wanted, not {value!r}")
        return tuple(
            _value(h, v, f"{where}[{i}]")
            for i, (h, v) in enumerate(zip(wanted, value, strict=True))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        hint_text = (
            "; YAML reads 1e-4 as text, write 1.0e-4"
            if plain is float and isinstance(value, str)
            else ""
        )
        raise InputError(
            f"{where}: {KINDS.get(plain, plain.__name__)} is wanted, not {value!r}{hint_text}"
        )
    return value
