"""A bundle's network back as a checkpoint, for `probe`, `recalibrate` and `export`:
`python -m exporters unpack`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from . import data, models, registry
from .config import parse, read_yaml
from .data import DatasetInfo
from .errors import InputError, check_there, listed
from .files import sha256
from .network import Checkpoint, Pretraining, own_data


def unpack(folder: Path, output: Path, *, say: Callable[[str], None] = print) -> Path:
    """Writes the network of the teacher's bundle in `folder` to `output`; its weights are those of
    the graph."""
    check_there(folder / "manifest.yaml", "`python -m exporters export` writes a bundle")
    manifest = read_yaml(folder / "manifest.yaml")
    if manifest.get("format") != "scdd-bundle" or manifest.get("role") != "teacher":
        raise InputError(
            f"{folder} is no teacher's bundle: name a folder that `python -m exporters export` wrote"
        )
    architecture = manifest.get("architecture")
    if not isinstance(architecture, dict) or "options" not in architecture:
        raise InputError(
            f"{folder}: its network was imported as an ONNX graph, which has no architecture to unpack into; use the "
            "checkpoint that the graph was exported from"
        )
    weights = _initializers(
        folder / "model.onnx", (manifest.get("files") or {}).get("model.onnx") or {}
    )
    if manifest.get("pretraining") is None:
        raise InputError(
            f"{folder}/manifest.yaml lacks `pretraining`, which the checkpoint must hold"
        )
    pretraining = parse(Pretraining, manifest["pretraining"], str(folder / "manifest.yaml"))
    names = models.shapes(architecture["name"], architecture["options"])
    headless = (
        f"{models.architecture(architecture['name']).head}." if pretraining.head == "none" else None
    )
    wanted = [name for name in names if headless is None or not name.startswith(headless)]
    counters = {
        name: torch.zeros((), dtype=torch.int64)
        for name in wanted
        if name.endswith("num_batches_tracked")
    }
    missing = [name for name in wanted if name not in weights and name not in counters]
    if missing:
        raise InputError(
            f"{folder}: the graph lacks parameters of {architecture['name']}: {listed(missing)}; "
            "use the checkpoint that it was exported from"
        )
    state = {name: counters[name] if name in counters else weights[name] for name in wanted}
    checkpoint = Checkpoint(
        manifest["name"],
        architecture["name"],
        architecture["options"],
        pretraining,
        state,
        own_data(_dataset(manifest, pretraining.dataset)),
    )
    checkpoint.network()
    checkpoint.save(output)
    say(f"{output}: {manifest['name']}, {len(state) - len(counters)} tensors")
    return output


def _dataset(manifest: dict[str, Any], name: str) -> DatasetInfo:
    """The data set `name` as the network takes its images."""
    found = manifest["preprocessing"]
    classes = manifest["classes"]
    if not classes and name in registry.names():
        classes = data.info(name).classes
    return DatasetInfo(
        name,
        found["channels"],
        found["height"],
        tuple(classes),
        tuple(found["mean"]),
        tuple(found["std"]),
    )


def _initializers(path: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    if not path.exists() or sha256(path) != entry.get("sha256"):
        raise InputError(
            f"{path} is not the file that the manifest describes: copy the bundle again"
        )
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InputError(f"{path} is not a readable ONNX file: {error}") from error
    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
