"""Class folders: one folder of PNG or JPEG files per class, below `train/` and `test/` or `val/`.

Tiny-ImageNet's two peculiarities are read too: `images/` below each class, and `val/images/` with
`val/val_annotations.txt`. The rules are those of `src/data/layout/folder.rs`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import registry
from .errors import InputError, listed

TEST_FOLDERS = ("test", "val", "validation", "valid")
"""Where the test images may lie, best first."""
IMAGES = "images"
ANNOTATIONS = "val_annotations.txt"
EXTENSIONS = (".png", ".jpg", ".jpeg")
NAMED = 20
"""The most entries that a message names one by one."""


@dataclass
class Findings:
    """What was found beside images: what is wrong, an entry each, and the system's files that were
    left out."""

    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def problem(self, root: Path, path: Path, what: str) -> None:
        self.problems.append(f"{_below(root, path)} {what}")

    def conclude(self, root: Path) -> list[str]:
        """What the user should know.

        :raises InputError: about all problems together.
        """
        if len(self.problems) == 1:
            raise InputError(f"{root}: {self.problems[0]}; repair, move or remove what is named")
        if self.problems:
            raise InputError(
                f"{root}: {len(self.problems)} entries can't be used: {listed(self.problems, NAMED)}; repair, move or remove "
                "what is named"
            )
        if not self.skipped:
            return []
        return [
            f"{root}: system and hidden entries are left out: {listed(sorted(self.skipped), NAMED)}"
        ]


def entries(folder: Path, root: Path, findings: Findings) -> list[Path]:
    """What lies in `folder` in the order of names; the system's own entries are noted as
    skipped."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot list: {error.strerror}") from error
    findings.skipped += [_below(root, path) for path in found if _is_of_system(path.name)]
    return [path for path in found if not _is_of_system(path.name)]


def is_here(root: Path) -> bool:
    """Whether `root` holds class folders."""
    return any(_part(root, split) is not None for split in ("train", "test"))


def is_of(root: Path, known: registry.DataSet) -> bool:
    """Whether the class folders in `root` are those of `known`."""
    for split in ("train", "test"):
        try:
            part = _part(root, split)
            if part is not None:
                labelling(_names(part), known)
                return True
        except InputError:
            continue
    return False


def classes_without_split(root: Path) -> list[str]:
    """The folders of images in `root` itself, as data sets have them that nobody has divided."""
    folders = [entry for entry in entries(root, root, Findings()) if entry.is_dir()]
    return [
        folder.name
        for folder in folders
        if any(e.suffix.lower() in EXTENSIONS for e in folder.iterdir())
    ]


def index(
    root: Path, split: str, known: registry.DataSet | None, findings: Findings
) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """The image files of `train` or `test` with their labels, class by class, and the names of the
    classes.

    :raises InputError: when the split is not there, or its classes are not those of the other
    split, or not `known`'s.
    """
    wanted = _part(root, split)
    if wanted is None:
        folder = "train/" if split == "train" else "test/ or val/"
        raise InputError(
            f"{root}: holds no {folder} with a folder of images for each class; sort the images into such folders, or "
            "name the folder that holds them"
        )
    other = _part(root, "test" if split == "train" else "train")
    names = _names(wanted)
    if other is not None:
        _check_alike(root, wanted, names, other)
    try:
        classes = labelling(names, known)
    except InputError as error:
        raise InputError(f"{wanted}: {error}; correct the folders") from error
    files = _annotated if _is_annotated(wanted) else _in_classes
    return files(root, wanted, [folder for folder, _ in classes], findings), tuple(
        name for _, name in classes
    )


def labelling(names: Iterable[str], known: registry.DataSet | None) -> list[tuple[str, str]]:
    """Folder and class name of each class in label order: as the `known` data set says, else by
    number or by name."""
    ordered = _ordered(sorted(set(names)))
    return _readable(ordered) if known is None else _matched(ordered, known)


def names_class(name: str, each: registry.Class) -> bool:
    """Whether `name` is the WordNet id or the name of a class, perhaps with synonyms after a
    comma."""
    return name == each.wnid or _plain(name.partition(",")[0]) == _plain(each.name)


def readable_names(names: list[str]) -> tuple[str, ...]:
    """ImageNet's names where all of `names` are its WordNet ids, else `names`."""
    return tuple(name for _, name in _readable(names))


