"""Fetching from a server on this machine: what is there stays, what breaks off goes on, what is
wrong is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from exporters import fetch, imagenet, registry, sources
from exporters.__main__ import main
from exporters.errors import InputError
from exporters.registry import Fetch, FetchedFile


class Server(ThreadingHTTPServer):
    """Serves `files` by name; `breaks` is after how many bytes the next answers break off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        # The base class knows its server as the base of ours only.
        server: Server = self.server  # type: ignore[assignment]  # socketserver declares its base class
        asked = self.headers["Range"]
        server.asked.append((self.path[1:], asked))
        content = server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start : start + limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE_SECONDS", 0.0)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def idx_files() -> dict[str, bytes]:
    """Four small files of Fashion-MNIST's form."""
    files = {}
    for prefix in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + bytes(2 * 784)
        labels = struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 9])
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(images, mtime=0)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(labels, mtime=0)
    return files


def tar(files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return result.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return result.getvalue()


def serve(monkeypatch, server: Server, name: str, files: dict[str, bytes], **changes) -> None:
    """Lets the data set `name` come from `server` alone, in these files."""
    server.files |= files
    fetched = tuple(
        FetchedFile((server.url(file),), len(content), hashlib.md5(content).hexdigest())
        for file, content in files.items()
    )
    known = replace(registry.find(name), fetch=replace(Fetch(fetched), **changes))
    monkeypatch.setattr(
        registry,
        "find",
        lambda wanted, find=registry.find: known if wanted == name else find(wanted),
    )


RECORD = bytes([0, 5]) + bytes(3072)
CIFAR = {"cifar-100-binary/train.bin": RECORD * 3, "cifar-100-binary/test.bin": RECORD}


def test_an_archive_is_fetched_and_unpacked(server: Server, tmp_path: Path, monkeypatch):
    serve(monkeypatch, server, "cifar-100", {"cifar-100-binary.tar.gz": tar(CIFAR)})
    said: list[str] = []
    assert fetch.fetch("cifar-100", tmp_path, said.append) == tmp_path / "cifar-100"
    assert (tmp_path / "cifar-100/test.bin").read_bytes() == RECORD
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-100"]
    size = f"{len(server.files['cifar-100-binary.tar.gz']) / 1e3:.1f} kB"
    assert any(f"cifar-100-binary.tar.gz: {size} from http://127.0.0.1" in line for line in said)
    # What is there, under whatever name, is accepted without a request.
    (tmp_path / "cifar-100").rename(tmp_path / "cifar-100-binary")
    server.asked.clear()
    assert fetch.fetch("cifar-100", tmp_path, said.append) == tmp_path / "cifar-100-binary"
    assert server.asked == []
    assert any("3 training images, where CIFAR-100 has 50000" in line for line in said)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_off_is_taken_up_again(
    server: Server, tmp_path: Path, monkeypatch, ranges: bool
):
    serve(monkeypatch, server, "cifar-100", {"c.tar.gz": tar(CIFAR)})
    server.ranges = ranges
    server.breaks = [50, 20] if ranges else [50]
    said: list[str] = []
    fetch.fetch("cifar-100", tmp_path, said.append)
    assert [asked for _, asked in server.asked] == (
        [None, "bytes=50-", "bytes=70-"] if ranges else [None, "bytes=50-"]
    )
    assert any("the connection broke off" in line for line in said)
    assert (tmp_path / "cifar-100/train.bin").read_bytes() == RECORD * 3


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    server: Server, tmp_path: Path, monkeypatch
):
    serve(monkeypatch, server, "cifar-100", {"c.tar.gz": tar(CIFAR)})
    server.breaks = [10] * fetch.ATTEMPTS
    with pytest.raises(
        InputError, match=r"could not be fetched .*IncompleteRead.* Run this again to go on"
    ):
        fetch.fetch("cifar-100", tmp_path, lambda _: None)
    assert not (tmp_path / "cifar-100").exists()
    server.asked.clear()
    fetch.fetch("cifar-100", tmp_path, lambda _: None)
    assert server.asked == [("c.tar.gz", f"bytes={10 * fetch.ATTEMPTS}-")]


