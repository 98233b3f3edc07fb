"""Writes folder/ beside itself: an image folder of odd files, and expected.safetensors, what Pillow
makes of them; for src/data/layout/folder.rs.

Run from the repository's root. Two classes hold PNG and JPEG files of many kinds, larger, smaller
and longer than the networks' images. `gray` is uint8 [N, 1, 28, 28], `rgb` uint8 [N, 3, 24, 24].
The rule is that of src/data/decode.rs, written once more and shortly; the exporters' own test reads
the same files.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

FOLDER = Path("tests/goldens/folder")


def waves(height: int, width: int, channels: int, phase: float) -> np.ndarray:
    """Bytes [H, W, C] without hard edges."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin((y + phase) / (3 + c)) * np.cos((x - phase) / (5 - c)) for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def picture(height: int, width: int, channels: int, phase: float) -> Image.Image:
    pixels = waves(height, width, channels, phase)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def png16(height: int, width: int, channels: int, phase: float) -> bytes:
    """A PNG of 16 bits a value, which Pillow can't write for more than one channel."""
    values = waves(height, width, channels, phase).astype(">u2") * 256 + np.arange(width, dtype=">u2")[:, None] % 256
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def as_ycck(file: bytes) -> bytes:
    """The same coefficients, said to be YCCK: Adobe's marker ends in the colour transform."""
    at = file.index(b"Adobe") + 11
    return file[:at] + b"\x02" + file[at + 1 :]


def files() -> dict[str, bytes]:
    colour, palette = picture(40, 52, 3, 7), picture(33, 47, 3, 8).quantize(64)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    with_alpha = Image.fromarray(waves(30, 36, 4, 9))
    cmyk = Image.fromarray(waves(41, 39, 4, 10), "CMYK")
    return {
        "a/0.png": png(picture(28, 28, 1, 0)),
        "a/1.png": png(picture(61, 40, 3, 1)),
        "a/2.jpg": jpeg(picture(45, 90, 3, 2)),
        "a/gray-16.png": png16(31, 37, 1, 3),
        "a/gray-alpha-16.png": png16(31, 37, 2, 4),
        "a/rgb-16.png": png16(31, 37, 3, 5),
        "a/rgba-16.png": png16(31, 37, 4, 6),
        "a/palette.png": png(palette),
        "a/palette-alpha.png": png(palette, transparency=3),
        "a/gray-alpha.png": png(with_alpha.convert("LA")),
        "a/rgba.png": png(with_alpha),
        "a/one-bit.png": png(picture(35, 35, 1, 4).convert("1")),
        "b/0.jpeg": jpeg(picture(33, 33, 1, 3)),
        "b/1.png": png(picture(17, 20, 3, 4)),
        "b/cmyk.jpg": jpeg(cmyk),
        "b/ycck.jpg": as_ycck(jpeg(cmyk)),
        "b/progressive.jpg": jpeg(colour, progressive=True),
        "b/full-chroma.JPEG": jpeg(colour, subsampling=0),
        "b/half-chroma.JPG": jpeg(colour, subsampling=1),
        "b/rotated.jpg": jpeg(colour, exif=rotated),
        "b/a-png.jpg": png(colour),
        "b/a-jpeg.png": jpeg(colour),
        "b/long.png": png(picture(5, 300, 3, 11)),
    }


def read(path: Path, channels: int, size: int) -> np.ndarray:
    """Bytes [C, H, W]."""
    with Image.open(path, formats=("PNG", "JPEG")) as file:
        if file.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))
        else:
            image = file.convert("L" if file.mode in ("1", "L", "LA", "La") else "RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        scale = size * 8 / 7 / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def main() -> None:
    for name, content in files().items():
        path = FOLDER / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    paths = sorted((FOLDER / "train").glob("*/*"))
    tensors = {
        name: np.ascontiguousarray(np.stack([read(path, channels, size) for path in paths]))
        for name, channels, size in (("gray", 1, 28), ("rgb", 3, 24))
    }
    save_file(tensors, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