def _is_of_system(name: str) -> bool:
    """Whether systems, file managers, archivers or notebooks make entries of this name."""
    return (
        name in ("__MACOSX", "@eaDir", "lost+found")
        or name.startswith(".")
        or name.lower() in ("thumbs.db", "desktop.ini")
    )


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _is_annotated(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_file() and (folder / IMAGES).is_dir()


def _part(root: Path, split: str) -> Path | None:
    """The folder of this split, if it has classes. Unlabelled test images lie in it directly or in
    `images/`."""
    for name in ("train",) if split == "train" else TEST_FOLDERS:
        folder = root / name
        if _is_annotated(folder):
            return folder
        if folder.is_dir() and any(
            e.is_dir() and e.name != IMAGES for e in entries(folder, root, Findings())
        ):
            return folder
    return None


def _names(part: Path) -> set[str]:
    if _is_annotated(part):
        return set(_annotations(part).values())
    return {entry.name for entry in entries(part, part, Findings()) if entry.is_dir()}


def _annotations(part: Path) -> dict[str, str]:
    """The class of each file in `val_annotations.txt`."""
    path = part / ANNOTATIONS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        file, _, rest = line.partition("\t")
        if line.strip() and not rest.strip():
            raise InputError(f"{path}: has no class in line {number}; fetch the file again")
        if line.strip():
            found[file] = rest.partition("\t")[0].strip()
    return found


def _in_classes(
    root: Path, part: Path, folders: list[str], findings: Findings
) -> list[tuple[Path, int]]:
    for entry in entries(part, root, findings):
        if not entry.is_dir():
            findings.problem(root, entry, "lies beside the classes' folders")
    files = []
    for label, name in enumerate(folders):
        files += [(path, label) for path in _images_of(root, part / name, findings)]
    return files


def _annotated(
    root: Path, part: Path, folders: list[str], findings: Findings
) -> list[tuple[Path, int]]:
    annotations, labels = _annotations(part), {name: label for label, name in enumerate(folders)}
    unseen, files = set(annotations), []
    for path in _images_of(root, part / IMAGES, findings):
        unseen.discard(path.name)
        if path.name not in annotations:
            findings.problem(root, path, f"has no line in {ANNOTATIONS}")
        elif annotations[path.name] in labels:
            files.append((path, labels[annotations[path.name]]))
    for name in sorted(unseen):
        findings.problem(root, part / IMAGES / name, "is missing")
    return sorted(files, key=lambda file: (file[1], file[0]))


def _images_of(root: Path, folder: Path, findings: Findings) -> list[Path]:
    """The image files of the class in `folder`; whatever else lies there is a problem."""
    found = entries(folder, root, findings)
    if any(entry.is_dir() and entry.name == IMAGES for entry in found):
        for entry in found:
            if entry.name != IMAGES and not entry.name.endswith("_boxes.txt"):
                findings.problem(root, entry, f"lies beside {IMAGES}/")
        found = entries(folder / IMAGES, root, findings)
    files = []
    for entry in found:
        if entry.suffix.lower() in EXTENSIONS and not entry.is_dir():
            files.append(entry)
        elif entry.is_dir():
            findings.problem(root, entry, "is a folder inside a class")
        else:
            findings.problem(root, entry, "is no file that is called .png, .jpg or .jpeg")
    if not files:
        findings.problem(root, folder, "holds no image")
    return files


def _check_alike(root: Path, part: Path, names: set[str], other: Path) -> None:
    """Training and test images must be of the same classes."""
    others = _names(other)
    differences = [
        f"only {folder.name}/ has {listed(sorted(own), NAMED)}"
        for folder, own in ((part, names - others), (other, others - names))
        if own
    ]
    if differences:
        raise InputError(
            f"{root}: its training and test images are of different classes: {'; '.join(differences)}; rename or "
            "remove "
            "folders until both have the same"
        )


def _ordered(names: list[str]) -> list[str]:
    """By number where all names are one common beginning and a number (00000, new12, n01440764),
    else by letters."""
    matches = [re.fullmatch(r"(.*?)([0-9]+)", name, re.DOTALL) for name in names]
    parts = [match for match in matches if match]
    if (
        len(parts) < len(names)
        or len({part[1] for part in parts}) > 1
        or any(int(part[2]) >= 2**64 for part in parts)
    ):
        return names
    numbered = sorted((int(part[2]), part[0]) for part in parts)
    for (number, name), (following, other) in itertools.pairwise(numbered):
        if number == following:
            raise InputError(f"has {name} and {other}, which are the same number")
    return [name for _, name in numbered]


def _readable(names: list[str]) -> list[tuple[str, str]]:
    if not names or not all(re.fullmatch(r"n[0-9]{8}", name) for name in names):
        return [(name, name) for name in names]
    known = {each.wnid: each.name for each in registry.find("imagenet").classes}
    return [(name, known[name] if set(names) <= set(known) else name) for name in names]


def _plain(name: str) -> str:
    """The letters and digits of a name, in lower case: people and tools write the rest of it in
    many ways."""
    return "".join(letter for letter in name if letter.isalnum()).lower()


def _matched(names: list[str], known: registry.DataSet) -> list[tuple[str, str]]:
    """The folder of each class of `known`: called by its WordNet id, its name or its label."""
    are_labels = len(names) == len(known.classes) and all(
        name.isascii() and name.isdigit() and int(name) == label for label, name in enumerate(names)
    )
    left: dict[str, str] = {}
    for name in names:
        if _plain(name) in left:
            raise InputError(f"has {left[_plain(name)]} and {name}, which name the same class")
        left[_plain(name)] = name
    found, missing = [], []
    for label, each in enumerate(known.classes):
        keys = [_plain(names[label])] if are_labels else [each.wnid or "", _plain(each.name)]
        key = next((key for key in keys if key in left), None)
        if key is None:
            missing.append(each.wnid or each.name)
        else:
            found.append((left.pop(key), each.name))
    problems = [f"it lacks {listed(missing, NAMED)}"] if missing else []
    problems += [f"{listed(left.values(), NAMED)} is no class of it"] if left else []
    if problems:
        raise InputError(f"is not {known.title}: {'; '.join(problems)}")
    return found
