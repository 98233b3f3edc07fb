"""Checkpoints that are none: each is called what it is, in one sentence without torch's colours and half sentences."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest
import torch

from exporters.errors import InputError
from exporters.files import load_checkpoint


def _zip() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, file)
    return file.getvalue()


def _namespace() -> bytes:
    file = io.BytesIO()
    torch.save({"args": argparse.Namespace(lr=1), "weight": torch.ones(3)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page, not a checkpoint"),
        (b"\xef\xbb\xbf<HTML lang=en>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b'{"error": "Invalid credentials"}', "a server's error message"),
        (b"\x1f\x8b\x08\x00rest", "unpack it first"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"", "is empty"),
        (b"plain text that is nothing else", "is not a readable torch checkpoint"),
        (_zip()[:200], "is not a readable torch checkpoint"),
        (_namespace(), r"beside tensors and plain values it holds argparse.Namespace. `python -m exporters convert"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_kind(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert says in message
    for part in ("\x1b", "\n", "weights_only"):
        assert part not in message


def test_a_path_without_a_file_is_told_with_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"none.pt does not exist; relative paths start at {tmp_path}"):
        load_checkpoint(Path("none.pt"))
    with pytest.raises(InputError, match="is a directory: name the checkpoint's file"):
        load_checkpoint(tmp_path)
