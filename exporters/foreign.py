"""Graphs that others exported: from an ONNX file to what a bundle's `model.onnx` must be. What they
compute stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from .errors import InputError, listed
from .files import sha256
from .graph import INPUT, IR_VERSION, OUTPUT, Layer, compute, reads

KEEPING_BN = (
    "BN stays a node of its own with `python -m exporters export` of the checkpoint, with "
    "torch.onnx.export(model.eval(), ..., dynamo=True, optimize=False), or with dynamo=False, "
    "training=TrainingMode.PRESERVE and do_constant_folding=False"
)
OLDEST_OPSET, CONVERTED_OPSET = 7, 13
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
PARTS = ("weight", "bias", "running_mean", "running_var")
"""What a BN node reads after its input, in its order."""


def read(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The checked model with everything that it keeps in other files, and the manifest's
    `source`."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except DecodeError as error:
        raise InputError(f"{path} is not a readable ONNX file: {error}") from error
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data)
    files = sorted({entry.value for entry in entries if entry.key == "location"})
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        if opset(proto) < OLDEST_OPSET:
            proto = onnx.version_converter.convert_version(proto, CONVERTED_OPSET)
    except Exception as error:  # onnx raises nearly anything, also of its own making
        raise InputError(
            f"{path} is no valid ONNX model: {str(error).strip().splitlines()[0]}"
        ) from error
    source: dict[str, Any] = {"file": path.name, "sha256": sha256(path)}
    if files:
        source["data"] = [{"file": file, "sha256": sha256(path.parent / file)} for file in files]
    return proto, source


def check_kind(proto: onnx.ModelProto) -> None:
    """Refuses what was rewritten for inference, before anything else is found out about it."""
    kinds = Counter(
        f"{node.domain}::{node.op_type}" if _is_foreign(node) else node.op_type
        for node in proto.graph.node
    )
    quantised = Counter({kind: count for kind, count in kinds.items() if _is_quantised(kind)})
    if quantised:
        raise InputError(
            f"the graph is quantised ({_counted(quantised)}), which leaves no gradients; import the float32 network "
            "that it was made of"
        )
    others = Counter({kind: count for kind, count in kinds.items() if "::" in kind})
    if others:
        raise InputError(
            f"the graph has operators outside ONNX ({_counted(others)}), as ONNX Runtime's optimiser writes them; "
            "import the file from before that, or export the network without operators of your own"
        )
    kinds = Counter(tensor.data_type for tensor in proto.graph.initializer)
    for kind, name in (
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.DOUBLE, "float64"),
    ):
        if kinds[kind] > kinds[TensorProto.FLOAT]:
            raise InputError(
                f"the graph's weights are {name}; export the network in float32, after `model.float()`"
            )


def _is_foreign(node: onnx.NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx")


def _is_quantised(kind: str) -> bool:
    name = kind.rpartition("::")[2]
    return name.startswith("QLinear") or name.endswith(
        ("Integer", "QuantizeLinear", "DequantizeLinear")
    )


def _counted(kinds: Counter[str]) -> str:
    """The three most frequent kinds of nodes."""
    rest = len(kinds) - 3
    shown = ", ".join(f"{kind} x{count}" for kind, count in kinds.most_common(3))
    return shown + (f" and {rest} more kinds" if rest > 0 else "")


def opset(proto: onnx.ModelProto) -> int:
    return next(
        (stamp.version for stamp in proto.opset_import if stamp.domain in ("", "ai.onnx")), 1
    )


def image_input(proto: onnx.ModelProto) -> tuple[str, list[int | None]]:
    """The name and the dimensions `[N, C, H, W]` of the only input, `None` where one is left
    open."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise InputError(
            f"the graph has the inputs {[value.name for value in inputs]}; one is wanted, of images"
        )
    found = inputs[0].type.tensor_type
    dims = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in found.shape.dim
    ]
    shape = "x".join("?" if dim is None else str(dim) for dim in dims)
    if found.elem_type != TensorProto.FLOAT or len(dims) != 4:
        kind = TensorProto.DataType.Name(found.elem_type)
        remedy = {
            TensorProto.UINT8: "; its graph begins with a preprocessing of its own: export the network without it, and "
            "give --mean and --std",
            TensorProto.FLOAT16: "; export the network in float32, after `model.float()`",
            TensorProto.DOUBLE: "; export the network in float32, after `model.float()`",
        }.get(found.elem_type, "")
        raise InputError(
            f"input {inputs[0].name} is {kind} [{shape}]; wanted are images, FLOAT [N, C, H, W]{remedy}"
        )
    if dims[3] in (1, 3) and dims[1] not in (1, 3):
        raise InputError(
            f"input {inputs[0].name} is [{shape}], with the channels last; export the network with [N, C, H, W] "
            f"(tf2onnx: --inputs-as-nchw {inputs[0].name})"
        )
    return inputs[0].name, dims


