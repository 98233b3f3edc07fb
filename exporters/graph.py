"""From a module to ONNX: BN kept as nodes named by their modules, parameters under their own names,
nothing else.

torch's own clean-up (`optimize=True`) folds every BN that follows a convolution, under the
convolution's unchanged name; hence `optimize=False` and the passes here, all of them public names
of onnxscript.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .errors import CheckError, InputError, listed

if TYPE_CHECKING:
    import onnx_ir as ir

# onnx_ir and onnxscript bring sympy, which takes seconds to import, so they are imported where a
# module is exported.

OPSET, IR_VERSION = 18, 10
INPUT, OUTPUT, FEATURES = "input", "logits", "features"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
STANDARDISED_WEIGHT = "standardised_weight"
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d)


@dataclass(frozen=True)
class Layer:
    """A value whose statistics are known: the module and the node that it belongs to, and its axis
    of channels."""

    key: str
    node: str
    tensor: str
    channels: int
    eps: float
    axis: int = 1


def to_onnx(
    model: nn.Module, shape: tuple[int, int, int], output: str = OUTPUT
) -> tuple[bytes, list[Layer]]:
    """The serialised graph of `model` in evaluation mode for images `[batch, *shape]`, and its BN
    layers.

    Layers come in execution order; a network without BN has none. The same module gives the same
    bytes.
    """
    import onnx_ir as ir

    model = model.eval()
    # What the fused kernels return lies in memory as no decomposition returns it, and views
    # recorded on it fail later.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), _attention_of_any_rank():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *shape),),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise CheckError("torch.onnx.export returned nothing")
    parameters = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    graph_model = program.model
    _clean(graph_model, set(parameters))
    _name_nodes(graph_model.graph, model)
    _strip(graph_model)
    proto = ir.to_proto(graph_model)
    del proto.graph.value_info[:]
    replaced = _compute_standardised_weights(proto)
    keep_padding(proto)
    onnx.checker.check_model(proto, full_check=True)
    layers = _batch_norm_layers(proto, model)
    _check_parameters(
        proto, {name: tensor for name, tensor in parameters.items() if name not in replaced}
    )
    return proto.SerializeToString(deterministic=True), layers


def prepare(model: nn.Module) -> nn.Module:
    """`model`, or a copy that computes the same, in which every BN has a scale and a shift, as
    bundles hold them.

    An InputError names all layers whose statistics are none that synthetic images could be aligned
    with.
    """
    modules = dict(model.named_modules())
    norms = {name: module for name, module in modules.items() if isinstance(module, BATCH_NORMS)}
    if untracked := [name for name, norm in norms.items() if norm.running_mean is None]:
        raise InputError(
            f"{len(untracked)} of {len(norms)} BN layers keep no running statistics (track_running_stats=False), so "
            f"there is nothing to align images with: {listed(untracked)}. Train it with track_running_stats=True"
        )
    tracked = [
        name
        for name, norm in modules.items()
        if isinstance(norm, INSTANCE_NORMS) and norm.running_mean is not None
    ]
    if tracked:
        raise InputError(
            f"{len(tracked)} instance norms keep running statistics, which are of single images and not of batches: "
            f"{listed(tracked)}. Build the network with track_running_stats=False, and calibrate its bundle"
        )
    if all(norm.affine for norm in norms.values()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BATCH_NORMS) and not module.affine:
            module.affine = True
            module.weight = nn.Parameter(torch.ones(module.num_features))
            module.bias = nn.Parameter(torch.zeros(module.num_features))
    return model


@contextmanager
def _attention_of_any_rank() -> Iterator[None]:
    """Computes attention of other than four dimensions by its formula; the exporter translates four
    only."""
    original = F.scaled_dot_product_attention

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        # Dropout, causal masks and shared heads are left to PyTorch; networks for images have none
        # of them.
        if query.dim() == 4 or dropout_p or is_causal or enable_gqa:
            return original(
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query @ key.transpose(-2, -1) * scale
        if attn_mask is not None:
            scores = (
                scores.masked_fill(~attn_mask, -torch.inf)
                if attn_mask.dtype == torch.bool
                else scores + attn_mask
            )
        return scores.softmax(-1) @ value

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def reads(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, also from within its subgraphs."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= reads(inner)
    return names


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def compute(proto: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Puts initialisers in the place of `nodes`, none of which depends on the image.

    What is computed for nobody but these nodes themselves is left out.
    """
    own = {name for node in nodes for name in node.output}
    kept = [node for node in proto.graph.node if not own.intersection(node.output)]
    read = {name for node in kept for name in reads(node)} | {
        value.name for value in proto.graph.output
    }
    wanted = sorted(own & read - {""})
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    copies = [_copy(node) for node in kept]
    del part.graph.input[:], part.graph.output[:], part.graph.node[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted
    )
    values = ReferenceEvaluator(part).run(None, {}) if wanted else []
    made = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(wanted, values, strict=True)
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    proto.graph.initializer.extend(made)


