"""Every layout that data sets are met in is read, and what is wrong with one is said at once."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from exporters import cifar, data, folders, images, registry, sources
from exporters.errors import InputError


def quiet(_: str) -> None:
    pass


def load(name: str, root: Path, split: str = "test", **options) -> data.Split:
    return data.load(data.info(name), root, split, say=quiet, **options)


def write_idx(
    folder: Path, prefix: str, count: int, labels: list[int], zipped: bool = True
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8).tobytes()
    parts = {
        f"{prefix}-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels,
        f"{prefix}-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels),
    }
    for name, content in parts.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def picture(path: Path, value: int, size: tuple[int, int] = (14, 14), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def test_the_registry_says_what_networks_were_trained_with():
    fashion = data.info("fashion-mnist")
    assert (fashion.mean, fashion.std, fashion.classes[9]) == ((0.2860,), (0.3530,), "Ankle boot")
    imagenet = data.info("imagenet")
    assert (len(imagenet.classes), imagenet.classes[0], imagenet.size) == (1000, "tench", 224)
    assert len({name for name in registry.names() if data.info(name).name == name}) == len(
        registry.names()
    )
    with pytest.raises(
        InputError, match="data set 'imagenet-21k' is unknown; known are cifar-10, cifar-100"
    ):
        data.info("imagenet-21k")


def test_imagenet_is_called_as_torchvision_calls_it():
    import torchvision
    from timm.data import ImageNetInfo

    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    classes = registry.find("imagenet").classes
    assert [(each.wnid, each.name) for each in classes] == list(
        zip(ImageNetInfo().label_names(), names, strict=True)
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read(tmp_path: Path, zipped: bool):
    write_idx(tmp_path / "fashion-mnist", "t10k", 3, [0, 9, 4], zipped)
    split = load("fashion-mnist", tmp_path)
    assert (split.images.shape, split.images.dtype) == ((3, 1, 28, 28), torch.uint8)
    assert split.images.flatten()[:3].tolist() == [0, 1, 2]
    assert split.labels.tolist() == [0, 9, 4]
    with pytest.raises(InputError, match="has neither train-images-idx3-ubyte nor"):
        load("fashion-mnist", tmp_path, "train")
    said: list[str] = []
    data.load(data.info("fashion-mnist"), tmp_path, "test", say=said.append)
    assert "3 test images, where Fashion-MNIST has 10000" in said[0]


def test_damaged_idx_files_are_refused(tmp_path: Path):
    folder = tmp_path / "fashion-mnist"
    good = struct.pack(">4B3I", 0, 0, 8, 3, 3, 28, 28) + bytes(2352)
    for content, labels, message in (
        (good[:-1], [0, 1, 2], "announces 3x28x28 values, but there are 2351"),
        (good + b"x", [0, 1, 2], "announces 3x28x28 values, but there are 2353"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28), [0, 1, 2], "announces 2147483648x28x28"),
        (b"\0\0\x09\x03" + good[4:], [0, 1, 2], "is not an IDX file"),
        (good, [0, 1], "2 labels for the 3 images"),
        (good, [0, 1, 10], "label 10 of image 2, but there are 10 classes"),
    ):
        write_idx(folder, "t10k", 3, labels)
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=message):
            load("fashion-mnist", tmp_path)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot read"):
        load("fashion-mnist", tmp_path)
    with pytest.raises(InputError, match=r"data set mnist is not in .*fetch mnist"):
        load("mnist", tmp_path)


CIFAR_PIXELS = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)


def python2(entries: dict[bytes, object]) -> bytes:
    """A pickle as Python 2 and NumPy wrote CIFAR's files: protocol 2, byte strings, lists of small
    numbers."""
    out = b"\x80\x02}q\x01("
    for key, value in entries.items():
        out += b"U" + bytes([len(key)]) + key
        if isinstance(value, np.ndarray):
            out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            out += (
                b"(K\x01"
                + b"".join(b"M" + struct.pack("<H", side) for side in value.shape)
                + b"\x86"
            )
            out += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            out += b"\x89T" + struct.pack("<I", value.size) + value.tobytes() + b"tb"
        else:
            items = [
                b"K" + bytes([i]) if isinstance(i, int) else b"U" + bytes([len(i)]) + i
                for i in value
            ]
            out += b"](" + b"".join(items) + b"e"
    return out + b"u."


def test_cifar_is_read_in_both_versions(tmp_path: Path):
    fine = data.info("cifar-100").classes
    binary = tmp_path / "binary/cifar-100"
    binary.mkdir(parents=True)
    records = [
        bytes([7, label]) + pixels.tobytes()
        for label, pixels in zip([99, 3], CIFAR_PIXELS, strict=True)
    ]
    (binary / "test.bin").write_bytes(b"".join(records))
    (binary / "fine_label_names.txt").write_text("\n".join(fine) + "\n\n")
    old, new = tmp_path / "old/cifar-100-python", tmp_path / "new/cifar-100"
    for folder in (old, new):
        folder.mkdir(parents=True)
    content = {
        b"data": CIFAR_PIXELS,
        b"coarse_labels": [7, 7],
        b"fine_labels": [99, 3],
        b"filenames": [b"a", b"b"],
    }
    (old / "test").write_bytes(python2(content))
    (old / "meta").write_bytes(python2({b"fine_label_names": [name.encode() for name in fine]}))
    (new / "test").write_bytes(
        pickle.dumps({key.decode(): value for key, value in content.items()})
    )
    for root in ("binary", "old", "new"):
        split = load("cifar-100", tmp_path / root)
        assert split.labels.tolist() == [99, 3], root
        assert np.array_equal(split.images.numpy().reshape(2, 3072), CIFAR_PIXELS), root

    (tmp_path / "ten/cifar-10").mkdir(parents=True)
    for number in range(1, 6):
        record = bytes([number]) + bytes([10 * number]) * 3072
        (tmp_path / f"ten/cifar-10/data_batch_{number}.bin").write_bytes(record)
    (tmp_path / "ten/cifar-10/test_batch.bin").write_bytes(record)
    split = load("cifar-10", tmp_path / "ten", "train")
    assert (split.labels.tolist(), split.images[:, 2, 31, 31].tolist()) == (
        [1, 2, 3, 4, 5],
        [10, 20, 30, 40, 50],
    )
    # The folder itself may be named, too.
    assert len(load("cifar-10", tmp_path / "ten/cifar-10").labels) == 1


class Command:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": Command()}), r"names posix\.system, which is no array of numbers"),
        (pickle.dumps({"data": CIFAR_PIXELS.astype(object)}), "has an array of type 'O8'"),
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "is not read"),
        (
            python2({b"data": CIFAR_PIXELS, b"fine_labels": [1]}),
            r"images of shape \(2, 3072\) for 1 labels",
        ),
        (python2({b"data": CIFAR_PIXELS, b"fine_labels": [1, 100]}), "label 100 of image 1"),
        (python2({b"data": CIFAR_PIXELS}), "has no whole numbers called `fine_labels`"),
        (python2({b"fine_labels": [1]}), "has no array of bytes called `data`"),
        (python2({b"data": CIFAR_PIXELS})[:-9], "is not read"),
        (pickle.dumps([1]), "holds no dictionary"),
        (b"", "is not read"),
    ],
)
def test_pickles_are_read_without_executing_anything(
    tmp_path: Path, monkeypatch, content: bytes, message: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test").write_bytes(content)
    with pytest.raises(InputError, match=message):
        cifar.pickled(tmp_path, ("test",), "fine_labels", data.info("cifar-100").classes)
    assert not (tmp_path / "owned").exists()


def test_class_folders_are_fitted(tmp_path: Path):
    for name, value in (("n01440764", 10), ("n01443537", 200)):
        picture(tmp_path / f"train/{name}/one.png", value, (40, 20), "L")
        picture(tmp_path / f"train/{name}/two.PNG", value)
    dataset = data.describe(
        str(tmp_path), mean=(0.5,) * 3, std=(0.25,) * 3, size=14, classes=("fish", "goldfish")
    )
    split = data.load(dataset, tmp_path, "train", say=quiet)
    assert split.images.shape == (4, 3, 14, 14)
    assert split.labels.tolist() == [0, 0, 1, 1]
    assert split.images[:, 0, 0, 0].tolist() == [10, 10, 200, 200]
    with pytest.raises(
        InputError, match=r"holds no test/ or val/ with a folder of images for each class"
    ):
        data.load(dataset, tmp_path, "test", say=quiet)


def small(name: str, count: int, monkeypatch) -> registry.DataSet:
    """The data set `name` with its first `count` classes, of 8x8 pixels."""
    whole = registry.find(name)
    cut = replace(whole, classes=whole.classes[:count], size=8)
    monkeypatch.setattr(
        registry, "find", lambda wanted, find=registry.find: cut if wanted == name else find(wanted)
    )
    return cut


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folders_are_matched_with_the_classes_of_a_known_set(
    tmp_path: Path, monkeypatch, test: str
):
    known = small("imagenet", 3, monkeypatch)
    folder = tmp_path / "imagenet"
    for label, each in enumerate(known.classes):
        # Folders are called by their ids in one part, and need not come in the order of the labels.
        picture(folder / f"train/{each.wnid}/a.JPEG", 10 * label)
        picture(folder / f"{test}/{each.wnid}/a.jpg", 10 * label, mode="L")
    split = load("imagenet", tmp_path)
    assert split.labels.tolist() == [0, 1, 2]
    assert data.info("imagenet").classes == ("tench", "goldfish", "great white shark")
    # By readable names, in whatever order these sort.
    named = tmp_path / "named"
    for label, each in enumerate(known.classes):
        picture(named / "train" / each.name.replace(" ", "_") / "a.png", 10 * label)
    assert sources.Source(named, registry.Layout("image-folder"), known).index(
        "train"
    ).labels.tolist() == [0, 1, 2]
    assert [name for name, _ in folders.labelling({"great_white_shark", "Tench", "goldfish"}, known)] == [
        "Tench", "goldfish", "great_white_shark",
    ]  # fmt: skip
    with pytest.raises(
        InputError, match=r"is not ImageNet-1K: it lacks n01484850; cat is no class of it"
    ):
        folders.labelling({"tench", "goldfish", "cat"}, known)


def test_numbered_folders_sort_by_number():
    assert [name for name, _ in folders.labelling({"10", "9", "1"}, None)] == ["1", "9", "10"]
    assert [name for name, _ in folders.labelling({"c10", "c9", "d1"}, None)] == ["c10", "c9", "d1"]
    assert folders.labelling({"n01440764", "n01443537"}, None)[1] == ("n01443537", "goldfish")
    with pytest.raises(InputError, match="has 01 and 1, which are the same number"):
        folders.labelling({"1", "01"}, None)


def test_tiny_imagenet_is_read_as_it_is_downloaded(tmp_path: Path, monkeypatch):
    known = small("tiny-imagenet", 2, monkeypatch)
    root = tmp_path / "tiny-imagenet-200"
    for label, each in enumerate(known.classes):
        picture(root / f"train/{each.wnid}/images/{each.wnid}_0.JPEG", 100 * label)
        (root / f"train/{each.wnid}/{each.wnid}_boxes.txt").write_text("")
        picture(root / f"val/images/val_{1 - label}.JPEG", 100 * label)
        picture(root / f"test/images/test_{label}.JPEG", 0)
    lines = [
        f"val_{1 - label}.JPEG\t{each.wnid}\t0\t0\t8\t8\n"
        for label, each in enumerate(known.classes)
    ]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    train, test = load("tiny-imagenet", tmp_path, "train"), load("tiny-imagenet", tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [0, 1])
    assert [value > 90 for value in test.images[:, 0, 0, 0].tolist()] == [False, True]

    (root / "val/val_annotations.txt").write_text(
        lines[0] + "val_7.JPEG\t" + known.classes[1].wnid + "\n"
    )
    with pytest.raises(
        InputError,
        match=r"2 entries can't be used: .*val_0.JPEG has no line.*val_7.JPEG is missing",
    ):
        load("tiny-imagenet", tmp_path)


def test_hidden_entries_are_skipped_and_said_and_all_that_is_wrong_is_named(tmp_path: Path):
    for name in ("a", "b"):
        picture(tmp_path / f"train/{name}/0.png", 5)
    for name in (".ipynb_checkpoints/0.png", "__MACOSX/0.png"):
        picture(tmp_path / "train" / name, 5)
    for name in ("a/.DS_Store", "a/._0.png", "b/Thumbs.db"):
        (tmp_path / "train" / name).write_bytes(b"x")
    dataset = data.DatasetInfo("own", 3, 14, ("a", "b"), (0.5,) * 3, (0.5,) * 3, tmp_path)
    said: list[str] = []
    assert data.load(dataset, tmp_path, "train", say=said.append).labels.tolist() == [0, 1]
    assert (
        "system and hidden entries are left out: train/.ipynb_checkpoints, train/__MACOSX, train/a/.DS_Store"
        in said[0]
    )

    (tmp_path / "train/notes.txt").write_text("")
    (tmp_path / "train/a/scan.tiff").write_text("")
    (tmp_path / "train/a/more").mkdir()
    (tmp_path / "train/b/0.png").unlink()
    with pytest.raises(InputError) as caught:
        data.load(dataset, tmp_path, "train", say=quiet)
    for part in (
        "4 entries can't be used",
        "train/notes.txt lies beside the classes' folders",
        "train/a/scan.tiff is no file that is called .png, .jpg or .jpeg",
        "train/a/more is a folder inside a class",
        "train/b holds no image",
    ):
        assert part in str(caught.value)
    picture(tmp_path / "test/a/0.png", 1)
    picture(tmp_path / "test/c/0.png", 1)
    with pytest.raises(InputError, match="only train/ has b; only test/ has c"):
        data.load(dataset, tmp_path, "train", say=quiet)


def test_undecodable_images_are_all_named(tmp_path: Path):
    file = io.BytesIO()
    Image.effect_noise((30, 30), 90).save(file, "JPEG")
    whole = file.getvalue()
    spoilt = {
        "rubbish.png": (b"rubbish", "is neither a PNG nor a JPEG file"),
        "empty.png": (b"", "is empty"),
        "cut.jpg": (whole[: len(whole) // 2], "is truncated"),
        "end.jpg": (whole[:-2], "is truncated"),
        "gif.png": (b"GIF89a" + bytes(20), "is neither"),
    }
    for name in ("train/a/good.jpg", *(f"train/a/{name}" for name in spoilt)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(spoilt.get(Path(name).name, (whole, ""))[0])
    dataset = data.DatasetInfo("own", 1, 30, ("a",), (0.5,), (0.5,), tmp_path)
    for lazy in (False, True):
        with pytest.raises(InputError, match="5 images can't be used") as caught:
            _ = data.load(dataset, tmp_path, "train", lazy=lazy, say=quiet).images[:]
        for name, (_, message) in spoilt.items():
            assert f"{name} {message}" in str(caught.value)
    # Cut anywhere, a file is refused, however little is missing.
    png = io.BytesIO()
    Image.effect_noise((8, 8), 90).save(png, "PNG")
    for content, least in ((whole, 2), (png.getvalue(), 12)):
        for length in range(len(content) - least):
            with pytest.raises(images.BadImage):
                images.decode(content[:length])


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_numpy_archives_are_read(tmp_path: Path, names: tuple[str, ...]):
    colour = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    arrays = (colour, np.array([[0], [2]]), colour[:1], np.array([4]))
    np.savez(tmp_path / "own.npz", **dict(zip(names, arrays, strict=True)))
    dataset = data.describe(str(tmp_path / "own.npz"), mean=(0.5,) * 3, std=(0.25,) * 3, size=4)
    assert (dataset.name, dataset.classes) == ("own", tuple("01234"))
    split = data.load(dataset, tmp_path, "train", say=quiet)
    assert split.labels.tolist() == [0, 2]
    assert torch.equal(split.images, torch.from_numpy(colour).permute(0, 3, 1, 2))
    for wrong, message in (
        (replace(dataset, size=5), "images are 3x4x4, but 3x5x5 is expected"),
        (replace(dataset, classes=("a",)), "has 5 classes, but 1 are expected"),
    ):
        with pytest.raises(InputError, match=message):
            data.load(wrong, tmp_path, "train", say=quiet)
    for spoilt, message in (
        (
            {**dict(zip(names, arrays, strict=True)), names[1]: np.array([-1, 0])},
            "label -1 of image 0",
        ),
        (
            {**dict(zip(names, arrays, strict=True)), names[0]: colour.astype(float)},
            "type float64 for 2 labels",
        ),
        ({"a": colour}, "has neither x_train"),
        ({name: np.array([None]) for name in names}, "is no readable NumPy archive"),
    ):
        np.savez(tmp_path / "own.npz", **spoilt)
        with pytest.raises(InputError, match=message):
            sources.open_source(tmp_path / "own.npz").index("train")


def parquet_file(
    path: Path, labels: list[int | None], names: list[str] | None, column: str = "image"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = []
    for label in labels:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (10 * (label or 0), 0, 0)).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({column: encoded, "label": pyarrow.array(labels, pyarrow.int64())})
    if names:
        features = (
            f'{{"info": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}'
        )
        table = table.replace_schema_metadata({"huggingface": features.replace("'", '"')})
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def test_parquet_files_of_the_hub_are_read(tmp_path: Path, monkeypatch):
    known = small("imagenette", 3, monkeypatch)
    folder = tmp_path / "imagenette/data"
    # The hub's order of classes is another one; its `test` has no labels.
    hub = [known.classes[i].name for i in (2, 0, 1)]
    parquet_file(folder / "train-00000-of-00002.parquet", [0, 1, 2], hub)
    parquet_file(folder / "train-00001-of-00002.parquet", [2], hub)
    parquet_file(folder / "test-00000-of-00001.parquet", [None, None], hub)
    parquet_file(folder / "validation-00000-of-00001.parquet", [1, 2], hub)
    train = load("imagenette", tmp_path, "train")
    assert train.labels.tolist() == [2, 0, 1, 1]
    assert train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 20]
    assert load("imagenette", tmp_path).labels.tolist() == [0, 1]

    own = data.describe(str(folder), mean=(0.5,) * 3, std=(0.25,) * 3, size=8)
    assert own.classes == tuple(hub)
    assert data.load(own, tmp_path, "train", say=quiet).labels.tolist() == [0, 1, 2, 2]
    parquet_file(folder / "train-00000-of-00002.parquet", [0, None], hub)
    with pytest.raises(
        InputError, match=r"1 images have no label: train-00000-of-00002.parquet, row 1"
    ):
        load("imagenette", tmp_path, "train")
    (folder / "train-00000-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        load("imagenette", tmp_path, "train")


def test_samples_are_even_and_seeded():
    labels = np.repeat(np.arange(101), 500)
    drawn = data.even_sample(labels, 101, 1000)
    counts = np.bincount(labels[drawn], minlength=101)
    assert (counts.min(), counts.max(), len(drawn)) == (9, 10, 1000)
    assert np.array_equal(drawn, data.even_sample(labels, 101, 1000))
    assert not np.array_equal(drawn, data.even_sample(labels, 101, 1000, seed=1))
    assert (drawn % 500 > 250).any()
    scarce = np.array([0] * 5 + [1] * 2 + [2] * 100)
    assert np.bincount(scarce[data.even_sample(scarce, 3, 30)]).tolist() == [5, 2, 23]
    assert len(data.even_sample(scarce, 3, 1000)) == 107
    assert np.bincount(np.array([0, 1])[data.even_sample(np.array([0, 1]), 3, 2)]).tolist() == [
        1,
        1,
    ]


def test_images_that_do_not_fit_stay_files(tmp_path: Path, monkeypatch):
    for number in range(6):
        picture(tmp_path / f"train/{'ab'[number % 2]}/{number}.png", 40 * number)
    dataset = data.describe(
        str(tmp_path / "."), mean=(0.5,) * 3, std=(0.5,) * 3, size=14, classes=("a", "b")
    )
    whole = data.load(dataset, tmp_path, "train", say=quiet)
    monkeypatch.setattr(data, "_free_memory", lambda: 1000)
    said: list[str] = []
    split = data.load(dataset, tmp_path, "train", say=said.append)
    assert isinstance(split.images, data.Files)
    assert "6 images are" in said[-1]
    assert "read anew each time" in said[-1]
    assert split.images.shape == whole.images.shape
    assert torch.equal(split.images[torch.tensor([4, 1])], whole.images[[4, 1]])
    assert torch.equal(split.images[split.labels == 1][:2], whole.images[whole.labels == 1][:2])
    assert torch.equal(torch.cat(list(split.images.split(4))), whole.images)
    sample = data.load(dataset, tmp_path, "train", sample=3, say=quiet)
    assert sample.labels.tolist() == [0, 0, 1]


def test_data_of_ones_own_need_what_no_file_says(tmp_path: Path):
    for name in ("x", "y"):
        picture(tmp_path / f"toys/train/{name}/0.png", 1)
        picture(tmp_path / f"toys/test/{name}/0.png", 1)
    toys = str(tmp_path / "toys")
    with pytest.raises(InputError, match="give --std, --size of a data set of one's own"):
        data.describe(toys, mean=(0.5,))
    with pytest.raises(
        InputError, match=r"'toyz' is unknown; known are cifar-10,.* or name the folder"
    ):
        data.describe("toyz")
    with pytest.raises(InputError, match="--mean has 1 and --std 3 values"):
        data.describe(toys, mean=(0.5,), std=(0.5,) * 3, size=8)
    with pytest.raises(InputError, match=r"are of pixels in 0\.\.1"):
        data.describe(toys, mean=(127.0,), std=(0.5,), size=8)
    own = data.describe(toys, mean=(0.5,), std=(0.25,), size=8)
    assert (own.name, own.channels, own.classes) == ("toys", 1, ("x", "y"))
    # What a network recorded serves again; the folder must be named, and have the same classes.
    recorded = replace(own, place=None)
    with pytest.raises(InputError, match="trained on toys: name its folder with --dataset"):
        data.AS_KNOWN.of(recorded)
    assert data.Options(dataset=toys).of(recorded) == own
    for chosen, network in (
        (toys, replace(recorded, classes=("y", "x"))),
        ("mnist", data.info("fashion-mnist")),
    ):
        with pytest.raises(InputError, match="has other classes, or in another order"):
            data.Options(dataset=chosen).of(network)
    (tmp_path / "names").write_text("a\n\nb\n")
    assert data.Options(dataset=toys, classes=tmp_path / "names").of(recorded).classes == ("a", "b")
    with pytest.raises(InputError, match="--sample 0"):
        data.Options(sample=0)


@pytest.mark.parametrize(("name", "channels", "size"), [("gray", 1, 28), ("rgb", 3, 24)])
def test_odd_files_become_the_bytes_that_the_program_makes_of_them(
    name: str, channels: int, size: int
):
    """The program's test reads the same files: 16 bits, palettes, alpha, CMYK, YCCK, EXIF,
    progressive."""
    folder = Path(__file__).parents[2] / "tests/goldens/folder"
    expected = load_file(folder / "expected.safetensors")[name]
    paths = sorted((folder / "train").glob("*/*"))
    assert len(paths) == len(expected) > 20
    for path, pixels in zip(paths, expected, strict=True):
        assert np.array_equal(images.fitted(path.read_bytes(), channels, size), pixels), path


def test_normalisation():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    normalised = data.normalise(data.to_float(pixels), (0.25,), (0.5,)).flatten().numpy()
    np.testing.assert_allclose(normalised, [-0.5, 1.5])


def test_class_folders_without_a_split_are_told_what_to_do(tmp_path: Path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(
        InputError,
        match=r"holds folders of images \(ant, bee\), but neither train/ nor test/; move",
    ):
        sources.open_source(tmp_path)


def test_packed_data_are_those_of_the_folder(tmp_path: Path):
    goldens = Path(__file__).resolve().parents[2] / "tests/goldens"
    packed = sources.open_source(goldens / "packed").index("train")
    folder = sources.open_source(goldens / "folder").index("train")
    assert isinstance(packed.images, np.memmap)
    assert np.array_equal(packed.images, load_file(goldens / "folder/expected.safetensors")["rgb"])
    assert np.array_equal(packed.labels, folder.labels)
    assert packed.classes == folder.classes
    with pytest.raises(InputError, match="has no test images; pack the data set without --only"):
        sources.open_source(goldens / "packed").index("test")
    copy = tmp_path / "copy"
    shutil.copytree(goldens / "packed", copy)
    pixels = (copy / "train-images.npy").read_bytes()
    (copy / "train-images.npy").write_bytes(pixels[:-1])
    with pytest.raises(InputError, match="pack the data set again"):
        sources.open_source(copy).index("train")
    (copy / "packed.json").write_text("{}")
    with pytest.raises(InputError, match="is not of version 1, which is read"):
        sources.open_source(copy).index("train")
