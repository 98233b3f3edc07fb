"""Times and memory of large folders of JPEG files: `python benches/large_folder.py`.

Makes folders of JPEG files (`--images`, by default 100,000 of 224x224 as test images), measures
commands on them, prints all of it as JSON, and removes the folders. `--tested` is the larger of two
numbers of test images of a validation. `--skip` leaves parts out: `commands`, `validation`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEACHER = "onnx/cifar-100/resnet18-w16-supervised"
STUDENT = "onnx/cifar-100/resnet18-w16"
SPARE = 10 * 10**9
"""Bytes of the disk that stay free."""
SMALL = 1000
OPTIONS = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


def pictures(height: int, width: int) -> list[bytes]:
    """Two hundred JPEG files of noise of different smoothness."""
    random, files = np.random.default_rng(0), []
    for side in (7, 14, 28, 56):
        for _ in range(50):
            coarse = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(coarse).resize((width, height)).save(
                file, "JPEG", quality=85
            )
            files.append(file.getvalue())
    return files


def make_folder(
    folder: Path, classes: list[str], train: int, test: int, side: tuple[int, int]
) -> int:
    """Writes so many images of `side`, height and width, and returns their bytes."""
    files, written = pictures(*side), 0
    if shutil.disk_usage(folder.parent).free < (train + test) * 25_000 + SPARE:
        sys.exit(
            f"{folder.parent}: {train + test} images would leave less than 10 GB of the disk"
        )
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            path = (
                folder
                / split
                / classes[index % len(classes)]
                / f"{index // len(classes):06}.jpg"
            )
            if index < len(classes):
                path.parent.mkdir(parents=True)
            path.write_bytes(files[index % len(files)])
            written += len(files[index % len(files)])
    # Files that have just been written may change again unseen.
    time.sleep(2.5)
    return written


WATCHER = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and prints its peak memory in KiB. A process of its own, because a program inherits
the peak of the process that started it."""


class Scratch:
    """A scratch directory with experiments, and `scdd` with a cache of its own."""

    def __init__(self, place: Path, scdd: Path) -> None:
        self.place, self.scdd = place, scdd
        self.environment = os.environ | {"SCDD_CACHE": str(place / "cache")}

    def write(self, name: str, experiment: dict[str, Any]) -> None:
        text = yaml.safe_dump({"name": name} | experiment)
        (self.place / f"{name}.yaml").write_text(text)

    def on(self, name: str, *command: str) -> dict[str, float]:
        """Seconds and peak MiB of a command on the experiment `name`."""
        output = str(self.place / "runs" / name)
        return self.run(*command, str(self.place / f"{name}.yaml"), "--output", output)

    def run(self, *command: str) -> dict[str, float]:
        """Seconds and peak MiB of a command, which must succeed."""
        start = time.perf_counter()
        command = [sys.executable, "-S", "-c", WATCHER, str(self.scdd), *command]
        found = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if found.returncode != 0:
            sys.exit(f"{' '.join(command[4:])} failed:\n{found.stderr}")
        seconds = time.perf_counter() - start
        return {"seconds": round(seconds, 2), "peak MiB": int(found.stdout) // 1024}


def commands(scratch: Scratch, images: int) -> Iterator[tuple[str, Any]]:
    """Light commands, and a recovery with and without data, on `images` test images."""
    registry = yaml.safe_load((ROOT / "datasets/cifar-100.yaml").read_text())
    folder = scratch.place / "data"
    classes = [str(name) for name in registry["classes"]]
    written = make_folder(folder, classes, len(classes), images, (224, 224))
    yield "images", images
    yield "MB", round(written / 1e6)
    experiment: dict[str, Any] = {
        "data": {"type": "image-folder", "path": str(folder)},
        "teachers": TEACHER,
        "students": STUDENT,
        "ipc": 1,
        "baselines": [],
        "recover": {"iterations": 10, "batch_size": 50},
    }
    scratch.write("large", experiment)
    without = experiment | {"data": "none"}
    del without["students"]
    scratch.write("none", without)
    yield "first dry run", scratch.on("large", "run", "--dry-run")
    yield "first recover, data: none", scratch.on("none", "recover")
    yield (
        "first recover, which reads all images for their hash",
        scratch.on("large", "recover"),
    )
    shutil.rmtree(scratch.place / "runs")
    yield "dry run", scratch.on("large", "run", "--dry-run")
    yield "status", scratch.on("large", "status")
    yield "recover, data: none", scratch.on("none", "recover")
    yield "recover", scratch.on("large", "recover")
    shutil.rmtree(folder)


def validation(scratch: Scratch, tested: int) -> Iterator[tuple[str, Any]]:
    """One epoch and one test of a student at 224x224, of few and of many test images."""
    classes = [f"c{number}" for number in range(10)]
    for images in (SMALL, tested):
        name = f"tested-{images}"
        folder = scratch.place / name
        make_folder(folder, classes, 2 * len(classes), images, (224, 224))
        if images == SMALL:
            networks = make_networks(scratch.place / "onnx", folder, 10, 224)
        scratch.write(
            name,
            {
                "data": {"type": "image-folder", "path": str(folder)},
                "teachers": str(networks / "teacher"),
                "students": str(networks / "student"),
                "ipc": 1,
                "baselines": ["random_real_hard"],
                "recover": {"iterations": 1, "batch_size": 10},
                "relabel": {"epochs": 1, "batch_size": 10},
            },
        )
        scratch.on(name, "relabel")
        yield (
            f"validation, {images} test images",
            scratch.on(name, "validate", "--jobs", "1"),
        )
        shutil.rmtree(folder)


def make_networks(place: Path, data: Path, classes: int, side: int) -> Path:
    """An untrained student and a teacher with its weights' first draw, as bundles for `side`."""
    import torch

    from exporters import models
    from exporters.__main__ import main as exporters

    place.mkdir()
    described = {"width": 16, "stem": "imagenet" if side > 64 else "small"}
    config = {
        "name": "student",
        "dataset": str(data),
        "architecture": {"name": "resnet18", "options": described},
    }
    (place / "student.yaml").write_text(yaml.safe_dump(config))
    options = models.resolve(
        "resnet18", described, channels=3, size=side, classes=classes
    )
    network = models.build("resnet18", options)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(4, 3, side, side))
    torch.save(network.state_dict(), place / "teacher.pt")
    shape = (*OPTIONS, "--size", str(side))
    checkpoint = ("--checkpoint", str(place / "teacher.pt"), "--arch", "resnet18")
    flags = ("--arch-options", yaml.safe_dump(described, default_flow_style=True))
    for command in (
        ("export-student", str(place / "student.yaml")),
        ("export", *checkpoint, *flags),
    ):
        command = (*command, "--dataset", str(data), *shape, "--out", str(place))
        with contextlib.redirect_stdout(sys.stderr):
            ended = exporters(list(command))
        if ended != 0:
            sys.exit("a network could not be exported")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tested", type=int, default=50_000)
    parser.add_argument("--scdd", type=Path, default=ROOT / "target/release/scdd")
    parser.add_argument(
        "--skip", nargs="*", default=[], choices=["commands", "validation"]
    )
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="scdd-large-") as temporary:
        scratch = Scratch(Path(temporary), chosen.scdd)
        parts = {
            "commands": lambda: commands(scratch, chosen.images),
            "validation": lambda: validation(scratch, chosen.tested),
        }
        for name, part in parts.items():
            if name not in chosen.skip:
                print(json.dumps({name: dict(part())}, indent=1), flush=True)


if __name__ == "__main__":
    main()