def keep_padding(proto: onnx.ModelProto) -> None:
    """Pads with the smallest positive float32 in place of 0 where a max-pooling follows, as in
    BiT's stem.

    ONNX Runtime 1.31 makes one node of a padding with 0 and a max-pooling after it, and that pads
    with -inf. Where a border has negative values alone, its largest is not 0 any more, and the
    logits are wrong (by 6e-3 in BiT).
    """
    pooled = {node.input[0] for node in proto.graph.node if node.op_type == "MaxPool"}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in (node for node in proto.graph.node if node.op_type == "Constant"):
        constants |= dict.fromkeys(node.output, node.attribute[0].t)
    name = "least_padding"
    for node in proto.graph.node:
        modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
        if (
            node.op_type != "Pad"
            or node.output[0] not in pooled
            or modes not in ([], [b"constant"])
        ):
            continue
        value = node.input[2] if len(node.input) > 2 else ""
        if len(node.input) < 2 or (
            value and (value not in constants or numpy_helper.to_array(constants[value]).any())
        ):
            continue
        node.input[:] = [*node.input[:2], name, *node.input[3:]]
        if name not in constants:
            least = np.array(np.finfo(np.float32).tiny, np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(least, name))
            constants[name] = proto.graph.initializer[-1]


def _compute_standardised_weights(proto: onnx.ModelProto) -> set[str]:
    """Computes the weights that BN standardises (NFNets, BiT, hybrid ViTs); returns the parameters
    they are made of.

    Such a BN takes a weight for its batch. Its statistics are none of the network's.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    producers: dict[str, onnx.NodeProto] = {}
    standardised: set[str] = set()
    for node in proto.graph.node:
        if not all(name in constants for name in node.input if name):
            continue
        constants.update(node.output)
        producers.update(dict.fromkeys(node.output, node))
        if node.op_type == "BatchNormalization" or standardised.intersection(node.input):
            standardised.update(node.output)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    chosen: set[str] = set()
    parameters: dict[str, set[str]] = {}
    for reader in proto.graph.node:
        ends = (
            standardised.intersection(reader.input) if reader.output[0] not in constants else set()
        )
        for end in ends:
            below, parameters[end] = [end], set()
            while below:
                name = below.pop()
                if name in producers:
                    chosen.update(producers[name].output)
                    below += producers[name].input
                elif name in initializers:
                    parameters[end].add(name)
    if not chosen:
        return set()
    compute(proto, [node for node in proto.graph.node if chosen.intersection(node.output)])
    for end, names in parameters.items():
        weight = next((name for name in sorted(names) if name.endswith(".weight")), None)
        if weight is not None:
            _rename_weight(proto, end, weight.removesuffix(".weight"))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    gone = {name for names in parameters.values() for name in names} - {
        tensor.name for tensor in kept
    }
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return gone


def _rename_weight(proto: onnx.ModelProto, name: str, module: str) -> None:
    """Names a standardised weight and the one node that reads it by their module."""
    readers = [node for node in proto.graph.node if name in node.input]
    if len(readers) != 1 or any(
        tensor.name == f"{module}.{STANDARDISED_WEIGHT}" for tensor in proto.graph.initializer
    ):
        return
    readers[0].name = module
    readers[0].input[:] = [
        f"{module}.{STANDARDISED_WEIGHT}" if each == name else each for each in readers[0].input
    ]
    next(
        tensor for tensor in proto.graph.initializer if tensor.name == name
    ).name = f"{module}.{STANDARDISED_WEIGHT}"


def _name_nodes(graph: ir.Graph, model: nn.Module) -> None:
    """Names the node that a leaf module became by that module; the nodes of a module that became
    several keep theirs.

    The exporter leaves the path of modules in a node's metadata, the operator last.
    """
    leaves = {
        name for name, module in model.named_modules() if next(module.children(), None) is None
    }
    nodes: dict[str, list[ir.Node]] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) > 1 and scopes[-2] in leaves:
            nodes.setdefault(scopes[-2], []).append(node)
    for module, group in nodes.items():
        if len(group) == 1:
            group[0].name = module
    for node in graph:
        if (
            node.op_type == "BatchNormalization"
            and node.inputs[1] is not None
            and node.inputs[1].name
        ):
            node.name = node.inputs[1].name.removesuffix(".weight")


def _clean(model: ir.Model, parameters: set[str]) -> None:
    """Folds what is constant except computations on parameters, then drops the zero biases that are
    no parameters."""
    import onnx_ir as ir
    import onnxscript.optimizer
    import onnxscript.rewriter
    from onnxscript.rewriter.rules import common

    def should_fold(node: ir.Node) -> bool | None:
        reads = any(value is not None and value.name in parameters for value in node.inputs)
        return False if reads and node.op_type != "Shape" else None

    for _ in range(2):
        onnxscript.optimizer.fold_constants(
            model, onnx_shape_inference=True, should_fold=should_fold
        )
        onnxscript.rewriter.rewrite(
            model,
            pattern_rewrite_rules=[
                common.materialize_reshape_shape_rule,
                common.no_op_cast_rule,
                common.no_op_expand_rule,
                common.reshape_reshape_rule,
                common.squeeze_reshape_1d_rule,
            ],
        )
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is not None and bias.name not in parameters and bias.const_value is not None:
            if np.any(bias.const_value.numpy()):
                raise CheckError(
                    f"Conv {node.name} has the bias {bias.name}, which is no parameter of the network"
                )
            node.resize_inputs(2)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    ir.passes.common.RemoveUnusedOpsetsPass()(model)


def _strip(model: ir.Model) -> None:
    """Removes metadata and documentation, which hold stack traces with local paths."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def _batch_norm_layers(proto: onnx.ModelProto, model: nn.Module) -> list[Layer]:
    modules = {
        name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)
    }
    nodes = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    uses = Counter(tuple(node.input[1:]) for node in nodes)
    layers, odd = [], []
    for node in nodes:
        module = modules.get(node.name)
        if reason := _oddity(node, module, uses[tuple(node.input[1:])]):
            odd.append(reason)
            continue
        assert module is not None, "its lack is an oddity"
        layers.append(Layer(node.name, node.name, node.input[0], module.num_features, module.eps))
    if odd:
        raise InputError(f"{len(odd)} BN nodes are of no use: {'; '.join(dict.fromkeys(odd))}")
    if unused := sorted(modules.keys() - {layer.key for layer in layers}, key=list(modules).index):
        raise InputError(
            f"{len(unused)} of {len(modules)} BN layers take no part in evaluation: {listed(unused)}. Build the network "
            "without them, such as without auxiliary classifiers"
        )
    return layers


