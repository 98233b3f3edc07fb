"""Fetching: what is complete stays, what is damaged is replaced, and a failure leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from exporters import fetch
from exporters.errors import InputError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a source: four small files, whose digests are the expected ones."""
    folder = tmp_path / "source"
    folder.mkdir()
    digests = {}
    for name in fetch.FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(name.encode(), mtime=0))
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
    monkeypatch.setattr(fetch, "FILES", digests)
    return folder


def fail(_: Path) -> Path:
    raise FileNotFoundError("not here")


def test_sources_are_tried_in_turn(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_system", fail)
    monkeypatch.setattr(fetch, "_debian", lambda _: source)
    said: list[str] = []
    fetch.fetch_fashion_mnist(tmp_path / "data", said.append)
    assert fetch.is_complete(tmp_path / "data/fashion-mnist")
    assert "Debian" in said[0]
    fetch.fetch_fashion_mnist(tmp_path / "data", said.append)
    assert len(said) == 1


def test_a_damaged_copy_is_replaced(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_system", lambda _: source)
    folder = tmp_path / "data/fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"half a file")
    fetch.fetch_fashion_mnist(tmp_path / "data", lambda _: None)
    assert fetch.is_complete(folder)


def test_failure_names_every_source_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    monkeypatch.setattr(fetch, "_system", lambda _: source)
    monkeypatch.setattr(fetch, "_debian", fail)
    monkeypatch.setattr(fetch, "_mirror", fail)
    with pytest.raises(InputError, match=r"this machine: incomplete.*Debian's package: not here.*mirror: not here"):
        fetch.fetch_fashion_mnist(tmp_path / "data", lambda _: None)
    assert list((tmp_path / "data").iterdir()) == []
