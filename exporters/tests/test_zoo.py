from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from exporters import data, zoo
from exporters.data import Split
from exporters.errors import InputError


def test_zoo_makes_what_is_missing_and_the_table_lists_it(
    write_config, tiny: Split, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny)
    configs = []
    for method in ("supervised", "simclr"):
        path = write_config(method, epochs=1)
        configs.append(path.rename(tmp_path / f"{method}.yaml"))
    said: list[str] = []
    zoo.zoo(configs, tmp_path, tmp_path / "onnx", say=said.append)
    manifests = {
        path.parent.name: yaml.safe_load(path.read_text())
        for path in (tmp_path / "onnx").glob("*/manifest.yaml")
    }
    assert set(manifests) == {"tiny-supervised", "tiny-simclr"}
    for manifest in manifests.values():
        pretraining = manifest["pretraining"]
        assert pretraining["probe_accuracy"] is not None
        assert pretraining["knn_accuracy"] is not None
        assert pretraining["statistics"] == "training"
        assert pretraining["command"].startswith("python -m exporters pretrain ")

    said.clear()
    zoo.zoo(configs, tmp_path, tmp_path / "onnx", say=said.append)
    assert len(said) == 2
    assert all("exists, skipped" in line for line in said)

    zoo.teachers([tmp_path / "onnx"], tmp_path, tmp_path / "table.md", say=said.append)
    table = (tmp_path / "table.md").read_text()
    assert "| tiny-simclr | simclr |" in table
    assert "| random resnet10 | none |" in table
    manifest = manifests["tiny-simclr"] | {
        "name": "foreign",
        "architecture": {"name": "imported", "options": {}},
    }
    (tmp_path / "onnx" / "foreign").mkdir()
    (tmp_path / "onnx" / "foreign" / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    (tmp_path / "table.md").write_text(table.replace("| 0 |  |  |  |", "| kept |  |  |  |"))
    said.clear()
    zoo.teachers([tmp_path / "onnx"], tmp_path, tmp_path / "table.md", say=said.append)
    assert len(said) == 1, "the random backbone is not measured again"
    again = (tmp_path / "table.md").read_text()
    assert "| foreign | simclr |  |" in again
    assert "| kept |  |  |  |" in again
    with pytest.raises(InputError, match="no teacher"):
        zoo.teachers([tmp_path], tmp_path, tmp_path / "table.md", say=said.append)