def _oddity(node: onnx.NodeProto, module: nn.Module | None, uses: int) -> str | None:
    """Why a BN node has no statistics of its own that images could be aligned with; `None` where it
    has."""
    if any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute):
        return f"{node.name} normalises by the batch's own statistics also in evaluation"
    if uses > 1:
        return f"{node.name} is used at {uses} places, so its statistics are of none of them; use a BN at each"
    wanted = [
        node.name + suffix for suffix in (".weight", ".bias", ".running_mean", ".running_var")
    ]
    if module is None or list(node.input[1:]) != wanted:
        return (
            f"{node.name} is no module but a call of a function, with the statistics {' and '.join(node.input[3:])}; "
            "use nn.BatchNorm2d"
        )
    return None


def activation_layers(serialised: bytes, model: nn.Module) -> list[Layer]:
    """What can be calibrated without BN: what enters the layer norms, or else what leaves the
    convolutions.

    A layer norm's statistics are per feature of the last axis.
    """
    modules = dict(model.named_modules())
    norms, convolutions = [], []
    for node in onnx.load_from_string(serialised).graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        key = weight.removesuffix(".weight").removesuffix(f".{STANDARDISED_WEIGHT}")
        module = modules.get(key)
        if module is None or key == weight:
            continue
        if node.op_type == "LayerNormalization" and isinstance(module, nn.LayerNorm):
            norms.append(
                Layer(key, node.name, node.input[0], module.weight.numel(), module.eps, axis=-1)
            )
        elif node.op_type == "Conv" and isinstance(module, nn.Conv2d):
            convolutions.append(Layer(key, node.name, node.output[0], module.out_channels, 1e-5))
    layers = norms or convolutions
    if len({layer.key for layer in layers}) != len(layers):
        raise CheckError("a module that is called twice has no one activation to calibrate")
    return layers


