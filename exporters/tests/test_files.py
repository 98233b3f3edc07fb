"""Checkpoints that are none: each is called what it is, in one sentence without torch's colours and
half sentences."""

from __future__ import annotations

import argparse
import bz2
import io
import lzma
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exporters.errors import InputError
from exporters.files import load_checkpoint


def _zip() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, file)
    return file.getvalue()


def _zip_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _tar_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _damaged_tar(compress: Callable[[bytes], bytes]) -> bytes:
    """The damage lies behind the part that a glance at the file unpacks."""
    content = compress(_tar_of("model.txt", " ".join(map(str, range(400_000))).encode()))
    middle = len(content) // 2
    return content[:middle] + bytes(8) + content[middle + 8 :]


def _script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _namespace() -> bytes:
    file = io.BytesIO()
    torch.save({"args": argparse.Namespace(lr=1), "weight": torch.ones(3)}, file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
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
        (b'{"metadata": {}, "weight_map": {}}', "is the index of a checkpoint in several files"),
        (
            b'{"architectures": ["ResNet"]}',
            "is a JSON text, not a checkpoint: name the file of the weights",
        ),
        (b"GGUF\x03", "is a GGUF file of quantised weights"),
        (_zip_of("model.pt", _zip()), "is a zip archive, not a checkpoint: unpack it"),
        (
            _zip_of("conv.weight.npy", b"0"),
            "is an archive of NumPy arrays, not a torch checkpoint: save the network's",
        ),
        (_tar_of("model.pt", _zip()), "is a tar archive, not a checkpoint: unpack it"),
        (_damaged_tar(lzma.compress), "is not a readable torch checkpoint"),
        (_damaged_tar(bz2.compress), "is not a readable torch checkpoint"),
        (_tar_of("model.pt", _zip())[:700], "is not a readable torch checkpoint"),
        (
            _script(),
            "is a TorchScript archive, which holds a program: save the network's state_dict() with torch.save",
        ),
        (pickle.dumps({"weight": [1.0]}, protocol=2), "is a pickle that torch did not write"),
        (
            pickle.dumps({"weight": [1.0]}),
            "is a pickle that torch did not write: save the network's state_dict()",
        ),
        (
            _saved([torch.ones(3)]),
            "holds list, not a dictionary of tensors: save the network's state_dict()",
        ),
        (
            _namespace(),
            r"beside tensors and plain values it holds argparse.Namespace. `python -m exporters convert",
        ),
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


def test_an_onnx_file_is_for_import(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(
        InputError, match="is an ONNX file, not a checkpoint: `python -m exporters import` takes it"
    ):
        load_checkpoint(tmp_path / "model.onnx")


def test_the_advised_command_quotes_the_path(tmp_path: Path):
    path = tmp_path / "my model.pt"
    path.write_bytes(_namespace())
    with pytest.raises(InputError, match=f"convert '{path}' CLEAN.pt"):
        load_checkpoint(path)


def test_a_path_without_a_file_is_told_with_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=f"none.pt does not exist; relative paths start at {tmp_path}"
    ):
        load_checkpoint(Path("none.pt"))
    with pytest.raises(InputError, match="is a directory: name the checkpoint's file"):
        load_checkpoint(tmp_path)
