"""Distilled sets that `scdd export-set --as npz` wrote, and networks that learn from them.

Soft labels are of views that are not mixed, so that every class can be taken by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data
from .data import DatasetInfo
from .errors import InputError, check_there
from .labels import LabelStore, replay

TEMPERATURE = 4.0
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class DistilledSet:
    """`images` in 0..1, float32 `[N, C, H, W]`; `labels` their classes, int64 `[N]`; `store` the
    views and logits."""

    name: str
    images: Tensor
    labels: Tensor
    store: LabelStore

    @staticmethod
    def read(folder: Path) -> DistilledSet:
        """What `scdd export-set --as npz` wrote into `folder`."""
        check_there(folder, "`scdd export-set --as npz` writes such folders")
        stores = sorted(folder.glob("labels/*.scdd"))
        if len(stores) != 1 or not (folder / "images.npz").is_file():
            raise InputError(
                f"{folder} holds no images.npz with one file of soft labels in labels: name a folder that "
                "`scdd export-set --as npz` wrote, of an experiment with one protocol"
            )
        arrays, store = np.load(folder / "images.npz"), LabelStore(stores[0])
        if store.meta["mix"] != "none":
            raise InputError(
                f"{stores[0]} holds labels of mixed views, which belong to two classes each: relabel with "
                "`mix: {type: none}`"
            )
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
        return DistilledSet(folder.name, images, torch.from_numpy(arrays["labels"]), store)

    def views(self, epoch: int, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the views of `classes` in an epoch, and the logits `[n, len(classes)]` for
        these classes."""
        kept = torch.isin(self.labels, classes).numpy()
        views, logits = [], []
        for number in range(self.store.batches):
            batch = self.store.batch(epoch, number)
            rows = np.flatnonzero(kept[batch.indices])
            if not len(rows):
                continue
            mine = replace(
                batch,
                indices=batch.indices[rows],
                views=batch.views[rows],
                flips=batch.flips[rows],
                operations=batch.operations[rows],
                logits=batch.logits[rows],
            )
            views.append(replay(self.images[mine.indices], mine, self.store))
            logits.append(torch.from_numpy(mine.logits)[:, classes])
        size = self.store.meta["batch_size"]
        yield from zip(torch.cat(views).split(size), torch.cat(logits).split(size), strict=True)


def learn(
    model: nn.Module,
    distilled: DistilledSet,
    classes: Tensor,
    dataset: DatasetInfo,
    learning_rate: float,
) -> None:
    """Teaches `model` the teacher's answers about `classes` by the views of their images: KL
    divergence, AdamW with a cosine from `learning_rate` to 0."""
    epochs = distilled.store.epochs
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for epoch in range(epochs):
        for views, logits in distilled.views(epoch, classes):
            seen = model(data.normalise(views, dataset.mean, dataset.std))
            teacher = F.softmax(logits / TEMPERATURE, 1)
            loss = F.kl_div(F.log_softmax(seen / TEMPERATURE, 1), teacher, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