def test_a_wrong_checksum_is_refused_and_the_next_address_tried(
    server: Server, tmp_path: Path, monkeypatch
):
    good = tar(CIFAR)
    serve(monkeypatch, server, "cifar-100", {"c.tar.gz": good})
    bad = bytearray(good)
    bad[-1] ^= 1
    server.files["c.tar.gz"] = bytes(bad)
    with pytest.raises(
        InputError, match=r"its contents are not the expected ones \(MD5 .* belongs\)"
    ):
        fetch.fetch("cifar-100", tmp_path, lambda _: None)
    assert not (tmp_path / "cifar-100").exists()
    assert list((tmp_path / ".fetch/cifar-100").iterdir()) == []
    server.files["mirror/c.tar.gz"] = good
    known = registry.find("cifar-100")
    file = known.fetch.files[0]
    both = replace(
        known, fetch=Fetch((replace(file, urls=(*file.urls, server.url("mirror/c.tar.gz"))),))
    )
    monkeypatch.setattr(registry, "find", lambda _: both)
    fetch.fetch("cifar-100", tmp_path, lambda _: None)
    assert (tmp_path / "cifar-100/test.bin").exists()


def test_without_a_network_it_is_said_what_to_put_where(
    tmp_path: Path, monkeypatch, server: Server, capsys
):
    content = tar(CIFAR)
    serve(monkeypatch, server, "cifar-100", {"c.tar.gz": content})
    known = registry.find("cifar-100")
    nowhere = replace(known.fetch.files[0], urls=("http://127.0.0.1:9/c.tar.gz",))
    offline = replace(known, fetch=Fetch((nowhere,)))
    monkeypatch.setattr(registry, "find", lambda _: offline)
    assert main(["--data", str(tmp_path), "fetch", "cifar-100"]) == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/c.tar.gz: [Errno 111] Connection refused" in error
    assert f"get c.tar.gz ({len(content) / 1e3:.1f} kB) from" in error
    assert f"put it into {tmp_path}" in error
    (tmp_path / "c.tar.gz").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"c.tar.gz is not the file at"):
        fetch.fetch("cifar-100", tmp_path, lambda _: None)
    (tmp_path / "c.tar.gz").write_bytes(content)
    fetch.fetch("cifar-100", tmp_path, lambda _: None)
    assert (tmp_path / "cifar-100/test.bin").exists()
    assert (tmp_path / "c.tar.gz").exists()


def test_what_a_user_has_there_is_never_replaced(server: Server, tmp_path: Path, monkeypatch):
    serve(
        monkeypatch,
        server,
        "tiny-imagenet",
        {"tiny-imagenet-200.zip": zipped({"tiny-imagenet-200/train/a/x": b""})},
    )
    (tmp_path / "tiny-imagenet").mkdir()
    (tmp_path / "tiny-imagenet/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than Tiny-ImageNet; move it away"):
        fetch.fetch("tiny-imagenet", tmp_path, lambda _: None)
    assert (tmp_path / "tiny-imagenet/notes.txt").read_text() == "mine"


def test_archives_can_not_write_elsewhere(server: Server, tmp_path: Path, monkeypatch):
    serve(monkeypatch, server, "cifar-100", {"c.tar.gz": tar({"../../../outside": b"x"} | CIFAR)})
    with pytest.raises(InputError, match="can't be unpacked"):
        fetch.fetch("cifar-100", tmp_path / "data", lambda _: None)
    assert not list(tmp_path.rglob("outside"))


def test_what_only_registered_users_get_is_said(tmp_path: Path):
    with pytest.raises(
        InputError,
        match=r"ImageNet-1K can't be fetched: image-net.org asks for an account.*imagenet",
    ):
        fetch.fetch("imagenet", tmp_path, lambda _: None)


