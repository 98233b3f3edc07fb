"""Parquet files as the Hugging Face Hub keeps data sets of images: a column of encoded images and
one of labels.

`train-00000-of-00002.parquet` or `train/0000.parquet`, perhaps some folders deep, is training data;
`test…` or `validation…` is test data. Class names are in the file's metadata, where the `datasets`
library puts them. The rules are those of `src/data/layout/parquet.rs`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import folders, registry
from .errors import InputError, listed

REMEDY = "fetch it again, or write it anew with the `datasets` library"
DEPTH = 3
"""Folders are searched this deep."""
LABELS = ("label", "labels", "fine_label", "class")
"""What label columns are called, best first."""
IMAGES = ("image", "img")
"""What image columns are called, best first."""
TEST = ("test", "validation", "valid", "val", "dev")
"""The beginnings of names by which test files are known, best first; those of ImageNet's `test`
have no labels."""


@dataclass(frozen=True)
class Row:
    """One image of a file."""

    file: Path
    column: str
    group: int
    at: int

    def read(self) -> bytes:
        """The encoded image; empty where there is none."""
        return _group(self.file, self.column, self.group)[self.at].as_py() or b""

    def __str__(self) -> str:
        return f"{self.file.name}, row {self.at} of group {self.group}"


def is_here(folder: Path) -> bool:
    """Whether `folder` holds training or test files."""
    return folder.is_dir() and bool(_files(folder))


def index(
    folder: Path, split: str, label: str | None, known: registry.DataSet | None
) -> tuple[list[tuple[Row, int]], tuple[str, ...], list[str]]:
    """The images of `train` or `test` with their labels, the names of the classes, and what the
    user should know.

    :raises InputError: when the split is not there, or a file is damaged or has other columns.
    """
    files = _files(folder)
    parts = [
        [path for name, path in files if name == each]
        for each in (("train",) if split == "train" else TEST)
    ]
    parts = [part for part in parts if part]
    if not parts:
        wanted = "train" if split == "train" else "test or validation"
        raise InputError(f"{folder}: has no Parquet file called {wanted}; {REMEDY}")
    # Where the best has no labels, the next one is it.
    part = next(
        (
            part
            for part in parts
            if any((_Opened(path, label).labels() >= 0).any() for path in part)
        ),
        parts[-1],
    )
    rows: list[tuple[Row, int]] = []
    names = None
    for path in part:
        opened = _Opened(path, label)
        names = names or opened.names()
        labels, start = opened.labels(), 0
        for group in range(opened.file.num_row_groups):
            count = opened.file.metadata.row_group(group).num_rows
            rows += [
                (Row(path, opened.image, group, at), int(labels[start + at])) for at in range(count)
            ]
            start += count
    if bad := [str(row) for row, number in rows if number < 0]:
        raise InputError(
            f"{folder}: {len(bad)} images have no label: {listed(bad, folders.NAMED)}; repair or remove them"
        )
    remarks: list[str] = []
    if known is None and names is not None:
        classes = folders.readable_names(names)
    elif known is None:
        highest = max(int(_Opened(path, label).labels().max(initial=0)) for _, path in files)
        classes = tuple(map(str, range(highest + 1)))
    else:
        classes = known.class_names
        order = _order(folder, names, known, remarks)
        rows = [
            (row, order[number] if order and number < len(order) else number)
            for row, number in rows
        ]
    return rows, classes, remarks


def _order(
    folder: Path, names: list[str] | None, known: registry.DataSet, remarks: list[str]
) -> list[int] | None:
    """The label in `known` of each label in the files, where the files name their classes."""
    if names is None:
        return None
    if len(names) != len(known.classes):
        raise InputError(
            f"{folder}: has {len(names)} classes, {known.title} has {len(known.classes)}; name a data set of one's "
            "own by "
            "its path"
        )
    labels = [
        next((i for i, each in enumerate(known.classes) if folders.names_class(name, each)), None)
        for name in names
    ]
    found = [label for label in labels if label is not None]
    if len(set(found)) < len(names):
        remarks.append(
            f"{folder}: its classes are called otherwise than those of {known.title} ({names[0]!r} …); its labels are "
            "taken in that order"
        )
        return None
    return found


def _files(folder: Path, split: str | None = None, depth: int = DEPTH) -> list[tuple[str, Path]]:
    """Parquet files with the names of their splits."""
    found = []
    for entry in folders.entries(folder, folder, folders.Findings()):
        own = next((name for name in ("train", *TEST) if _begins(entry.name, name)), split)
        if entry.is_dir() and depth:
            found += _files(entry, own, depth - 1)
        elif entry.suffix == ".parquet" and own is not None and not entry.is_dir():
            found.append((own, entry))
    return found


def _begins(name: str, word: str) -> bool:
    rest = name.removeprefix(word)
    return name.startswith(word) and not (rest[:1].isascii() and rest[:1].isalpha())


class _Opened:
    """A file, and the columns of its images and labels."""

    def __init__(self, path: Path, label: str | None) -> None:
        import pyarrow.parquet

        self.path = path
        try:
            self.file = pyarrow.parquet.ParquetFile(path)
            columns = [self.file.schema.column(i) for i in range(len(self.file.schema))]
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{path}: is not a readable Parquet file ({error}); {REMEDY}"
            ) from error
        plain = [c for c in columns if c.max_repetition_level == 0]
        bytes_ = [c.path for c in plain if c.physical_type == "BYTE_ARRAY"]
        numbers = [c.path for c in plain if c.physical_type in ("INT32", "INT64")]
        candidates = [form for name in IMAGES for form in (f"{name}.bytes", name)]
        candidates += [name for name in bytes_ if name.endswith(".bytes")]
        self.image = self._first(candidates, bytes_, "encoded images", columns)
        self.label = self._first([label] if label else LABELS, numbers, label or "labels", columns)

    def _first(self, candidates: Sequence[str], there: list[str], what: str, columns: list) -> str:
        for name in candidates:
            if name in there:
                return name
        raise InputError(
            f"{self.path}: has no column of {what}; its columns are {', '.join(c.path for c in columns)}; write one "
            "image "
            "and one whole-number label per row"
        )

    def labels(self) -> np.ndarray:
        """int64 `[N]`; -1 is none."""
        import pyarrow

        try:
            column = self.file.read(columns=[self.label]).column(0)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(
                f"{self.path}: is not a readable Parquet file ({error}); {REMEDY}"
            ) from error
        return column.cast(pyarrow.int64()).fill_null(-1).to_numpy()

    def names(self) -> list[str] | None:
        """The classes' names in the metadata of the `datasets` library."""
        try:
            tree = json.loads((self.file.schema_arrow.metadata or {})[b"huggingface"])
            names = tree["info"]["features"][self.label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return (
            names
            if isinstance(names, list) and all(isinstance(name, str) for name in names)
            else None
        )


@functools.lru_cache(maxsize=4)
def _group(file: Path, column: str, group: int) -> Any:
    """The encoded images of a row group."""
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(0)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file}: is not a readable Parquet file ({error}); {REMEDY}") from error
    found = found.combine_chunks()
    while pyarrow.types.is_struct(found.type):
        found = found.field(0)
    return found
