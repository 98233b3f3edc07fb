"""A handful of the networks of docs/networks.md, exported and verified by the program; all of them
take too long."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from exporters import networks

SCDD = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release/scdd"


@pytest.mark.parametrize(
    "name",
    [
        "torchvision-resnet18-folded",
        "torchvision-shufflenet_v2_x1_0",
        "torchvision-squeezenet1_1",
        "timm-mobilevit_xxs",
    ],
)
def test_network_verifies(name: str, tmp_path: Path):
    assert SCDD.is_file(), f"{SCDD} is missing; run `cargo build --release` first"
    arguments = [
        name,
        "--out",
        str(tmp_path),
        "--work",
        str(tmp_path / "bundles"),
        "--scdd",
        str(SCDD),
    ]
    assert networks.main(arguments) == 0, (tmp_path / "networks.md").read_text()
    (row,) = json.loads((tmp_path / "networks.json").read_text())["networks"]
    assert row["name"] == name
    assert row["gradient_error"] < 1e-3
    assert not list((tmp_path / "bundles").iterdir())


def test_table_lists_known_networks_only():
    rows = json.loads((Path(__file__).parents[2] / "docs/networks.json").read_text())["networks"]
    known = {network.name for network in networks.NETWORKS}
    assert {row["name"] for row in rows} <= known


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        networks.main(["resnet9000"])
    assert "unknown networks: resnet9000" in capsys.readouterr().err
