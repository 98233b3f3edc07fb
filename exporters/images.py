"""The bytes of an image file become pixels, and these are fitted to what networks take.

`src/data/decode.rs` follows the same rule, so that both see the same bytes: the content tells PNG
from JPEG; 16-bit values keep their high byte; palettes and CMYK become RGB; alpha is dropped, not
composed; EXIF orientation, ICC profiles and gamma are ignored, as torchvision ignores them; a file
that ends early is refused.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""The most pixels that an image may have, before or after scaling: Pillow's own limit."""
MAX_SCANS = 1000
"""The most scans of a JPEG file. Progressive files have about ten; each costs a pass over the whole
image."""


class BadImage(ValueError):
    """An image that can't be read; the message says what is wrong with it, as in "is empty"."""


def decode(content: bytes) -> Image.Image:
    """The image in the PNG or JPEG file that consists of `content`, of mode L or RGB.

    :raises BadImage: when it is none, damaged, cut off or too large.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "PNG"
        _check_chunks(content)
    elif content.startswith(b"\xff\xd8"):
        kind = "JPEG"
        _check_markers(content)
    elif not content:
        raise BadImage("is empty")
    else:
        raise BadImage("is neither a PNG nor a JPEG file, whatever its name says")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=(kind,))
            image.load()
    except Image.DecompressionBombError as error:
        raise BadImage(f"has more than the {MAX_PIXELS} pixels that are read") from error
    except (OSError, SyntaxError, UnidentifiedImageError, ValueError, EOFError) as error:
        raise BadImage(f"is not a readable {kind} ({error})") from error
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    return image.convert("RGB")


def fitted(content: bytes, channels: int, size: int) -> np.ndarray:
    """Pixels uint8 `[channels, size, size]` of the file `content`, of one channel or three.

    An image of another size is scaled bilinearly so that its shorter side has 8/7 of `size`, and
    its centre is cut out.

    :raises BadImage: when the file can't be read.
    """
    image = decode(content).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        scale = size * 8 / 7 / min(image.size)
        wide, tall = (max(size, round(side * scale)) for side in image.size)
        if wide * tall > MAX_PIXELS:
            raise BadImage(
                f"has {image.height}x{image.width} pixels, which would be scaled to {tall}x{wide} to cover "
                f"{size}x{size}; cut it to a squarer shape"
            )
        image = image.resize((wide, tall), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (tall - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image, np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_chunks(content: bytes) -> None:
    """Walks over the chunks of a PNG file. Pillow shows an image whose last pixels' checksum is
    missing."""
    at = 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        at += 12 + length
        if at > len(content) and kind == b"IDAT":
            raise BadImage("is not a readable PNG (it ends early)")


def _check_markers(content: bytes) -> None:
    """Walks over the markers of a JPEG file up to the one that ends the image."""
    at, scans = 2, 0
    while True:
        # Entropy-coded data lie between markers: there, 0xFF is followed by 0 or a restart marker.
        at = content.find(b"\xff", at)
        if at < 0 or at + 1 >= len(content):
            raise BadImage("is truncated: the JPEG image does not end")
        marker = content[at + 1]
        at += 1
        if marker == 0xFF:
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1
            continue
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise BadImage(f"is a JPEG of more than {MAX_SCANS} scans")
        if at + 3 > len(content):
            raise BadImage("is truncated: the JPEG image does not end")
        at += 1 + max(int.from_bytes(content[at + 1 : at + 3], "big"), 2)
