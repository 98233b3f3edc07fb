"""Files that are either complete or absent, and checkpoints that cannot run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import InputError


def write_aside(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Calls `write` on a temporary file next to `path`, then renames it to `path` (mode 644)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Tensors and plain values only, so that `load_checkpoint` can read them back."""
    write_aside(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint is untrusted: only tensors and plain values are read from it, nothing is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "not a pickle"
        raise InputError(
            f"{path} is refused: it holds more than tensors and plain values ({reason}). "
            f"`python -m exporters convert {path} CLEAN.pt` copies its tensors without running anything that is in it"
        ) from error
    except Exception as error:  # damaged files make torch raise nearly anything
        raise InputError(f"{path} is not a readable torch checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
