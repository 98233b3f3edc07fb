"""Brings Fashion-MNIST to the data folder, checked by SHA-256.

Sources, in turn: the machine, Debian's package, the data set's public mirror.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .errors import InputError

#: SHA-256 of the four files' uncompressed contents.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SYSTEM = Path("usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
#: The mirror that the data set's own page names.
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


def fetch_fashion_mnist(data: Path, say: Callable[[str], None]) -> None:
    """Makes ``data/fashion-mnist`` complete. Does nothing where it is; otherwise tries each source in turn.

    :raises InputError: when no source gives files with the right contents, with each source's reason.
    """
    target = data / "fashion-mnist"
    if is_complete(target):
        return
    reasons = []
    for name, source in [("this machine", _system), ("Debian's package", _debian), ("the public mirror", _mirror)]:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data, prefix=".fetch-") as scratch:
            try:
                found = source(Path(scratch))
            except (OSError, subprocess.SubprocessError) as error:
                reasons.append(f"{name}: {_reason(error)}")
                continue
            if not is_complete(found):
                reasons.append(f"{name}: incomplete or not the expected files")
                continue
            ready = Path(scratch) / "ready"
            shutil.copytree(found, ready)
            shutil.rmtree(target, ignore_errors=True)
            ready.rename(target)
        say(f"Fashion-MNIST from {name} is in {target}")
        return
    raise InputError(f"Fashion-MNIST could not be fetched ({'; '.join(reasons)}); put the four IDX files into {target}")


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds all four files, gzipped, with the right contents."""
    return all(_digest(folder / f"{name}.gz") == digest for name, digest in FILES.items())


def _digest(path: Path) -> str | None:
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, EOFError):
        return None


def _reason(error: Exception) -> str:
    stderr = getattr(error, "stderr", None)
    return stderr.strip().splitlines()[-1] if stderr and stderr.strip() else str(error)


def _system(_: Path) -> Path:
    folder = Path("/") / SYSTEM
    if not folder.is_dir():
        raise FileNotFoundError("no copy is installed")
    return folder


def _debian(scratch: Path) -> Path:
    """Downloads and unpacks the package without root; package lists of its own where the machine has none."""
    own = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache"]
    try:
        _command(["apt-get", "download", PACKAGE], scratch)
    except subprocess.SubprocessError:
        (scratch / "lists/partial").mkdir(parents=True)
        (scratch / "cache/archives/partial").mkdir(parents=True)
        _command(["apt-get", *own, "update"], scratch)
        _command(["apt-get", *own, "download", PACKAGE], scratch)
    package = next(scratch.glob(f"{PACKAGE}_*.deb"))
    _command(["dpkg", "-x", package.name, "unpacked"], scratch)
    return scratch / "unpacked" / SYSTEM


def _command(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)


def _mirror(scratch: Path) -> Path:
    folder = scratch / "mirror"
    folder.mkdir()
    for name in FILES:
        with (
            urllib.request.urlopen(f"{MIRROR}/{name}.gz", timeout=60) as answer,
            (folder / f"{name}.gz").open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    return folder
