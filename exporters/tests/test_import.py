from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from exporters import data, foreign, golden, graph, importer, reference
from exporters.__main__ import main
from exporters.errors import CheckError, InputError

from .test_bundle import trained
from .test_graph import Functional
from .test_recover import recover, scdd

RESNET = ("resnet10", {"width": 8, "stem": "small", "channels": 1, "classes": 10})
SHAPE = (1, 28, 28)


def scrambled(serialised: bytes) -> onnx.ModelProto:
    """The graph with names that say nothing, as other exporters give them."""
    proto = onnx.load_from_string(serialised)
    numbers = iter(random.Random(0).sample(range(10**6), 10_000))
    names = {"": ""}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.name = names.setdefault(value.name, f"v{next(numbers)}")
    for node in proto.graph.node:
        node.name = f"n{next(numbers)}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names.setdefault(name, f"v{next(numbers)}") for name in node.output]
    return proto


def kept() -> tuple[nn.Module, onnx.ModelProto]:
    model = trained(*RESNET)
    return model, scrambled(graph.to_onnx(model, SHAPE)[0])


def folded() -> onnx.ModelProto:
    return scrambled(graph.fold(*graph.to_onnx(trained(*RESNET), SHAPE))[0])


def bring(folder: Path, proto: onnx.ModelProto, **options) -> tuple[Path, list[str]]:
    """The bundle of the graph, and what was said."""
    onnx.save(proto, folder / "raw.onnx")
    said: list[str] = []
    options = {"dataset_name": "fashion-mnist", "replace": True} | options
    return importer.import_onnx(
        folder / "raw.onnx", folder / "data", folder / "out", say=said.append, **options
    ), said


def test_bn_nodes_become_statistics_and_the_probe_is_pytorchs(tmp_path: Path):
    model, proto = kept()
    folder, _ = bring(tmp_path, proto)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    sides, probe = (
        load_file(folder / "bn_stats.safetensors"),
        load_file(folder / "golden.safetensors"),
    )
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    layers = [graph.Layer(**layer) for layer in manifest["statistics"]["layers"]]
    assert manifest["statistics"]["kind"] == "batch_norm"
    assert len(layers) == len(norms)
    assert manifest["pretraining"]["scheme"] == "unknown"
    assert "accuracy" not in manifest
    for layer, norm in zip(layers, norms, strict=True):
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(sides[f"{layer.key}.{part}"], getattr(norm, part))

    _, own = graph.to_onnx(model, SHAPE)
    parts = ("weight", "bias", "running_mean", "running_var")
    statistics = {
        f"{layer.key}.{part}": model.state_dict()[f"{layer.key}.{part}"]
        for layer in own
        for part in parts
    }
    wanted = golden.golden(model, own, statistics, probe["input"], probe["targets"])
    for name in ("logits", "ce", "bn_loss", "loss"):
        torch.testing.assert_close(probe[name], wanted[name], rtol=1e-6, atol=1e-6)
    for layer, mine in zip(layers, own, strict=True):
        torch.testing.assert_close(probe[f"stats.{layer.key}.var"], wanted[f"stats.{mine.key}.var"])
    slopes = (probe["directions"].double() * wanted["input_grad"].double()).flatten(1).sum(1)
    torch.testing.assert_close(
        probe["slopes"].double(), slopes, rtol=1e-5, atol=1e-6 * float(slopes.norm())
    )


def test_a_folded_graph_is_brought_without_statistics_and_says_so(tmp_path: Path):
    folder, said = bring(tmp_path, folded(), name="folded")
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["statistics"] == {"kind": "none", "layers": []}
    assert "convolutions with a bias: BN was folded into them" in said[-1]
    assert "scdd calibrate" in said[-1]
    assert said[-1].endswith(foreign.KEEPING_BN)