@pytest.fixture
def fashion(server: Server, tmp_path: Path, monkeypatch) -> dict[str, bytes]:
    """Small stand-ins for Fashion-MNIST's files, with their contents' digests."""
    files = idx_files()
    serve(monkeypatch, server, "fashion-mnist", files, system=str(tmp_path / "system"))
    known = registry.find("fashion-mnist")
    fetched = tuple(
        replace(file, content_sha256=hashlib.sha256(gzip.decompress(content)).hexdigest())
        for file, content in zip(known.fetch.files, files.values(), strict=True)
    )
    known = replace(known, fetch=replace(known.fetch, files=fetched))
    monkeypatch.setattr(registry, "find", lambda wanted: known)
    return files


def test_a_copy_on_the_machine_serves_however_it_was_packed(
    fashion, server: Server, tmp_path: Path
):
    (tmp_path / "system").mkdir()
    for name, content in fashion.items():
        (tmp_path / "system" / name).write_bytes(
            gzip.compress(gzip.decompress(content), 1, mtime=9)
        )
    fetch.fetch("fashion-mnist", tmp_path / "data", lambda _: None)
    assert server.asked == []
    assert sorted(path.name for path in (tmp_path / "data/fashion-mnist").iterdir()) == sorted(
        fashion
    )


def test_a_damaged_copy_is_replaced_file_by_file(fashion, server: Server, tmp_path: Path):
    folder = tmp_path / "data/fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half a file")
    (folder / "notes.txt").write_text("mine")
    fetch.fetch("fashion-mnist", tmp_path / "data", lambda _: None)
    assert (folder / "t10k-labels-idx1-ubyte.gz").read_bytes() == fashion[
        "t10k-labels-idx1-ubyte.gz"
    ]
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(server.asked) == 4
    assert not (tmp_path / "data/.fetch").exists()


def test_every_reason_is_given(fashion, server: Server, tmp_path: Path, monkeypatch):
    (tmp_path / "system").mkdir()
    server.files.clear()
    known = registry.find("fashion-mnist")
    known = replace(known, fetch=replace(known.fetch, debian="no-such-package"))
    monkeypatch.setattr(registry, "find", lambda _: known)

    def refuse(command: list[str], folder: Path) -> None:
        raise FileNotFoundError("apt-get is not here")

    monkeypatch.setattr(fetch, "_command", refuse)
    with pytest.raises(
        InputError,
        match=r"this machine: incomplete.*Debian's package: apt-get is not here.*HTTP 404",
    ):
        fetch.fetch("fashion-mnist", tmp_path / "data", lambda _: None)
    assert not (tmp_path / "data/fashion-mnist").exists()


WNIDS = ("n01440764", "n01443537", "n01484850")


def devkit() -> bytes:
    """Numbers the classes 1, 2, 3 in reverse order, with letters of two bytes and of one, as MATLAB
    writes either."""
    names = [
        WNIDS[2].encode("utf-16-le"),
        WNIDS[1].encode(),
        WNIDS[0].encode("utf-16-le"),
        b"n00001740",
    ]
    parts = [zlib.compress(b"\x01\x00" + name + b"\x00\x00") for name in names]
    meta = bytes(128) + b"".join(struct.pack("<2I", 15, len(part)) + part for part in parts)
    folder = "ILSVRC2012_devkit_t12/data"
    return gzip.compress(
        tar({f"{folder}/{imagenet.META}": meta, f"{folder}/{imagenet.TRUTH}": b"3\n1\n2\n3\n"}, "w")
    )


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def small_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """ImageNet of three classes, and the folder of its archives."""
    whole = registry.find("imagenet")
    classes = tuple(each for each in whole.classes if each.wnid in WNIDS)
    monkeypatch.setattr(registry, "find", lambda name: replace(whole, classes=classes))
    (tmp_path / "imagenet").mkdir()
    return tmp_path / "imagenet"


def put_archives(folder: Path) -> None:
    classes = {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": bytes([i]) for i in range(2)}, "w")
        for wnid in WNIDS
    }
    (folder / imagenet.TRAIN).write_bytes(tar(classes, "w"))
    (folder / imagenet.VAL).write_bytes(
        tar({val_name(i): bytes([i] * i) for i in range(1, 5)}, "w")
    )
    (folder / imagenet.DEVKIT).write_bytes(devkit())


