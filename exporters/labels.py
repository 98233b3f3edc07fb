"""Reads the soft labels that `scdd relabel` stored (`labels.scdd`), so that any PyTorch student can
replay them.

The format is described in `src/artifacts/labels/mod.rs`; the file is mapped, so that a batch costs
no more than its own bytes. The first batch of an epoch reads that epoch whole, to compare its hash.

    store = LabelStore(path)
    for epoch in range(store.epochs):
        for number in range(store.batches):
            batch = store.batch(epoch, number)
            views = replay(images[batch.indices], batch, store)  # images: float [N, C, H, W], 0..1
            logits = student((views - mean) / std)  # against batch.logits, the teacher's

A store whose views were augmented by DSA, which acts on normalised values, needs the teacher's
`mean` and `std` too: `replay(images[batch.indices], batch, store, mean, std)`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from .errors import InputError

MAGIC = b"SCDDSOFT"
VERSION = 4
MIXES = ("none", "cutmix", "mixup")
NUMBERS = {"f32": "<f4", "f16": "<f2", "i8": "u1"}
# Bytes of a SHA-256.
HASH = 32
# The logit of a class that was not stored and has no probability.
NO_PROBABILITY = -65504.0
AGAIN = "the file is damaged: remove it and relabel again"
OPERATION = np.dtype([("kind", "<u4"), ("values", "<f4", 3)])
# RandAugment's operations by their numbers; DSA's follow (`src/data/augment.rs`).
RAND_AUGMENT = (
    *(
        "Identity",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Rotate",
        "Brightness",
        "Color",
        "Contrast",
    ),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True)
class LabelBatch:
    """What the teacher saw of `n` images, and what it said.

    `indices` are the images, int64 `[n]`; `views` their boxes (top, left, height, width) in the
    image with its border, `[n, 4]`; `flips` whether the view is mirrored, `[n]`; `operations` what
    else happened to it, `[n, A]` of a number and three values. Then each view is mixed with that at
    `partners` `[n]`: `mix` is none, cutmix (the pixels inside `box`: top, left, height, width) or
    mixup (1 - `share` of the partner). `logits` are the teacher's, float32 `[n, K]`, as exact as
    the store's format.
    """

    indices: np.ndarray
    views: np.ndarray
    flips: np.ndarray
    operations: np.ndarray
    mix: str
    share: float
    box: tuple[int, int, int, int]
    partners: np.ndarray
    logits: np.ndarray


class LabelStore:
    """Soft labels: `epochs` epochs of `batches` batches; `meta` is everything that the file says of
    itself."""

    def __init__(self, path: Path | str) -> None:
        try:
            self.bytes = np.memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        head = self.bytes[:16].tobytes()
        version, length = np.frombuffer(head[8:].ljust(8, b"\0"), "<u4")
        if head[:8] != MAGIC:
            raise InputError(
                f"{path} is not a soft-label store: give the file that `scdd relabel` wrote"
            )
        if version != VERSION:
            raise InputError(
                f"{path} has the format version {version}, this program reads {VERSION}: remove it and relabel again"
            )
        try:
            self.meta = json.loads(self.bytes[16 : 16 + length].tobytes())
        except ValueError as error:
            raise InputError(f"{path}: its metadata is wrong ({error}); {AGAIN}") from error
        self.epochs, self.classes = self.meta["epochs"], self.meta["classes"]
        self.stored_epochs = self.meta.get("stored_epochs", self.epochs)
        self.batches = -(-self.meta["images"] // self.meta["batch_size"])
        self.pad = self.meta.get("pad", 0)
        augment = self.meta.get("augment") or {}
        self.operations = {"rand_augment": augment.get("operations", 0), "dsa": 1}.get(
            augment.get("type", ""), 0
        )
        start = -(-(16 + int(length)) // 8) * 8
        places = self.stored_epochs * self.batches + 1
        self.index = self.bytes[start : start + 8 * places].view("<u8")
        if len(self.index) != places or self.index[-1] != len(self.bytes):
            raise InputError(
                f"{path} has {len(self.bytes)} bytes, not what its metadata announces; {AGAIN}"
            )
        end = start + 8 * places
        self.head = hashlib.sha256(self.bytes[:end].data).digest()
        if self.head != self.bytes[end : end + HASH].tobytes():
            raise InputError(
                f"{path}: its head is not as it was written (its hash differs); {AGAIN}"
            )
        self.path = path
        self.checked: set[int] = set()
        self.row = self._row()

    def _row(self) -> np.dtype:
        top_k, kind = self.meta.get("top_k"), self.meta["dtype"]
        k = top_k["k"] if top_k else 0
        fields: list[tuple[Any, ...]] = [("classes", "<u2", (k,))] if top_k else []
        fields += [("low", "<f2"), ("step", "<f2")] if kind == "i8" else []
        self.has_common = not top_k or top_k["temperature"] is not None
        count = k + self.has_common if top_k else self.classes
        return np.dtype([*fields, ("numbers", NUMBERS[kind], (count,))])

    def _check(self, epoch: int) -> None:
        """Compares the hash of a stored epoch, once."""
        if epoch in self.checked:
            return
        start, end = (int(self.index[place * self.batches]) for place in (epoch, epoch + 1))
        hasher = hashlib.sha256(self.head + epoch.to_bytes(8, "little"))
        hasher.update(self.bytes[start : end - HASH].data)
        if hasher.digest() != self.bytes[end - HASH : end].tobytes():
            raise InputError(
                f"{self.path}: epoch {epoch} is not as it was written (its hash differs); {AGAIN}"
            )
        self.checked.add(epoch)

    def batch(self, epoch: int, number: int) -> LabelBatch:
        """Batch `number` of epoch `epoch`, both from 0, in any order.

        Raises `InputError` where the epoch is damaged.
        """
        if not (0 <= epoch < self.epochs and 0 <= number < self.batches):
            raise IndexError(
                f"batch {number} of epoch {epoch}: there are {self.epochs} epochs of {self.batches} batches"
            )
        self._check(epoch % self.stored_epochs)
        place = epoch % self.stored_epochs * self.batches + number
        record = self.bytes[self.index[place] : self.index[place + 1]]
        last = number == self.batches - 1
        n = (
            self.meta["images"] - number * self.meta["batch_size"]
            if last
            else self.meta["batch_size"]
        )
        augmented = n * self.operations * OPERATION.itemsize
        sizes = np.cumsum([16, 4 * n, 4 * n, 8 * n, augmented, n * self.row.itemsize, n])
        head, indices, partners, views, operations, rows, flips = np.split(record, sizes)[:7]
        return LabelBatch(
            indices=indices.view("<u4").astype(np.int64),
            views=views.view("<u2").reshape(n, 4).astype(np.int64),
            flips=flips != 0,
            operations=operations.view(OPERATION).reshape(n, self.operations),
            mix=MIXES[head[:4].view("<u4")[0]],
            share=float(head[4:8].view("<f4")[0]),
            box=tuple(head[8:].view("<u2").tolist()),
            partners=partners.view("<u4").astype(np.int64),
            logits=self._logits(rows.view(self.row)),
        )

    def _logits(self, rows: np.ndarray) -> np.ndarray:
        numbers = rows["numbers"].astype(np.float32)
        names = self.row.names or ()
        if "step" in names:
            low, step = (rows[name].astype(np.float32)[:, None] for name in ("low", "step"))
            numbers = low + step * numbers
        if "classes" not in names:
            return numbers
        classes = rows["classes"].astype(np.int64)
        if self.has_common:
            logits = np.repeat(numbers[:, -1:], self.classes, axis=1)
        else:
            logits = np.full((len(numbers), self.classes), NO_PROBABILITY, np.float32)
        np.put_along_axis(logits, classes, numbers[:, : classes.shape[1]], axis=1)
        return logits


def replay(
    images: Tensor,
    batch: LabelBatch,
    store: LabelStore,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> Tensor:
    """What the teacher saw: `[n, C, h, w]` of the batch's images `[n, C, H, W]`, with values in
    0..1 (black is 0).

    Where views were augmented by DSA, `mean` and `std` are the teacher's, one for each channel.
    """
    size = (store.meta["input"]["height"], store.meta["input"]["width"])
    views = []
    for image, (top, left, height, width), flip, operations in zip(
        images, batch.views, batch.flips, batch.operations, strict=True
    ):
        on_pixels = [operation for operation in operations if operation["kind"] < len(RAND_AUGMENT)]
        box = F.pad(_rand_augmented(image, on_pixels), (store.pad,) * 4)
        box = box[None, :, top : top + height, left : left + width]
        view = F.interpolate(box, size, mode="bilinear", align_corners=False, antialias=False)
        view = view.flip(3) if flip else view
        for operation in operations[len(on_pixels) :]:
            if mean is None or std is None:
                raise InputError(
                    "these views were augmented by DSA: give the teacher's mean and std to replay them"
                )
            centre, scale = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
            view = _dsa(
                DSA[operation["kind"] - len(RAND_AUGMENT)],
                (view - centre) / scale,
                operation["values"],
            )
            view = view * scale + centre
        views.append(view)
    seen = torch.cat(views)
    if batch.mix == "mixup":
        return batch.share * seen + (1 - batch.share) * seen[batch.partners]
    if batch.mix == "cutmix":
        top, left, height, width = batch.box
        inside = (..., slice(top, top + height), slice(left, left + width))
        mixed = seen.clone()
        mixed[inside] = seen[batch.partners][inside]
        return mixed
    return seen


def _rand_augmented(image: Tensor, operations: list[np.void]) -> Tensor:
    if not operations:
        return image
    pixels = (image * 255).round().to(torch.uint8)
    for operation in operations:
        name, value = RAND_AUGMENT[operation["kind"]], float(operation["values"][0])
        pixels = _apply_op(pixels, name, value, InterpolationMode.NEAREST, None)
    return pixels / 255


def _dsa(name: str, x: Tensor, values: np.ndarray) -> Tensor:
    """One of DSA's operations on normalised views `[1, C, H, W]`."""
    first, second, third = (float(value) for value in values)
    height, width = x.shape[2:]
    if name == "color":
        x = x + (first - 0.5)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) * (2 * second) + mean
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * (third + 0.5) + mean
    if name == "crop":
        rows, columns = abs(int(first)), abs(int(second))
        padded = F.pad(x, (columns, columns, rows, rows))
        top, left = rows + int(first), columns + int(second)
        return padded[:, :, top : top + height, left : left + width]
    if name == "cutout":
        rows, columns = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        inside = torch.zeros(height, width, dtype=torch.bool)
        row = (torch.arange(rows) + int(first) - rows // 2).clamp(0, height - 1)
        column = (torch.arange(columns) + int(second) - columns // 2).clamp(0, width - 1)
        inside[row[:, None], column] = True
        return x.masked_fill(inside, 0.0)
    if name == "flip":
        return x.flip(3) if first else x
    theta = torch.tensor([[first, 0.0, 0.0], [0.0, second, 0.0]])
    if name == "rotate":
        angle = torch.tensor(first)
        theta = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])
    grid = F.affine_grid(theta[None], list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