def test_accuracy_is_measured_where_the_data_are(tmp_path: Path, monkeypatch, tiny: data.Split):
    (tmp_path / "data/fashion-mnist").mkdir(parents=True)
    monkeypatch.setattr(data, "test_split", lambda *_: tiny)
    folder, _ = bring(tmp_path, kept()[1])
    assert yaml.safe_load((folder / "manifest.yaml").read_text())["accuracy"]["images"] == len(
        tiny.labels
    )


def test_accuracy_is_measured_on_images_of_ones_own(tmp_path: Path):
    for label in range(10):
        for split in ("train", "test"):
            picture = tmp_path / f"own/{split}/{label}/0.png"
            picture.parent.mkdir(parents=True)
            Image.new("L", (28, 28), 20 * label).save(picture)
    options = {"dataset_name": str(tmp_path / "own"), "mean": (0.5,), "std": (0.25,)}
    folder, _ = bring(tmp_path, kept()[1], **options)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert (manifest["accuracy"]["images"], manifest["pretraining"]["dataset"]) == (10, "own")
    assert manifest["classes"] == [str(label) for label in range(10)]


def network(
    nodes: list[onnx.NodeProto], inputs=("x",), batch: int | str = 1, opset: int = 13, **weights
):
    """A graph of `nodes` from 3x8x8 images to the value y."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 8, 8]) for name in inputs
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, "classes"])
    initializers = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    ]
    body = helper.make_graph(nodes, "g", values, [output], initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def small(classes: int, folder: Path) -> dict:
    """Options for images and classes of no known data set."""
    (folder / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return {
        "dataset_name": "own",
        "mean": (0.5,),
        "std": (0.25,),
        "classes_path": folder / "classes.txt",
    }


def test_what_zoo_graphs_do_at_their_ends_is_undone(tmp_path: Path):
    """A fixed batch in reshapes (a channel shuffle, a flattening), a softmax at the end, weights
    behind other nodes."""
    node = helper.make_node
    nodes = [
        node(
            "Constant", [], ["shuffled"], value=numpy_helper.from_array(np.array([1, 2, 3, 6, 6]))
        ),
        node("Identity", ["w"], ["w1"]),
        node("Conv", ["x", "w1", "b"], ["c"], kernel_shape=[3, 3]),
        node("Reshape", ["c", "shuffled"], ["d"], allowzero=1),
        node("Transpose", ["d"], ["e"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["e", "flat"], ["f"]),
        node("MatMul", ["f", "input"], ["g"]),
        node("Softmax", ["g"], ["y"]),
    ]
    proto = network(
        nodes,
        opset=14,
        w=drawn(6, 3, 3, 3),
        b=drawn(6),
        flat=np.array([1, -1]),
        input=drawn(216, 5),
    )
    folder, said = bring(tmp_path, proto, **small(5, tmp_path))
    written = onnx.load(folder / "model.onnx")
    assert [each.op_type for each in written.graph.node] == [
        "Conv",
        "Reshape",
        "Transpose",
        "Reshape",
        "MatMul",
    ]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert said[0].startswith("took the softmax off")
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["classes"] == [f"class {index}" for index in range(5)]
    assert manifest["preprocessing"]["mean"] == [0.5] * 3
    assert manifest["preprocessing"]["height"] == 8


def pooled(*nodes: onnx.NodeProto, **weights) -> onnx.ModelProto:
    """`nodes` from x to h, then logits of three classes."""
    rest = [
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return network([*nodes, *rest], batch="n", **weights)


def batch_norm(name: str, x: str, y: str, *parts: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(
        "BatchNormalization", [x, *(parts or ("s", "b", "m", "v"))], [y], name=name, **attributes
    )


ONES = {
    "s": np.ones(3, np.float32),
    "b": drawn(3),
    "m": np.zeros(3, np.float32),
    "v": np.ones(3, np.float32),
}


def test_every_odd_bn_is_named(tmp_path: Path):
    mean = helper.make_node("ReduceMean", ["x"], ["of_image"], axes=[0, 2, 3], keepdims=0)
    proto = pooled(
        mean,
        batch_norm("one", "x", "h1"),
        batch_norm("two", "h1", "h2", "s", "b", "of_image", "v"),
        batch_norm("three", "h2", "h3", "s", "b", "m", "negative"),
        batch_norm("four", "h3", "h", "nan", "b", "m", "v"),
        negative=-np.ones(3, np.float32),
        nan=np.full(3, np.nan, np.float32),
        **ONES,
    )
    proto.graph.node[2].attribute.append(helper.make_attribute("momentum", 0.5))
    with pytest.raises(InputError) as error:
        bring(tmp_path, proto, **small(3, tmp_path))
    assert str(error.value).endswith(
        "3 BN nodes are of no use: two normalises by the batch's own statistics also in evaluation: it keeps none; "
        "three holds a negative running_var; four holds a weight that is not finite. Train the network with "
        "track_running_stats=True; Export the network in evaluation mode, in float32; "
        f"{foreign.KEEPING_BN}"
    )


def as_others_export(folder: Path, *middle: nn.Module) -> onnx.ModelProto:
    """A network with `middle` in it by the export that the refusals recommend."""
    torch.manual_seed(0)
    end = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *middle, *end).eval()
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    shapes = ({0: torch.export.Dim("batch")},)
    options = {"dynamo": True, "optimize": False, "external_data": False, "verbose": False}
    torch.onnx.export(
        model, (torch.zeros(2, *SHAPE),), folder / "other.onnx", dynamic_shapes=shapes, **options
    )
    return onnx.load(folder / "other.onnx")


@pytest.mark.parametrize(
    "norm",
    [lambda: nn.BatchNorm2d(8, affine=False), lambda: nn.SyncBatchNorm(8), Functional],
    ids=range(3),
)
def test_bn_in_other_forms_is_taken(tmp_path: Path, norm: Callable[[], nn.Module]):
    """Scale and shift that torch computes from the image's shape are constants all the same."""
    folder, _ = bring(tmp_path, as_others_export(tmp_path, norm()))
    layers = yaml.safe_load((folder / "manifest.yaml").read_text())["statistics"]["layers"]
    sides = load_file(folder / "bn_stats.safetensors")
    assert len(layers) == 1
    key = layers[0]["key"]
    assert torch.equal(sides[f"{key}.weight"], torch.ones(8))
    assert torch.equal(sides[f"{key}.bias"], torch.zeros(8))
    assert sides[f"{key}.running_mean"].std() > 0.1


