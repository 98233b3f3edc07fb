from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from exporters import data, incremental
from exporters.__main__ import main
from exporters.distilled import DistilledSet
from exporters.errors import InputError
from exporters.labels import LabelBatch, replay

GOLDENS = Path(__file__).parents[2] / "tests/goldens/labels"


class WholeViews:
    """A store in memory: each epoch shows all images as they are, with a teacher's `logits`."""

    epochs, batches, pad, operations = 24, 4, 0, 0

    def __init__(self, logits: np.ndarray, side: int) -> None:
        self.logits, self.classes, self.side = logits, logits.shape[1], side
        self.meta = {"mix": "none", "batch_size": 10, "input": {"height": side, "width": side}}

    def batch(self, _epoch: int, number: int) -> LabelBatch:
        indices = np.arange(len(self.logits)).reshape(self.batches, -1)[number]
        count = len(indices)
        views = np.tile([0, 0, self.side, self.side], (count, 1))
        nothing = np.zeros((count, 0))
        return LabelBatch(
            indices, views, np.zeros(count, bool), nothing, "none", 0.0, (0, 0, 0, 0), indices,
            self.logits[indices],
        )  # fmt: skip


def folder(path: Path, store: str, labels: list[int]) -> Path:
    (path / "labels").mkdir(parents=True)
    shutil.copy(GOLDENS / store, path / "labels")
    images = (np.arange(5 * 12 * 10) * 37 % 256).reshape(5, 12, 10, 1).astype(np.uint8)
    np.savez(path / "images.npz", images=images, labels=np.array(labels))
    return path


def test_views_are_those_of_the_classes_alone(tmp_path: Path):
    distilled = DistilledSet.read(folder(tmp_path / "set", "i8.scdd", [0, 1, 2, 1, 5]))
    wanted = torch.tensor([5, 1])
    for epoch in range(3):
        ((views, logits),) = distilled.views(epoch, wanted)
        expected, rows = [], []
        for number in range(2):
            batch = distilled.store.batch(epoch, number)
            seen = replay(distilled.images[batch.indices], batch, distilled.store)
            mine = [place for place, index in enumerate(batch.indices) if index in (1, 3, 4)]
            expected.append(seen[mine])
            rows += [[batch.logits[place][5], batch.logits[place][1]] for place in mine]
        assert torch.equal(views, torch.cat(expected))
        assert logits.tolist() == [[float(value) for value in row] for row in rows]


def test_what_does_not_fit_is_told(tmp_path: Path, write_student):
    mixed = folder(tmp_path / "mixed", "f16.scdd", [0, 1, 2, 1, 5])
    with pytest.raises(InputError, match="labels of mixed views, which belong to two classes each"):
        DistilledSet.read(mixed)
    with pytest.raises(InputError, match=r"holds no images.npz with one file of soft labels"):
        DistilledSet.read(tmp_path)
    plain = folder(tmp_path / "plain", "i8.scdd", [0, 1, 2, 1, 5])
    for steps, message in ((3, "10 classes do not part into 3"), (5, "has labels of 6 classes")):
        with pytest.raises(InputError, match=message):
            incremental.incremental([plain], write_student, tmp_path, steps=steps, seeds=[0])


@pytest.fixture
def write_student(tmp_path: Path) -> Path:
    student = {
        "name": "pupil",
        "dataset": "fashion-mnist",
        "architecture": {"name": "convnet3", "options": {"width": 8}},
    }
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(student))
    return tmp_path / "student.yaml"


def test_classes_are_learnt_step_by_step(
    tmp_path: Path, tiny: data.Split, write_student: Path, monkeypatch, capsys
):
    order = tiny.labels[:40].argsort(stable=True)
    images, labels = tiny.images[:40][order], tiny.labels[:40][order]
    teacher = 10 * np.eye(10, dtype=np.float32)

    def read(path: Path) -> DistilledSet:
        # A teacher that takes each class for the next one teaches nothing that is right.
        answers = teacher if path.name == "right" else np.roll(teacher, 1, 1)
        store = WholeViews(answers[labels], 28)
        return DistilledSet(path.name, data.to_float(images), labels, store)

    monkeypatch.setattr(DistilledSet, "read", staticmethod(read))
    monkeypatch.setattr(data, "load", lambda *_: tiny)
    sets = ["right", "wrong", "right"]
    assert main(["incremental", *sets, "--student", str(write_student), "--steps", "2"]) == 0
    told = capsys.readouterr()
    printed = told.out.splitlines()
    assert [line.partition(", ")[0] for line in told.err.splitlines()] == [
        name for name in sets for _ in range(2)
    ]
    assert f"right, seed 0: 5 classes, {printed[2].split(' | ')[1]} %" in told.err
    assert printed[0] == "| pupil, classes seen | 5 | 10 | mean |"
    assert printed[2] == printed[4]
    right, wrong = (
        [float(value) for value in line.rstrip(" |").split(" | ")[1:]] for line in printed[2:4]
    )
    assert min(right) > 80
    assert max(wrong) < 40
    assert right[2] == pytest.approx((right[0] + right[1]) / 2, abs=0.1)
