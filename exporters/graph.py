"""From a module to ONNX: BN kept as nodes named by their modules, parameters under their own names, nothing else.

torch's own clean-up (`optimize=True`) folds every BN that follows a convolution, under the convolution's unchanged
name; hence `optimize=False` and the passes here, all of them public names of onnxscript.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
import torch
from onnx import numpy_helper
from onnxscript.rewriter.rules.common import (
    materialize_reshape_shape_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    reshape_reshape_rule,
    squeeze_reshape_1d_rule,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import CheckError

OPSET, IR_VERSION = 18, 10
INPUT, OUTPUT, FEATURES = "input", "logits", "features"


@dataclass(frozen=True)
class Layer:
    """A value whose statistics are known: the module and the node that it belongs to, and its axis of channels."""

    key: str
    node: str
    tensor: str
    channels: int
    eps: float
    axis: int = 1


def to_onnx(model: nn.Module, shape: tuple[int, int, int], output: str = OUTPUT) -> tuple[bytes, list[Layer]]:
    """The serialised graph of `model` in evaluation mode for images `[batch, *shape]`, and its BN layers.

    Layers come in execution order; a network without BN has none. The same module gives the same bytes.
    """
    model = model.eval()
    # What the fused kernels return lies in memory as no decomposition returns it, and views recorded on it fail later.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
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
    parameters = {name: tensor.detach() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    graph_model = program.model
    _clean(graph_model, set(parameters))
    _name_nodes(graph_model.graph, model)
    _strip(graph_model)
    proto = ir.to_proto(graph_model)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    layers = _batch_norm_layers(proto, model)
    _check_parameters(proto, parameters)
    return proto.SerializeToString(deterministic=True), layers


def _name_nodes(graph: ir.Graph, model: nn.Module) -> None:
    """Names the node that a leaf module became by that module; the nodes of a module that became several keep theirs.

    The exporter leaves the path of modules in a node's metadata, the operator last.
    """
    leaves = {name for name, module in model.named_modules() if next(module.children(), None) is None}
    nodes: dict[str, list[ir.Node]] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) > 1 and scopes[-2] in leaves:
            nodes.setdefault(scopes[-2], []).append(node)
    for module, group in nodes.items():
        if len(group) == 1:
            group[0].name = module
    for node in graph:
        if node.op_type == "BatchNormalization" and node.inputs[1] is not None and node.inputs[1].name:
            node.name = node.inputs[1].name.removesuffix(".weight")


def _clean(model: ir.Model, parameters: set[str]) -> None:
    """Folds what is constant except computations on parameters, then drops the zero biases that are no parameters."""

    def should_fold(node: ir.Node) -> bool | None:
        reads = any(value is not None and value.name in parameters for value in node.inputs)
        return False if reads and node.op_type != "Shape" else None

    for _ in range(2):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
        onnxscript.rewriter.rewrite(
            model,
            pattern_rewrite_rules=[
                materialize_reshape_shape_rule,
                no_op_cast_rule,
                no_op_expand_rule,
                reshape_reshape_rule,
                squeeze_reshape_1d_rule,
            ],
        )
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) == 3 else None
        if bias is not None and bias.name not in parameters and bias.const_value is not None:
            if np.any(bias.const_value.numpy()):
                raise CheckError(f"Conv {node.name} has the bias {bias.name}, which is no parameter of the network")
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
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    modules = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    layers, odd = [], []
    for node in proto.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        module = modules.get(node.name)
        wanted = [node.name + suffix for suffix in (".weight", ".bias", ".running_mean", ".running_var")]
        if module is None or list(node.input[1:]) != wanted:
            odd.append(f"{node.name} reads {list(node.input[1:])}")
            continue
        layers.append(Layer(node.name, node.name, node.input[0], module.num_features, module.eps))
    if odd:
        raise CheckError(
            f"{len(odd)} BN nodes are no BN of the network: {'; '.join(odd)}; "
            "one over weights (standardised convolutions) would have to be computed into them before"
        )
    if sorted(layer.key for layer in layers) != sorted(modules):
        raise CheckError(
            f"the network has {len(modules)} BN modules, but the graph has the {len(layers)} BN nodes "
            f"{[layer.key for layer in layers]}"
        )
    return layers


def activation_layers(serialised: bytes, model: nn.Module) -> list[Layer]:
    """What can be calibrated without BN: what enters the layer norms, or else what leaves the convolutions.

    A layer norm's statistics are per feature of the last axis.
    """
    modules = dict(model.named_modules())
    norms, convolutions = [], []
    for node in onnx.load_from_string(serialised).graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        module = modules.get(weight.removesuffix(".weight"))
        if module is None or not weight.endswith(".weight"):
            continue
        key = weight.removesuffix(".weight")
        if node.op_type == "LayerNormalization" and isinstance(module, nn.LayerNorm):
            norms.append(Layer(key, node.name, node.input[0], module.weight.numel(), module.eps, axis=-1))
        elif node.op_type == "Conv" and isinstance(module, nn.Conv2d):
            convolutions.append(Layer(key, node.name, node.output[0], module.out_channels, 1e-5))
    layers = norms or convolutions
    if len({layer.key for layer in layers}) != len(layers):
        raise CheckError("a module that is called twice has no one activation to calibrate")
    return layers


def fold(serialised: bytes, layers: list[Layer]) -> tuple[bytes, list[Layer]]:
    """Folds every BN into the convolution before it, as exporters do by default; layers become its outputs."""
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
        weight, (gamma, beta, mean, variance) = conv.input[1], [numpy_helper.to_array(tensors[n]) for n in bn.input[1:]]
        scale = gamma / np.sqrt(variance + np.float32(layer.eps))
        shift = numpy_helper.to_array(tensors[conv.input[2]]) if len(conv.input) > 2 else np.float32(0)
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
        raise CheckError(f"BN {', '.join(odd)}: no convolution of its own before it, so it cannot be folded")
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True), folded


def folded_module(model: nn.Module, serialised: bytes, layers: list[Layer]) -> nn.Module:
    """A copy of `model` with the convolutions of `fold`'s graph and nothing where its BN was.

    Its weights are the graph's to the bit: folding rounds them, which can take a ReLU of a deep network to the other
    side.
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
            if array.shape != tuple(tensor.shape) or array.tobytes() != tensor.contiguous().numpy().tobytes():
                raise CheckError(f"initialiser {name} differs from the parameter of that name")
