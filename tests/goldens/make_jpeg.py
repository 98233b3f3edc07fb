"""Writes jpeg.safetensors beside itself: images before and after a JPEG file as Pillow writes it by
default, for src/data/jpeg.rs.

Run from the repository's root. `<case>.before` and `<case>.after`, uint8 [C, H, W]: noise and a
smooth picture, gray and RGB, with sides that are no multiples of a block.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "JPEG")
    found = np.array(Image.open(file))
    return found[None] if len(pixels) == 1 else found.transpose(2, 0, 1)


def main() -> None:
    generator = np.random.default_rng(0)
    tensors = {}
    for color, channels, height, width in (("gray", 1, 28, 28), ("rgb", 3, 33, 38)):
        y, x = np.mgrid[:height, :width]
        waves = [128 + 90 * np.sin(y / (3 + c)) * np.cos(x / (4 - c)) for c in range(channels)]
        pictures = {"noise": generator.integers(0, 256, (channels, height, width)), "smooth": np.stack(waves)}
        for name, picture in pictures.items():
            before = picture.astype(np.uint8)
            tensors[f"{color}.{name}.before"] = torch.tensor(before)
            tensors[f"{color}.{name}.after"] = torch.tensor(np.ascontiguousarray(through_jpeg(before)))
    save_file(tensors, Path(__file__).with_name("jpeg.safetensors"))


if __name__ == "__main__":
    main()
