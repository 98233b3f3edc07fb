"""The golden probe of a graph that has no PyTorch module: by ONNX's own reference evaluator, in
float64.

The evaluator knows no gradients. What the probe has instead are slopes of the loss along random
directions, which central differences give to six digits. Any difference of gradients shows in them:
along random signs d, the mean of (difference · d)² is the difference's squared length.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_average_pool, op_conv, op_max_pool
from torch import Tensor

from . import golden
from .errors import CheckError
from .graph import INPUT, OUTPUT, Layer

DIRECTIONS = 8
WORKERS = 4
"""The most evaluations at a time, each of which holds all of the graph's values."""
STEPS = (1e-8, 1e-9, 1e-7, 1e-6)
"""Small beside the distance to the nearest kink of a ReLU, large beside float64's rounding. Deep
networks want 1e-9."""
SLOPE_TOLERANCE = 1e-4


def golden_probe(
    proto: onnx.ModelProto,
    layers: list[Layer],
    statistics: dict[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> dict[str, Tensor]:
    """All tensors of `golden.safetensors`, with `directions` and `slopes` where PyTorch's probe has
    `input_grad`."""
    evaluate = evaluator(proto, layers)
    statistics = {name: tensor.double() for name, tensor in statistics.items()}
    exact = inputs.double()
    generator = torch.Generator().manual_seed(1)
    directions = (
        torch.randint(0, 2, (DIRECTIONS, *inputs.shape), generator=generator, dtype=torch.int8) * 2
        - 1
    )

    def objective(images: Tensor) -> dict[str, Tensor]:
        logits, seen = evaluate(images)
        return golden.objective(logits, targets, seen, layers, statistics)

    # Evaluations run side by side on one thread each: their results depend on no number of threads,
    # and threads of one evaluation would wait for each other wherever other programs compute too.
    threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(
        min(WORKERS, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
    )
    with workers:

        def slopes(along: Tensor, steps: list[float]) -> list[Tensor]:
            """By central differences, along each of `along` `[D, N, C, H, W]` with its own step."""
            shifts = [
                sign * step * each
                for each, step in zip(along, steps, strict=True)
                for sign in (1, -1)
            ]
            losses = list(workers.map(lambda shift: objective(exact + shift)["loss"], shifts))
            return [
                (losses[2 * i] - losses[2 * i + 1]) / (2 * step) for i, step in enumerate(steps)
            ]

        try:
            first = directions[:1].double()
            step, slope = _steady_slope(
                lambda step: slopes(first.expand(2, *inputs.shape), [step, 2 * step])
            )
            others = directions[1:].double()
            found = [slope, *slopes(others, [step] * len(others))]
            probe = workers.submit(objective, exact).result()
        finally:
            torch.set_num_threads(threads)
    return golden.in_float32(
        {"input": exact, **probe, "directions": directions, "slopes": torch.stack(found)}
    )


def _steady_slope(slopes: Callable[[float], list[Tensor]]) -> tuple[float, Tensor]:
    """The step for central differences, the first whose double gives the same slope, and that
    slope.

    `slopes` gives both.
    """
    found = []
    for step in STEPS:
        exact, doubled = slopes(step)
        once, twice = float(exact), float(doubled)
        if once and abs(once - twice) <= SLOPE_TOLERANCE * abs(once):
            return step, exact
        found.append(f"{once:.7g} and {twice:.7g} at {step:.0e}")
    raise CheckError(
        f"the loss has no steady slope along random directions ({', '.join(found)}): it jumps, it does not depend on "
        "the image, or an operator of the graph computes in less than float64 in ONNX's reference evaluator"
    )


def evaluator(
    proto: onnx.ModelProto, layers: list[Layer]
) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
    """Runs the graph on float64 images `[N, C, H, W]`: logits `[N, K]`, and the activations of
    `layers` by key."""
    try:
        session = ReferenceEvaluator(in_float64(proto), new_ops=OPERATORS)
    except Exception as error:  # an operator that it lacks is no error of a kind of its own
        raise CheckError(f"ONNX's reference evaluator can't run the graph: {error}") from error
    wanted = [OUTPUT, *(layer.tensor for layer in layers)]

    def evaluate(images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            # With names of outputs, it is these and no text.
            logits, *seen = cast(list[np.ndarray], session.run(wanted, {INPUT: images.numpy()}))
        except (
            Exception
        ) as error:  # whatever numpy makes of an operator that is not fully implemented
            raise CheckError(f"ONNX's reference evaluator fails on the graph: {error}") from error
        if logits.dtype != np.float64:
            raise CheckError(
                f"ONNX's reference evaluator computes the graph's logits in {logits.dtype}, not float64"
            )
        activations = {
            layer.key: torch.from_numpy(value) for layer, value in zip(layers, seen, strict=True)
        }
        return torch.from_numpy(logits), activations

    return evaluate


def in_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in which everything that was float32 is float64."""
    exact = onnx.ModelProto()
    exact.CopyFrom(proto)
    del exact.graph.value_info[:]
    for tensor in exact.graph.initializer:
        _widen(tensor)
    for value in (*exact.graph.input, *exact.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for attribute in (attribute for node in exact.graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen(attribute.t)
        elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    return exact


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )


class BatchNormalization(OpRun):
    """In evaluation mode, which the evaluator itself takes for training mode before opset 14."""

    def _run(self, x, scale, bias, mean, var, epsilon=None, **_: Any):
        x, scale, bias, mean, var = map(_tensor, (x, scale, bias, mean, var))
        return (F.batch_norm(x, mean, var, scale, bias, eps=epsilon).numpy(),)


class Erf(OpRun):
    """In float64; the evaluator's own computes in float32, whatever it is given."""

    def _run(self, x):
        return (torch.erf(_tensor(x)).numpy(),)


class Gelu(OpRun):
    """In float64; the evaluator's own is a function of operators that compute in float32."""

    def _run(self, x, approximate=None):
        return (F.gelu(_tensor(x), approximate=approximate or "none").numpy(),)


class GroupNormalization(OpRun):
    """In float64; the evaluator's own casts to float32, as the attribute `stash_type` has it.

    Scale and bias have a value per group before opset 21, and one per channel since.
    """

    def _run(self, x, scale, bias, epsilon=None, num_groups=None, **_: Any):
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(-1, keepdims=True)
        normal = (centred / np.sqrt(centred.var(-1, keepdims=True) + epsilon)).reshape(x.shape)
        scale, bias = (
            np.repeat(part, x.shape[1] // part.size).reshape(-1, *[1] * (x.ndim - 2))
            for part in (scale, bias)
        )
        return (normal * scale + bias,)


class Conv(op_conv.Conv):
    """By PyTorch's convolution, ten times as fast."""

    def _run(self, x, w, b=None, **attributes: Any):  # type: ignore[override]  # each operator has its own parameters
        if not _is_plain(x, attributes):
            return super()._run(x, w, b, **attributes)
        top, left, bottom, right = attributes.get("pads") or (0, 0, 0, 0)
        strides, dilations, groups = (
            attributes.get(name) or 1 for name in ("strides", "dilations", "group")
        )
        x, w, b = _tensor(x), _tensor(w), None if b is None else _tensor(b)
        # Padding apart copies the image, which takes half as long as the convolution.
        padding = (top, left)
        if (bottom, right) != padding:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return (F.conv2d(x, w, b, strides, padding, dilations, groups).numpy(),)


class MaxPool(op_max_pool.MaxPool):
    """By whole planes instead of pixel by pixel, hundreds of times as fast."""

    def _run(self, x, **attributes: Any):  # type: ignore[override]  # each operator has its own parameters
        if not _is_plain(x, attributes) or len(self.output) > 1:
            return super()._run(x, **attributes)
        return (_pool(np.maximum, x, -np.inf, attributes),)


class AveragePool(op_average_pool.AveragePool_19):
    """By whole planes instead of pixel by pixel, hundreds of times as fast."""

    def _run(self, x, **attributes: Any):  # type: ignore[override]  # each operator has its own parameters
        if not _is_plain(x, attributes):
            return super()._run(x, **attributes)
        counted = np.ones((1, 1, *x.shape[2:]))
        border = 1 if attributes.get("count_include_pad") else 0
        return (_pool(np.add, x, 0, attributes) / _pool(np.add, counted, border, attributes),)


OPERATORS: list[type[OpRun]] = [
    BatchNormalization,
    Erf,
    Gelu,
    GroupNormalization,
    Conv,
    MaxPool,
    AveragePool,
]
"""What the evaluator does wrong or slowly, done here."""


def _tensor(array: np.ndarray) -> Tensor:
    """`array` as a tensor, which shares its memory where that can be written to."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _is_plain(x: np.ndarray, attributes: dict[str, Any]) -> bool:
    """Whether the operator works on images, and its attributes say outright where its windows
    lie."""
    return (
        x.ndim == 4
        and attributes.get("auto_pad") in (None, "NOTSET")
        and not attributes.get("ceil_mode")
    )


def _pool(
    combine: np.ufunc, x: np.ndarray, border: float, attributes: dict[str, Any]
) -> np.ndarray:
    """What `combine` makes of each window of `x` `[N, C, H, W]`, which is padded with `border`."""
    top, left, bottom, right = attributes.get("pads") or (0, 0, 0, 0)
    (down, across), (dy, dx) = (attributes.get(name) or (1, 1) for name in ("strides", "dilations"))
    height, width = attributes["kernel_shape"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=border)
    rows, columns = x.shape[2] - (height - 1) * dy, x.shape[3] - (width - 1) * dx
    shifted = (
        x[:, :, i * dy : i * dy + rows : down, j * dx : j * dx + columns : across]
        for i in range(height)
        for j in range(width)
    )
    result = next(shifted).copy()
    for part in shifted:
        combine(result, part, out=result)
    return result
