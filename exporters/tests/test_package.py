"""The package as others install it: a wheel in an environment of its own, away from the
checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

import exporters
from exporters import registry

PACKAGE = Path(__file__).parents[1]
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PACKAGE, check=True)
    (wheel,) = folder.glob("scdd_exporters-*.whl")
    uv, environment = Path(sys.executable).with_name("uv"), folder / "environment"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin/python"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel],
        check=True,
    )
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return environment / "bin"


def run(command: list[str | Path], folder: Path) -> str:
    """What `command` prints, run in `folder`, where no checkout is in sight."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_program_says_what_it_takes(installed: Path, tmp_path: Path):
    asked = run([installed / "python", "-m", "exporters", "--help"], tmp_path)
    assert "export-student" in asked
    assert run([installed / "scdd-exporters", "--help"], tmp_path) == asked
    where = run(
        [installed / "python", "-c", "import exporters; print(exporters.__file__)"], tmp_path
    )
    assert Path(where).is_relative_to(installed.parent)


def test_the_installed_program_finds_the_registry_of_data_sets(installed: Path, tmp_path: Path):
    said = run([installed / "scdd-exporters", "fetch", "--help"], tmp_path)
    assert ", ".join(registry.names()) in " ".join(said.split())


def test_the_installed_program_exports_a_network(installed: Path, tmp_path: Path):
    for place in ("train/ant", "train/bee", "val/ant", "val/bee"):
        (tmp_path / "toys" / place).mkdir(parents=True)
        Image.new("RGB", (8, 8), "brown").save(tmp_path / "toys" / place / "0.png")
    config = {
        "name": "tiny",
        "dataset": "toys",
        "architecture": {"name": "resnet10", "options": {"width": 4}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    images = ["--dataset", "toys", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--size", "8"]
    run(
        [installed / "scdd-exporters", "export-student", "tiny.yaml", *images, "--out", "bundles"],
        tmp_path,
    )
    manifest = yaml.safe_load((tmp_path / "bundles/tiny/manifest.yaml").read_text(encoding="utf-8"))
    assert manifest["classes"] == ["ant", "bee"]


def test_every_dependency_is_pinned():
    pinned = (PACKAGE / "requirements.txt").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([\w.-]+)==([^ ]+) \\$", pinned, re.MULTILINE))
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
    ]
    for requirement in wanted:
        name, _, version = requirement.lower().partition("==")
        assert versions.get(name), f"{name} is not in requirements.txt"
        assert version in ("", versions[name])


def test_there_is_one_version():
    root = PACKAGE.parent
    versions = {
        tomllib.loads((root / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"][
            "version"
        ],
        yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"],
        exporters.__version__,
    }
    assert len(versions) == 1, versions
