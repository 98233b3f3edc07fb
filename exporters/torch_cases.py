"""Single operators with what PyTorch makes of them, forward and backward: the thin spots of ONNX's
own cases.

A case is one node. Its integer inputs become initialisers (networks hold shapes and axes so), the
others are fed; the gradient of `sum(output * cotangent)` is taken for every float input. Values are
distinct and off the kinks, so that central differences apply as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

Reference = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Golden:
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    cotangents: list[np.ndarray]
    gradients: dict[int, np.ndarray]
    """By position among the fed inputs."""


@dataclass(frozen=True)
class Case:
    name: str
    op: str
    inputs: Sequence[np.ndarray | None]
    """`None` is an optional input left out."""
    reference: Reference
    """Called with all inputs that are not left out."""
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    constants: tuple[int, ...] = ()
    """Float inputs that are initialisers too and get no gradient."""

    def _present(self) -> dict[str, np.ndarray]:
        return {f"x{i}": x for i, x in enumerate(self.inputs) if x is not None}

    def _fed(self) -> dict[str, np.ndarray]:
        constants = [f"x{i}" for i in self.constants]
        return {
            name: x
            for name, x in self._present().items()
            if x.dtype.kind != "i" and name not in constants
        }

    def model(self) -> onnx.ModelProto:
        outputs = [f"y{i}" for i in range(len(self.compute().outputs))]
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.inputs)]
        node = helper.make_node(self.op, names, outputs, name=self.op.lower(), **self.attributes)
        fed = self._fed()
        constants = [
            numpy_helper.from_array(x, name)
            for name, x in self._present().items()
            if name not in fed
        ]
        graph = helper.make_graph(
            [node],
            self.name,
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
                )
                for name, x in fed.items()
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            constants,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )

    def compute(self) -> Golden:
        fed = self._fed()
        tensors = {name: torch.from_numpy(x.copy()) for name, x in self._present().items()}
        floats = {
            name: tensors[name].requires_grad_(True)
            for name in fed
            if tensors[name].is_floating_point()
        }
        outputs = self.reference(*tensors.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        cotangents = [
            torch.from_numpy(spread(*y.shape, seed=99 + i)) for i, y in enumerate(outputs)
        ]
        products = [(y * w).sum() for y, w in zip(outputs, cotangents, strict=True)]
        total = torch.stack(products).sum()
        gradients = torch.autograd.grad(
            total, list(floats.values()), allow_unused=True, materialize_grads=True
        )
        return Golden(
            list(fed.values()),
            [y.detach().numpy() for y in outputs],
            [w.numpy() for w in cotangents],
            {list(fed).index(name): g.numpy() for name, g in zip(floats, gradients, strict=True)},
        )


def spread(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    """Shuffled float32 values between the bounds, all different, none a round number."""
    count = int(np.prod(shape))
    values = low + (high - low) * (np.arange(count) + 0.4837) / max(count, 1)
    return np.random.default_rng(seed).permutation(values).reshape(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return spread(*shape, low=0.3, high=2.5, seed=seed)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def all_cases() -> Iterator[Case]:
    for family in (
        _conv,
        _conv_transpose,
        _pool,
        _norm,
        _activation,
        _elementwise,
        _linear,
        _reduce,
        _reshape,
        _index,
        _pad,
        _resize,
    ):
        yield from family()


def _pads_of(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """ONNX's SAME padding of one axis."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def _torch_pads(pairs: list[tuple[int, int]]) -> list[int]:
    """torch counts from the last axis."""
    return [side for pair in reversed(pairs) for side in pair]