SHARED = nn.BatchNorm2d(8)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            [nn.BatchNorm2d(8, track_running_stats=False)],
            r"by the batch's own statistics also in evaluation: it keeps none\. Train the network with track_running",
        ),
        (
            [nn.InstanceNorm2d(8, track_running_stats=True)],
            r"repeats its statistics for each image of the batch, .*\. Build the network with track_running_st",
        ),
        (
            [SHARED, nn.ReLU(), SHARED],
            r"2 BN nodes .* is used at 2 places, so its statistics are of none of them\. Use a BN at each place",
        ),
    ],
)
def test_bn_without_statistics_of_its_own_is_refused(
    tmp_path: Path, middle: list[nn.Module], message: str
):
    with pytest.raises(InputError, match=message):
        bring(tmp_path, as_others_export(tmp_path, *middle))


def test_bn_in_training_mode_is_refused():
    node = batch_norm("bn", "x", "y", training_mode=1)
    node.output.extend(["mean", "var"])
    with pytest.raises(InputError, match="bn is in training mode"):
        foreign.batch_norms(network([node], opset=15, **ONES))


def test_bn_layers_of_an_untrained_network_are_all_named(tmp_path: Path):
    weights = ONES | {"c": drawn(3)}
    nodes = [
        batch_norm("", "x", "h1"),
        batch_norm("", "h1", "h2", "s", "b", "c", "v"),
        batch_norm("two", "h2", "h"),
    ]
    named = r"2 of 3 BN layers have the initial statistics 0 and 1 \(BatchNormalization_0, two\)"
    with pytest.raises(InputError, match=named):
        bring(tmp_path, pooled(*nodes, **weights), **small(3, tmp_path))


