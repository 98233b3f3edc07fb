"""Labelled image data sets, held in memory as bytes."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image, UnidentifiedImageError
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

CIFAR_10 = DatasetInfo(
    name="cifar-10",
    channels=3,
    size=32,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    train_images=50_000,
    test_images=10_000,
)

IMAGENET = DatasetInfo(
    name="imagenet",
    channels=3,
    size=224,
    classes=tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    train_images=1_281_167,
    test_images=50_000,
)

DATASETS: dict[str, DatasetInfo] = {dataset.name: dataset for dataset in (FASHION_MNIST, CIFAR_10, IMAGENET)}


def info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; known are {', '.join(DATASETS)}")
    return DATASETS[name]


def load(name: str, root: Path, split: str) -> Split:
    """Split `train` or `test` of the data set `name`, whose files lie in `root/name`."""
    dataset = info(name)
    if dataset.name != FASHION_MNIST.name:
        return load_folder(root / name / split, dataset)
    prefix, count = {"train": ("train", dataset.train_images), "test": ("t10k", dataset.test_images)}[split]
    folder = root / name
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (count, dataset.size, dataset.size))
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (count,))
    if int(labels.max()) >= len(dataset.classes):
        raise InputError(
            f"{folder}: label {int(labels.max())} in {split}, but {name} has {len(dataset.classes)} classes"
        )
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def load_folder(folder: Path, dataset: DatasetInfo, limit: int = 10_000) -> Split:
    """At most `limit` images of `folder`, which holds one folder per class, in the order of the sorted names.

    Each is scaled so that the shorter side has 8/7 of the data set's size (as it is where it has that size), and its
    centre is cut out.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) != len(dataset.classes):
        raise InputError(
            f"{folder} must hold {len(dataset.classes)} folders of images, one per class of {dataset.name}, but has "
            f"{len(classes)}"
        )
    files = [[path for path in sorted(each.iterdir()) if path.is_file()] for each in classes]
    each = max(1, limit // len(classes))
    images, labels = [], []
    for label, paths in enumerate(files):
        for path in paths[:each]:
            images.append(torch.from_numpy(_read_image(path, dataset)))
            labels.append(label)
    if not images:
        raise InputError(f"{folder} holds no images")
    return Split(torch.stack(images), torch.tensor(labels))


def _read_image(path: Path, dataset: DatasetInfo) -> np.ndarray:
    """Bytes `[C, H, W]`."""
    try:
        with Image.open(path) as file:
            image = file.convert("L" if dataset.channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    size = dataset.size
    if image.size != (size, size):
        scale = size * 8 / 7 / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image, np.uint8).reshape(size, size, dataset.channels)
    return pixels.transpose(2, 0, 1).copy()


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
