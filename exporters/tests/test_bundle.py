from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

from exporters import bundle, data, golden, graph, models, student
from exporters.__main__ import main
from exporters.data import Split
from exporters.errors import CheckError, InputError
from exporters.files import sha256
from exporters.network import Checkpoint, Pretraining

NETWORKS = [
    ("resnet10", {"width": 4, "stem": "small", "channels": 1, "classes": 10}),
    ("resnet18", {"width": 4, "stem": "imagenet", "channels": 1, "classes": 10}),
    ("convnet3", {"width": 8, "norm": "batch", "channels": 1, "size": 28, "classes": 10}),
    ("convnet3", {"width": 8, "norm": "instance", "channels": 1, "size": 28, "classes": 10}),
]
OPERATORS = {
    "Conv", "BatchNormalization", "Relu", "Add", "ReduceMean", "Reshape", "Gemm", "AveragePool", "MaxPool",
    "InstanceNormalization",
}  # fmt: skip


def trained(name: str, options: dict) -> nn.Module:
    """A network whose BN statistics and affine parameters are all different from their initial
    values."""
    torch.manual_seed(0)
    model = models.build(name, options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_graph_keeps_every_bn_and_every_parameter(name: str, options: dict):
    model = trained(name, options)
    serialised, layers = graph.to_onnx(model, (1, 28, 28))
    assert graph.to_onnx(model, (1, 28, 28))[0] == serialised
    proto = onnx.load_from_string(serialised)
    modules = [key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    nodes = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert [node.name for node in nodes] == modules == [layer.key for layer in layers]
    assert [node.input[0] for node in nodes] == [layer.tensor for layer in layers]
    assert {node.op_type for node in proto.graph.node} <= OPERATORS
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)

    initializers = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
    }
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(torch.from_numpy(initializers.pop(key).copy()), tensor)
    assert all(array.dtype == "int64" for array in initializers.values())
    assert [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 1, 28, 28,
    ]  # fmt: skip
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert proto.opset_import[0].version == graph.OPSET
    assert proto.ir_version == graph.IR_VERSION