def test_classes_of_ones_own_are_not_imagenet(tmp_path: Path):
    node = helper.make_node
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["h"])]
    proto = pooled(*nodes, w=drawn(3, 3, 3, 3))
    folder, said = bring(
        tmp_path, proto, dataset_name=None, classes_path=small(3, tmp_path)["classes_path"]
    )
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["pretraining"]["dataset"] == "unknown"
    assert manifest["preprocessing"]["mean"] == list(data.info("imagenet").mean)
    assert said[0] == "no --dataset, --mean and --std: images are normalised as ImageNet's"


def typed(proto: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    proto.graph.input[0].type.tensor_type.elem_type = kind
    return proto


QUANTISE = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
DEQUANTISE = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"])
FUSED = helper.make_node("FusedConv", ["x", "w"], ["h"], domain="com.microsoft")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pooled(QUANTISE, DEQUANTISE, s=np.float32(0.1), z=np.uint8(128)),
            r"the graph is quantised \(QuantizeLinear x1, DequantizeLinear x1\).*import the float32 network",
        ),
        (
            lambda: pooled(FUSED, w=drawn(3, 3, 1, 1)),
            r"outside ONNX \(com\.microsoft::FusedConv x1\)",
        ),
        (
            lambda: pooled(
                helper.make_node("Conv", ["x", "w"], ["h"]), w=drawn(3, 3, 1, 1).astype(np.float16)
            ),
            r"weights are float16; export the network in float32",
        ),
    ],
)
def test_graphs_rewritten_for_inference_are_recognised(make: Callable, message: str):
    with pytest.raises(InputError, match=message):
        foreign.check_kind(make())


def test_images_of_bytes_are_refused_with_the_remedy():
    proto = typed(pooled(helper.make_node("Relu", ["x"], ["h"])), TensorProto.UINT8)
    with pytest.raises(InputError, match=r"is UINT8 .*give --mean and --std"):
        foreign.image_input(proto)


def test_class_numbers_are_no_logits(tmp_path: Path):
    rest = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    proto = network([*rest, helper.make_node("ArgMax", ["f"], ["y"], axis=1)], batch="n")
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, ["n", 1]))
    with pytest.raises(InputError, match=r"is int64 \(ArgMax of f\).*give --output f"):
        bring(tmp_path, proto, **small(3, tmp_path))


def test_nan_is_called_nan(tmp_path: Path):
    with pytest.raises(InputError, match="gives NaN or infinite outputs in ONNX Runtime"):
        bring(tmp_path, pooled(helper.make_node("Sqrt", ["x"], ["h"])), **small(3, tmp_path))


