"""Files that are either complete or absent, and checkpoints that cannot run code."""

from __future__ import annotations

import codecs
import hashlib
import lzma
import os
import pickle
import re
import shlex
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import InputError, check_there

# What is met in a checkpoint's place: how the file begins (in lower case), what it is and what to
# do.
OTHER_KINDS = {
    b"<!doctype": "a web page, not a checkpoint: the address leads to a page about the file; download the file itself",
    b"<html": "a web page, not a checkpoint: the address leads to a page about the file; download the file itself",
    b"<?xml": "an XML text, not a checkpoint: the server answered with an error; download the file again",
    b'{"error': "a server's error message, not a checkpoint: download the file again",
    b"version https://git-lfs": "a Git LFS pointer, not the checkpoint: `git lfs pull` fetches the file",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x89HDF": "an HDF5 file of another framework, not a torch checkpoint: convert it where it was made",
    b"\x93NUMPY": "a NumPy array, not a torch checkpoint",
    b"\x89PNG": "an image, not a checkpoint",
    b'{"metadata"': "the index of a checkpoint in several files: join them where the network's code is",
    b"{": "a JSON text, not a checkpoint: name the file of the weights beside it",
    b"GGUF": "a GGUF file of quantised weights, which no network here computes with",
}
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
)
"""What Python's readers of archives raise where one is damaged."""
STATE_DICT = "save the network's state_dict() with torch.save where its code is"


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` on a temporary file next to `path`, then renames it to `path` (mode 644)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Tensors and plain values only, so that `load_checkpoint` can read them back."""
    write_aside(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint is untrusted: only tensors and plain values are read from it, nothing is
    executed."""
    check_kind(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Such as "Unsupported global: GLOBAL argparse.Namespace was not an allowed global by
        # default".
        names = sorted(set(re.findall(r"\bGLOBAL ([\w.]+)", str(error))))
        if not names:
            raise unreadable(path, error) from error
        raise InputError(
            f"{path} is refused: beside tensors and plain values it holds {', '.join(names)}. `python -m exporters "
            f"convert {shlex.quote(str(path))} CLEAN.pt` copies its tensors without running anything that is in it"
        ) from error
    except Exception as error:  # damaged files make torch raise nearly anything
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds {type(content).__name__}, not a dictionary of tensors: {STATE_DICT}"
        )
    return content


def check_kind(path: Path) -> None:
    """Refuses what is no checkpoint by its first bytes or its members, and says what it is
    instead."""
    check_there(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory: name the checkpoint's file")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise InputError(f"{path} is empty: download or copy it again")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for beginning, remedy in OTHER_KINDS.items():
        if text.startswith(beginning) or head.startswith(beginning):
            raise InputError(f"{path} is {remedy}")
    if path.suffix == ".onnx":
        raise InputError(
            f"{path} is an ONNX file, not a checkpoint: `python -m exporters import` takes it"
        )
    try:
        other = _archive_of_others(path)
    except DAMAGED:
        return  # damaged: what reads it says so
    if other is not None:
        raise InputError(f"{path} is {other}")


def _archive_of_others(path: Path) -> str | None:
    """What an archive is that torch did not write as a checkpoint, and what to do; none for all
    other files."""
    if tarfile.is_tarfile(path):  # first: one that ends with a zip archive is taken for such
        with tarfile.open(path) as archive:
            members = archive.getnames()
        # torch before 0.1.10 wrote its checkpoints as such.
        return (
            None
            if "storages" in members
            else "a tar archive, not a checkpoint: unpack it, and name the file inside"
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        ends = [member.partition("/")[2] for member in members]
        if any(end.startswith("code/") or end == "constants.pkl" for end in ends):
            return (
                f"a TorchScript archive, which holds a program: {STATE_DICT}, or export the network to ONNX for "
                "`python -m exporters import`"
            )
        if any(member.endswith(".npy") for member in members):
            return f"an archive of NumPy arrays, not a torch checkpoint: {STATE_DICT}"
        return (
            None
            if "data.pkl" in ends
            else "a zip archive, not a checkpoint: unpack it, and name the file inside"
        )
    return None


def unreadable(path: Path, error: Exception) -> InputError:
    """That torch can't read `path`, and the first sentence of its reason, without its advice and
    colours."""
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    reason = re.split(r"\n|(?<=[\w)'\"])\. ", reason, maxsplit=1)[0].strip().rstrip(".,:")
    if reason.startswith("Weights only load failed") or "weights_only" in reason:
        reason = "it is no pickle"
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO
    if "magic number" in reason or (is_pickle and reason == "it is no pickle"):
        return InputError(f"{path} is a pickle that torch did not write: {STATE_DICT}")
    return InputError(
        f"{path} is not a readable torch checkpoint ({reason or type(error).__name__}): it is damaged, cut short or of "
        "another kind; download or copy it again"
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