def test_fresh_networks_keep_equal_parameters_apart():
    """All BN weights of a fresh network are equal; none may be merged or dropped."""
    model = models.build("convnet3", {"width": 8, "channels": 1, "size": 28})
    nn.init.zeros_(model.features[0].bias)
    serialised, _ = graph.to_onnx(model, (1, 28, 28))
    names = {tensor.name for tensor in onnx.load_from_string(serialised).graph.initializer}
    assert {key for key in model.state_dict() if not key.endswith("num_batches_tracked")} <= names


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_golden_probe_by_an_independent_route(name: str, options: dict):
    """Statistics, loss and gradient from the formulas of docs/bundle.md in float64, BN inputs taken
    out of ONNX Runtime.
    """
    model = trained(name, options)
    serialised, layers = graph.to_onnx(model, (1, 28, 28))
    inputs, targets = golden.golden_input(None, None, (1, 28, 28), 10)
    statistics = bundle.bn_statistics(model, layers)
    probe = golden.golden(model, layers, statistics, inputs, targets)
    again = golden.golden(model, layers, statistics, inputs, targets)
    assert all(torch.equal(probe[key], again[key]) for key in probe)
    assert not any(module._forward_pre_hooks for module in model.modules())

    proto = onnx.load_from_string(serialised)
    proto.graph.output.extend(onnx.ValueInfoProto(name=layer.tensor) for layer in layers)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logits, *tensors = session.run(None, {"input": inputs.numpy()})
    assert torch.allclose(torch.from_numpy(logits), probe["logits"], atol=1e-4)
    bn_loss = 0.0
    for index, (layer, tensor) in enumerate(zip(layers, tensors, strict=True)):
        values = torch.from_numpy(tensor).double().transpose(0, 1).flatten(1)
        mean = values.mean(1)
        variance = (values - mean[:, None]).square().mean(1)
        assert torch.allclose(probe[f"stats.{layer.key}.mean"].double(), mean, rtol=1e-4, atol=1e-4)
        assert torch.allclose(
            probe[f"stats.{layer.key}.var"].double(), variance, rtol=1e-4, atol=1e-4
        )
        module = model.get_submodule(layer.key)
        terms = (mean - module.running_mean).square().sum().sqrt() + (
            variance - module.running_var
        ).square().sum().sqrt()
        bn_loss += (10.0 if index == 0 else 1.0) * terms.item()
    ce = -torch.from_numpy(logits).double().log_softmax(1)[torch.arange(4), targets].mean().item()
    assert probe["ce"].item() == pytest.approx(ce, rel=1e-4)
    assert probe["bn_loss"].item() == pytest.approx(bn_loss, rel=1e-4)
    assert probe["loss"].item() == pytest.approx(ce + 0.01 * bn_loss, rel=1e-4)
    assert probe["input_grad"].shape == inputs.shape

    direction = (
        torch.nn.functional.normalize(probe["input_grad"].flatten(), dim=0).view_as(inputs).double()
    )
    model, step = model.double(), 1e-2  # the loss is stored in float32
    ahead, behind = (
        golden.golden(
            model, layers, statistics, inputs.double() + sign * step * direction, targets
        )["loss"].item()
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    assert slope == pytest.approx(probe["input_grad"].norm().item(), rel=1e-2)


class Tokens(nn.Module):
    """A batch norm whose output becomes tokens, and one whose input was tokens."""

    def __init__(self):
        super().__init__()
        self.before, self.middle, self.after = nn.BatchNorm2d(6), nn.Linear(6, 6), nn.BatchNorm2d(6)
        self.last = nn.Linear(6 * 28, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.before(x).flatten(2).transpose(1, 2).contiguous()
        image = self.middle(tokens).transpose(1, 2).view_as(x)
        return self.last(self.after(image).sin().flatten(1))


def test_golden_gradient_of_one_image_of_tokens():
    """Two equal images have the loss of one and half of its gradient each, however a batch of one
    lies in memory."""
    torch.manual_seed(0)
    model = Tokens()
    norms = {"before": model.before, "after": model.after}
    for norm in norms.values():
        norm.running_var.uniform_(0.5, 2)
    layers = [
        graph.Layer(key, key, key, norm.num_features, norm.eps) for key, norm in norms.items()
    ]
    statistics = bundle.bn_statistics(model, layers)
    inputs, targets = golden.golden_input(None, None, (6, 4, 7), 5, 1)
    one = golden.golden(model, layers, statistics, inputs, targets)
    two = golden.golden(model, layers, statistics, inputs.repeat(2, 1, 1, 1), targets.repeat(2))
    assert one["loss"].item() == pytest.approx(two["loss"].item(), rel=1e-6)
    assert torch.allclose(
        one["input_grad"], two["input_grad"].sum(0, keepdim=True), rtol=1e-5, atol=1e-8
    )


def test_statistics_of_classes(tmp_path: Path, tiny: Split):
    name, options = NETWORKS[0]
    pretraining = Pretraining(
        "supervised", "fashion-mnist", 1, "python -m exporters pretrain x.yaml", 1.5, "joint"
    )
    model = trained(name, options)
    Checkpoint("tiny", name, options, pretraining, model.state_dict()).save(tmp_path / "model.pt")
    folder = bundle.export_teacher(
        tmp_path / "model.pt", tmp_path, tmp_path, test=tiny, train=tiny, say=lambda _: None
    )
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["statistics"]["calibration"] == {
        "data": "fashion-mnist",
        "images": 200,
        "per_class": True,
    }
    found = load_file(folder / "bn_stats.safetensors")
    layers = [graph.Layer(**layer) for layer in manifest["statistics"]["layers"]]
    own = tiny.images[tiny.labels == 3]
    with torch.no_grad(), golden.observe(model, layers) as seen:
        model(
            data.normalise(
                data.to_float(own), data.info("fashion-mnist").mean, data.info("fashion-mnist").std
            )
        )
    for layer in layers:
        values = seen[layer.key].double().transpose(0, 1).flatten(1)
        assert found[f"{layer.key}.class_mean"].shape == (10, layer.channels)
        assert torch.allclose(
            found[f"{layer.key}.class_mean"][3].double(), values.mean(1), atol=1e-5
        )
        assert torch.allclose(
            found[f"{layer.key}.class_var"][3].double(), values.var(1, correction=0), rtol=1e-4
        )


def test_teacher_bundle(tmp_path: Path, tiny: Split):
    name, options = NETWORKS[0]
    pretraining = Pretraining(
        "supervised", "fashion-mnist", 1, "python -m exporters pretrain x.yaml", 1.5, "joint"
    )
    source = tmp_path / "model.pt"
    Checkpoint("tiny", name, options, pretraining, trained(name, options).state_dict()).save(source)
    said: list[str] = []
    folder = bundle.export_teacher(source, tmp_path, tmp_path / "onnx", test=tiny, say=said.append)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == [
        "bn_stats.safetensors",
        "golden.safetensors",
        "manifest.yaml",
        "model.onnx",
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in folder.iterdir())

    manifest = yaml.safe_load(first["manifest.yaml"])
    for file, facts in manifest["files"].items():
        assert facts == {"sha256": sha256(folder / file), "bytes": len(first[file])}
    assert manifest["name"] == "tiny"
    assert manifest["role"] == "teacher"
    assert manifest["source"] == {"file": "model.pt", "sha256": sha256(source)}
    assert manifest["accuracy"]["images"] == 200
    assert manifest["pretraining"]["wall_seconds"] == 1.5
    assert str(tmp_path) not in first["manifest.yaml"].decode()
    assert str(Path.cwd()).encode() not in first["model.onnx"]

    statistics = load_file(folder / "bn_stats.safetensors")
    initializers = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(first["model.onnx"]).graph.initializer
    }
    keys = [layer["key"] for layer in manifest["statistics"]["layers"]]
    assert Counter(tensor.rsplit(".", 1)[0] for tensor in statistics) == dict.fromkeys(keys, 4)
    assert all(
        (initializers[tensor] == values.numpy()).all() for tensor, values in statistics.items()
    )
    probe = load_file(folder / "golden.safetensors")
    assert {f"stats.{key}.{part}" for key in keys for part in ("mean", "var")} < set(probe)
    real = data.normalise(
        data.to_float(tiny.images[:2]),
        data.info("fashion-mnist").mean,
        data.info("fashion-mnist").std,
    )
    assert torch.equal(probe["input"][2:], real)
    assert torch.equal(probe["targets"][2:], tiny.labels[:2])

    with pytest.raises(InputError, match="exists"):
        bundle.export_teacher(source, tmp_path, tmp_path / "onnx", test=tiny, say=said.append)
    bundle.export_teacher(
        source, tmp_path, tmp_path / "onnx", replace=True, test=tiny, say=said.append
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["tiny"]


def test_a_bundle_unpacks_into_the_network_it_was_made_of(tmp_path: Path, tiny: Split):
    name, options = NETWORKS[0]
    pretraining = Pretraining(
        "moco_v2", "fashion-mnist", 3, "python -m exporters pretrain x.yaml", 9.5, "linear_probe"
    )
    Checkpoint("tiny", name, options, pretraining, trained(name, options).state_dict()).save(
        tmp_path / "model.pt"
    )
    folder = bundle.export_teacher(
        tmp_path / "model.pt", tmp_path, tmp_path / "onnx", test=tiny, say=lambda _: None
    )
    assert main(["unpack", str(folder), str(tmp_path / "again.pt")]) == 0
    first, again = Checkpoint.load(tmp_path / "model.pt"), Checkpoint.load(tmp_path / "again.pt")
    assert (again.name, again.architecture, again.options) == (first.name, name, options)
    assert again.pretraining == pretraining
    assert again.own is None
    assert again.state.keys() == first.state.keys()
    assert all(
        torch.equal(again.state[key], first.state[key])
        for key in first.state
        if "batches" not in key
    )
    exported = bundle.export_teacher(
        tmp_path / "again.pt", tmp_path, tmp_path / "new", test=tiny, say=lambda _: None
    )
    assert all(
        (exported / file).read_bytes() == (folder / file).read_bytes()
        for file in ("model.onnx", "bn_stats.safetensors", "golden.safetensors")
    )

    (folder / "model.onnx").write_bytes(b"changed")
    assert main(["unpack", str(folder), str(tmp_path / "bad.pt")]) == 2
    (folder / "manifest.yaml").write_text("role: student")
    assert main(["unpack", str(folder), str(tmp_path / "bad.pt")]) == 2
    assert not (tmp_path / "bad.pt").exists()


def test_student_bundle(tmp_path: Path, monkeypatch, tiny: Split):
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny)
    config = tmp_path / "student.yaml"
    architecture = {"name": "convnet3", "options": {"width": 8, "norm": "instance"}}
    config.write_text(
        yaml.safe_dump({"name": "pupil", "dataset": "fashion-mnist", "architecture": architecture})
    )
    folder = student.export_student(config, tmp_path, tmp_path, say=lambda _: None)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["role"] == "student"
    assert not {"pretraining", "source", "accuracy"} & set(manifest)
    assert manifest["statistics"] == {"kind": "none", "layers": []}
    assert load_file(folder / "bn_stats.safetensors") == {}
    assert load_file(folder / "golden.safetensors")["bn_loss"] == 0
    shapes = {
        tensor.name: list(tensor.dims)
        for tensor in onnx.load(folder / "model.onnx").graph.initializer
    }
    assert {
        entry["parameter"]: entry["shape"] for entry in manifest["init"]
    }.items() <= shapes.items()
    assert manifest["init"][0] == {
        "parameter": "features.0.weight",
        "shape": [8, 1, 3, 3],
        "distribution": {"type": "uniform", "bound": pytest.approx(1 / 3)},
    }


def test_standardised_weights_make_no_student(tmp_path: Path, monkeypatch, tiny: Split):
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny)
    config = tmp_path / "student.yaml"
    config.write_text(
        yaml.safe_dump(
            {"name": "pupil", "dataset": "cifar-10", "architecture": {"name": "timm/test_nfnet"}}
        )
    )
    with pytest.raises(
        InputError,
        match=r"timm/test_nfnet can't be a student: \d+ of its parameters, such as stem\.",
    ):
        student.export_student(config, tmp_path, tmp_path)
    assert not (tmp_path / "pupil").exists()


