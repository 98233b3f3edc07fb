"""The data sets that are known by name: one YAML file each in `datasets/`, which the program in
Rust reads too.

The format is described by its types in `src/data/registry.rs`. Nothing else lists names of data
sets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import parse, read_yaml
from .errors import InputError

HERE = Path(__file__).resolve().parent
FOLDER = next(
    (place for place in (HERE / "datasets", HERE.parent / "datasets") if place.is_dir()),
    HERE / "datasets",
)
"""Inside the package where it is installed, beside it in a checkout."""


@dataclass(frozen=True)
class SplitInfo:
    """`images` is how many there are; `folder` is what their folder is called where they are single
    files."""

    images: int
    folder: str


@dataclass(frozen=True)
class Splits:
    train: SplitInfo
    test: SplitInfo


@dataclass(frozen=True)
class Layout:
    """A form of files. `train`, `test` and `label_bytes` are of CIFAR's; `label` is the key or
    column of labels."""

    form: str
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    label_bytes: int = 1
    label: str = "label"


@dataclass(frozen=True)
class Class:
    """`wnid` is the WordNet id by which folders are called, where there is one."""

    name: str
    wnid: str | None = None


@dataclass(frozen=True)
class FetchedFile:
    """`urls` are tried in turn; `bytes` and `md5` are the file's, where they are known.

    `content_sha256` is of what is inside a gzip file, whoever packed it.
    """

    urls: tuple[str, ...]
    bytes: int | None = None
    md5: str | None = None
    content_sha256: str | None = None


@dataclass(frozen=True)
class Fetch:
    """Where files come from. `system` is where a distribution puts them, `debian` its package.

    `by_hand` is what a user must do where no program may fetch them.
    """

    files: tuple[FetchedFile, ...] = ()
    system: str | None = None
    debian: str | None = None
    by_hand: str | None = None


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set unread. `mean` and `std` are of the training pixels in 0..1, per
    channel."""

    name: str
    title: str
    licence: str
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Splits
    directories: tuple[str, ...]
    layouts: tuple[Layout, ...]
    fetch: Fetch
    classes: tuple[Class, ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std must have {self.channels} values")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)

    def split(self, split: str) -> SplitInfo:
        return {"train": self.splits.train, "test": self.splits.test}[split]


def names() -> tuple[str, ...]:
    """The names of all known data sets, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.cache
def find(name: str) -> DataSet:
    """The data set of this name.

    :raises InputError: when there is none, with the names that there are.
    """
    if name not in names():
        raise InputError(f"data set {name!r} is unknown; known are {', '.join(names())}")
    path = FOLDER / f"{name}.yaml"
    content: dict[str, Any] = read_yaml(path)
    content["classes"] = [
        {"name": each} if isinstance(each, str) else each for each in content.get("classes", [])
    ]
    return parse(DataSet, content, path.name)