def test_networks_with_exact_gelu_are_imported(tmp_path: Path):
    """As exporters write it: x * (1 + erf(x / sqrt 2)) / 2."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Div", ["c", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["f"]),
        node("Mul", ["c", "f"], ["g"]),
        node("Mul", ["g", "half"], ["h"]),
    ]
    scalars = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    folder, _ = bring(
        tmp_path, pooled(*nodes, w=drawn(3, 3, 3, 3), **scalars), **small(3, tmp_path)
    )
    assert load_file(folder / "golden.safetensors")["slopes"].abs().min() > 0


JUMPING = {"Ceil", "Floor", "Round", "Sign", "Mod", "Cast", "CastLike", "BitCast", "Hardmax"}
"""Operators without a slope, or of other types than float."""


def test_reference_operators_compute_in_float64():
    """Central differences with two small steps agree; where something computes in float32, they are
    noise."""
    known = (
        json.loads((Path(__file__).parents[2] / "docs/conformance.json").read_text())[
            "operators"
        ].keys()
        - JUMPING
    )
    noisy, tried = {}, set()
    for case in load_model_tests(kind="node"):
        (operator, *others) = [node.op_type for node in case.model.graph.node]
        if others or operator not in known or not case.data_sets or "training_mode" in case.name:
            continue
        inputs, outputs = case.data_sets[0]
        if (
            not all(isinstance(each, np.ndarray) for each in (*inputs, outputs[0]))
            or outputs[0].dtype != np.float32
        ):
            continue
        exact = ReferenceEvaluator(reference.in_float64(case.model), new_ops=reference.OPERATORS)
        names = [value.name for value in case.model.graph.input]
        rng = np.random.default_rng(0)
        # Away from the whole numbers, where many operators have their kinks.
        first = inputs[0].astype(np.float64) + 1e-4 * rng.standard_normal(inputs[0].shape)
        rest = [
            each.astype(np.float64) if each.dtype == np.float32 else each for each in inputs[1:]
        ]
        direction = rng.standard_normal(first.shape)
        if inputs[0].dtype != np.float32 or not first.size:
            continue

        def slope(step, exact=exact, names=names, first=first, rest=rest, direction=direction):
            ahead, behind = (
                exact.run(
                    None, dict(zip(names, [first + sign * step * direction, *rest], strict=True))
                )[0]
                for sign in (1, -1)
            )
            return (ahead - behind) / (2 * step)

        once, twice = slope(1e-7), slope(2e-7)
        if not once.size or not np.isfinite(once).all():
            continue
        tried.add(operator)
        if np.abs(once - twice).max() > 1e-4 * max(np.abs(once).max(), 1e-30):
            noisy[operator] = case.name
    assert {"Erf", "Gelu", "GroupNormalization", "LayerNormalization", "Softmax"} <= tried
    assert noisy == {}


def test_data_in_other_files_are_put_in_or_missed(tmp_path: Path):
    _, proto = kept()
    onnx.save(
        proto,
        tmp_path / "big.onnx",
        save_as_external_data=True,
        location="big.data",
        size_threshold=0,
    )
    out = tmp_path / "out"
    importer.import_onnx(
        tmp_path / "big.onnx", tmp_path, out, dataset_name="fashion-mnist", say=lambda _: None
    )
    source = yaml.safe_load((out / "big/manifest.yaml").read_text())["source"]
    assert [each["file"] for each in source["data"]] == ["big.data"]
    (tmp_path / "big.data").unlink()
    with pytest.raises(InputError, match=r"big\.onnx is no valid.*big\.data"):
        foreign.read(tmp_path / "big.onnx")


def relu(**options) -> onnx.ModelProto:
    return network([helper.make_node("Relu", ["x"], ["y"])], **options)


def channels_last() -> onnx.ModelProto:
    proto = pooled(helper.make_node("Relu", ["x"], ["h"]))
    for dim, size in zip(
        proto.graph.input[0].type.tensor_type.shape.dim[1:], (8, 8, 3), strict=True
    ):
        dim.dim_value = size
    return proto


def two_outputs() -> onnx.ModelProto:
    proto = pooled(helper.make_node("Relu", ["x"], ["h"]))
    proto.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 3, 8, 8]))
    return proto


def baked_batch() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Tile", ["row", "times"], ["rows"]),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Concat", ["f", "rows"], ["y"], axis=1),
    ]
    return network(nodes, batch=1, row=drawn(1, 1), times=np.array([1, 1]))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: relu(inputs=("x", "z")), {}, r"inputs \['x', 'z'\]; one is wanted"),
        (channels_last, {}, r"\[\?x8x8x3\], with the channels last"),
        (two_outputs, {}, "the outputs y, h; say with --output"),
        (two_outputs, {"output_value": "q"}, "no value 'q'; its outputs are y, h"),
        (two_outputs, {"output_value": "h"}, "the output is of 2x3x8x8, not logits"),
        (baked_batch, {"classes": 4}, "ONNX Runtime can't run the graph on 2x3x8x8"),
        (
            lambda: pooled(helper.make_node("Relu", ["x"], ["h"])),
            {"classes": 7},
            "has 3 logits, but own has 7 classes",
        ),
        (
            lambda: pooled(helper.make_node("Relu", ["x"], ["h"])),
            {"size": 9},
            "takes images of 8x8, not of 9x9",
        ),
        (
            lambda: pooled(helper.make_node("Relu", ["x"], ["h"])),
            {"std": (1, 1)},
            "--std has 2 values",
        ),
        (
            lambda: pooled(helper.make_node("Relu", ["x"], ["h"])),
            {"mean": None},
            "'own' is unknown; known are",
        ),
        (
            lambda: pooled(helper.make_node("Relu", ["x"], ["h"])),
            {"dataset_name": "fashion-mnist"},
            "images of 3 channels, but those of fashion-mnist have 1",
        ),
    ],
)
def test_graphs_that_cannot_be_brought_are_explained(
    tmp_path: Path, make: Callable, options: dict, message: str
):
    known = small(options.pop("classes", 3), tmp_path)
    with pytest.raises(InputError, match=message):
        bring(tmp_path, make(), **known | options)
    assert not (tmp_path / "out").exists()


def test_broken_files_are_explained(tmp_path: Path, capsys):
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    for name, reason in (
        ("broken.onnx", "is not a readable ONNX file"),
        ("none.onnx", "does not exist"),
    ):
        assert main(["import", str(tmp_path / name), "--out", str(tmp_path)]) == 2
        assert reason in capsys.readouterr().err


def test_a_loss_without_a_slope_is_an_error(tmp_path: Path):
    with pytest.raises(CheckError, match="no steady slope"):
        bring(tmp_path, pooled(helper.make_node("Floor", ["x"], ["h"])), **small(3, tmp_path))


WINDOWS = [
    {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "dilations": [2, 2]},
]


@pytest.mark.parametrize(
    ("operator", "attributes", "weights", "opset"),
    [
        *(("MaxPool", window, (), 19) for window in WINDOWS),
        *(("AveragePool", window, (), 19) for window in WINDOWS),
        ("AveragePool", WINDOWS[1] | {"count_include_pad": 1}, (), 11),
        ("Conv", {}, ((8, 6, 3, 3), (8,)), 11),
        ("Conv", {"pads": [0, 1, 2, 1], "strides": [2, 1]}, ((8, 6, 3, 3),), 11),
        ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, ((8, 6, 3, 3), (8,)), 11),
        ("Conv", {"group": 3, "dilations": [2, 2]}, ((9, 2, 3, 3), (9,)), 11),
        *(("BatchNormalization", {"epsilon": 0.1}, ((6,),) * 4, opset) for opset in (7, 9, 14, 15)),
    ],
)
def test_operators_that_are_made_faster_compute_what_onnx_runtime_does(
    operator, attributes, weights, opset
):
    arrays = [drawn(2, 6, 11, 12), *(np.abs(drawn(*shape)) for shape in weights)]
    names = [f"i{index}" for index in range(len(arrays))]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    body = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (wanted,) = session.run(None, dict(zip(names, arrays, strict=True)))
    exact = ReferenceEvaluator(reference.in_float64(proto), new_ops=reference.OPERATORS)
    (found,) = exact.run(
        None, {name: array.astype(np.float64) for name, array in zip(names, arrays, strict=True)}
    )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_brought_bundles_verify_and_recover_after_calibration(tmp_path: Path):
    for proto, name in ((kept()[1], "kept"), (folded(), "folded")):
        folder, _ = bring(tmp_path, proto, name=name)
        verdict = scdd("verify", folder)
        assert verdict.returncode == 0, verdict.stdout
        assert "input gradient in 8 directions" in verdict.stdout
    refused = recover(tmp_path, tmp_path / "out/folded")
    assert refused.returncode == 2
    assert "scdd calibrate" in refused.stderr
    measured = scdd("calibrate", tmp_path / "out/folded", "--data", "fashion-mnist", "--images", 40)
    assert measured.returncode == 0, measured.stderr
    for name in ("kept", "folded-calibrated"):
        done = recover(tmp_path, tmp_path / "out" / name)
        assert done.returncode == 0, done.stderr
