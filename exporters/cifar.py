"""CIFAR-10 and CIFAR-100: the binary version and the pickled one for Python, of which nothing is
executed."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import checked
from .errors import InputError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_BYTES = 1 << 30
"""More than any of the files; CIFAR-100's training file has 155 MB."""
REMEDY = "unpack the data set's archive again"
TEXT_NAMES = ("batches.meta.txt", "fine_label_names.txt")
"""Where the binary versions name their classes."""
PICKLED_NAMES = (("batches.meta", "label_names"), ("meta", "fine_label_names"))
"""Where the pickled versions name their classes, and by which key."""
Arrays = tuple[np.ndarray, np.ndarray]


def binary(
    folder: Path, files: tuple[str, ...], label_bytes: int, classes: tuple[str, ...]
) -> Arrays:
    """Images uint8 `[N, 3, 32, 32]` and labels int64 `[N]` of records with `label_bytes` labels, of
    which the last counts.

    :raises InputError: when a file is missing, damaged or of other classes.
    """
    for name in TEXT_NAMES:
        if (folder / name).is_file():
            lines = _read(folder / name).decode("utf-8", "replace").splitlines()
            _check_names(folder / name, [line.strip() for line in lines if line.strip()], classes)
    images, labels = [], []
    for name in files:
        content = _read(folder / name)
        record = label_bytes + PIXELS
        if not content or len(content) % record:
            raise InputError(
                f"{folder / name}: {len(content)} bytes are not a whole number of records of {record} bytes; {REMEDY}"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        images.append(records[:, label_bytes:])
        labels.append(checked(folder / name, records[:, label_bytes - 1], classes))
    return np.concatenate(images).reshape(-1, 3, SIDE, SIDE), np.concatenate(labels)


def pickled(folder: Path, files: tuple[str, ...], label: str, classes: tuple[str, ...]) -> Arrays:
    """The same of dictionaries: `data` of bytes `[N, 3072]`, and the labels under `label`.

    :raises InputError: when a file is missing, damaged, of other classes, or holds anything else.
    """
    for name, key in PICKLED_NAMES:
        if (folder / name).is_file():
            found = _unpickled(folder / name).get(key, [])
            _check_names(folder / name, [_text(each) for each in found], classes)
    images, labels = [], []
    for name in files:
        content = _unpickled(folder / name)
        pixels, found = content.get("data"), content.get(label)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise InputError(f"{folder / name}: has no array of bytes called `data`; {REMEDY}")
        numbers = np.asarray(found if isinstance(found, list | np.ndarray) else [])
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
            raise InputError(f"{folder / name}: has no whole numbers called `{label}`; {REMEDY}")
        if pixels.shape != (len(numbers), PIXELS):
            raise InputError(
                f"{folder / name}: has images of shape {pixels.shape} for {len(numbers)} labels; {REMEDY}"
            )
        images.append(pixels)
        labels.append(checked(folder / name, numbers, classes))
    return np.concatenate(images).reshape(-1, 3, SIDE, SIDE), np.concatenate(labels)


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's arrays and byte strings alone: whatever else a file names is refused before it
    is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        # Byte strings of protocols below 3.
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array of numbers")

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside the file")


class _Array:
    """Stands for NumPy's class, which a file must not call with a shape of its own."""


def _reconstruct(kind: Any, shape: Any, _: Any) -> np.ndarray:
    if kind is not _Array or shape != (0,):
        raise pickle.UnpicklingError("it makes something else than an array")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(code: Any, *options: Any) -> np.dtype:
    code = _text(code)
    if code not in ("u1", "i4", "i8"):
        raise pickle.UnpicklingError(f"it has an array of type {code!r}")
    return np.dtype(code, *options[:2])


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it has an oddly encoded text")
    return codecs.encode(text, "latin1")


def _unpickled(path: Path) -> dict[str, Any]:
    content = _read(path)
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged files make pickle raise nearly anything
        raise InputError(f"{path}: is not read: {error}; {REMEDY}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no dictionary; {REMEDY}")
    return {_text(key): value for key, value in found.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: has {path.stat().st_size} bytes, no file of CIFAR; {REMEDY}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {REMEDY}") from error


def _check_names(path: Path, found: list[str], classes: tuple[str, ...]) -> None:
    if len(found) != len(classes):
        raise InputError(f"{path}: {len(found)} class names instead of {len(classes)}; {REMEDY}")
    for label, (name, wanted) in enumerate(zip(found, classes, strict=True)):
        if name != wanted:
            raise InputError(
                f"{path}: calls class {label} {name!r}, which the data set calls {wanted!r}; {REMEDY}"
            )
