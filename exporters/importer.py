"""Bundles of ONNX files that others exported: `import FILE.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from . import bundle, data, foreign, golden, reference, registry, sources
from .errors import CheckError, InputError
from .graph import Layer, keep_padding
from .network import Pretraining

PROBE_IMAGES = 2


def import_onnx(
    path: Path,
    data_root: Path,
    output: Path,
    *,
    dataset_name: str | None = None,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes_path: Path | None = None,
    scheme: str = "unknown",
    output_value: str | None = None,
    name: str | None = None,
    replace: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the network in the ONNX file at `path` as the bundle `output/name` and tells what
    became of it.

    Its images and classes are those of the data set (ImageNet, if none is named), but for what is
    given beside it. With classes of one's own and no data set, what it was trained on is unknown.
    Accuracy is measured if the data are there.
    """
    proto, source = foreign.read(path)
    foreign.check_kind(proto)
    keep_padding(proto)
    value, (batch, channels, *sides) = foreign.image_input(proto)
    dataset = _dataset(
        dataset_name or data.IMAGENET, channels, sides, size, mean, std, classes_path
    )
    if dataset_name is None and dataset.classes != data.info(data.IMAGENET).classes:
        dataset = changed(dataset, name=data.UNKNOWN)
        if mean is None or std is None:
            say("no --dataset, --mean and --std: images are normalised as ImageNet's")
    writer = bundle.Writer(
        name or path.stem, "teacher", dataset, bundle.IMPORTED, {}, output, replace
    )
    shape = (dataset.channels, dataset.size, dataset.size)
    inputs, targets = golden.golden_input(None, None, shape, len(dataset.classes), PROBE_IMAGES)

    foreign.choose_output(proto, output_value)
    foreign.name_nodes(proto)
    images = (
        inputs
        if batch is None
        else torch.randn(batch, *shape, generator=torch.Generator().manual_seed(2))
    )
    before = _run(_session(proto), value, images)
    if softmax := foreign.cut_softmax(proto):
        say("took the softmax off its end: a bundle's output are logits")
    _check_logits(before, len(dataset.classes), dataset.name, proto)
    if before.ndim == 4:
        foreign.flatten_output(proto)
    foreign.fold_constants(proto)
    foreign.free_batch(proto, batch, shape)
    foreign.tidy(proto, len(dataset.classes))
    onnx.checker.check_model(proto)

    _determine(proto, shape)
    layers, tensors = foreign.batch_norms(proto)
    _check_learnt(layers, tensors)
    # After what may be its cause.
    if not np.isfinite(before).all():
        raise InputError(
            "the graph gives NaN or infinite outputs in ONNX Runtime for images of standard-normal noise"
        )
    serialised = proto.SerializeToString(deterministic=True)
    session = _session(proto)
    _check_same(before, bundle.run(session, images), softmax)
    _check_batches(session, inputs)
    probe = reference.golden_probe(proto, layers, tensors, inputs, targets)
    difference = _check_probe(session, probe)
    facts: dict[str, Any] = {
        "pretraining": asdict(_pretraining(path, scheme, dataset.name)),
        "source": source,
    }
    if test := data.test_split(dataset, data_root, say):
        facts["accuracy"] = writer.accuracy(session, test)
    writer.publish(
        serialised,
        bundle.Statistics("batch_norm" if layers else "none", layers, tensors),
        probe,
        facts,
    )
    accuracy = f", top-1 {facts['accuracy']['top1']:.4f}" if "accuracy" in facts else ""
    folder = output / writer.name
    say(
        f"{folder}: {len(layers)} BN layers, ONNX Runtime within {difference:.1e} of the reference{accuracy}"
    )
    _say_statistics(folder, proto, layers, say)
    return folder


def _dataset(
    name: str,
    channels: int | None,
    sides: list[int | None],
    size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    classes_path: Path | None,
) -> data.DatasetInfo:
    """The data set `name` with what the graph and the user say otherwise; one that is not known
    needs all of it."""
    given: dict[str, Any] = {"mean": mean, "std": std, "classes": data.read_classes(classes_path)}
    given = {key: value for key, value in given.items() if value is not None}
    if name in registry.names():
        known = data.info(name)
    elif Path(name).exists():
        given.setdefault("classes", sources.open_source(Path(name)).index("test").classes)
        known = data.DatasetInfo(
            Path(name).resolve().stem, channels or 3, 0, (), (), (), Path(name).resolve()
        )
    else:
        known = data.DatasetInfo(name, channels or len(given.get("mean", ())), 0, (), (), ())
    if known.size == 0 and len(given) < 3:
        raise InputError(
            f"data set {name!r} is unknown; known are {', '.join(registry.names())}. For another one give --mean, "
            "--std "
            "and --classes, or name its folder"
        )
    if channels is not None and channels != known.channels:
        raise InputError(
            f"the graph takes images of {channels} channels, but those of {name} have {known.channels}"
        )
    fixed = {side for side in sides if side is not None}
    side = size or next(iter(fixed), known.size)
    if not side:
        raise InputError("the graph leaves the images' size open; give --size")
    if fixed - {side}:
        raise InputError(
            f"the graph takes images of {'x'.join(map(str, sides))}, not of {side}x{side}"
        )
    for key in ("mean", "std"):
        if key in given and len(given[key]) == 1:
            given[key] *= known.channels
        if key in given and len(given[key]) != known.channels:
            raise InputError(
                f"--{key} has {len(given[key])} values; images have {known.channels} channels"
            )
    return changed(known, size=side, **given)


