"""Class-incremental learning from distilled sets: `python -m exporters incremental SET …`.

The protocol is SRe2L's (arXiv 2306.13092, section 4.5) after DM's (arXiv 2110.04181): classes come
in steps of equal size, in a random order. What remains of past steps are the distilled images of
their classes. At each step a fresh student is trained on the images of all classes so far, and
tested on the real test images of these classes, with their outputs alone.

A set is a folder that `scdd export-set --as npz` wrote, with soft labels of views that are not
mixed: a mixture of two classes could not be taken apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, models
from .config import parse, read_yaml
from .data import DatasetInfo
from .errors import InputError, check_there
from .evaluate import outputs, top1
from .labels import LabelStore, replay
from .student import StudentConfig

TEMPERATURE = 4.0
LEARNING_RATE = 0.003
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


def incremental(
    folders: list[Path],
    student: Path,
    data_root: Path,
    *,
    steps: int,
    seeds: list[int],
    say: Callable[[str], None] = print,
    note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Trains the network that the configuration `student` describes on each set of `folders`, and
    tells a Markdown table of accuracies in percent: after each step, and their mean.

    `note` is told each accuracy as soon as it is there, since a row takes minutes.
    """
    config = parse(StudentConfig, read_yaml(student), str(student))
    dataset = data.info(config.dataset)
    if len(dataset.classes) % steps:
        raise InputError(
            f"--steps: {len(dataset.classes)} classes do not part into {steps} equal steps"
        )
    sets = [DistilledSet.read(folder) for folder in folders]
    for each in sets:
        if each.store.classes != len(dataset.classes):
            raise InputError(
                f"{each.name} has labels of {each.store.classes} classes, but {dataset.name} has "
                f"{len(dataset.classes)}: name a --student for its data set"
            )
    test = data.load(dataset, data_root, "test")
    share = len(dataset.classes) // steps
    heads = " | ".join(str(share * step) for step in range(1, steps + 1))
    say(f"| {config.name}, classes seen | {heads} | mean |\n| --- |{' --: |' * (steps + 1)}")
    for each in sets:
        found = [_accuracies(each, config, dataset, test, steps, seed, note) for seed in seeds]
        mean = np.mean(found, 0)
        cells = " | ".join(f"{100 * value:.1f}" for value in [*mean, mean.mean()])
        say(f"| {each.name} | {cells} |")


def _accuracies(
    distilled: DistilledSet,
    config: StudentConfig,
    dataset: DatasetInfo,
    test: data.Split,
    steps: int,
    seed: int,
    note: Callable[[str], None],
) -> list[float]:
    """The accuracy after each step. `seed` gives the order of the classes and the students' first
    weights."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(dataset.classes)))
    found = []
    for step in range(1, steps + 1):
        seen = order[: len(order) * step // steps]
        options = models.resolve(
            config.architecture.name,
            config.architecture.options,
            channels=dataset.channels,
            size=dataset.size,
            classes=len(seen),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = models.build(config.architecture.name, options)
        _train(model, distilled, seen, dataset)
        place = torch.full((len(order),), -1).scatter(0, seen, torch.arange(len(seen)))
        known = torch.isin(test.labels, seen)
        logits = outputs(model, test.images[known], dataset)
        found.append(top1(logits, place[test.labels[known]]))
        note(f"{distilled.name}, seed {seed}: {len(seen)} classes, {100 * found[-1]:.1f} %")
    return found


def _train(
    model: nn.Module, distilled: DistilledSet, classes: Tensor, dataset: DatasetInfo
) -> None:
    """Learns the teacher's answers about `classes` from the views of their images, AdamW with a
    cosine to 0."""
    epochs = distilled.store.epochs
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
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
