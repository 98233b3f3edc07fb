"""Tiny stand-ins for the real data, so that no test needs a file or a long training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from exporters import data, probe


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _short_probe(monkeypatch):
    monkeypatch.setattr(probe, "SGD_EPOCHS", 20)


@pytest.fixture(scope="session")
def tiny() -> data.Split:
    """200 images of Fashion-MNIST's shape: one fixed pattern per class under noise, so that they
    can be learnt."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 256, (10, 1, 28, 28), generator=generator)
    labels = torch.arange(200) % 10
    noise = torch.randint(-40, 41, (200, 1, 28, 28), generator=generator)
    return data.Split((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)


SMALL = {
    "moco_v2": {"queue": 128, "hidden_dim": 16},
    "swav": {"prototypes": 16, "frozen": 0.3, "local_views": 1},
    "dino": {"output_dim": 32, "frozen": 0.3, "local_views": 1},
}
"""Options that make a method small, and its special parts run."""


@pytest.fixture
def write_config(tmp_path: Path):
    """Writes a pretraining configuration of a small network; `changes` are laid over it."""

    def write(method: str = "supervised", /, **changes) -> Path:
        config = {
            "name": f"tiny-{method}",
            "dataset": "fashion-mnist",
            "architecture": {"name": "resnet10", "options": {"width": 8}},
            "method": {"name": method} | SMALL.get(method, {}),
            "optimizer": {"lr": 0.05},
            "epochs": 2,
            "batch_size": 50,
            "output": str(tmp_path / "runs"),
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config | changes), encoding="utf-8")
        return path

    return write
