"""A data set of one's own goes through all commands by its path, with what no file says of it given
once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from exporters.__main__ import main
from exporters.network import Checkpoint

IMAGES = ["--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3", "--size", "16"]


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """Class folders: 12 training and 3 test images of each of three classes, each class of one
    colour."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        for split, count in (("train", 12), ("val", 3)):
            folder = tmp_path / "toys" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (18, 20, 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "toys"


def test_pretrain_probe_recalibrate_and_export(toys: Path, tmp_path: Path, write_config, capsys):
    runs = tmp_path / "runs"
    changes = {
        "architecture": {"name": "resnet10", "options": {"width": 8}},
        "batch_size": 10,
        "output": str(runs),
    }
    config = write_config("moco_v2", dataset="toys", epochs=1, **changes)
    folder = ["--dataset", str(toys)]
    assert main(["pretrain", str(config), *IMAGES]) == 2
    assert "data set 'toys' is unknown" in capsys.readouterr().err
    assert main(["pretrain", str(config), *folder, *IMAGES, "--sample", "30"]) == 0
    model = runs / "tiny-moco_v2/model.pt"
    checkpoint = Checkpoint.load(model)
    assert (checkpoint.pretraining.dataset, checkpoint.pretraining.images) == ("toys", 30)
    assert (checkpoint.own.size, checkpoint.own.classes) == (16, ("ant", "bee", "cat"))
    # Another run may not go on with other images.
    assert main(["pretrain", str(config), *folder, *IMAGES, "--sample", "33"]) == 2
    assert "was trained on other data" in capsys.readouterr().err

    assert main(["probe", str(model)]) == 2
    assert "trained on toys: name its folder with --dataset" in capsys.readouterr().err
    assert main(["recalibrate", str(model), *folder]) == 0
    assert main(["probe", str(model.with_name("recalibrated.pt")), *folder]) == 0
    assert (
        main(
            ["export", str(model.with_name("probed.pt")), *folder, "--out", str(tmp_path / "onnx")]
        )
        == 0
    )
    manifest = yaml.safe_load((tmp_path / "onnx/tiny-moco_v2/manifest.yaml").read_text())
    assert manifest["pretraining"]["images"] == 30
    assert manifest["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert (manifest["preprocessing"]["height"], manifest["classes"]) == (16, ["ant", "bee", "cat"])
    assert manifest["accuracy"]["images"] == 9
    assert manifest["accuracy"]["top1"] > 0.9
    assert manifest["statistics"]["calibration"]["images"] == 36


def test_students(toys: Path, tmp_path: Path):
    student = {
        "name": "pupil",
        "dataset": "toys",
        "architecture": {"name": "convnet3", "options": {"width": 8}},
    }
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(student))
    command = ["export-student", str(tmp_path / "student.yaml"), "--dataset", str(toys), *IMAGES]
    assert main([*command, "--out", str(tmp_path / "onnx")]) == 0
    manifest = yaml.safe_load((tmp_path / "onnx/pupil/manifest.yaml").read_text())
    assert (manifest["classes"], manifest["preprocessing"]["std"]) == (
        ["ant", "bee", "cat"],
        [0.2, 0.25, 0.3],
    )
