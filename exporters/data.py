"""Labelled image data sets: what is known of them, and their images, in memory or as files that are
read when asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import folders, images, parquet, registry, sources
from .errors import InputError, listed

IMAGENET, UNKNOWN = "imagenet", "unknown"
"""What is meant where no data set is named, and what such a one of classes of one's own is called.
"""
SAMPLE_SEED = 0
"""Of the draw of `--sample`."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set unread. `mean` and `std` are of the training pixels in 0..1, per
    channel.

    `place` is where its files lie; a known data set without one is found by its name.
    """

    name: str
    channels: int
    size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    place: Path | None = None


@dataclass(frozen=True)
class Split:
    """`images` uint8 `[N, C, H, W]`, `labels` int64 `[N]`."""

    images: Tensor | Files
    labels: Tensor


class Files:
    """Images that stay files until they are asked for: indexed, sliced and split like the tensor
    that they would be."""

    def __init__(
        self, entries: Sequence[sources.FileImage | parquet.Row], channels: int, size: int
    ) -> None:
        self.entries = entries
        self.shape = torch.Size((len(entries), channels, size, size))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        """uint8 `[n, C, H, W]` of a slice, of numbers, or of a mask.

        :raises InputError: about all of them that can't be read.
        """
        return self.read(self._select(which))

    def split(self, count: int) -> Iterator[Tensor]:
        """All images, `count` at a time."""
        return (self[start : start + count] for start in range(0, len(self), count))

    def subset(self, which: slice | Tensor) -> Files:
        """The same of some, still unread."""
        return Files(self._select(which), *self.shape[1:3])

    def read(self, entries: Sequence[sources.FileImage | parquet.Row] | None = None) -> Tensor:
        """Those of `entries`, or all."""
        entries = self.entries if entries is None else entries
        channels, size = self.shape[1:3]
        result = np.empty((len(entries), channels, size, size), np.uint8)

        def one(at: int) -> str | None:
            try:
                result[at] = images.fitted(entries[at].read(), channels, size)
            except images.BadImage as error:
                return f"{entries[at]} {error}"
            except OSError as error:
                return f"{entries[at]} can't be read ({error.strerror})"
            return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = [problem for problem in pool.map(one, range(len(entries))) if problem]
        if problems:
            count = f"{len(problems)} images can't be used: " if len(problems) > 1 else ""
            raise InputError(
                f"{count}{listed(problems, folders.NAMED)}; repair or remove what is named"
            )
        return torch.from_numpy(result)

    def _select(self, which: slice | Tensor) -> Sequence[sources.FileImage | parquet.Row]:
        if isinstance(which, slice):
            return self.entries[which]
        numbers = which.nonzero().flatten() if which.dtype == torch.bool else which
        return [self.entries[number] for number in numbers.tolist()]


def info(name: str) -> DatasetInfo:
    """The data set of the registry that is called so.

    :raises InputError: when there is none.
    """
    known = registry.find(name)
    return DatasetInfo(
        known.name, known.channels, known.size, known.class_names, known.mean, known.std
    )


@dataclass(frozen=True)
class Options:
    """What a command line says of the data, over what is known otherwise; see :func:`describe`.

    `classes` is a file of the classes' names in label order, one a line; `sample` is a number of
    training images.
    """

    dataset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    classes: Path | None = None
    sample: int | None = None

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise InputError(f"--sample {self.sample}: at least one image is wanted")

    def describe(self, dataset: str) -> DatasetInfo:
        """`dataset`, or the one that these name."""
        classes = read_classes(self.classes)
        return describe(
            self.dataset or dataset, mean=self.mean, std=self.std, size=self.size, classes=classes
        )

    def describe_unnamed(self, say: Callable[[str], None]) -> DatasetInfo:
        """What a network of others was trained on: ImageNet where nothing is named, but for classes
        of one's own.

        What those are is unknown; their images are taken as ImageNet's are.
        """
        found = self.describe(IMAGENET)
        if self.dataset is not None or found.classes == info(IMAGENET).classes:
            return found
        if self.mean is None or self.std is None:
            say("no --dataset, --mean and --std: images are normalised as ImageNet's")
        return replace(found, name=UNKNOWN)

    def of(self, recorded: DatasetInfo) -> DatasetInfo:
        """The data set that a network was trained on: `recorded`, where these don't say otherwise.

        :raises InputError: when it is one of the user's own and these don't say where, or it has
        other classes.
        """
        is_known = recorded.name in registry.names()
        if self.dataset is None and not is_known:
            raise InputError(
                f"the network was trained on {recorded.name}: name its folder with --dataset"
            )
        found = describe(
            self.dataset or recorded.name,
            mean=self.mean or recorded.mean,
            std=self.std or recorded.std,
            size=self.size or recorded.size,
            classes=read_classes(self.classes),
        )
        if self.classes is None and found.classes != recorded.classes:
            raise InputError(
                f"{found.place or found.name} has other classes, or in another order, than those that the network "
                "was trained "
                "on; --classes gives their names in the network's order"
            )
        return found


AS_KNOWN = Options()
"""A command line that says nothing of the data."""


def read_classes(path: Path | None) -> tuple[str, ...] | None:
    """The lines of a file of classes' names."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes: cannot read {path}: {error}") from error
    classes = tuple(line.strip() for line in lines if line.strip())
    if not classes:
        raise InputError(
            f"--classes: {path} is empty; it must hold the classes' names in label order, one a line"
        )
    return classes


