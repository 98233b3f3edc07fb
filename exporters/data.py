"""Labelled image data sets, held in memory as bytes."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set unread. `mean` and `std` are of the training pixels in 0..1, per channel."""

    name: str
    channels: int
    size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int
    test_images: int


@dataclass(frozen=True)
class Split:
    """`images` uint8 `[N, C, H, W]`, `labels` int64 `[N]`."""

    images: Tensor
    labels: Tensor


FASHION_MNIST = DatasetInfo(
    name="fashion-mnist",
    channels=1,
    size=28,
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
    train_images=60_000,
    test_images=10_000,
)  # fmt: skip

DATASETS: dict[str, DatasetInfo] = {FASHION_MNIST.name: FASHION_MNIST}


def info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def load(name: str, root: Path, split: str) -> Split:
    """Split `train` or `test` of the data set `name`, whose files lie in `root/name`."""
    dataset = info(name)
    prefix, count = {"train": ("train", dataset.train_images), "test": ("t10k", dataset.test_images)}[split]
    folder = root / name
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (count, dataset.size, dataset.size))
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (count,))
    if int(labels.max()) >= len(dataset.classes):
        raise InputError(
            f"{folder}: label {int(labels.max())} in {split}, but {name} has {len(dataset.classes)} classes"
        )
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An IDX file (MNIST's format: 0, 0, type 8, rank, big-endian sizes, data) of bytes of the expected shape."""
    size = int(np.prod(shape))
    header = 4 + 4 * len(shape)
    try:
        with gzip.open(path) as file:
            content = file.read(header + size + 1)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing; put the data set's IDX files there, or name their folder with --data"
        ) from error
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    expected = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if content[:header] != expected or len(content) != header + size:
        raise InputError(f"{path} is not an IDX file of unsigned bytes of shape {'x'.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8, size, header).reshape(shape).copy()


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels 0..1 `[N, C, H, W]` to the network's input, per channel."""
    shape = (1, len(mean), 1, 1)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def to_float(images: Tensor) -> Tensor:
    """Bytes to float32 pixels in 0..1."""
    return images.to(torch.float32).div_(255)
