"""How time and memory grow with images, classes and shards: `python benches/growth.py`.

Each part changes one number and measures the commands that it acts on, with a quarter-width
ResNet-18 at 32x32 that was never trained: planning over the files of an image folder; a recovery,
labels and a student over the number of classes; the same recovery over the number of shards, one
after another on this machine. Prints a Markdown table per part. `--only` chooses parts.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from large_folder import ROOT, Scratch, make_folder, make_networks

SIDE = 32
IMAGES, CLASSES, SHARDS = (1_000, 10_000, 100_000), (10, 100, 1000), (1, 4, 16, 64)
STEPS, BATCH, EPOCHS = 5, 10, 10


def folder_of(scratch: Scratch, name: str, classes: int, test: int) -> Path:
    folder = scratch.place / name
    names = [f"c{number:04}" for number in range(classes)]
    make_folder(folder, names, classes, test, (SIDE, SIDE))
    return folder


def experiment_on(networks: Path, data: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "data": {"type": "image-folder", "path": str(data)} if data else "none",
        "teachers": str(networks / "teacher"),
        "ipc": 1,
        "baselines": [],
        "recover": {"iterations": STEPS, "batch_size": BATCH},
        "relabel": {"epochs": EPOCHS, "batch_size": BATCH},
    }
    if data:
        found["students"] = str(networks / "student")
    return found


def over_images(scratch: Scratch) -> Iterator[list[Any]]:
    yield ["test images", "first dry run", "dry run", "status"]
    networks = None
    for images in IMAGES:
        name = f"images-{images}"
        folder = folder_of(scratch, name, 10, images)
        networks = networks or make_networks(scratch.place / "ten", folder, 10, SIDE)
        scratch.write(name, experiment_on(networks, folder))
        commands = [("run", "--dry-run"), ("run", "--dry-run"), ("status",)]
        yield [f"{images:,}", *(scratch.on(name, *command) for command in commands)]
        shutil.rmtree(folder)


def over_classes(scratch: Scratch) -> Iterator[list[Any]]:
    yield ["classes, one image each", "dry run", "recover", "relabel", "validate"]
    for classes in CLASSES:
        name = f"classes-{classes}"
        folder = folder_of(scratch, name, classes, 1000)
        networks = make_networks(scratch.place / f"of-{classes}", folder, classes, SIDE)
        scratch.write(name, experiment_on(networks, folder))
        commands = [
            ("run", "--dry-run"),
            ("recover",),
            ("relabel",),
            ("validate", "--jobs", "1"),
        ]
        yield [f"{classes:,}", *(scratch.on(name, *command) for command in commands)]
        shutil.rmtree(folder)


def over_shards(scratch: Scratch) -> Iterator[list[Any]]:
    yield ["shards", "all shards, one after another", "the longest of them", "gate"]
    classes = 1000
    folder = folder_of(scratch, "for-shards", classes, classes)
    networks = make_networks(scratch.place / "sharded", folder, classes, SIDE)
    shutil.rmtree(folder)
    for shards in SHARDS:
        name = f"shards-{shards}"
        scratch.write(name, experiment_on(networks, None))
        scratch.on(name, "run", "--dry-run")
        made = [
            scratch.on(name, "recover", "--shards", str(shards), "--shard", str(shard))
            for shard in range(shards)
        ]
        peak = max(shard["peak MiB"] for shard in made)
        total = {"seconds": sum(shard["seconds"] for shard in made), "peak MiB": peak}
        longest = max(made, key=lambda shard: shard["seconds"])
        yield [shards, total, longest, scratch.on(name, "gate", "recover")]


def row(cells: list[Any]) -> str:
    def text(cell: Any) -> str:
        if isinstance(cell, dict):
            return f"{cell['seconds']:.2f} s, {cell['peak MiB']} MiB"
        return str(cell)

    return "| " + " | ".join(map(text, cells)) + " |"


def main() -> None:
    parts = {"images": over_images, "classes": over_classes, "shards": over_shards}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scdd", type=Path, default=ROOT / "target/release/scdd")
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="scdd-growth-") as temporary:
        scratch = Scratch(Path(temporary), chosen.scdd)
        for name in chosen.only:
            for number, cells in enumerate(parts[name](scratch)):
                print(row(cells), flush=True)
                if number == 0:
                    print("|" + " --- |" * len(cells), flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
