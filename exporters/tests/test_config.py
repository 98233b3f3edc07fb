from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from exporters.__main__ import main
from exporters.config import parse, read_yaml
from exporters.errors import InputError
from exporters.pretrain import read_config
from exporters.student import StudentConfig

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_parse(path: Path):
    if path.stem.startswith("student-"):
        assert parse(StudentConfig, read_yaml(path), str(path)).name == path.stem.removeprefix(
            "student-"
        )
    else:
        read_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, r"unknown key 'epoch'; did you mean 'epochs'\?"),
        ({"optimizer": {"lr": 0.1, "weight": 1}}, r"optimizer: unknown key 'weight'"),
        ({"optimizer": {"lr": "1e-4"}}, r"optimizer: lr: a number is wanted.*write 1.0e-4"),
        ({"optimizer": {}}, r"optimizer: key 'lr' is missing"),
        ({"optimizer": {"lr": -1}}, r"lr must be positive"),
        ({"epochs": True}, r"epochs: a whole number is wanted"),
        ({"epochs": 0}, r"epochs is 0"),
        ({"seed": -1}, r"seed is -1"),
        ({"name": "../escape"}, r"name is '../escape'"),
        ({"method": {"name": "mocov2"}}, r"method: name is 'mocov2'; known methods are"),
        (
            {"method": {"name": "moco_v2", "temprature": 1.0}},
            r"method: unknown key 'temprature'; did you mean 'temperature'",
        ),
        ({"method": {"name": "moco_v2", "momentum": 1.0}}, r"method: momentum is 1.0"),
        (
            {"method": {"name": "moco_v2", "augmentation": {"scale": [0.2]}}},
            r"augmentation: scale: a list of 2 values",
        ),
        (
            {"method": {"name": "supervised", "augmentation": {"mode": "odd"}}},
            r"augmentation: mode is 'odd'",
        ),
        ({"method": "supervised"}, r"method: a mapping is wanted"),
    ],
)
def test_errors_say_where_and_what(write_config, changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        read_config(write_config(**changes))


def test_command_line_exit_codes(write_config, tmp_path: Path, capsys):
    assert main(["pretrain", str(write_config(epoch=3))]) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "pretrain", str(write_config())]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["pretrain", str(tmp_path / "absent.yaml")]) == 2
    assert main(["probe", str(tmp_path / "absent.pt")]) == 2
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1, 2]))
    assert main(["export-student", str(tmp_path / "list.yaml"), "--out", str(tmp_path)]) == 2
