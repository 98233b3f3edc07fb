"""Bundles, as docs/bundle.md describes them: command `export CHECKPOINT`, and the writer of all
bundles."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from . import __version__, data, golden, graph
from .errors import CheckError, InputError
from .files import sha256
from .network import Checkpoint

TOLERANCE = 1e-4
IMPORTED = "imported"
"""The architecture of a graph that others exported."""
PARTS = ("running_mean", "running_var", "weight", "bias")
CLASS_IMAGES = 500
"""How many training images of each class its statistics are measured on."""


def export_teacher(
    path: Path,
    data_root: Path,
    output: Path,
    *,
    chosen: data.Options = data.AS_KNOWN,
    name: str | None = None,
    replace: bool = False,
    test: data.Split | None = None,
    train: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the network at `path` as the bundle `output/name`; accuracy is the written graph's, in
    ONNX Runtime.

    The statistics of classes are measured on `train`; both splits are read from `data_root` where
    `test` is not given.
    """
    checkpoint = Checkpoint.load(path)
    if checkpoint.pretraining.head == "none":
        raise InputError(f"{path} has no classifier; run `python -m exporters probe {path}` first")
    dataset = chosen.of(checkpoint.dataset())
    if test is None:
        test, train = (
            data.load(dataset, data_root, split, sample=sample)
            for split, sample in (("test", None), ("train", chosen.sample))
        )
    source = {"file": path.name, "sha256": sha256(path)}
    return write_teacher(
        checkpoint, dataset, test, source, output, train=train, name=name, replace=replace, say=say
    )


def write_teacher(
    checkpoint: Checkpoint,
    dataset: data.DatasetInfo,
    test: data.Split | None,
    source: dict[str, Any],
    output: Path,
    *,
    train: data.Split | None = None,
    name: str | None,
    replace: bool,
    say: Callable[[str], None],
) -> Path:
    """Writes a network as the bundle `output/name`; without `test` its accuracy stays unmeasured,
    without `train` the statistics of classes.

    Without a classifier the bundle's output are features: it serves for statistics only.
    """
    writer = Writer(
        name or checkpoint.name,
        "teacher",
        dataset,
        checkpoint.architecture,
        checkpoint.options,
        output,
        replace,
    )
    facts = {"pretraining": asdict(checkpoint.pretraining), "source": source}
    return writer.write(checkpoint.network(), test, facts, say, train)