SORTED = {f"{WNIDS[0]}/{val_name(1)}", f"{WNIDS[2]}/{val_name(2)}", f"{WNIDS[1]}/{val_name(3)}",
          f"{WNIDS[0]}/{val_name(4)}"}  # fmt: skip


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.JPEG")}


def test_imagenets_archives_are_named_and_unpacked(small_imagenet: Path):
    with pytest.raises(InputError) as error:
        fetch.fetch("imagenet", small_imagenet.parent)
    for name in (imagenet.TRAIN, imagenet.VAL, imagenet.DEVKIT, str(small_imagenet.resolve())):
        assert name in str(error.value)
    put_archives(small_imagenet)
    assert fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None) == small_imagenet
    assert below(small_imagenet / "train") == {
        f"{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(2)
    }
    assert below(small_imagenet / "val") == SORTED
    assert not (small_imagenet / ".unpacking").exists()
    index = sources.open_source(small_imagenet).index("test")
    assert (index.classes, index.labels.tolist()) == (
        ("tench", "goldfish", "great white shark"),
        [0, 0, 1, 2],
    )


def test_unpacking_imagenet_goes_on_where_it_was_interrupted(
    small_imagenet: Path, monkeypatch: pytest.MonkeyPatch
):
    put_archives(small_imagenet)
    original, opened = tarfile.TarFile.extractall, []

    def interrupted(self: tarfile.TarFile, *arguments, **options) -> None:
        opened.append(arguments[0].name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        original(self, *arguments, **options)

    monkeypatch.setattr(tarfile.TarFile, "extractall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
    assert not (small_imagenet / "train").exists()
    fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
    assert opened == [f".{WNIDS[0]}", f".{WNIDS[1]}", f".{WNIDS[1]}", f".{WNIDS[2]}"]
    assert len(below(small_imagenet / "train")) == 6


@pytest.mark.parametrize("labels", [imagenet.DEVKIT, imagenet.SOLUTION, imagenet.SYNSETS])
def test_a_flat_folder_of_validation_images_is_sorted(small_imagenet: Path, labels: str):
    put_archives(small_imagenet)
    flat = small_imagenet / "val"
    flat.mkdir()
    for number in range(1, 5):
        (flat / val_name(number)).write_bytes(bytes([number]))
    for name in (imagenet.VAL, imagenet.DEVKIT):
        (small_imagenet / name).unlink()
    with pytest.raises(
        InputError, match="nothing tells the validation images' classes; put ILSVRC2012_devkit_t12"
    ):
        fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
    wnids = [WNIDS[0], WNIDS[2], WNIDS[1], WNIDS[0]]
    rows = [
        f"{val_name(i).removesuffix('.JPEG')},{wnid} 1 2 3 4 " for i, wnid in enumerate(wnids, 1)
    ]
    content = {
        imagenet.DEVKIT: devkit(),
        imagenet.SOLUTION: "\n".join(["ImageId,PredictionString", *reversed(rows)]).encode(),
        imagenet.SYNSETS: "\n".join(wnids).encode(),
    }
    (small_imagenet / labels).write_bytes(content[labels])
    fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
    assert below(flat) == SORTED


def test_damaged_archives_of_imagenet_are_refused(small_imagenet: Path):
    put_archives(small_imagenet)
    whole = (small_imagenet / imagenet.TRAIN).read_bytes()
    for content, message in (
        (whole[:1500], "can't be unpacked"),
        (tar({"readme": b""}, "w"), "is no archive of a class"),
    ):
        (small_imagenet / imagenet.TRAIN).write_bytes(content)
        with pytest.raises(InputError, match=message):
            fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
        assert not (small_imagenet / "train").exists()
    (small_imagenet / imagenet.TRAIN).write_bytes(whole)
    (small_imagenet / imagenet.VAL).write_bytes(tar({val_name(1): b"1"}, "w"))
    with pytest.raises(InputError, match="1 of 4 validation images are there"):
        fetch.fetch("imagenet", small_imagenet.parent, say=lambda _: None)
