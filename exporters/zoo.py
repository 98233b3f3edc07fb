"""Many teachers by one command: `zoo CONFIG...` makes their bundles, `teachers FOLDER...` the
tables of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import data, models, registry
from .bundle import IMPORTED, export_teacher
from .config import read_yaml
from .errors import InputError
from .files import write_aside
from .pretrain import pretrain, read_config
from .probe import measure, probe
from .recalibrate import recalibrate_network

COLUMNS = (
    "teacher",
    "scheme",
    "parameters",
    "epochs",
    "wall min",
    "CPU min",
    "top-1",
    "linear probe",
    "k-NN",
    "MB",
)


def zoo(
    configs: list[Path], data_root: Path, output: Path, *, say: Callable[[str], None] = print
) -> None:
    """Pretrains, probes and exports what each configuration describes, except where `output` has
    the bundle.

    An interrupted training resumes.
    """
    for path in configs:
        config, _, _ = read_config(path)
        if (output / config.name).exists():
            say(f"{config.name}: {output / config.name} exists, skipped")
            continue
        export_teacher(
            probe(pretrain(path, data_root, say=say), data_root, say=say),
            data_root,
            output,
            say=say,
        )


def teachers(
    folders: list[Path], data_root: Path, output: Path, *, say: Callable[[str], None] = print
) -> None:
    """Writes Markdown tables of the teachers' bundles, one per folder, with random backbones beside
    them.

    Rows of random backbones that `output` has already stay, since each takes minutes. Delete them
    to measure anew, as after a change of the probe.
    """
    known = _random_rows(output)
    tables = [_table(folder, data_root, known, say) for folder in folders]
    given = " ".join(folder.as_posix() for folder in folders)
    text = (
        f"# Teachers\n\nWritten by `python -m exporters teachers {given} --table {output.as_posix()}` from the "
        "bundles' manifests. Accuracies are percentages on the whole test set: top-1 of the bundle as exported, a "
        "linear probe and k-NN (k = 20) of the features. Wall minutes of the pretraining include what other programs "
        "took of the machine. Random backbones are untrained, with BN statistics of the clean training images; their "
        "rows are kept, and measured anew where they are deleted.\n\n" + "\n".join(tables)
    )
    write_aside(output, lambda file: file.write(text.encode()))
    say(f"{output}: teachers of {len(folders)} folders")


def _random_rows(table: Path) -> dict[tuple[str, str, str], list[str]]:
    """The rows of random backbones in `table`, if it is there, by folder, name and parameters.

    Where two rows have all these in common, neither is known.
    """
    rows: dict[tuple[str, str, str], list[str]] = {}
    twice: set[tuple[str, str, str]] = set()
    folder = ""
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else []:
        if line.startswith("## "):
            folder = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("random ") and len(cells) == len(COLUMNS):
            key = folder, cells[0], cells[2]
            twice |= {key} & rows.keys()
            rows[key] = cells
    return {key: row for key, row in rows.items() if key not in twice}


def _table(
    folder: Path,
    data_root: Path,
    known: dict[tuple[str, str, str], list[str]],
    say: Callable[[str], None],
) -> str:
    """The section of `folder`, whose subfolders are bundles."""
    manifests = [read_yaml(path) for path in sorted(folder.glob("*/manifest.yaml"))]
    manifests = sorted((each for each in manifests if each["role"] == "teacher"), key=_order)
    if not manifests:
        raise InputError(f"{folder} holds no teacher's bundle")
    architectures = {
        repr(each["architecture"]): each
        for each in manifests
        if _is_buildable(each) and _has_known_data(each)
    }
    rows = [_row(manifest) for manifest in manifests]
    for manifest in architectures.values():
        key = folder.as_posix(), _random_name(manifest), f"{_parameters(manifest):,}"
        rows.append(known.get(key) or _random_row(manifest, data_root, say))
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    total = (
        sum(entry["bytes"] for manifest in manifests for entry in manifest["files"].values()) / 1e6
    )
    return (
        f"## {folder.as_posix()}\n\n{len(manifests)} bundles, {total:.1f} MB.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _order(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["architecture"]["name"], manifest["pretraining"]["scheme"]


def _row(manifest: dict[str, Any]) -> list[str]:
    pretraining = manifest["pretraining"]
    accuracy = manifest.get("accuracy")
    return [
        manifest["name"],
        pretraining["scheme"],
        f"{_parameters(manifest):,}" if _is_buildable(manifest) else "",
        "" if pretraining["epochs"] is None else str(pretraining["epochs"]),
        _minutes(pretraining["wall_seconds"]),
        _minutes(pretraining.get("cpu_seconds")),
        _percent(accuracy["top1"] if accuracy else None),
        _percent(pretraining["probe_accuracy"]),
        _percent(pretraining["knn_accuracy"]),
        f"{sum(entry['bytes'] for entry in manifest['files'].values()) / 1e6:.1f}",
    ]


def _random_name(manifest: dict[str, Any]) -> str:
    return f"random {manifest['architecture']['name']}"


def _random_row(manifest: dict[str, Any], data_root: Path, say: Callable[[str], None]) -> list[str]:
    name, options = manifest["architecture"]["name"], manifest["architecture"]["options"]
    dataset = data.info(manifest["pretraining"]["dataset"])
    train, test = (data.load(dataset, data_root, split) for split in ("train", "test"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build(name, options)
    models.take_head(name, model)
    recalibrate_network(model, train, dataset)
    measured = measure(model, train, test, dataset)
    title = _random_name(manifest)
    say(f"{title}: linear probe {measured.accuracy:.4f}, k-NN {measured.knn:.4f}")
    row = [title, "none", f"{_parameters(manifest):,}", "0", "", "", ""]
    return [*row, _percent(measured.accuracy), _percent(measured.knn), ""]


def _is_buildable(manifest: dict[str, Any]) -> bool:
    """Imported graphs have no builder here."""
    return manifest["architecture"]["name"] != IMPORTED


def _has_known_data(manifest: dict[str, Any]) -> bool:
    """Where images of one's own lie, no manifest tells."""
    return manifest["pretraining"]["dataset"] in registry.names()


def _parameters(manifest: dict[str, Any]) -> int:
    model = models.build(manifest["architecture"]["name"], manifest["architecture"]["options"])
    return sum(parameter.numel() for parameter in model.parameters())


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
