"""Packed data sets, which `scdd pack` writes; as `src/data/layout/packed.rs` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import arrays
from .errors import InputError

DESCRIPTION = "packed.json"
VERSION = 1
REMEDY = "pack the data set again"


def is_here(folder: Path) -> bool:
    """Whether a packed data set lies in `folder`."""
    return (folder / DESCRIPTION).is_file()


def classes(folder: Path) -> tuple[str, ...]:
    """The names of its classes, in label order.

    :raises InputError: when it is damaged.
    """
    return tuple(_described(folder)["classes"])


def load(folder: Path, split: str) -> arrays.Arrays:
    """Images uint8 `[N, C, H, W]`, mapped into memory, labels int64 `[N]`, and the names of the
    classes.

    :raises InputError: when it is damaged, or lacks the split.
    """
    about = _described(folder)
    if split not in about["splits"]:
        raise InputError(f"{folder}: has no {split} images; pack the data set without --only")
    count, shape = about["splits"][split]["images"], tuple(about["shape"])
    files = [folder / f"{split}-{what}.npy" for what in ("images", "labels")]
    try:
        # Pages that a caller changes become the caller's own; the file stays.
        images = np.load(files[0], mmap_mode="c", allow_pickle=False)
        labels = np.load(files[1], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{folder}: is not read ({error}); {REMEDY}") from error
    if images.dtype != np.uint8 or images.shape != (count, *shape):
        raise InputError(f"{files[0]}: is no array of {count} images of {list(shape)}; {REMEDY}")
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise InputError(f"{files[1]}: has not one label for each of {count} images; {REMEDY}")
    names = tuple(about["classes"])
    return images, arrays.checked(files[1], labels, names), names


def _described(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = {"version", "classes", "shape", "splits"} <= about.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: describes no packed data set ({error}); {REMEDY}") from error
    if not complete or about["version"] != VERSION:
        raise InputError(f"{path}: is not of version {VERSION}, which is read; {REMEDY}")
    return about