def fold(serialised: bytes, layers: list[Layer]) -> tuple[bytes, list[Layer]]:
    """Folds every BN into the convolution before it, as exporters do by default; layers become its
    outputs."""
    proto = onnx.load_from_string(serialised)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    producers = {name: node for node in proto.graph.node for name in node.output}
    readers = Counter(name for node in proto.graph.node for name in node.input)
    folded, odd = [], []
    for layer in layers:
        bn = next(node for node in proto.graph.node if node.name == layer.node)
        conv = producers.get(bn.input[0])
        if conv is None or conv.op_type != "Conv" or readers[bn.input[0]] != 1:
            odd.append(layer.key)
            continue
        weight, (gamma, beta, mean, variance) = (
            conv.input[1],
            [numpy_helper.to_array(tensors[n]) for n in bn.input[1:]],
        )
        scale = gamma / np.sqrt(variance + np.float32(layer.eps))
        shift = (
            numpy_helper.to_array(tensors[conv.input[2]]) if len(conv.input) > 2 else np.float32(0)
        )
        kernel = numpy_helper.to_array(tensors[weight])
        kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
        tensors[weight].CopyFrom(numpy_helper.from_array(kernel, weight))
        bias = f"{weight}_bias"
        proto.graph.initializer.append(numpy_helper.from_array((shift - mean) * scale + beta, bias))
        del conv.input[2:]
        conv.input.append(bias)
        conv.output[0] = bn.output[0]
        proto.graph.node.remove(bn)
        folded.append(replace(layer, node=conv.name, tensor=conv.output[0]))
    if odd:
        raise CheckError(
            f"BN {', '.join(odd)}: no convolution of its own before it, so it cannot be folded"
        )
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True), folded


def folded_module(model: nn.Module, serialised: bytes, layers: list[Layer]) -> nn.Module:
    """A copy of `model` with the convolutions of `fold`'s graph and nothing where its BN was.

    Its weights are the graph's to the bit: folding rounds them, which can take a ReLU of a deep
    network to the other side.
    """
    proto = onnx.load_from_string(serialised)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    model = copy.deepcopy(model)
    for layer in layers:
        if type(model.get_submodule(layer.key)) is not nn.BatchNorm2d:
            raise CheckError(f"{layer.key} is more than a BN, so nothing can stand in its place")
        _, weight, bias = nodes[layer.node].input
        convolution = model.get_submodule(weight.removesuffix(".weight"))
        for name, tensor in (("weight", weight), ("bias", bias)):
            value = torch.from_numpy(numpy_helper.to_array(tensors[tensor]).copy())
            convolution.register_parameter(name, nn.Parameter(value))
        model.set_submodule(layer.key, nn.Identity())
    return model


def standardised_module(model: nn.Module, serialised: bytes) -> nn.Module:
    """`model`, or a copy whose convolutions take the standardised weights of its graph as they are.

    The graph's weights are rounded to float32, while a module in float64 would standardise anew in
    float64. The difference can take a ReLU of a deep network to the other side.
    """
    tensors = {
        tensor.name: tensor for tensor in onnx.load_from_string(serialised).graph.initializer
    }
    suffix = f".{STANDARDISED_WEIGHT}"
    names = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    if not names:
        return model
    model = copy.deepcopy(model)
    for name in names:
        weight = torch.from_numpy(numpy_helper.to_array(tensors[name + suffix]).copy())
        model.set_submodule(name, _GivenWeight(model.get_submodule(name), weight))
    return model


class _GivenWeight(nn.Module):
    """A module that pads and convolves as `inner` does, by `weight` `[Cout, Cin, H, W]` in place of
    its own."""

    weight: Tensor

    def __init__(self, inner: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        with _Convolving(self.weight):
            return self.inner(images)


class _Convolving(TorchFunctionMode):
    """Gives each convolution within the context `weight`, whatever it was called with."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is F.conv2d:
            args = (args[0], self.weight, *args[2:])
            options = {name: value for name, value in options.items() if name != "weight"}
        return func(*args, **options)


def _check_parameters(proto: onnx.ModelProto, parameters: dict[str, torch.Tensor]) -> None:
    """Every parameter and BN statistic of the network is an initialiser of the same name and bits.

    What modules share has several names, of which the graph needs one.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    shared: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in parameters.items():
        shared.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    for names in shared.values():
        present = [name for name in names if name in initializers]
        if not present:
            raise CheckError(f"parameter {' = '.join(names)} is not among the graph's initialisers")
        for name in present:
            array, tensor = numpy_helper.to_array(initializers[name]), parameters[name]
            if (
                array.shape != tuple(tensor.shape)
                or array.tobytes() != tensor.contiguous().numpy().tobytes()
            ):
                raise CheckError(f"initialiser {name} differs from the parameter of that name")