def choose_output(proto: onnx.ModelProto, name: str | None) -> str:
    """Makes the value `name`, or else the only output, the one output, and removes what it does not
    need."""
    made = {value for node in proto.graph.node for value in node.output}
    outputs = [value.name for value in proto.graph.output]
    if name is None and len(outputs) != 1:
        raise InputError(
            f"the graph has the outputs {', '.join(outputs)}; say with --output which are the logits"
        )
    if name is not None and name not in made:
        raise InputError(
            f"--output: the graph has no value {name!r}; its outputs are {', '.join(outputs)}"
        )
    chosen = name or outputs[0]
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.append(
        helper.make_tensor_value_info(chosen, kinds.get(chosen, TensorProto.FLOAT), None)
    )
    prune(proto)
    return chosen


def prune(proto: onnx.ModelProto) -> None:
    """Removes nodes and initialisers that no output needs, and initialisers from the inputs."""
    needed = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    initializers = [tensor for tensor in proto.graph.initializer if tensor.name in needed]
    names = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in names]
    _refill(proto.graph.node, reversed(kept))
    _refill(proto.graph.initializer, initializers)
    _refill(proto.graph.input, inputs)


def _refill(field: Any, messages: Iterable[Any]) -> None:
    """Puts `messages` in place of all that a repeated field holds."""
    copies = list(messages)
    del field[:]
    field.extend(copies)


def cut_softmax(proto: onnx.ModelProto) -> bool:
    """Takes a softmax over the classes off the graph's end, so that the output are logits; whether
    there was one."""
    chosen = proto.graph.output[0]
    last = next(node for node in proto.graph.node if chosen.name in node.output)
    axis = next((attribute.i for attribute in last.attribute if attribute.name == "axis"), 1)
    if last.op_type != "Softmax" or axis not in (1, -1):
        return False
    chosen.name = last.input[0]
    prune(proto)
    return True


def flatten_output(proto: onnx.ModelProto) -> None:
    """Brings the output `[N, K, 1, 1]` to `[N, K]`."""
    chosen = proto.graph.output[0]
    flat = _fresh(proto, f"{chosen.name}_flat")
    proto.graph.node.append(helper.make_node("Flatten", [chosen.name], [flat], name=flat, axis=1))
    chosen.name = flat


def fold_constants(proto: onnx.ModelProto) -> None:
    """Computes what does not depend on the image, such as weights that pass through other nodes,
    into initialisers."""
    varies = {proto.graph.input[0].name}
    constant = []
    for node in proto.graph.node:
        if varies.intersection(reads(node)) or node.op_type in RANDOM:
            varies.update(node.output)
        else:
            constant.append(node)
    try:
        compute(proto, constant)
    except Exception as error:  # whatever numpy makes of an operator that is not fully implemented
        raise InputError(
            f"what does not depend on the image can't be computed beforehand: {error}"
        ) from error
    prune(proto)


