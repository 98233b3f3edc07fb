"""Data sets that are arrays in files: MNIST's IDX files, and NumPy archives."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np

from .errors import InputError

PREFIXES = {"train": "train", "test": "t10k"}
ARCHIVE_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
"""What archives call training images, training labels, test images and test labels, as Keras and as
MedMNIST do."""
ARCHIVE_REMEDY = (
    "write uint8 images [N, H, W] or [N, H, W, C] and whole-number labels [N] with numpy.savez"
)
Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def idx_present(folder: Path, stem: str) -> Path | None:
    """`folder/stem` or `folder/stem.gz`, whichever is a file."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def idx(folder: Path, split: str, classes: tuple[str, ...] | None) -> Arrays:
    """Images uint8 `[N, 1, H, W]`, labels int64 `[N]`, and the names of the classes.

    These are the lines of `classes.txt`, else numbers up to the highest label, unless they are
    known.

    :raises InputError: when a file is missing or damaged.
    """
    images = _read_idx(folder, f"{PREFIXES[split]}-images-idx3-ubyte", 3)
    name = f"{PREFIXES[split]}-labels-idx1-ubyte"
    labels = _read_idx(folder, name, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{folder}: {len(labels)} labels for the {len(images)} images of {split}; fetch both files again"
        )
    if classes is None and (folder / "classes.txt").is_file():
        lines = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
        classes = tuple(line.strip() for line in lines if line.strip())
    if classes is None:
        highest = max(
            int(_read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1).max())
            for prefix in PREFIXES.values()
        )
        classes = tuple(map(str, range(highest + 1)))
    return images[:, None], checked(folder / name, labels, classes), classes


def npz(path: Path, split: str, classes: tuple[str, ...] | None) -> Arrays:
    """Images uint8 `[N, C, H, W]`, labels int64 `[N]`, and the names of the classes of a NumPy
    archive.

    Classes are numbers up to the highest label of both splits, unless they are known.

    :raises InputError: when the archive is damaged or has other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = next(
                (names for names in ARCHIVE_NAMES if set(names) <= set(archive.files)), None
            )
            if names is None:
                both = " nor ".join(", ".join(names) for names in ARCHIVE_NAMES)
                raise InputError(f"{path}: has neither {both}; {ARCHIVE_REMEDY}")
            at = 0 if split == "train" else 2
            images = archive[names[at]]
            labels = {name: archive[name] for name in (names[1], names[3])}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is no readable NumPy archive ({error}); {ARCHIVE_REMEDY}"
        ) from error
    for name, array in labels.items():
        if array.dtype.kind not in "iu" or array.shape not in ((len(array),), (len(array), 1)):
            raise InputError(f"{path}: {name}: are not whole numbers [N]; {ARCHIVE_REMEDY}")
        labels[name] = array.reshape(-1)
    own = labels[names[at + 1]]
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size or len(images) != len(own):
        raise InputError(
            f"{path}: {names[at]}: has the shape {images.shape} and type {images.dtype} for {len(own)} labels; "
            f"{ARCHIVE_REMEDY}"
        )
    if classes is None:
        classes = tuple(
            map(str, range(max(int(array.max(initial=0)) for array in labels.values()) + 1))
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), checked(path, own, classes), classes


def checked(path: Path, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """`labels` as int64.

    :raises InputError: when one is none of `classes`.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise InputError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]}, but there are {len(classes)} classes; the file "
            "belongs "
            "to another data set or is damaged"
        )
    return labels.astype(np.int64)


def _read_idx(folder: Path, stem: str, rank: int) -> np.ndarray:
    """An IDX file (MNIST's format: 0, 0, type 8, rank, big-endian sizes, data) of bytes."""
    path = idx_present(folder, stem)
    if path is None:
        raise InputError(
            f"{folder} has neither {stem} nor {stem}.gz; put the data set's IDX files there"
        )
    header = 4 + 4 * rank
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(header)
            if head[:4] != bytes((0, 0, 8, rank)) or len(head) < header:
                raise InputError(
                    f"{path} is not an IDX file of unsigned bytes of {rank} dimensions; fetch it again"
                )
            sizes = struct.unpack(f">{rank}I", head[4:])
            # Memory grows with what is really there, whatever the header claims.
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}; fetch it again") from error
    if not content or len(content) != int(np.prod(sizes, dtype=object)):
        raise InputError(
            f"{path}: its header announces {'x'.join(map(str, sizes))} values, but there are {len(content)}; fetch "
            "it again"
        )
    return np.frombuffer(content, np.uint8).reshape(sizes).copy()