@dataclass(frozen=True)
class Statistics:
    """What is known of a network's activations: the kind as in the manifest, the layers, and their
    side tensors."""

    kind: str
    layers: list[graph.Layer]
    tensors: dict[str, Tensor]
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Writer:
    name: str
    role: str
    dataset: data.DatasetInfo
    architecture: str
    options: dict[str, Any]
    output: Path
    replace: bool

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise InputError(
                f"bundle name {self.name!r}: letters, digits, dots, dashes and underscores are allowed"
            )
        if (self.output / self.name).exists() and not self.replace:
            raise InputError(
                f"{self.output / self.name} exists; choose another --out or --name, or give --replace"
            )

    def write(
        self,
        model: nn.Module,
        test: data.Split | None,
        facts: dict[str, Any],
        say: Callable[[str], None],
        train: data.Split | None = None,
    ) -> Path:
        shape = (self.dataset.channels, self.dataset.size, self.dataset.size)
        headless = facts.get("pretraining", {}).get("head") == "none"
        model = graph.prepare(model)
        serialised, layers = graph.to_onnx(
            model, shape, graph.FEATURES if headless else graph.OUTPUT
        )
        if headless and not layers:
            raise InputError(
                "a network without classifier and without BN layers has nothing that could teach"
            )
        if "init" in facts:
            self._check_trainable(serialised, facts["init"])
        images = (
            data.normalise(data.to_float(test.images[:2]), self.dataset.mean, self.dataset.std)
            if test
            else None
        )
        labels = test.labels[:2] if test else None
        inputs, targets = golden.golden_input(images, labels, shape, len(self.dataset.classes))
        probe = (inputs, None if headless else targets)
        session = session_of(serialised)
        difference = compare_to_torch(session, model, shape)
        if self.role == "teacher" and test and not headless:
            facts = facts | {"accuracy": self.accuracy(session, test)}
        tensors, calibration = bn_statistics(model, layers), None
        if train and layers and not headless:
            of_classes, measured = class_statistics(model, layers, train, self.dataset)
            tensors |= of_classes
            calibration = {"data": self.dataset.name, "images": measured, "per_class": True}
        statistics = Statistics("batch_norm" if layers else "none", layers, tensors, calibration)
        exact = graph.standardised_module(model, serialised)
        self.publish(serialised, statistics, golden.golden(exact, layers, tensors, *probe), facts)
        accuracy = f", top-1 {facts['accuracy']['top1']:.4f}" if "accuracy" in facts else ""
        say(
            f"{self.output / self.name}: {len(layers)} BN layers, ONNX Runtime within {difference:.1e}{accuracy}"
        )
        return self.output / self.name

    def _check_trainable(self, serialised: bytes, init: list[dict[str, Any]]) -> None:
        """An InputError where the graph holds what was made of a student's parameters instead of
        the parameters."""
        held = {tensor.name for tensor in onnx.load_from_string(serialised).graph.initializer}
        if lacking := [entry["parameter"] for entry in init if entry["parameter"] not in held]:
            raise InputError(
                f"architecture {self.architecture} can't be a student: {len(lacking)} of its parameters, such as "
                f"{lacking[0]}, are not in its graph, which holds what is made of them (standardised weights); choose "
                "another"
            )

    def publish(
        self,
        serialised: bytes,
        statistics: Statistics,
        probe: dict[str, Tensor],
        facts: dict[str, Any],
    ) -> None:
        """Writes the four files aside and renames their folder; `probe` is what
        `golden.safetensors` holds."""
        files = {
            "model.onnx": serialised,
            "bn_stats.safetensors": to_safetensors(statistics.tensors),
            "golden.safetensors": to_safetensors(probe),
        }
        self.output.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=self.output, prefix=f".{self.name}."))
        try:
            for file, content in files.items():
                (aside / file).write_bytes(content)
            manifest = self._manifest(
                onnx.load_from_string(serialised), statistics, facts, aside, list(files)
            )
            (aside / "manifest.yaml").write_text(manifest, encoding="utf-8")
            for path in aside.iterdir():
                path.chmod(0o644)
            aside.chmod(0o755)
            self._rename(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def _rename(self, aside: Path) -> None:
        target = self.output / self.name
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=self.output, prefix=f".{self.name}.old."))
            os.replace(target, old / self.name)
            os.replace(aside, target)
            shutil.rmtree(old)
        else:
            os.replace(aside, target)

    def accuracy(self, session: onnxruntime.InferenceSession, test: data.Split) -> dict[str, Any]:
        right = 0
        for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True):
            inputs = data.normalise(data.to_float(images), self.dataset.mean, self.dataset.std)
            right += int((run(session, inputs).argmax(1) == labels.numpy()).sum())
        return {"top1": right / len(test.labels), "split": "test", "images": len(test.labels)}

    def _manifest(
        self,
        proto: onnx.ModelProto,
        statistics: Statistics,
        facts: dict[str, Any],
        folder: Path,
        files: list[str],
    ) -> str:
        headless = facts.get("pretraining", {}).get("head") == "none"
        manifest: dict[str, Any] = {
            "format": "scdd-bundle",
            "version": 1,
            "name": self.name,
            "role": self.role,
            "architecture": {"name": self.architecture, "options": self.options},
            **{key: facts[key] for key in ("pretraining", "source") if key in facts},
            "preprocessing": {
                "channels": self.dataset.channels,
                "height": self.dataset.size,
                "width": self.dataset.size,
                "mean": list(self.dataset.mean),
                "std": list(self.dataset.std),
                "interpolation": "bilinear",
            },
            "classes": [] if headless else list(self.dataset.classes),
            **{key: facts[key] for key in ("accuracy",) if key in facts},
            "onnx": {
                "opset": next(
                    stamp.version for stamp in proto.opset_import if stamp.domain in ("", "ai.onnx")
                ),
                "ir_version": proto.ir_version,
                "input": graph.INPUT,
                "output": graph.FEATURES if headless else graph.OUTPUT,
            },
            "statistics": {
                "kind": statistics.kind,
                "layers": [asdict(layer) for layer in statistics.layers],
                **({"calibration": statistics.calibration} if statistics.calibration else {}),
            },
            "golden": {"r_bn": golden.R_BN, "first_bn_multiplier": golden.FIRST_BN_MULTIPLIER},
            **{key: facts[key] for key in ("init",) if key in facts},
            "versions": {
                "python": platform.python_version(),
                **{
                    package: version(package)
                    for package in ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
                },
                "exporters": __version__,
            },
            "files": {
                file: {"sha256": sha256(folder / file), "bytes": (folder / file).stat().st_size}
                for file in files
            },
        }
        return yaml.safe_dump(
            manifest, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
        )


