"""Writes folder/ beside itself: an image folder of mixed files, and expected.safetensors, what the exporters make of them; for src/core/data/png.rs.

Run from the repository's root. Two classes hold PNG and JPEG files, gray and RGB, larger, smaller and longer than the networks' images.
`gray` is uint8 [N, 1, 28, 28], `rgb` uint8 [N, 3, 24, 24].
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, ".")
from exporters.data import DatasetInfo, load_folder

FOLDER = Path("tests/goldens/folder")


def picture(height: int, width: int, channels: int, phase: float) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((y + phase) / (3 + c)) * np.cos((x - phase) / (5 - c)) for c in range(channels)]
    pixels = np.stack(waves, -1).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def main() -> None:
    for index, (name, height, width, channels) in enumerate(
        (
            ("a/0.png", 28, 28, 1),
            ("a/1.png", 61, 40, 3),
            ("a/2.jpg", 45, 90, 3),
            ("b/0.jpeg", 33, 33, 1),
            ("b/1.png", 17, 20, 3),
        )
    ):
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(height, width, channels, index).save(path)
    tensors = {}
    for name, channels, size in (("gray", 1, 28), ("rgb", 3, 24)):
        dataset = DatasetInfo("folder", channels, size, ("a", "b"), (0.5,) * channels, (0.5,) * channels, 5, 0)
        tensors[name] = load_folder(FOLDER, dataset).images
    save_file(tensors, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
