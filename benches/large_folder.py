"""Times and memory of commands on a large folder of JPEG files: `python benches/large_folder.py`.

Makes a folder of test images of 224x224 in CIFAR-100's classes (`--images`, by default 100,000),
runs `scdd` on it, prints what each command took, and removes the folder.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEACHER = "onnx/cifar-100/resnet18-w16-supervised"
STUDENT = "onnx/cifar-100/resnet18-w16"


def make_folder(folder: Path, images: int) -> int:
    """Writes the images, noise of different smoothness, and returns their bytes."""
    registry = yaml.safe_load((ROOT / "datasets/cifar-100.yaml").read_text())
    random = np.random.default_rng(0)
    files = []
    for side in (4, 7, 14, 28):
        for _ in range(50):
            coarse = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            picture, file = Image.fromarray(coarse).resize((224, 224)), io.BytesIO()
            picture.save(file, "JPEG", quality=85)
            files.append(file.getvalue())
    classes, written = registry["classes"], 0
    for split, count in (("train", len(classes)), ("test", images)):
        for index in range(count):
            name, number = classes[index % len(classes)], index // len(classes)
            path = folder / split / str(name) / f"{number:06}.jpg"
            if number == 0:
                path.parent.mkdir(parents=True)
            content = files[index % len(files)]
            path.write_bytes(content)
            written += len(content)
    return written


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command, which must succeed."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--scdd", type=Path, default=ROOT / "target/release/scdd")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scdd-large-") as temporary:
        scratch = Path(temporary)
        written = make_folder(scratch / "data", chosen.images)
        experiment = {
            "name": "large",
            "data": {"type": "image-folder", "path": str(scratch / "data")},
            "teachers": TEACHER,
            "students": STUDENT,
            "ipc": 1,
            "baselines": [],
            "recover": {"iterations": 10, "batch_size": 50},
        }
        (scratch / "large.yaml").write_text(yaml.safe_dump(experiment))
        without = experiment | {"name": "none", "data": "none"}
        del without["students"]
        (scratch / "none.yaml").write_text(yaml.safe_dump(without))
        # Files that have just been written may change again unseen.
        time.sleep(2.5)
        environment = os.environ | {"SCDD_CACHE": str(scratch / "cache")}

        def run(file: str, *command: str) -> dict[str, float]:
            line = [str(chosen.scdd), *command, str(scratch / file)]
            seconds, mebibytes = measure(
                [*line, "--output", str(scratch / f"runs-{file}")], environment
            )
            return {"seconds": round(seconds, 2), "peak MiB": round(mebibytes)}

        print(
            json.dumps(
                {
                    "images": chosen.images,
                    "MB": round(written / 1e6),
                    "first dry run, which reads all": run(
                        "large.yaml", "run", "--dry-run"
                    ),
                    "dry run": run("large.yaml", "run", "--dry-run"),
                    "status": run("large.yaml", "status"),
                    "recover, data: none": run("none.yaml", "recover"),
                    "recover": run("large.yaml", "recover"),
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