def _pretraining(path: Path, scheme: str, dataset: str) -> Pretraining:
    command = f"python -m exporters import {path.name}"
    return Pretraining(
        scheme, dataset, epochs=None, command=command, wall_seconds=None, head="joint"
    )


def _session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    try:
        return bundle.session_of(proto.SerializeToString())
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise InputError(f"ONNX Runtime refuses the graph: {_first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, value: str, images: Tensor) -> np.ndarray:
    try:
        return session.run(None, {value: images.numpy()})[0]
    except Exception as error:  # as above
        shape = "x".join(map(str, images.shape))
        raise InputError(
            f"ONNX Runtime can't run the graph on {shape}: {_first_line(error)}"
        ) from error


def _determine(proto: onnx.ModelProto, shape: tuple[int, int, int]) -> None:
    """Makes what BN nodes compute from the images' shape constant, unless it is another for another
    batch."""
    names = foreign.undetermined(proto)
    if not names:
        return
    session = _session(foreign.with_outputs(proto, names))
    runs = [
        session.run(None, {foreign.INPUT: np.zeros((count, *shape), np.float32)})
        for count in (1, 3)
    ]
    alike = {
        name: one
        for name, one, other in zip(names, *runs, strict=True)
        if np.array_equal(one, other)
    }
    foreign.determine(proto, alike)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _check_logits(output: np.ndarray, classes: int, dataset: str, proto: onnx.ModelProto) -> None:
    if output.dtype != np.float32:
        last = next(
            (node for node in proto.graph.node if proto.graph.output[0].name in node.output), None
        )
        what = (
            f"{last.op_type} of {last.input[0]}"
            if last is not None and last.input
            else "not computed"
        )
        hint = (
            f"; if those are its logits, give --output {last.input[0]}"
            if last is not None and last.input
            else ""
        )
        raise InputError(f"the output is {output.dtype} ({what}), not logits in float32{hint}")
    if output.ndim not in (2, 4) or output.size != len(output) * output.shape[1]:
        shape = "x".join(map(str, output.shape))
        raise InputError(
            f"the output is of {shape}, not logits [N, K]; name another value with --output"
        )
    if output.shape[1] != classes:
        raise InputError(
            f"the graph has {output.shape[1]} logits, but {dataset} has {classes} classes; give another --dataset, or "
            "a file with --classes"
        )


def _check_learnt(layers: list[Layer], tensors: dict[str, Tensor]) -> None:
    if fresh := foreign.unlearnt(layers, tensors):
        raise InputError(
            f"{len(fresh)} of {len(layers)} BN layers have the initial statistics 0 and 1 ({', '.join(fresh[:6])}"
            f"{', …' if len(fresh) > 6 else ''}): the network was trained without running statistics, or they were not "
            "saved"
        )


def _check_same(before: np.ndarray, logits: np.ndarray, softmax: bool) -> None:
    """The bundle's graph computes what the file's does."""
    after = torch.from_numpy(logits).softmax(1).numpy() if softmax else logits
    difference = float(np.abs(after - before.reshape(after.shape)).max())
    if not difference <= bundle.TOLERANCE * max(1.0, float(np.abs(before).max())):
        raise CheckError(
            f"the graph as rewritten for a bundle gives outputs that are {difference:.3g} from the file's"
        )


def _check_batches(session: onnxruntime.InferenceSession, inputs: Tensor) -> None:
    """Every image gives the same logits alone as in a batch."""
    alone = np.concatenate([_run(session, foreign.INPUT, image[None]) for image in inputs])
    together = _run(session, foreign.INPUT, inputs)
    difference = (
        float(np.abs(alone - together).max()) if alone.shape == together.shape else float("inf")
    )
    if not difference <= bundle.TOLERANCE * max(1.0, float(np.abs(alone).max())):
        raise InputError(
            f"images give other logits in a batch than alone ({difference:.3g} apart): the batch's size is part of the "
            "graph; export the network with a dynamic batch dimension, in evaluation mode"
        )


def _check_probe(session: onnxruntime.InferenceSession, probe: dict[str, Tensor]) -> float:
    """How far ONNX Runtime's logits are from the probe's."""
    wanted = probe["logits"].numpy()
    difference = float(np.abs(bundle.run(session, probe["input"]) - wanted).max())
    if not difference <= bundle.TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise CheckError(
            f"ONNX Runtime and ONNX's reference evaluator differ by {difference:.3g} in the logits"
        )
    return difference


def _say_statistics(
    folder: Path, proto: onnx.ModelProto, layers: list[Layer], say: Callable[[str], None]
) -> None:
    if layers:
        return
    biased = foreign.biased_convolutions(proto)
    why = (
        f", but {biased} convolutions with a bias: BN was folded into them, or there was none"
        if biased
        else ""
    )
    say(
        f"no statistics: the graph has no BN nodes{why}. Recover has nothing to align with; "
        f"`scdd calibrate {folder} --data NAME|DIR` measures statistics on images and writes a new bundle; "
        f"{foreign.KEEPING_BN}"
    )
