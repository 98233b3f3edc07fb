from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters import data
from exporters.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A data set of 3 test images in IDX files."""
    monkeypatch.setitem(data.DATASETS, "fashion-mnist", replace(data.FASHION_MNIST, test_images=3))
    (tmp_path / "fashion-mnist").mkdir()
    write(tmp_path, struct.pack(">4B3I", 0, 0, 8, 3, 3, 28, 28) + bytes(range(256)) * 9 + bytes(48), [0, 9, 4])
    return tmp_path


def write(root: Path, images: bytes, labels: list[int]) -> None:
    (root / "fashion-mnist/t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    content = struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels)
    (root / "fashion-mnist/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))


def test_idx_files_are_read(folder: Path):
    split = data.load("fashion-mnist", folder, "test")
    assert split.images.shape == (3, 1, 28, 28)
    assert split.images.dtype == torch.uint8
    assert split.images.flatten()[:3].tolist() == [0, 1, 2]
    assert split.labels.tolist() == [0, 9, 4]


def test_wrong_files_are_refused(folder: Path):
    good = struct.pack(">4B3I", 0, 0, 8, 3, 3, 28, 28) + bytes(2352)
    for images, labels, message in (
        (good[:-1], [0, 1, 2], "is not an IDX file"),
        (good + b"x", [0, 1, 2], "is not an IDX file"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28), [0, 1, 2], "is not an IDX file"),
        (good, [0, 1, 10], "label 10"),
    ):
        write(folder, images, labels)
        with pytest.raises(InputError, match=message):
            data.load("fashion-mnist", folder, "test")
    (folder / "fashion-mnist/t10k-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot read"):
        data.load("fashion-mnist", folder, "test")
    with pytest.raises(InputError, match="is missing"):
        data.load("fashion-mnist", folder, "train")


def test_normalisation():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    normalised = data.normalise(data.to_float(pixels), (0.25,), (0.5,)).flatten().numpy()
    np.testing.assert_allclose(normalised, [-0.5, 1.5])