def test_disagreement_with_onnx_runtime_is_refused():
    model = trained(*NETWORKS[0])
    serialised, _ = graph.to_onnx(model, (1, 28, 28))
    session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    assert bundle.compare_to_torch(session, model, (1, 28, 28)) < 1e-4
    with torch.no_grad():
        model.fc.bias[3] += 1e-2
    with pytest.raises(CheckError, match="differ by"):
        bundle.compare_to_torch(session, model, (1, 28, 28))


def test_a_bn_module_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.bn(self.bn(images)).flatten(1)

    with pytest.raises(InputError, match="bn is used at 2 places"):
        graph.to_onnx(Twice(), (1, 28, 28))


def test_every_bn_that_is_none_of_the_network_is_named():
    model = trained(*NETWORKS[0])
    proto = onnx.load_from_string(graph.to_onnx(model, (1, 28, 28))[0])
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    norms[1].input[3], norms[4].name = "computed", "other"
    named = rf"^2 BN nodes are of no use: {norms[1].name} is no module but a call .*; other is no module but a call "
    with pytest.raises(InputError, match=named):
        graph._batch_norm_layers(proto, model)


def test_every_bn_that_cannot_be_folded_is_named():
    model = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.BatchNorm2d(2),
        nn.Flatten(),
    )
    with pytest.raises(CheckError, match=r"^BN 0, 4: no convolution of its own before it"):
        graph.fold(*graph.to_onnx(model, (1, 28, 28)))


