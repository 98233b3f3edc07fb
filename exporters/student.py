"""Bundles of untrained networks: command `export-student CONFIG.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from . import data, models
from .bundle import Writer
from .config import parse, read_yaml
from .initialisation import initialisation
from .pretrain import ArchitectureConfig


@dataclass(frozen=True)
class StudentConfig:
    """An untrained network; `seed` is of the draw that the golden probe is computed with."""

    name: str
    dataset: str
    architecture: ArchitectureConfig
    seed: int = 0


def export_student(
    path: Path,
    data_root: Path,
    output: Path,
    *,
    chosen: data.Options = data.AS_KNOWN,
    replace: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the untrained network that the configuration at `path` describes as the bundle
    `output/name`."""
    config = parse(StudentConfig, read_yaml(path), str(path))
    dataset = chosen.describe(config.dataset)
    options = models.resolve_for(dataset, config.architecture.name, config.architecture.options)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = models.build(config.architecture.name, options).eval()
    recipes = initialisation(model)
    parameters = dict(model.named_parameters())
    init = [
        {"parameter": name, "shape": list(parameters[name].shape), "distribution": recipe}
        for name, recipe in recipes.items()
    ]
    writer = Writer(
        config.name, "student", dataset, config.architecture.name, options, output, replace
    )
    return writer.write(
        model, data.load(dataset, data_root, "test", lazy=True), {"init": init}, say
    )
