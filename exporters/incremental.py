"""Class-incremental learning from distilled sets: `python -m exporters incremental SET …`.

The protocol is SRe2L's (arXiv 2306.13092, section 4.5) after DM's (arXiv 2110.04181): classes come
in steps of equal size, in a random order. What remains of past steps are the distilled images of
their classes. At each step a fresh student is trained on the images of all classes so far, and
tested on the real test images of these classes, with their outputs alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from . import data, models
from .config import parse, read_yaml
from .data import DatasetInfo
from .distilled import DistilledSet, learn
from .errors import InputError
from .evaluate import outputs, top1
from .student import StudentConfig

LEARNING_RATE = 0.003


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
        learn(model, distilled, seen, dataset, LEARNING_RATE)
        place = torch.full((len(order),), -1).scatter(0, seen, torch.arange(len(seen)))
        known = torch.isin(test.labels, seen)
        logits = outputs(model, test.images[known], dataset)
        found.append(top1(logits, place[test.labels[known]]))
        note(f"{distilled.name}, seed {seed}: {len(seen)} classes, {100 * found[-1]:.1f} %")
    return found
