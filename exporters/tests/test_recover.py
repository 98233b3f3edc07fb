"""Recovery through the program for each kind of statistics: BN kept, BN folded away, and no BN at
all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from exporters import bundle, data, golden, graph, models
from exporters.networks import _draw_constants, draw_statistics

SCDD = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release/scdd"
SHAPE = (1, 28, 28)


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return models.build(
        "convnet3", {"width": 8, "norm": "batch", "channels": 1, "size": 28, "classes": 10}
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    options = {
        "patch_size": 7,
        "in_chans": 1,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 10,
    }
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=28, **options)


def write(folder: Path, name: str, model: nn.Module, kind: str) -> Path:
    """A teacher bundle of `model` with random weights; its `kind` is batch_norm, folded or none."""
    _draw_constants(model)
    draw_statistics(model, torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1)))
    serialised, layers = graph.to_onnx(model, SHAPE)
    tensors = bundle.bn_statistics(model, layers)
    if name.startswith("folded"):
        serialised, layers = graph.fold(serialised, layers)
        model = graph.folded_module(model, serialised, layers)
    if kind == "none":
        layers, tensors = [], {}
    writer = bundle.Writer(
        name, "teacher", data.info("fashion-mnist"), "test", {}, folder, replace=False
    )
    inputs, targets = golden.golden_input(None, None, SHAPE, 10)
    probe = golden.golden(model, layers, tensors, inputs, targets, folded=kind == "folded")
    writer.publish(serialised, bundle.Statistics(kind, layers, tensors), probe, {})
    return folder / name


def scdd(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert SCDD.is_file(), f"{SCDD} is missing; run `cargo build --release` first"
    return subprocess.run(
        [str(SCDD), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def recover(folder: Path, teacher: Path, **keys: Any) -> subprocess.CompletedProcess[str]:
    # The statistics of networks with random weights are those of unit noise: images start far from
    # it.
    start = {"type": "noise", "std": 0.2}
    recipe = {"iterations": 30, "learning_rate": 0.1, "jitter": 2, "r_bn": 1, "start": start} | keys
    experiment = {
        "name": "e",
        "data": "none",
        "teachers": str(teacher),
        "ipc": 1,
        "recover": recipe,
    }
    path = folder / "e.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return scdd("recover", path, "--output", folder / "runs", "--json")


def curve(done: subprocess.CompletedProcess[str]) -> list[dict[str, float]]:
    """The loss at every step; ten images must be there."""
    assert done.returncode == 0, done.stderr
    (directory,) = map(Path, json.loads(done.stdout)["directories"])
    assert len(list(directory.glob("images/*/*.png"))) == 10
    return [
        json.loads(line)
        for line in (directory / "curves/batch-00000.jsonl").read_text().splitlines()
    ]


def test_folded_statistics_recover_what_bn_kept_does(tmp_path: Path) -> None:
    kept = curve(recover(tmp_path, write(tmp_path, "kept", convnet(), "batch_norm")))
    folded = curve(recover(tmp_path, write(tmp_path, "folded", convnet(), "folded")))
    assert kept[-1]["bn"] < 0.8 * kept[0]["bn"]
    for a, b in zip(kept, folded, strict=True):
        assert b["bn"] == pytest.approx(a["bn"], rel=1e-3)
        assert b["ce"] == pytest.approx(a["ce"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "build", "why"),
    [
        ("folded-bare", convnet, "BatchNorm was folded into them, or there was none"),
        ("vit", vit, "its graph has no BatchNormalization"),
    ],
)
def test_what_has_no_statistics_is_told_so_and_recovers_when_calibrated(
    tmp_path: Path, name: str, build, why: str
):
    plain = write(tmp_path, name, build(), "none")
    refused = recover(tmp_path, plain)
    assert refused.returncode == 2
    assert why in refused.stderr
    assert "scdd calibrate" in refused.stderr
    calibrated = tmp_path / "calibrated"
    done = scdd("calibrate", plain, "--data", "fashion-mnist", "--images", 40, "--out", calibrated)
    assert done.returncode == 0, done.stderr
    steps = curve(recover(tmp_path, calibrated))
    assert steps[-1]["bn"] < 0.95 * steps[0]["bn"]
    # The term is what pulls: without its weight it falls less, if at all.
    free = curve(recover(tmp_path, calibrated, r_bn=1e-6))
    assert free[-1]["bn"] > steps[-1]["bn"]
