"""Brings a data set of the registry to the data folder: `python -m exporters fetch NAME`.

What is there already, in any known layout, is accepted. Everything is written aside and renamed,
and a download that broke off goes on where it was. Fashion-MNIST may also come from the machine or
from Debian's package.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from . import imagenet, registry, sources
from .errors import InputError
from .registry import DataSet, FetchedFile

Say = Callable[[str], None]
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
ATTEMPTS = 5
"""How often a connection that breaks off is taken up again."""
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 60
PROGRESS_SECONDS = 10.0
CHUNK = 1 << 20


def fetch(name: str, data: Path, say: Say = print) -> Path:
    """Makes the data set `name` complete in the folder `data`; returns where it is.

    :raises InputError: when no source gives the right files, with each source's reason and what to
    put where by hand.
    """
    known = registry.find(name)
    target = data / known.directories[0]
    if known.fetch.by_hand:
        imagenet.unpack(known, target, say)
    found = sources.find(known, data)
    if found is not None and _is_whole(found, known, say):
        say(f"{known.title} is in {found.place}")
        return found.place
    if known.fetch.by_hand:
        raise InputError(
            f"{known.title} can't be fetched: {known.fetch.by_hand} into {target.resolve()}, and run this again: it "
            "unpacks them"
        )
    if _is_archived(known) and target.is_dir() and any(target.iterdir()):
        raise InputError(
            f"{target} holds something else than {known.title}; move it away and run this again"
        )
    scratch = data / ".fetch" / name
    scratch.mkdir(parents=True, exist_ok=True)
    say(f"{known.title}: licence: {known.licence}")
    reasons: list[str] = []
    for source in (_system, _debian, _download):
        ready = source(known, data, scratch, reasons, say)
        if ready is not None:
            _put(ready, target)
            shutil.rmtree(scratch)
            if not any(scratch.parent.iterdir()):
                scratch.parent.rmdir()
            say(f"{known.title} is in {target}")
            return target
    by_hand = "; ".join(
        f"{_basename(file)} ({_size(file)}) from {file.urls[0]}" for file in known.fetch.files
    )
    place = data if _is_archived(known) else target
    raise InputError(
        f"{known.title} could not be fetched ({'; '.join(reasons)}). Run this again to go on; or get {by_hand} by "
        "other "
        f"means, put {'it' if len(known.fetch.files) == 1 else 'them'} into {place}, and run this again"
    )


def _is_whole(found: sources.Source, known: DataSet, say: Say) -> bool:
    """Whether a copy that is there can be used; a damaged one whose files are known is fetched
    anew.

    :raises InputError: when it is damaged otherwise.
    """
    digests = [file for file in known.fetch.files if file.content_sha256]
    if found.layout.form == "idx" and digests:
        return _has_contents(found.place, known)
    for split in ("train", "test"):
        for remark in found.index(split).remarks:
            say(remark)
    return True


def _has_contents(folder: Path, known: DataSet) -> bool:
    """Whether `folder` holds all files, gzipped or not, with the right contents."""
    return all(
        _content_digest(folder / _basename(file)) == file.content_sha256
        for file in known.fetch.files
    )


def _content_digest(path: Path) -> str | None:
    plain = path.with_suffix("")
    try:
        with gzip.open(path) if path.is_file() else plain.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, EOFError):
        return None


def _put(ready: Path, target: Path) -> None:
    """Renames the folder `ready` to `target`, or its files into it: others that lie there stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and any(target.iterdir()):
        for path in ready.iterdir():
            os.replace(path, target / path.name)
    else:
        os.replace(ready, target)


# Where files come from: each gives the folder of the data set, or adds why not to `reasons`.


def _system(known: DataSet, data: Path, scratch: Path, reasons: list[str], say: Say) -> Path | None:
    if not known.fetch.system:
        return None
    folder = Path(known.fetch.system)
    return _copied(known, folder, scratch, "this machine", reasons, say)