def free_batch(proto: onnx.ModelProto, batch: int | None, shape: tuple[int, int, int]) -> None:
    """Makes the input `[batch, *shape]` follow any batch, and so the reshapes to constants that
    begin with `batch`."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if batch is None or node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        wanted = numpy_helper.to_array(constants[node.input[1]]).copy()
        if wanted.size and wanted[0] == batch and 0 not in wanted:
            wanted[0] = 0 if -1 in wanted else -1
            _refill(
                node.attribute,
                [attribute for attribute in node.attribute if attribute.name != "allowzero"],
            )
            node.input[1] = _fresh(proto, f"{node.output[0]}_shape")
            proto.graph.initializer.append(numpy_helper.from_array(wanted, node.input[1]))
    name = proto.graph.input[0].name
    proto.graph.input[0].CopyFrom(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
    )
    prune(proto)


def name_nodes(proto: onnx.ModelProto) -> None:
    """Gives every node a name of its own; one that it has alone stays."""
    names = Counter(node.name for node in proto.graph.node)
    taken = {name for name, count in names.items() if count == 1 and name}
    for index, node in enumerate(proto.graph.node):
        if node.name not in taken:
            node.name = next(
                name for name in _variants(f"{node.op_type}_{index}") if name not in taken
            )
            taken.add(node.name)


def tidy(proto: onnx.ModelProto, classes: int) -> None:
    """Gives the input and the output their names, and removes what only informs."""
    _rename(proto, proto.graph.input[0].name, INPUT)
    _rename(proto, proto.graph.output[0].name, OUTPUT)
    _refill(
        proto.graph.output,
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
    )
    del proto.graph.value_info[:], proto.metadata_props[:], proto.graph.metadata_props[:]
    for message in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer):
        message.doc_string = ""
    for node in proto.graph.node:
        del node.metadata_props[:]
    proto.ir_version = max(proto.ir_version, IR_VERSION)


def _rename(proto: onnx.ModelProto, old: str, new: str) -> None:
    """Renames a value; another one of that name makes room."""
    if old == new:
        return
    if new in _values(proto):
        _rename(proto, new, _fresh(proto, new))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.name = new if value.name == old else value.name
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _values(proto: onnx.ModelProto) -> set[str]:
    names = {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    return names.union(*(node.output for node in proto.graph.node))


def _fresh(proto: onnx.ModelProto, name: str) -> str:
    """`name`, or one like it that no value has."""
    taken = _values(proto)
    return next(variant for variant in _variants(name) if variant not in taken)


def _variants(name: str) -> Iterable[str]:
    yield name
    for number in range(1, 1_000_000):
        yield f"{name}_{number}"


def batch_norms(proto: onnx.ModelProto) -> tuple[list[Layer], dict[str, Tensor]]:
    """The BN layers in execution order and their side tensors; an error names every BN that can't
    be one."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    uses = Counter(
        digest for node in proto.graph.node if (digest := _statistics_of(node, constants))
    )
    varies = _depend_on_pixels(proto)
    layers, tensors, odd, remedies = [], {}, [], []
    for node in proto.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        if found := _oddity(node, constants, varies, uses):
            reason, remedy = found
            odd.append(f"{node.name} {reason}")
            remedies.append(remedy)
            continue
        eps = next(
            (attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5
        )
        layers.append(
            Layer(node.name, node.name, node.input[0], constants[node.input[1]].size, float(eps))
        )
        for part, name in zip(PARTS, node.input[1:], strict=True):
            tensors[f"{node.name}.{part}"] = torch.from_numpy(constants[name].copy())
    if odd:
        raise InputError(
            f"{len(odd)} BN nodes are of no use: {listed(odd, between='; ')}. {'; '.join(dict.fromkeys(remedies))}"
        )
    return layers, tensors


IN_EVALUATION = f"Export the network in evaluation mode, in float32; {KEEPING_BN}"


def _oddity(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], varies: set[str], uses: Counter[bytes]
) -> tuple[str, str] | None:
    """Why a BN node has no statistics that could be side tensors, and what helps; `None` where it
    has."""
    if sum(map(bool, node.output)) > 1 or any(
        each.name == "training_mode" and each.i for each in node.attribute
    ):
        return "is in training mode: it normalises by the batch's own statistics", IN_EVALUATION
    computed = [
        (part, name)
        for part, name in zip(PARTS, node.input[1:], strict=True)
        if name not in constants
    ]
    if any(part.startswith("running") and name in varies for part, name in computed):
        return (
            "normalises by the batch's own statistics also in evaluation: it keeps none",
            "Train the network with track_running_stats=True",
        )
    if computed and not any(name in varies for _, name in computed):
        return (
            "repeats its statistics for each image of the batch, as an instance norm does that tracks them",
            "Build the network with track_running_stats=False, and calibrate its bundle",
        )
    if computed:
        return (
            f"computes its {', '.join(part for part, _ in computed)} from the image",
            IN_EVALUATION,
        )
    values = dict(zip(PARTS, (constants[name] for name in node.input[1:]), strict=True))
    for part, value in values.items():
        if value.dtype != np.float32:
            return f"holds its {part} in {value.dtype}", IN_EVALUATION
        if not np.isfinite(value).all():
            return f"holds a {part} that is not finite", IN_EVALUATION
    if (values["running_var"] < 0).any():
        return "holds a negative running_var", IN_EVALUATION
    times = uses[_statistics_of(node, constants)]
    if times > 1 and not _is_fresh(values["running_mean"], values["running_var"]):
        return (
            f"is used at {times} places, so its statistics are of none of them",
            "Use a BN at each place",
        )
    return None