def describe(
    dataset: str,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: int | None = None,
    classes: tuple[str, ...] | None = None,
) -> DatasetInfo:
    """The data set `dataset`: a name of the registry, or the folder or archive of one's own.

    What is given replaces what is known. Of one's own, `mean`, `std` and `size` must be given; as
    many values as images have channels, 1 or 3. `classes` are in label order; by default a data set
    names them itself.

    :raises InputError: when the data set is not there, or something is missing or contradicts the
    rest.
    """
    if size is not None and not 1 <= size <= 4096:
        raise InputError(f"--size {size}: images can have 1 to 4096 pixels per side")
    if dataset in registry.names():
        found = info(dataset)
    else:
        place = Path(dataset)
        if not place.exists():
            raise InputError(
                f"data set {dataset!r} is unknown; known are {', '.join(registry.names())}; or name the folder of "
                f"one's own, but there is no {place.absolute()}"
            )
        if mean is None or std is None or size is None:
            missing = [
                name
                for name, value in (("mean", mean), ("std", std), ("size", size))
                if value is None
            ]
            raise InputError(
                f"{place}: give {', '.join(f'--{name}' for name in missing)} of a data set of one's own"
            )
        names = classes or sources.open_source(place).index("test").classes
        found = DatasetInfo(
            place.resolve().stem, len(mean), size, names, mean, std, place.resolve()
        )
    found = replace(
        found,
        mean=mean or found.mean,
        std=std or found.std,
        size=size or found.size,
        classes=classes or found.classes,
    )
    if not len(found.mean) == len(found.std) == found.channels or found.channels not in (1, 3):
        raise InputError(
            f"--mean has {len(found.mean)} and --std {len(found.std)} values; images of {found.name} have "
            f"{found.channels if dataset in registry.names() else '1 or 3'} channels"
        )
    if not all(0 <= value <= 1 for value in found.mean) or not all(
        0 < value <= 1 for value in found.std
    ):
        raise InputError("--mean and --std are of pixels in 0..1")
    return found


def source(dataset: DatasetInfo, root: Path) -> sources.Source | None:
    """Where `dataset` lies: at its own place, else by its name in the folder `root`; `None` where
    it is not."""
    if dataset.place is not None:
        return sources.open_source(dataset.place)
    return (
        sources.find(registry.find(dataset.name), root)
        if dataset.name in registry.names()
        else None
    )


