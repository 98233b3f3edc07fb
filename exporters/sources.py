"""Where a data set lies, in which layout, and how it is read from there; as `src/data/source.rs`
does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import arrays, cifar, folders, packed, parquet, registry
from .errors import InputError, listed

FILES = ("image-folder", "tiny-imagenet", "parquet")
"""The forms whose images are files of any size, which are fitted to what networks take."""
KINDS = (
    "name a folder of IDX files, of CIFAR's batches, of Parquet files, or of train/ and test/ or val/ with a folder "
    "of PNG or "
    "JPEG files per class, or an .npz archive"
)


@dataclass(frozen=True)
class FileImage:
    """An image file of a class folder."""

    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Index:
    """One split: `images` uint8 `[N, C, H, W]`, or as many files; `labels` int64 `[N]`.

    `remarks` is what the user should know, though nothing is wrong.
    """

    images: np.ndarray | list[FileImage | parquet.Row]
    labels: np.ndarray
    classes: tuple[str, ...]
    remarks: list[str]


@dataclass(frozen=True)
class Source:
    """A data set on disk: its folder or archive, its form, and what is known of it where it has a
    name."""

    place: Path
    layout: registry.Layout
    known: registry.DataSet | None

    def index(self, split: str) -> Index:
        """What `train` or `test` consists of; single images are not read yet.

        :raises InputError: when a file is missing or damaged, or classes don't agree.
        """
        layout, known = self.layout, self.known
        images: np.ndarray | list[FileImage | parquet.Row]
        given = known.class_names if known else None
        if layout.form in ("image-folder", "tiny-imagenet"):
            findings = folders.Findings()
            files, names = folders.index(self.place, split, known, findings)
            remarks = findings.conclude(self.place)
            images, labels = (
                [FileImage(path) for path, _ in files],
                np.array([label for _, label in files]),
            )
        elif layout.form == "parquet":
            rows, names, remarks = parquet.index(self.place, split, layout.label, known)
            images, labels = (
                [row for row, _ in rows],
                np.array([label for _, label in rows], np.int64),
            )
            labels = arrays.checked(self.place, labels, names)
        elif layout.form == "idx":
            (images, labels, names), remarks = arrays.idx(self.place, split, given), []
        elif layout.form == "npz":
            (images, labels, names), remarks = arrays.npz(self.place, split, given), []
        elif layout.form == "packed":
            (images, labels, names), remarks = packed.load(self.place, split), []
        else:
            # Only known data sets have this layout.
            parts, names, remarks = (
                layout.train if split == "train" else layout.test,
                given or (),
                [],
            )
            if layout.form == "cifar-binary":
                images, labels = cifar.binary(self.place, parts, layout.label_bytes, names)
            else:
                images, labels = cifar.pickled(self.place, parts, layout.label, names)
        if known and len(labels) != known.split(split).images:
            part = "training" if split == "train" else "test"
            whole = known.split(split).images
            remarks.append(
                f"{self.place}: {len(labels)} {part} images, where {known.title} has {whole}"
            )
        return Index(images, labels.astype(np.int64), names, remarks)


def find(known: registry.DataSet, root: Path) -> Source | None:
    """The data set in one of its folders below `root`, or in `root` itself, if it is there."""
    for place in (root / folder for folder in known.directories):
        if source := _of(known, place):
            return source
    # A folder that is not called as the data set must show by its files that it is.
    source = _of(known, root, by_name=root.name in known.directories)
    is_folder = source is not None and source.layout.form in ("image-folder", "tiny-imagenet")
    return None if is_folder and not folders.is_of(root, known) else source


def open_source(place: Path) -> Source:
    """The data set in `place`, a folder or an archive, whose layout shows by itself.

    :raises InputError: when nothing there is in a known layout.
    """
    if place.is_file() and place.suffix.lower() == ".npz":
        return Source(place, registry.Layout("npz"), None)
    if not place.is_dir():
        raise InputError(f"{place}: there is no such data set; {KINDS}")
    for form in ("packed", "idx"):
        if _lies_in(place, registry.Layout(form)):
            return Source(place, registry.Layout(form), None)
    for known in map(registry.find, registry.names()):
        for layout in known.layouts:
            if layout.form.startswith("cifar-") and _lies_in(place, layout):
                return Source(place, layout, known)
    if folders.is_here(place):
        return Source(place, registry.Layout("image-folder"), None)
    if parquet.is_here(place):
        return Source(place, registry.Layout("parquet", label=""), None)
    archives = sorted(place.glob("*.npz"))
    if len(archives) == 1:
        return Source(archives[0], registry.Layout("npz"), None)
    if unsplit := folders.classes_without_split(place):
        raise InputError(
            f"{place}: holds folders of images ({listed(unsplit, folders.NAMED)}), but neither train/ nor test/; move them "
            f"into {place / 'train'}, and images to test on, which are none of those, into such folders in "
            f"{place / 'test'}"
        )
    raise InputError(f"{place}: holds no data set; {KINDS}")


def _of(known: registry.DataSet, place: Path, by_name: bool = True) -> Source | None:
    # Any data set may lie there packed.
    for layout in (*known.layouts, registry.Layout("packed")):
        if layout.form == "parquet" and not by_name:
            continue
        if layout.form == "packed" and not (
            packed.is_here(place) and packed.classes(place) == known.class_names
        ):
            continue
        if layout.form == "npz":
            archive = place if place.suffix == ".npz" else place / f"{known.name}.npz"
            if archive.is_file():
                return Source(archive, layout, known)
        elif _lies_in(place, layout):
            return Source(place, layout, known)
    return None


def _lies_in(place: Path, layout: registry.Layout) -> bool:
    if layout.form == "idx":
        return arrays.idx_present(place, "t10k-labels-idx1-ubyte") is not None
    if layout.form in ("image-folder", "tiny-imagenet"):
        return place.is_dir() and folders.is_here(place)
    if layout.form == "parquet":
        return parquet.is_here(place)
    if layout.form == "packed":
        return packed.is_here(place)
    return all((place / file).is_file() for file in layout.test)