def _debian(known: DataSet, data: Path, scratch: Path, reasons: list[str], say: Say) -> Path | None:
    """Downloads and unpacks the package without root; package lists of its own where the machine
    has none."""
    package = known.fetch.debian
    if not package or not known.fetch.system:
        return None
    folder = scratch / "debian"
    own = [
        f"-oDir::State::Lists={folder.resolve()}/lists",
        f"-oDir::Cache={folder.resolve()}/cache",
    ]
    try:
        (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        try:
            _command(["apt-get", "download", package], folder)
        except subprocess.SubprocessError:
            _command(["apt-get", *own, "update"], folder)
            _command(["apt-get", *own, "download", package], folder)
        _command(["dpkg", "-x", next(folder.glob(f"{package}_*.deb")).name, "unpacked"], folder)
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        reasons.append(f"Debian's package: {_reason(error)}")
        return None
    return _copied(
        known,
        folder / "unpacked" / known.fetch.system.lstrip("/"),
        scratch,
        "Debian's package",
        reasons,
        say,
    )


def _copied(
    known: DataSet, folder: Path, scratch: Path, name: str, reasons: list[str], say: Say
) -> Path | None:
    if not folder.is_dir():
        reasons.append(f"{name}: has none")
        return None
    if not _has_contents(folder, known):
        reasons.append(f"{name}: incomplete or not the expected files")
        return None
    ready = scratch / "copied"
    shutil.rmtree(ready, ignore_errors=True)
    shutil.copytree(folder, ready)
    say(f"{known.title} from {name}")
    return ready


def _download(
    known: DataSet, data: Path, scratch: Path, reasons: list[str], say: Say
) -> Path | None:
    files = []
    place = data if _is_archived(known) else data / known.directories[0]
    for file in known.fetch.files:
        path = _one(file, place, scratch, reasons, say)
        if path is None:
            return None
        files.append(path)
    ready = scratch / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    for path in files:
        if _is_archived(known):
            say(f"{path.name}: unpacking")
            _unpack(path, ready)
        elif path.parent == scratch:
            path.rename(ready / path.name)
        else:
            shutil.copy(path, ready / path.name)
    entries = [entry for entry in ready.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir():
        ready = entries[0]
    source = sources.find(known, ready)
    if source is None or source.place != ready:
        raise InputError(f"{known.title}: what was unpacked in {ready} is in no known layout")
    return ready


def _one(
    file: FetchedFile, place: Path, scratch: Path, reasons: list[str], say: Say
) -> Path | None:
    """The whole file: one that the user put into `place`, else downloaded from the first address
    that gives it."""
    name = _basename(file)
    own = place / name
    if own.is_file():
        if _is_right(own, file):
            say(f"{name}: taken from {place}")
            return own
        reasons.append(f"{own} is not the file at {file.urls[0]} (its MD5 is not {file.md5})")
    done = scratch / name
    if done.is_file() and _is_right(done, file):
        return done
    part = scratch / f"{name}.part"
    for url in file.urls:
        say(f"{name}: {_size(file)} from {url}")
        try:
            _resume(url, part, file, say)
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {_reason(error)}")
            continue
        if not _is_right(part, file):
            reasons.append(
                f"{url}: its contents are not the expected ones (MD5 {_md5(part)} where {file.md5} belongs)"
            )
            part.unlink()
            continue
        part.rename(done)
        return done
    return None


def _resume(url: str, part: Path, file: FetchedFile, say: Say) -> None:
    """Downloads `url` to `part`, from where that ends; takes a connection that breaks off up again.

    :raises OSError: when it breaks off too often, or the server refuses.
    """
    for attempt in range(1, ATTEMPTS + 1):
        start = part.stat().st_size if part.exists() else 0
        if file.bytes is not None and start >= file.bytes:
            if start == file.bytes:
                return
            part.unlink()
            start = 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                _receive(answer, part, start, say)
            return
        except urllib.error.HTTPError as error:
            # The part is as long as the file, or longer: the checksum tells.
            if error.code == 416 and start:
                return
            raise
        except (OSError, http.client.HTTPException) as error:
            grown = part.exists() and part.stat().st_size > start
            if attempt == ATTEMPTS or (not grown and isinstance(error, urllib.error.URLError)):
                raise
            say(f"{part.stem}: the connection broke off ({_reason(error)}); going on")
            time.sleep(PAUSE_SECONDS)


def _receive(answer: http.client.HTTPResponse, part: Path, start: int, say: Say) -> None:
    if start and answer.status != 206:
        start = 0  # the server sends the whole file
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    shown, got = time.monotonic(), start
    with part.open("ab" if start else "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            got += len(chunk)
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                say(
                    f"{part.stem}: {got / 1e6:.0f} MB" + (f" of {total / 1e6:.0f}" if total else "")
                )
    if total is not None and got < total:
        raise http.client.IncompleteRead(b"", total - got)


def _unpack(path: Path, folder: Path) -> None:
    """Unpacks an archive; what would land outside `folder` is refused."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            f"{path} can't be unpacked ({error}); remove it and run this again"
        ) from error


def _is_right(path: Path, file: FetchedFile) -> bool:
    if file.bytes is not None and path.stat().st_size != file.bytes:
        return False
    return file.md5 is None or _md5(path) == file.md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_archived(known: DataSet) -> bool:
    """Whether it comes as an archive, not as the files that are read."""
    return any(_basename(file).endswith(ARCHIVES) for file in known.fetch.files)


def _basename(file: FetchedFile) -> str:
    return file.urls[0].rpartition("/")[2]


def _size(file: FetchedFile) -> str:
    if file.bytes is None:
        return "of unpublished size"
    return f"{file.bytes / 1e6:.1f} MB" if file.bytes >= 100_000 else f"{file.bytes / 1e3:.1f} kB"


def _command(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    stderr = getattr(error, "stderr", None)
    if isinstance(stderr, str) and stderr.strip():
        return stderr.strip().splitlines()[-1]
    return str(getattr(error, "reason", None) or error) or type(error).__name__