def _statistics_of(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bytes:
    """The running mean and variance of a BN node as bytes, under whatever names; none where it has
    none."""
    names = node.input[3:5]
    if node.op_type != "BatchNormalization" or not all(name in constants for name in names):
        return b""
    return b"".join(constants[name].tobytes() for name in names)


def _depend_on_pixels(proto: onnx.ModelProto) -> set[str]:
    """The values that images of one shape can make different; shapes and types are none of them."""
    varies = {value.name for value in proto.graph.input}
    for node in proto.graph.node:
        read = set() if node.op_type in ("Shape", "Size") else reads(node)
        if node.op_type == "CastLike":
            read = {node.input[0]}
        if varies.intersection(read) or node.op_type in RANDOM:
            varies.update(node.output)
    return varies


def undetermined(proto: onnx.ModelProto) -> list[str]:
    """What BN nodes read that is computed, but from the images' shape alone, as torch writes BN
    without an affine."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    computed = dict.fromkeys(
        name for node in norms for name in node.input[1:] if name not in constants
    )
    varies = _depend_on_pixels(proto)
    return [name for name in computed if name not in varies]


def with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the graph that computes float32 values `names` and nothing else."""
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    _refill(copied.graph.output, outputs)
    prune(copied)
    return copied


def determine(proto: onnx.ModelProto, values: dict[str, np.ndarray]) -> None:
    """Puts initialisers in the place of computed `values`."""
    for node in proto.graph.node:
        node.output[:] = ["" if name in values else name for name in node.output]
    _refill(proto.graph.node, [node for node in proto.graph.node if any(node.output)])
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items()
    )
    prune(proto)


def unlearnt(layers: list[Layer], tensors: dict[str, Tensor]) -> list[str]:
    """The BN layers whose statistics are mean 0 and variance 1, as before any training."""

    return [
        layer.key
        for layer in layers
        if _is_fresh(
            tensors[f"{layer.key}.running_mean"].numpy(),
            tensors[f"{layer.key}.running_var"].numpy(),
        )
    ]


def _is_fresh(mean: np.ndarray, variance: np.ndarray) -> bool:
    return bool((mean == 0).all() and (variance == 1).all())


def biased_convolutions(proto: onnx.ModelProto) -> int:
    return sum(
        node.op_type == "Conv" and len(node.input) > 2 and bool(node.input[2])
        for node in proto.graph.node
    )
