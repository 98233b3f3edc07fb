"""ImageNet's official archives as class folders: what `fetch imagenet` does where a user has put
them.

image-net.org gives three files: an archive of archives of training images, one per class; an
archive of validation images without classes; and a development kit, which has the classes of the
latter. Everything is unpacked into a folder beside, image by image or class by class, and renamed
when it is complete, so that an interrupted run goes on.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import InputError
from .registry import DataSet

Say = Callable[[str], None]
TRAIN, VAL, DEVKIT = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
)
SOLUTION, SYNSETS = "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt"
"""Other lists of the validation images' classes: Kaggle's, and the one that TensorFlow's scripts
bring."""
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
PROGRESS_SECONDS = 10.0


def unpack(known: DataSet, target: Path, say: Say) -> None:
    """Makes `target/train` and `target/val` of the archives in `target`, where those are and the
    folders are not.

    A flat `val/` is sorted into classes if a list of them is there.

    :raises InputError: when an archive is damaged, is another, or lacks the classes that belong to
    it.
    """
    scratch = target / ".unpacking"
    if not (target / "train").exists() and (target / TRAIN).is_file():
        _train(known, target, scratch / "train", say)
    val = target / "val"
    is_flat = val.is_dir() and any(IMAGE.fullmatch(entry.name) for entry in val.iterdir())
    is_begun = not val.exists() and (scratch / "val").is_dir()
    if is_flat or is_begun or (not val.exists() and (target / VAL).is_file()):
        _val(known, target, scratch / "val", say)
    if scratch.is_dir() and not any(scratch.iterdir()):
        scratch.rmdir()


def _train(known: DataSet, target: Path, part: Path, say: Say) -> None:
    archive, classes = target / TRAIN, {each.wnid for each in known.classes if each.wnid}
    say(f"{archive}: unpacking {len(classes)} classes")
    part.mkdir(parents=True, exist_ok=True)
    progress = _Progress(say)
    try:
        with tarfile.open(archive) as outer:
            for member in outer:
                wnid = PurePosixPath(member.name).stem
                if wnid not in classes or not member.isfile():
                    raise InputError(
                        f"{archive}: {member.name} is no archive of a class; download {TRAIN} again"
                    )
                if (part / wnid).is_dir():
                    continue
                shutil.rmtree(part / f".{wnid}", ignore_errors=True)
                with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    inner.extractall(part / f".{wnid}", filter="data")
                os.replace(part / f".{wnid}", part / wnid)
                progress.tell(f"{sum(1 for _ in part.iterdir())} of {len(classes)} classes")
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{archive} can't be unpacked ({error}); download it again, and run this again"
        ) from error
    if missing := sorted(classes - {entry.name for entry in part.iterdir()}):
        raise InputError(
            f"{archive} lacks {len(missing)} classes ({missing[0]} …); download it again"
        )
    os.replace(part, target / "train")


def _val(known: DataSet, target: Path, part: Path, say: Say) -> None:
    """Puts each image into the folder of its class; those of a flat `val/` are moved."""
    labels = _labels(known, target)
    val = target / "val"
    part.mkdir(parents=True, exist_ok=True)
    progress = _Progress(say)

    def place(name: str) -> Path:
        found = IMAGE.fullmatch(name)
        number = int(found[1]) if found else 0
        if not 1 <= number <= len(labels):
            raise InputError(
                f"{name} is none of the {len(labels)} validation images; download {VAL} again"
            )
        folder = part / labels[number - 1]
        folder.mkdir(exist_ok=True)
        return folder / name

    if val.is_dir():
        for entry in sorted(val.iterdir()):
            os.replace(entry, place(entry.name))
        val.rmdir()
    elif (target / VAL).is_file():
        say(f"{target / VAL}: unpacking {len(labels)} images")
        try:
            with tarfile.open(target / VAL) as archive:
                for count, member in enumerate((each for each in archive if each.isfile()), 1):
                    _image(
                        archive.extractfile(member),
                        member.size,
                        place(PurePosixPath(member.name).name),
                    )
                    progress.tell(f"{count} of {len(labels)} images")
        except (OSError, tarfile.TarError) as error:
            raise InputError(
                f"{target / VAL} can't be unpacked ({error}); download it again"
            ) from error
    found = sum(1 for _ in part.glob("*/*.JPEG"))
    if found != len(labels):
        raise InputError(
            f"{target}: {found} of {len(labels)} validation images are there; download {VAL} again"
        )
    os.replace(part, val)


def _image(source: IO[bytes] | None, size: int, place: Path) -> None:
    """Writes an image aside and renames it, unless it is there."""
    if source is None or (place.is_file() and place.stat().st_size == size):
        return
    aside = place.with_suffix(".part")
    with aside.open("wb") as file:
        shutil.copyfileobj(source, file)
    os.replace(aside, place)


def _labels(known: DataSet, target: Path) -> list[str]:
    """The WordNet id of each validation image, by its number."""
    classes = {each.wnid for each in known.classes if each.wnid}
    if (target / DEVKIT).is_file():
        path, labels = target / DEVKIT, _devkit(target / DEVKIT, classes)
    elif (target / SOLUTION).is_file():
        path = target / SOLUTION
        with path.open(encoding="utf-8", newline="") as file:
            rows = sorted((row["ImageId"], row["PredictionString"]) for row in csv.DictReader(file))
        labels = [prediction.split()[0] for _, prediction in rows]
    elif (target / SYNSETS).is_file():
        path, labels = target / SYNSETS, (target / SYNSETS).read_text(encoding="utf-8").split()
    else:
        raise InputError(
            f"{target}: nothing tells the validation images' classes; put {DEVKIT} there (or {SOLUTION}, or {SYNSETS}) "
            "and run this again"
        )
    if not labels or (odd := next((label for label in labels if label not in classes), None)):
        raise InputError(
            f"{path}: {odd if labels else 'nothing'} is no class of {known.title}; download it again"
        )
    return labels


def _devkit(path: Path, classes: set[str]) -> list[str]:
    """The labels in the development kit, which numbers the classes in an order of its own.

    The order is that of the WordNet ids in `meta.mat`, a MATLAB file whose parts are compressed;
    the challenge's classes come first in it.
    """
    try:
        with tarfile.open(path) as archive:
            files = (
                (PurePosixPath(member.name).name, archive.extractfile(member)) for member in archive
            )
            content = {name: file.read() for name, file in files if file is not None}
        numbers = [int(line) for line in content[TRUTH].split()]
        ids = list(dict.fromkeys(_wordnet_ids(content[META])))[: len(classes)]
    except (OSError, tarfile.TarError, KeyError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path} is not the development kit of task 1 and 2 ({error}); download it again"
        ) from error
    if set(ids) != classes or not all(1 <= number <= len(ids) for number in numbers):
        raise InputError(
            f"{path}: its {META} does not begin with the challenge's {len(classes)} classes"
        )
    return [ids[number - 1] for number in numbers]


def _wordnet_ids(content: bytes) -> list[str]:
    """The WordNet ids in a MATLAB file of version 5, in their order; its letters have one byte or
    two."""
    plain, at = b"", 128
    while at + 8 <= len(content):
        kind, size = (int.from_bytes(content[at + i : at + i + 4], "little") for i in (0, 4))
        block = content[at + 8 : at + 8 + size]
        plain += zlib.decompress(block) if kind == 15 else block  # 15 is miCOMPRESSED
        at += 8 + size
    found = re.findall(rb"n\d{8}(?!\d)|n\0(?:\d\0){8}", plain)
    return [each.replace(b"\0", b"").decode("ascii") for each in found]


class _Progress:
    """Tells how far it is every ten seconds."""

    def __init__(self, say: Say) -> None:
        self.say, self.told = say, time.monotonic()

    def tell(self, line: str) -> None:
        if time.monotonic() - self.told >= PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.say(line)