def load(
    dataset: DatasetInfo,
    root: Path,
    split: str,
    *,
    sample: int | None = None,
    lazy: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Split:
    """Split `train` or `test` of `dataset`, all of it or `sample` images, even over the classes.

    Image files are read at once if they fit into half of the free memory; otherwise, and where
    `lazy`, each time that they are asked for.

    :raises InputError: when the data set is not there or damaged, or does not have the classes and
    sizes of `dataset`.
    """
    found = source(dataset, root)
    if found is None:
        raise InputError(
            f"data set {dataset.name} is not in {root}; run `python -m exporters --data {root} fetch "
            f"{dataset.name}`, or name "
            "its folder with --data"
        )
    index = found.index(split)
    if len(index.classes) != len(dataset.classes):
        raise InputError(
            f"{found.place} has {len(index.classes)} classes, but {len(dataset.classes)} are expected: give their "
            "names with "
            "--classes, one a line, in label order"
        )
    for remark in index.remarks:
        say(remark)
    labels = torch.from_numpy(index.labels)
    chosen = (
        slice(None)
        if sample is None
        else torch.from_numpy(even_sample(index.labels, len(dataset.classes), sample))
    )
    if isinstance(index.images, np.ndarray):
        wanted = (dataset.channels, dataset.size, dataset.size)
        if index.images.shape[1:] != wanted:
            sides = "x".join(map(str, index.images.shape[1:]))
            raise InputError(
                f"{found.place}: images are {sides}, but {'x'.join(map(str, wanted))} is expected"
            )
        return Split(torch.from_numpy(index.images)[chosen], labels[chosen])
    files = Files(index.images, dataset.channels, dataset.size).subset(chosen)
    if lazy:
        return Split(files, labels[chosen])
    needed, free = files.shape.numel(), _free_memory()
    if needed <= free / 2:
        return Split(files.read(), labels[chosen])
    say(
        f"{found.place}: {len(files)} images are {needed / 1e9:.0f} GB decoded, of {free / 1e9:.0f} GB free: they "
        "are read "
        "anew each time"
    )
    return Split(files, labels[chosen])


def test_split(dataset: DatasetInfo, root: Path, say: Callable[[str], None]) -> Split | None:
    """The test images to measure a network of others on; `None` where there are none, which is
    said."""
    found = source(dataset, root)
    if found is None:
        say(
            f"accuracy not measured: {dataset.name} is not in {root}, so class order and preprocessing are unproven"
        )
        return None
    if found.layout.form not in sources.FILES and dataset.size != registry.find(dataset.name).size:
        say(
            f"accuracy not measured: the images in {found.place} are not of {dataset.size}x{dataset.size} pixels"
        )
        return None
    return load(dataset, root, "test")


def even_sample(
    labels: np.ndarray, classes: int, count: int, seed: int = SAMPLE_SEED
) -> np.ndarray:
    """`count` numbers of `labels` `[N]`, or all where there are fewer; class after class, in order.

    Every class gives equally many, one more for the first of them where `count` is no multiple.
    What a class lacks, the others give. Which images of a class it is depends on `seed`.
    """
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    quotas, left = [0] * classes, min(count, len(labels))
    while left:
        open_ = [label for label in range(classes) if quotas[label] < len(members[label])]
        share, extra = divmod(left, len(open_))
        for place, label in enumerate(open_):
            taken = min(share + (place < extra), len(members[label]) - quotas[label])
            quotas[label] += taken
            left -= taken
    drawn = [
        np.sort(np.random.default_rng([seed, label]).permutation(own)[:quota])
        for label, (own, quota) in enumerate(zip(members, quotas, strict=True))
    ]
    return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)


def _free_memory() -> int:
    """Bytes that programs can still get."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels 0..1 `[N, C, H, W]` to the network's input, per channel."""
    shape = (1, len(mean), 1, 1)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def to_float(images: Tensor) -> Tensor:
    """Bytes to float32 pixels in 0..1."""
    return images.to(torch.float32).div_(255)