def test_a_backbone_without_classifier_is_refused(tmp_path: Path):
    name, options = NETWORKS[0]
    model = trained(name, options)
    models.take_head(name, model)
    pretraining = Pretraining("moco_v2", "fashion-mnist", 1, "", 1.0, "none")
    Checkpoint("tiny", name, options, pretraining, model.state_dict()).save(tmp_path / "model.pt")
    with pytest.raises(InputError, match="run `python -m exporters probe"):
        bundle.export_teacher(tmp_path / "model.pt", tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str, monkeypatch, tiny: Split):
    monkeypatch.setattr(data, "load", lambda *_, **__: tiny)
    config = tmp_path / "student.yaml"
    config.write_text(
        yaml.safe_dump(
            {"name": name, "dataset": "fashion-mnist", "architecture": {"name": "convnet3"}}
        )
    )
    with pytest.raises(InputError, match="bundle name"):
        student.export_student(config, tmp_path, tmp_path)


def test_options_of_checkpoints_are_refused_beside_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    export = ["export", str(tmp_path / "model.pt"), "--out", str(tmp_path / "onnx")]
    assert main([*export, "--arch-options", "{width: 8}", "--under", "teacher"]) == 2
    message = capsys.readouterr().err
    assert "--arch-options, --under: for --checkpoint FILE alone" in message