def _conv() -> Iterator[Case]:
    def case(
        name: str, x: tuple, w: tuple, bias: bool = False, same: str = "", **settings: Any
    ) -> Case:
        rank = len(x) - 2
        pads = settings.get("pads", [0] * 2 * rank)
        strides, dilations = (
            settings.get("strides", [1] * rank),
            settings.get("dilations", [1] * rank),
        )
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
        if same:
            axes = zip(x[2:], w[2:], strides, dilations, strict=True)
            pairs = [_pads_of(*axis, upper=same == "SAME_UPPER") for axis in axes]
            settings["auto_pad"] = same
        conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]

        def reference(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            padded = F.pad(x, _torch_pads(pairs))
            return conv(padded, w, b, strides, 0, dilations, settings.get("group", 1))

        inputs = [spread(*x), spread(*w, seed=1)] + ([spread(w[0], seed=2)] if bias else [])
        return Case(f"conv_{name}", "Conv", inputs, reference, settings)

    yield case("plain", (2, 3, 5, 6), (4, 3, 3, 3))
    yield case("bias", (2, 3, 5, 6), (4, 3, 3, 3), bias=True, pads=[1, 1, 1, 1])
    yield case("1x1", (2, 6, 4, 4), (5, 6, 1, 1), bias=True)
    yield case("1x1_stride", (1, 6, 5, 5), (5, 6, 1, 1), strides=[2, 2])
    yield case("many_channels", (1, 17, 3, 3), (9, 17, 3, 3), pads=[1, 1, 1, 1])
    yield case("grouped", (2, 6, 5, 5), (4, 3, 3, 3), group=2, pads=[1, 1, 1, 1], bias=True)
    yield case("depthwise", (2, 5, 6, 6), (5, 1, 3, 3), group=5, pads=[1, 1, 1, 1])
    yield case("depthwise_multiplier", (1, 3, 5, 5), (6, 1, 3, 3), group=3, strides=[2, 2])
    yield case("dilated", (1, 2, 9, 9), (3, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3])
    yield case("stride_2", (1, 3, 7, 8), (2, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    yield case("strides_differ", (1, 3, 7, 8), (2, 3, 3, 2), strides=[1, 3])
    yield case("asymmetric", (1, 2, 6, 6), (3, 2, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1])
    yield case(
        "asymmetric_2", (1, 2, 6, 6), (3, 2, 5, 5), strides=[2, 2], pads=[1, 1, 2, 2], bias=True
    )
    yield case("wide_kernel", (1, 2, 7, 9), (2, 2, 1, 7), pads=[0, 3, 0, 3])
    yield case("1d", (2, 3, 8), (4, 3, 3), pads=[1, 1], dilations=[2])
    yield case("3d", (1, 2, 4, 4, 4), (3, 2, 2, 2, 2), strides=[1, 2, 1], pads=[1, 0, 1, 0, 0, 1])
    for same in ("SAME_UPPER", "SAME_LOWER"):
        yield case(f"{same.lower()}", (1, 2, 5, 6), (3, 2, 3, 3), same=same)
        yield case(f"{same.lower()}_stride", (1, 2, 5, 6), (3, 2, 3, 3), same=same, strides=[2, 2])
        yield case(f"{same.lower()}_even", (1, 2, 5, 6), (3, 2, 2, 4), same=same)
        yield case(
            f"{same.lower()}_depthwise_dilated",
            (1, 4, 9, 9),
            (4, 1, 3, 3),
            same=same,
            group=4,
            dilations=[2, 2],
        )
    yield case("valid", (1, 2, 5, 6), (3, 2, 3, 3), auto_pad="VALID")


def _conv_transpose() -> Iterator[Case]:
    def case(name: str, x: tuple, w: tuple, bias: bool = False, **settings: Any) -> Case:
        rank = len(x) - 2
        pads = settings.get("pads", [0] * 2 * rank)
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]

        def reference(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
            stride, dilation = settings.get("strides", 1), settings.get("dilations", 1)
            y = conv(
                x,
                w,
                b,
                stride,
                0,
                settings.get("output_padding", 0),
                settings.get("group", 1),
                dilation,
            )
            for axis in range(rank):
                y = y.narrow(
                    axis + 2, pads[axis], y.shape[axis + 2] - pads[axis] - pads[axis + rank]
                )
            return y

        outputs = w[1] * settings.get("group", 1)
        inputs = [spread(*x), spread(*w, seed=1)] + ([spread(outputs, seed=2)] if bias else [])
        return Case(f"conv_transpose_{name}", "ConvTranspose", inputs, reference, settings)

    yield case("plain", (1, 3, 4, 4), (3, 2, 3, 3))
    yield case("stride", (2, 3, 3, 4), (3, 2, 2, 2), strides=[2, 2], bias=True)
    yield case(
        "pads", (1, 3, 4, 4), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    )
    yield case("asymmetric", (1, 3, 4, 4), (3, 2, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0])
    yield case("grouped", (1, 4, 4, 4), (4, 2, 3, 3), group=2, dilations=[2, 1])
    yield case("1d", (1, 3, 5), (3, 2, 3), strides=[3])


def _pool() -> Iterator[Case]:
    def case(
        name: str, x: tuple, kernel: list[int], maximum: bool, opset: int = 18, **settings: Any
    ) -> Case:
        rank = len(x) - 2
        pads = settings.get("pads", [0] * 2 * rank)
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
        strides = settings.get("strides", [1] * rank)
        if "auto_pad" in settings:
            axes = zip(x[2:], kernel, strides, [1] * rank, strict=True)
            pairs = [_pads_of(*axis, upper=settings["auto_pad"] == "SAME_UPPER") for axis in axes]
        ceil = bool(settings.get("ceil_mode", 0))

        def max_reference(x: Tensor) -> Tensor:
            pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            dilations = settings.get("dilations", 1)
            if all(before == after for before, after in pairs):
                return pool(x, kernel, strides, [p[0] for p in pairs], dilations, ceil)
            return pool(
                F.pad(x, _torch_pads(pairs), value=float("-inf")),
                kernel,
                strides,
                0,
                dilations,
                ceil,
            )

        def average_reference(x: Tensor) -> Tensor:
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            include = bool(settings.get("count_include_pad", 0))
            if all(before == after for before, after in pairs):
                return pool(x, kernel, strides, [p[0] for p in pairs], ceil, include)
            sums, counts = (
                F.pad(x, _torch_pads(pairs)),
                F.pad(torch.ones_like(x), _torch_pads(pairs), value=include),
            )
            return pool(sums, kernel, strides, 0, ceil) / pool(counts, kernel, strides, 0, ceil)

        return Case(
            f"{'max' if maximum else 'average'}_pool_{name}",
            "MaxPool" if maximum else "AveragePool",
            [spread(*x)],
            max_reference if maximum else average_reference,
            {"kernel_shape": kernel, **settings},
            opset,
        )

    square = (2, 3, 7, 6)
    for maximum in (True, False):
        yield case("plain", square, [2, 2], maximum, strides=[2, 2])
        yield case("overlapping", square, [3, 3], maximum, strides=[2, 2], pads=[1, 1, 1, 1])
        yield case("ceil", square, [3, 3], maximum, strides=[2, 2], ceil_mode=1)
        yield case(
            "ceil_pads", square, [3, 3], maximum, strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1
        )
        yield case("ceil_beyond", (1, 2, 6, 6), [1, 1], maximum, strides=[2, 2], ceil_mode=1)
        yield case("asymmetric", square, [3, 3], maximum, strides=[2, 2], pads=[0, 0, 1, 1])
        yield case("rectangular", square, [2, 3], maximum, strides=[1, 2], pads=[1, 0, 1, 0])
        yield case("same_upper", square, [3, 3], maximum, strides=[2, 2], auto_pad="SAME_UPPER")
        yield case("same_lower", square, [2, 2], maximum, auto_pad="SAME_LOWER")
        yield case("1d", (2, 3, 9), [3], maximum, strides=[2], pads=[1, 1], ceil_mode=1)
        yield case("3d", (1, 2, 4, 5, 4), [2, 2, 2], maximum, strides=[2, 1, 2])
        yield case("opset_7", square, [3, 3], maximum, opset=7, strides=[2, 2], pads=[1, 1, 1, 1])
    yield case("dilated", square, [2, 2], True, dilations=[2, 3])
    yield case(
        "include_pad", square, [3, 3], False, strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    )
    yield case(
        "include_ceil",
        square,
        [3, 3],
        False,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
        ceil_mode=1,
    )
    yield case("include_asymmetric", square, [3, 3], False, pads=[0, 1, 2, 0], count_include_pad=1)
    yield Case(
        "global_average_pool",
        "GlobalAveragePool",
        [spread(2, 3, 4, 5)],
        lambda x: x.mean((2, 3), keepdim=True),
    )
    yield Case(
        "global_max_pool",
        "GlobalMaxPool",
        [spread(2, 3, 4, 5)],
        lambda x: x.amax((2, 3), keepdim=True),
    )


def _norm() -> Iterator[Case]:
    x, scale, bias = spread(3, 4, 3, 2), positive(4), spread(4, seed=2)

    def batch(x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor) -> Tensor:
        return F.batch_norm(x, m, v, w, b, False, 0.0, 1e-3)

    sides = [scale, bias, spread(4, seed=3), positive(4, seed=4)]
    yield Case(
        "batch_norm", "BatchNormalization", [x, *sides], batch, {"epsilon": 1e-3}, constants=(3, 4)
    )
    yield Case(
        "batch_norm_2d",
        "BatchNormalization",
        [spread(5, 4), *sides],
        batch,
        {"epsilon": 1e-3},
        constants=(3, 4),
    )
    yield Case(
        "batch_norm_opset_9",
        "BatchNormalization",
        [x, *sides],
        batch,
        {"epsilon": 1e-3, "momentum": 0.5},
        9,
        (3, 4),
    )
    yield Case(
        "instance_norm",
        "InstanceNormalization",
        [x, scale, bias],
        lambda x, w, b: F.instance_norm(x, None, None, w, b, True, 0.0, 1e-2),
        {"epsilon": 1e-2},
    )
    for axis in (-1, 1, 2):
        shape = x.shape[axis:]
        weight, shift = positive(*shape), spread(*shape, seed=2)
        yield Case(
            f"layer_norm_axis_{axis}".replace("-", "m"),
            "LayerNormalization",
            [x, weight, shift],
            lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-5),
            {"axis": axis},
        )
    yield Case(
        "layer_norm_no_bias",
        "LayerNormalization",
        [x, positive(2)],
        lambda x, w: F.layer_norm(x, w.shape, w, None, 1e-6),
        {"epsilon": 1e-6},
    )
    yield Case(
        "group_norm_18",
        "GroupNormalization",
        [x, positive(2), spread(2, seed=2)],
        lambda x, w, b: F.group_norm(x, 2, w.repeat_interleave(2), b.repeat_interleave(2), 1e-5),
        {"num_groups": 2},
    )
    yield Case(
        "group_norm_21",
        "GroupNormalization",
        [x, scale, bias],
        lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3),
        {"num_groups": 2, "epsilon": 1e-3},
        21,
    )
    yield Case(
        "rms_norm",
        "RMSNormalization",
        [x, positive(3, 2)],
        lambda x, w: F.rms_norm(x, w.shape, w, 1e-5),
        {"axis": -2},
        23,
    )
    lrn = {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 1.5}
    yield Case("lrn", "LRN", [x], lambda x: F.local_response_norm(x, 3, 0.2, 0.6, 1.5), lrn)
    for p in (1, 2):
        yield Case(
            f"lp_norm_{p}",
            "LpNormalization",
            [x],
            lambda x, p=p: F.normalize(x, p, 1, 0.0),
            {"p": p, "axis": 1},
            18,
        )


def _activation() -> Iterator[Case]:
    x = spread(2, 3, 5, low=-4, high=4)

    def case(op: str, name: str, reference: Reference, opset: int = 18, **attributes: Any) -> Case:
        return Case(name, op, [x], reference, attributes, opset)

    yield case("Relu", "relu", F.relu)
    yield case("LeakyRelu", "leaky_relu", lambda x: F.leaky_relu(x, 0.01))
    yield case("LeakyRelu", "leaky_relu_alpha", lambda x: F.leaky_relu(x, 0.3), alpha=0.3)
    yield case("Elu", "elu", F.elu)
    yield case("Elu", "elu_alpha", lambda x: F.elu(x, 1.7), alpha=1.7)
    yield case("Selu", "selu", F.selu)
    yield case("Celu", "celu", lambda x: F.celu(x, 0.7), alpha=0.7)
    yield case("Gelu", "gelu", F.gelu, 20)
    yield case("Gelu", "gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), 20, approximate="tanh")
    yield case("Sigmoid", "sigmoid", torch.sigmoid)
    yield case("HardSigmoid", "hard_sigmoid", lambda x: (0.2 * x + 0.5).clamp(0, 1))
    yield case("HardSigmoid", "hard_sigmoid_torch", F.hardsigmoid, alpha=1 / 6, beta=0.5)
    yield case("HardSwish", "hard_swish", F.hardswish)
    yield case("Mish", "mish", F.mish)
    yield case("Softplus", "softplus", F.softplus)
    yield case("Softsign", "softsign", F.softsign)
    yield case("ThresholdedRelu", "thresholded_relu", lambda x: F.threshold(x, 0.7, 0.0), alpha=0.7)
    yield case("Shrink", "shrink_hard", lambda x: F.hardshrink(x, 0.8), lambd=0.8)
    yield case("Shrink", "shrink_soft", lambda x: F.softshrink(x, 0.8), lambd=0.8, bias=0.8)
    yield case("Swish", "swish", lambda x: x * torch.sigmoid(1.3 * x), 24, alpha=1.3)
    yield Case(
        "prelu", "PRelu", [x, spread(3, 1, seed=1)], lambda x, w: torch.where(x < 0, x * w, x)
    )
    for axis in (-1, 1):
        for op, function in (("Softmax", F.softmax), ("LogSoftmax", F.log_softmax)):
            name = f"{op.lower()}_axis_{axis}".replace("-", "m")
            yield case(op, name, lambda x, f=function, a=axis: f(x, a), axis=axis)
    yield case(
        "Softmax", "softmax_opset_11", lambda x: F.softmax(x.flatten(1), 1).view_as(x), 11, axis=1
    )
    yield case(
        "LogSoftmax", "logsoftmax_opset_11", lambda x: F.log_softmax(x.flatten(1), 1).view_as(x), 11
    )
    low, high = np.float32(-0.9), np.float32(1.1)
    yield Case("clip", "Clip", [x, np.array(low), np.array(high)], _clip)
    yield Case(
        "clip_max", "Clip", [x, None, np.array(high)], lambda x, high: torch.minimum(x, high)
    )
    yield case("Clip", "clip_opset_6", lambda x: x.clamp(-0.9, 1.1), 6, min=-0.9, max=1.1)
    yield case("Dropout", "dropout", lambda x: x)
    yield case("Dropout", "dropout_opset_7", lambda x: x, 7, ratio=0.4)


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _elementwise() -> Iterator[Case]:
    elementwise: dict[str, Reference] = {
        "Abs": torch.abs,
        "Neg": torch.neg,
        "Exp": torch.exp,
        "Erf": torch.erf,
        "Tanh": torch.tanh,
        "Sin": torch.sin,
        "Cos": torch.cos,
        "Sinh": torch.sinh,
        "Cosh": torch.cosh,
        "Atan": torch.atan,
        "Asinh": torch.asinh,
        "Sign": torch.sign,
        "Floor": torch.floor,
        "Ceil": torch.ceil,
        "Round": torch.round,
        "Identity": torch.clone,
    }
    for op, function in elementwise.items():
        yield Case(op.lower(), op, [spread(2, 3, 4)], function)
    for op, function in {
        "Log": torch.log,
        "Sqrt": torch.sqrt,
        "Reciprocal": torch.reciprocal,
    }.items():
        yield Case(op.lower(), op, [positive(2, 3, 4)], function)
    for op, function in {
        "Tan": torch.tan,
        "Asin": torch.asin,
        "Acos": torch.acos,
        "Atanh": torch.atanh,
    }.items():
        yield Case(op.lower(), op, [spread(2, 3, low=-0.9, high=0.9)], function)
    yield Case("acosh", "Acosh", [spread(2, 3, low=1.2, high=3)], torch.acosh)
    shapes = {
        "": ((2, 3, 4), (2, 3, 4)),
        "_rows": ((2, 3, 4), (3, 1)),
        "_outer": ((4, 1), (3, 1, 5)),
        "_scalar": ((2, 3), ()),
    }
    for suffix, (left, right) in shapes.items():
        a, b = spread(*left), spread(*right, seed=1)
        yield Case(f"add{suffix}", "Add", [a, b], torch.add)
        yield Case(f"sub{suffix}", "Sub", [a, b], torch.sub)
        yield Case(f"mul{suffix}", "Mul", [a, b], torch.mul)
        yield Case(f"div{suffix}", "Div", [a, positive(*right, seed=1)], torch.div)
        yield Case(f"min{suffix}", "Min", [a, b], torch.minimum)
        yield Case(f"max{suffix}", "Max", [a, b], torch.maximum)
        yield Case(f"pow{suffix}", "Pow", [positive(*left), b], torch.pow)
        mask = np.asarray(spread(*right, seed=5) > 0)
        yield Case(f"where{suffix}", "Where", [mask, a, spread(*left, seed=2)], torch.where)
    a, b, c = (spread(2, 3, seed=i) for i in range(3))
    yield Case("add_opset_7", "Add", [a, spread(3, seed=1)], torch.add, opset=7)
    yield Case("mod_fmod", "Mod", [a, positive(2, 3, seed=1)], torch.fmod, {"fmod": 1})
    yield Case("sum_three", "Sum", [a, b, c], lambda *xs: sum(xs[1:], xs[0]))
    yield Case("mean_three", "Mean", [a, b, c], lambda *xs: torch.stack(xs).mean(0))
    yield Case("sum_one", "Sum", [a], lambda x: x.clone())
    yield Case("cast_double", "Cast", [a], lambda x: x.double(), {"to": TensorProto.DOUBLE})
    yield Case("cast_like", "CastLike", [a, b], lambda x, _: x.clone())


def _linear() -> Iterator[Case]:
    a, b, c = spread(3, 4), spread(4, 5, seed=1), spread(5, seed=2)
    yield Case("gemm", "Gemm", [a, b, c], lambda a, b, c: a @ b + c)
    yield Case("gemm_no_bias", "Gemm", [a, b], torch.matmul)
    yield Case(
        "gemm_scaled",
        "Gemm",
        [a, b, c],
        lambda a, b, c: 0.5 * (a @ b) + 1.5 * c,
        {"alpha": 0.5, "beta": 1.5},
    )
    turned = {"transA": 1, "transB": 1}
    yield Case(
        "gemm_turned", "Gemm", [a.T.copy(), b.T.copy(), c], lambda a, b, c: a.T @ b.T + c, turned
    )
    yield Case(
        "gemm_opset_7", "Gemm", [a, b.T.copy(), c], lambda a, b, c: a @ b.T + c, {"transB": 1}, 7
    )
    for name, left, right in (
        ("matrices", (3, 4), (4, 5)),
        ("batched", (2, 3, 4), (2, 4, 5)),
        ("broadcast", (2, 1, 3, 4), (3, 4, 2)),
        ("vector", (3, 4), (4,)),
    ):
        yield Case(
            f"matmul_{name}", "MatMul", [spread(*left), spread(*right, seed=1)], torch.matmul
        )
    q, k = spread(2, 3, 4), spread(2, 5, 4, seed=1)
    equation = "bqd,bkd->bqk"
    yield Case(
        "einsum",
        "Einsum",
        [q, k],
        lambda q, k: torch.einsum(equation, q, k),
        {"equation": equation},
    )


def _reduce() -> Iterator[Case]:
    kinds: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
        "Mean": lambda x, a, k: x.mean(a, k),
        "Sum": lambda x, a, k: x.sum(a, k),
        "Max": lambda x, a, k: x.amax(a, k),
        "Min": lambda x, a, k: x.amin(a, k),
        "L1": lambda x, a, k: x.abs().sum(a, k),
        "L2": lambda x, a, k: x.square().sum(a, k).sqrt(),
        "LogSum": lambda x, a, k: x.sum(a, k).log(),
        "LogSumExp": lambda x, a, k: x.logsumexp(a, k),
        "SumSquare": lambda x, a, k: x.square().sum(a, k),
        "Prod": lambda x, a, k: _prod(x, a, k),
    }
    for kind, function in kinds.items():
        make = positive if kind in ("LogSum", "Prod") else spread
        x = make(2, 3, 4)
        name, op = kind.lower(), f"Reduce{kind}"
        for suffix, axes, keep in (("", (1, 2), 1), ("_drop", (1,), 0), ("_negative", (-1, 0), 1)):

            def reference(x: Tensor, *_: Tensor, f=function, axes=axes, keep=keep) -> Tensor:
                return f(x, axes, bool(keep))

            yield Case(
                f"reduce_{name}{suffix}", op, [x, ints(*axes)], reference, {"keepdims": keep}
            )
            old = 11 if kind == "Sum" else 13
            attributes = {"keepdims": keep, "axes": list(axes)}
            yield Case(f"reduce_{name}{suffix}_opset_{old}", op, [x], reference, attributes, old)
        yield Case(f"reduce_{name}_all", op, [x], lambda x, f=function: f(x, (0, 1, 2), True))
        # With no axes and the flag set, only the reduction over nothing is left: |x| for L1 and L2,
        # x² for SumSquare.
        yield Case(
            f"reduce_{name}_noop",
            op,
            [x, ints()],
            {
                "L1": lambda x, _: x.abs(),
                "L2": lambda x, _: x.abs(),
                "LogSum": lambda x, _: x.log(),
                "SumSquare": lambda x, _: x.square(),
            }.get(kind, lambda x, _: x.clone()),
            {"noop_with_empty_axes": 1},
        )
    yield Case(
        "cumsum", "CumSum", [spread(2, 3, 4), np.array(1, dtype=np.int64)], lambda x, _: x.cumsum(1)
    )
    yield Case(
        "cumsum_exclusive_reverse",
        "CumSum",
        [spread(2, 5), np.array(-1, dtype=np.int64)],
        lambda x, _: x.flip(1).cumsum(1).flip(1) - x,
        {"exclusive": 1, "reverse": 1},
    )


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _reshape() -> Iterator[Case]:
    x = spread(2, 3, 4)
    yield Case("reshape", "Reshape", [x, ints(0, -1)], lambda x, _: x.reshape(2, 12))
    yield Case("flatten", "Flatten", [x], lambda x: x.reshape(2, 12))
    yield Case("flatten_negative", "Flatten", [x], lambda x: x.reshape(6, 4), {"axis": -1})
    yield Case("transpose", "Transpose", [x], lambda x: x.permute(2, 1, 0))
    yield Case(
        "transpose_perm", "Transpose", [x], lambda x: x.permute(1, 2, 0), {"perm": [1, 2, 0]}
    )
    thin = spread(2, 1, 3, 1)
    yield Case("squeeze", "Squeeze", [thin], lambda x: x.squeeze())
    yield Case("squeeze_axes", "Squeeze", [thin, ints(-1)], lambda x, _: x.squeeze(-1))
    yield Case("squeeze_opset_11", "Squeeze", [thin], lambda x: x.squeeze(1), {"axes": [1]}, 11)
    yield Case("unsqueeze", "Unsqueeze", [x, ints(0, -1)], lambda x, _: x[None, ..., None])
    yield Case(
        "unsqueeze_opset_11", "Unsqueeze", [x], lambda x: x[None, ..., None], {"axes": [0, -1]}, 11
    )
    a, b = spread(2, 3, 2), spread(2, 1, 2, seed=1)
    yield Case("concat", "Concat", [a, b], lambda a, b: torch.cat([a, b], 1), {"axis": 1})
    yield Case(
        "concat_negative", "Concat", [a, a + 1], lambda a, b: torch.cat([a, b], -1), {"axis": -1}
    )
    halves = {"axis": -1, "num_outputs": 2}
    yield Case("split_18", "Split", [x], lambda x: x.split(2, -1), halves)
    yield Case(
        "split_sizes", "Split", [x, ints(1, 2)], lambda x, _: x.split([1, 2], 1), {"axis": 1}
    )
    yield Case(
        "split_uneven",
        "Split",
        [spread(2, 5)],
        lambda x: x.split(2, 1),
        {"axis": 1, "num_outputs": 3},
    )
    yield Case(
        "split_opset_11",
        "Split",
        [x],
        lambda x: x.split([1, 2], 1),
        {"axis": 1, "split": [1, 2]},
        11,
    )
    yield Case("split_opset_13", "Split", [x], lambda x: x.split(1, 0), {}, 13)
    yield Case("expand", "Expand", [spread(3, 1), ints(2, 3, 4)], lambda x, _: x.expand(2, 3, 4))
    yield Case("expand_two_way", "Expand", [x, ints(3, 1)], lambda x, _: x.clone())
    yield Case("tile", "Tile", [x, ints(1, 2, 3)], lambda x, _: x.repeat(1, 2, 3))
    columns, sides, block = spread(2, 12, 6), ints(5, 6), ints(2, 3)
    yield Case(
        "col2im",
        "Col2Im",
        [columns, sides, block],
        lambda x, *_: F.fold(x, (5, 6), (2, 3), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
        {"dilations": [1, 2], "pads": [1, 0, 1, 0], "strides": [2, 1]},
    )
    blocks = spread(2, 8, 2, 3)
    yield Case(
        "depth_to_space_crd",
        "DepthToSpace",
        [blocks],
        lambda x: F.pixel_shuffle(x, 2),
        {"blocksize": 2, "mode": "CRD"},
    )
    yield Case("depth_to_space_dcr", "DepthToSpace", [blocks], _depth_to_space, {"blocksize": 2})
    yield Case(
        "space_to_depth", "SpaceToDepth", [spread(1, 2, 4, 6)], _space_to_depth, {"blocksize": 2}
    )


def _depth_to_space(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (
        x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)
    )


def _space_to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (
        x.reshape(n, c, h // 2, 2, w // 2, 2)
        .permute(0, 3, 5, 1, 2, 4)
        .reshape(n, 4 * c, h // 2, w // 2)
    )


def _index() -> Iterator[Case]:
    x = spread(3, 4, 5)
    yield Case("slice", "Slice", [x, ints(1, 0), ints(3, 4)], lambda x, *_: x[1:3, 0:4])
    yield Case(
        "slice_axes",
        "Slice",
        [x, ints(-3), ints(2**62), ints(-1), ints(2)],
        lambda x, *_: x[..., -3::2],
    )
    yield Case(
        "slice_backwards",
        "Slice",
        [x, ints(-1), ints(-(2**62)), ints(1), ints(-1)],
        lambda x, *_: x.flip(1),
    )
    yield Case(
        "slice_opset_9",
        "Slice",
        [x],
        lambda x: x[:, 1:],
        {"axes": [1], "starts": [1], "ends": [9]},
        9,
    )
    yield Case("gather", "Gather", [x, ints(2, 0, -1, 2)], lambda x, i: x[i], {})
    yield Case(
        "gather_axis", "Gather", [x, np.array([[0, 1], [3, 3]])], lambda x, i: x[:, i], {"axis": 1}
    )
    yield Case("gather_scalar", "Gather", [x, np.array(-2)], lambda x, i: x[..., i], {"axis": 2})
    picks = np.array([[[0, 1], [3, 2]], [[1, 1], [0, 0]], [[2, 2], [-1, 0]]])
    yield Case(
        "gather_elements",
        "GatherElements",
        [x, picks],
        lambda x, i: x.gather(1, i % 4),
        {"axis": 1},
    )
    pairs = np.array([[0, 1], [2, -1]])
    yield Case("gather_nd", "GatherND", [x, pairs], lambda x, i: x[i[:, 0], i[:, 1]])
    rows = np.array([[1], [0], [3]])
    yield Case(
        "gather_nd_batch",
        "GatherND",
        [x, rows],
        lambda x, i: x[torch.arange(3), i[:, 0]],
        {"batch_dims": 1},
    )
    updates = spread(2, 5, seed=3)
    for reduction in ("none", "add"):

        def scatter(
            x: Tensor, i: Tensor, u: Tensor, accumulate: bool = reduction == "add"
        ) -> Tensor:
            return x.index_put((i[:, 0], i[:, 1]), u, accumulate)

        yield Case(
            f"scatter_nd_{reduction}",
            "ScatterND",
            [x, pairs, updates],
            scatter,
            {"reduction": reduction},
        )
    places = np.array([[1, 0, 2], [0, 2, 1]])
    grid, values = spread(3, 3), spread(2, 3, seed=1)
    yield Case(
        "scatter_elements",
        "ScatterElements",
        [grid, places, values],
        lambda x, i, u: x.scatter(0, i, u),
    )
    yield Case(
        "scatter_elements_add",
        "ScatterElements",
        [grid, places, values],
        lambda x, i, u: x.scatter_add(1, i, u),
        {"axis": 1, "reduction": "add"},
    )
    yield Case("trilu_upper", "Trilu", [x], torch.triu)
    yield Case("trilu_lower", "Trilu", [x, np.array(1)], lambda x, _: x.tril(1), {"upper": 0})


def _pad() -> Iterator[Case]:
    x = spread(1, 2, 4, 5)
    pads = ints(0, 0, 1, 2, 0, 0, 2, 1)
    torch_pads = [2, 1, 1, 2]
    for mode, name in (
        ("constant", "constant"),
        ("reflect", "reflect"),
        ("edge", "replicate"),
        ("wrap", "circular"),
    ):
        opset = 19 if mode == "wrap" else 18

        def reference(x: Tensor, *_: Tensor, name: str = name) -> Tensor:
            return F.pad(x, torch_pads, name)

        yield Case(f"pad_{mode}", "Pad", [x, pads], reference, {"mode": mode}, opset)
    value = np.array(1.25, dtype=np.float32)
    yield Case(
        "pad_value",
        "Pad",
        [x, pads, value],
        lambda x, _, v: _pad_with(x, torch_pads, v),
        constants=(2,),
    )
    yield Case("pad_axes", "Pad", [x, ints(1, 2), None, ints(3)], lambda x, *_: F.pad(x, [1, 2]))
    yield Case(
        "pad_crop",
        "Pad",
        [x, ints(0, 0, -1, 1, 0, 0, -1, -2)],
        lambda x, *_: F.pad(x, [1, -2, -1, -1]),
    )
    yield Case(
        "pad_opset_2",
        "Pad",
        [x],
        lambda x: F.pad(x, torch_pads, value=0.5),
        {"pads": pads.tolist(), "value": 0.5},
        2,
    )


def _pad_with(x: Tensor, pads: list[int], value: Tensor) -> Tensor:
    inside = F.pad(torch.ones_like(x), pads)
    return F.pad(x, pads) + (1 - inside) * value


def _resize() -> Iterator[Case]:
    x = spread(1, 2, 4, 5)

    def case(
        name: str,
        reference: Reference,
        scales: tuple | None,
        sizes: tuple | None,
        **attributes: Any,
    ) -> Case:
        scale = None if scales is None else np.array(scales, dtype=np.float32)
        size = None if sizes is None else ints(*sizes)
        return Case(
            f"resize_{name}",
            "Resize",
            [x, None, scale, size][: 4 if size is not None else 3],
            reference,
            attributes,
            constants=(2,),
        )

    def to(mode: str, **settings: Any) -> Reference:
        return lambda x, *_: F.interpolate(x, mode=mode, **settings)

    asymmetric = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    yield case("nearest_2x", to("nearest", scale_factor=2), (1, 1, 2, 2), None, **asymmetric)
    yield case("nearest_sizes", to("nearest", size=(7, 3)), None, (1, 2, 7, 3), **asymmetric)
    half = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    yield case("linear_2x", to("bilinear", scale_factor=2), (1, 1, 2, 2), None, **half)
    yield case("linear_sizes", to("bilinear", size=(7, 3)), None, (1, 2, 7, 3), **half)
    corners = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    yield case(
        "linear_corners",
        to("bilinear", size=(7, 9), align_corners=True),
        None,
        (1, 2, 7, 9),
        **corners,
    )
    cubic = {
        "mode": "cubic",
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.75,
    }
    yield case("cubic", to("bicubic", size=(7, 9)), None, (1, 2, 7, 9), **cubic)
    yield Case(
        "upsample_opset_9",
        "Upsample",
        [x, np.array([1, 1, 2, 2], dtype=np.float32)],
        lambda x, _: F.interpolate(x, scale_factor=2, mode="nearest"),
        {"mode": "nearest"},
        9,
        constants=(1,),
    )
