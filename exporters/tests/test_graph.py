"""What networks of others bring to the exporter: BN in unusual forms, standardised weights,
attention of any rank."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from exporters import bundle, golden, graph, reference
from exporters.errors import InputError

SHAPE = (3, 8, 8)


class StandardisedConv(nn.Conv2d):
    """As timm's StdConv2d: BN takes the weight's outputs for its channels."""

    def forward(self, images: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(
            self.weight
        )
        return F.conv2d(images, weight, self.bias, self.stride, self.padding)


class Attention(nn.Module):
    """Attention among five axes, as windows of tokens make them (Nest, Twins, Hiera)."""

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).reshape(images.shape[0], 2, 2, 2, -1).transpose(-1, -2)
        mask = torch.ones(36, 36, dtype=torch.bool).tril() if self.masked else None
        found = F.scaled_dot_product_attention(
            tokens, tokens, tokens, attn_mask=mask, dropout_p=0.0
        )
        return found.transpose(-1, -2).reshape(images.shape)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.randn(8))
        self.register_buffer("spread", torch.rand(8) + 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return F.batch_norm(images, self.centre, self.spread)


class WithAuxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.auxiliary = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.own(images)


def network(*middle: nn.Module) -> nn.Module:
    """`middle` between a convolution and a classifier, with statistics unlike a fresh network's."""
    torch.manual_seed(0)
    end = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *middle, *end).eval()
    for module in model.modules():
        if isinstance(module, graph.BATCH_NORMS) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize(
    ("middle", "operators"),
    [
        ([nn.BatchNorm2d(8, affine=False)], {"BatchNormalization"}),
        ([nn.SyncBatchNorm(8)], {"BatchNormalization"}),
        (
            [nn.BatchNorm2d(8), StandardisedConv(8, 8, 3), StandardisedConv(8, 8, 1, bias=False)],
            {"BatchNormalization"},
        ),
        (
            [nn.BatchNorm2d(8), Attention()],
            {"BatchNormalization", "MatMul", "Softmax", "Mul", "Transpose"},
        ),
        ([nn.BatchNorm2d(8), Attention(masked=True)], None),
    ],
)
def test_networks_in_other_forms_are_exported(middle: list[nn.Module], operators: set[str] | None):
    model = network(*middle)
    prepared = graph.prepare(model)
    serialised, layers = graph.to_onnx(prepared, SHAPE)
    assert [layer.key for layer in layers] == ["1"]
    found = {node.op_type for node in onnx.load_from_string(serialised).graph.node}
    if operators is not None:
        assert found == operators | {"Conv", "Relu", "ReduceMean", "Reshape", "Gemm"}
    bundle.compare_to_torch(bundle.session_of(serialised), model, SHAPE)
    statistics = bundle.bn_statistics(prepared, layers)
    probe = golden.golden(prepared, layers, statistics, *golden.golden_input(None, None, SHAPE, 5))
    assert probe["input_grad"].abs().max() > 0


def test_standardised_weights_are_named_by_their_modules():
    serialised, _ = graph.to_onnx(network(nn.BatchNorm2d(8), StandardisedConv(8, 8, 3)), SHAPE)
    proto = onnx.load_from_string(serialised)
    assert "2.standardised_weight" in {tensor.name for tensor in proto.graph.initializer}
    assert "2" in {node.name for node in proto.graph.node}


def test_standardised_convolutions_are_calibrated_as_others():
    model = network(nn.ReLU(), StandardisedConv(8, 8, 3))
    serialised, _ = graph.to_onnx(model, SHAPE)
    layers = graph.activation_layers(serialised, model)
    assert [(layer.key, layer.node) for layer in layers] == [("0", "0"), ("2", "2")]


@pytest.mark.parametrize(
    "convolution",
    [
        StandardisedConv(8, 8, 3),
        StdConv2d(8, 8, 3, padding=1, groups=2),
        StdConv2dSame(8, 8, 3, stride=2, eps=1e-8),
        ScaledStdConv2d(8, 8, 3, gamma=1.7, stride=2),
        ScaledStdConv2dSame(8, 8, 2, gamma=1.7, stride=2),
    ],
)
def test_the_probe_convolves_by_the_weights_of_the_graph(convolution: nn.Module):
    """The graph's float32 weights in float64 differ from weights that are standardised in
    float64."""
    model = network(nn.ReLU(), nn.Sequential(convolution), nn.ReLU())
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    serialised, _ = graph.to_onnx(model, SHAPE)
    layers = graph.activation_layers(serialised, model)
    wanted, _ = reference.evaluator(onnx.load_from_string(serialised), layers)(images)

    def difference(network: nn.Module) -> float:
        with torch.no_grad():
            return float(
                (copy.deepcopy(network).double()(images) - wanted).abs().max() / wanted.abs().max()
            )

    exact = graph.standardised_module(model, serialised)
    assert difference(exact) < 1e-12
    assert difference(model) > 1e-10
    statistics = bundle.calibrated_statistics(model, layers, images.float())
    probe = golden.golden(exact, layers, statistics, *golden.golden_input(None, None, SHAPE, 5))
    assert probe["input_grad"].abs().max() > 0


def test_the_probe_of_other_networks_takes_the_module_itself():
    model = network(nn.BatchNorm2d(8))
    assert graph.standardised_module(model, graph.to_onnx(model, SHAPE)[0]) is model


def test_zeros_around_a_max_pooling_stay_zeros():
    """Negative images make the border's zeros the largest values of their windows."""
    model = network(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, stride=2), nn.BatchNorm2d(8))
    with torch.no_grad():
        model[0].bias.fill_(-20.0)
    serialised, _ = graph.to_onnx(model, SHAPE)
    bundle.compare_to_torch(bundle.session_of(serialised), model, SHAPE)


TWICE = nn.BatchNorm2d(8)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            [nn.BatchNorm2d(8, track_running_stats=False)],
            r"keep no running statistics .*: 1\. Train it with",
        ),
        (
            [nn.InstanceNorm2d(8, track_running_stats=True)],
            "which are of single images and not of batches: 1",
        ),
        (
            [Functional()],
            "a call of a function, with the statistics 1.centre and 1.spread; use nn.BatchNorm2d",
        ),
        ([TWICE, nn.ReLU(), TWICE], "is used at 2 places, so its statistics are of none of them"),
        ([WithAuxiliary()], r"1 of 2 BN layers take no part in evaluation: 1\.auxiliary"),
    ],
)
def test_bn_without_statistics_of_its_own_is_refused_with_the_cause(
    middle: list[nn.Module], message: str
):
    with pytest.raises(InputError, match=message):
        graph.to_onnx(graph.prepare(network(*middle)), SHAPE)