def bn_statistics(model: nn.Module, layers: list[graph.Layer]) -> dict[str, Tensor]:
    """The side tensors of BN layers: the modules' own."""
    state = model.state_dict()
    names = [f"{layer.key}.{part}" for layer in layers for part in PARTS]
    return {name: state[name].contiguous() for name in names}


@torch.no_grad()
def class_statistics(
    model: nn.Module,
    layers: list[graph.Layer],
    train: data.Split,
    dataset: data.DatasetInfo,
    batch_size: int = 100,
) -> tuple[dict[str, Tensor], int]:
    """`<key>.class_mean` and `<key>.class_var` `[K, C]` of the first images of each class, and how
    many that were."""
    found: dict[str, list[Tensor]] = {}
    measured = 0
    for label, name in enumerate(dataset.classes):
        chosen = train.images[train.labels == label][:CLASS_IMAGES]
        if not len(chosen):
            raise InputError(f"no training image of class {name!r} to measure its statistics on")
        measured += len(chosen)
        sums = {layer.key: torch.zeros(2, layer.channels, dtype=torch.float64) for layer in layers}
        for images in chosen.split(batch_size):
            with golden.observe(model, layers) as seen:
                model.eval()(data.normalise(data.to_float(images), dataset.mean, dataset.std))
            for layer in layers:
                mean, variance = golden.channel_statistics(seen[layer.key].double(), layer)
                sums[layer.key] += (
                    torch.stack([mean, variance + mean.square()]) * len(images) / len(chosen)
                )
        for key, (mean, square) in sums.items():
            found.setdefault(f"{key}.class_mean", []).append(mean)
            found.setdefault(f"{key}.class_var", []).append((square - mean.square()).clamp_min(0))
    return {name: torch.stack(values).float() for name, values in found.items()}, measured


@torch.no_grad()
def calibrated_statistics(
    model: nn.Module, layers: list[graph.Layer], images: Tensor
) -> dict[str, Tensor]:
    """The side tensors of activations without a BN, measured on `images`; their affine changes
    nothing."""
    with golden.observe(model, layers) as seen:
        model.eval()(images)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        mean, variance = golden.channel_statistics(seen[layer.key], layer)
        ones = torch.ones(layer.channels)
        values = (mean, variance, ones, torch.zeros_like(ones))
        tensors |= {f"{layer.key}.{part}": value for part, value in zip(PARTS, values, strict=True)}
    return tensors


def session_of(serialised: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    return onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: Tensor) -> np.ndarray:
    """Logits `[N, K]`, or features `[N, D]`, for normalised images `[N, C, H, W]`."""
    return session.run(None, {graph.INPUT: inputs.contiguous().numpy()})[0]


@torch.no_grad()
def compare_to_torch(
    session: onnxruntime.InferenceSession, model: nn.Module, shape: tuple[int, int, int]
) -> float:
    """The largest difference of logits at batch sizes 1 and 3; an error above TOLERANCE * max(1,
    max|logit|)."""
    largest = 0.0
    for count in (1, 3):
        inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        wanted = model.eval()(inputs).numpy()
        got = run(session, inputs)
        difference = (
            float(np.abs(got - wanted).max()) if got.shape == wanted.shape else float("inf")
        )
        if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise CheckError(
                f"ONNX Runtime and PyTorch differ by {difference:.3g} in the logits at batch size {count}"
            )
        largest = max(largest, difference)
    return largest
