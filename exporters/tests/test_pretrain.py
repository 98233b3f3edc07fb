from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from exporters import evaluate, pretrain, probe
from exporters.data import FASHION_MNIST, Split
from exporters.errors import CheckError, InputError
from exporters.files import load_checkpoint
from exporters.network import Checkpoint


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("method", ["supervised", "moco_v2"])
def test_an_interrupted_run_ends_with_the_same_weights(
    write_config, tiny: Split, monkeypatch, tmp_path: Path, method: str
):
    whole = pretrain.pretrain(
        write_config(method, output=str(tmp_path / "whole")), tmp_path, train=tiny, test=tiny, say=quiet
    )

    config = write_config(method, output=str(tmp_path / "cut"))
    run_epoch = pretrain._Loop.run_epoch

    def interrupted(loop: pretrain._Loop) -> None:
        if loop.epoch == 1:
            raise KeyboardInterrupt
        run_epoch(loop)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain._Loop, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=quiet)
    torch.manual_seed(999)
    said: list[str] = []
    resumed = pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=said.append)

    assert "resumed after epoch 1 of 2" in said[0]
    one, other = load_checkpoint(whole.with_name("checkpoint.pt")), load_checkpoint(resumed.with_name("checkpoint.pt"))
    assert one["tensors"].keys() == other["tensors"].keys()
    assert all(torch.equal(one["tensors"][name], other["tensors"][name]) for name in one["tensors"])
    assert any("bank" in name for name in one["tensors"]) == (method == "moco_v2")
    log = [json.loads(line) for line in resumed.with_name("log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    checkpoint = Checkpoint.load(resumed)
    assert checkpoint.pretraining.epochs == 2
    assert checkpoint.pretraining.scheme == method
    assert not sorted(resumed.parent.glob(".*"))


def test_a_checkpoint_of_another_configuration_is_refused(write_config, tiny: Split, tmp_path: Path):
    pretrain.pretrain(write_config(epochs=1), tmp_path, train=tiny, test=tiny, say=quiet)
    with pytest.raises(InputError, match="belongs to another configuration"):
        pretrain.pretrain(write_config(epochs=1, seed=5), tmp_path, train=tiny, test=tiny, say=quiet)


def test_divergence_is_reported(write_config, tiny: Split, tmp_path: Path):
    config = write_config(optimizer={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(CheckError, match="the loss became"):
        pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=quiet)


def test_probe_learns_and_leaves_the_backbone_alone(write_config, tiny: Split, tmp_path: Path):
    path = pretrain.pretrain(write_config("moco_v2", epochs=1), tmp_path, train=tiny, test=tiny, say=quiet)
    with pytest.raises(InputError, match="not written by"):
        Checkpoint.load(path.with_name("checkpoint.pt"))
    merged = Checkpoint.load(probe.probe(path, tmp_path, train=tiny, test=tiny, say=quiet))
    backbone = Checkpoint.load(path).state
    assert {name for name in merged.state if name not in backbone} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(merged.state[name], tensor) for name, tensor in backbone.items())
    assert merged.pretraining.head == "linear_probe"
    measured = evaluate.top1(evaluate.outputs(merged.network(), tiny.images, FASHION_MNIST), tiny.labels)
    assert measured == pytest.approx(merged.pretraining.probe_accuracy, abs=0.006)
    assert measured > 0.9
    with pytest.raises(InputError, match="already has a classifier"):
        probe.probe(path.with_name("probed.pt"), tmp_path, train=tiny, test=tiny, say=quiet)


def test_knn_votes_by_similarity():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    queries = torch.tensor([[2.0, 0.1], [0.0, 3.0], [0.0, 1.0]])
    assert evaluate.knn(bank, labels, queries, torch.tensor([0, 1, 0]), classes=2) == pytest.approx(2 / 3)


class Hostile:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_refused_unexecuted(tmp_path: Path, legacy: bool):
    path, mark = tmp_path / "hostile.pt", tmp_path / "executed"
    torch.save({"state": Hostile(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="is refused"):
        Checkpoint.load(path)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(InputError):
        Checkpoint.load(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(InputError):
        Checkpoint.load(path)
    assert not mark.exists()
