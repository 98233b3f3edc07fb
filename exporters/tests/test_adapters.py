from __future__ import annotations

import collections
import datetime
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
import yaml
from torch import nn

from exporters import adapters, community, convert, data, models
from exporters.__main__ import main
from exporters.bundle import run, session_of
from exporters.data import Options, Split
from exporters.errors import InputError
from exporters.network import Checkpoint
from exporters.networks import draw_statistics
from exporters.tests import layouts

OPTIONS = {"width": 4, "stem": "imagenet", "channels": 3, "classes": 7}


def quiet(_: str) -> None:
    pass


def network(options: dict | None = None, name: str = "resnet18") -> nn.Module:
    torch.manual_seed(0)
    return distinct(models.build(name, options or OPTIONS))


def distinct(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, no two tensors of which are equal any more."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(9)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    return model.eval()


def parts(model: nn.Module) -> tuple[layouts.State, layouts.State]:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    head = {key.removeprefix("fc."): state.pop(key) for key in list(state) if key.startswith("fc.")}
    return state, head


def outputs(adapted: adapters.Adapted, images: torch.Tensor) -> torch.Tensor:
    model = models.build(adapted.architecture, adapted.options)
    if adapted.head_source == "none":
        models.take_head(adapted.architecture, model)
    model.load_state_dict(adapted.state, strict=True)
    with torch.no_grad():
        return model.eval()(images)


def test_every_layout_of_the_table_is_tested():
    table = adapters.layouts()
    assert [layout.name for layout in table] == list(dict.fromkeys(layout.name for layout in table))
    originals = {original.layout for original in layouts.ORIGINALS}
    assert {layout.name for layout in table} == set(layouts.LAYOUTS) | originals


def test_torchvisions_vggs_are_none_of_the_families_for_small_images():
    with torch.device("meta"):
        state = layouts.library("vgg11_bn").state_dict()
    assert next(layout for layout in adapters.layouts() if layout.fits(state)).name == "plain"


def test_the_committed_table_is_current(tmp_path: Path, monkeypatch):
    committed = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    assert main(["adapters", "--table", "docs/adapters.md"]) == 0
    assert Path("docs/adapters.md").read_text(encoding="utf-8") == committed


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_layouts_are_recognised_and_fit_exactly(tmp_path: Path, name: str):
    options = OPTIONS | ({"stem": "small_pad2"} if name.startswith("solo-learn") else {})
    model = network(options)
    backbone, head = parts(model)
    path = tmp_path / "file.pth.tar"
    torch.save(layouts.LAYOUTS[name](backbone, head), path)
    layout = next(layout for layout in adapters.layouts() if layout.name == name)
    adapted = adapters.adapt(path, scheme="auto" if layout.auto else name)

    assert adapted.layout.name == name
    assert adapted.architecture == "resnet18"
    left_out = "settings in the file were left out: argparse.Namespace"
    assert (left_out in adapted.notes) == (name in layouts.WITH_SETTINGS)
    images = torch.randn(2, 3, 64, 64)
    inside = name in layouts.HEAD_INSIDE
    assert adapted.head_source == ("checkpoint" if inside else "none")
    if not inside:
        models.take_head("resnet18", model)
    with torch.no_grad():
        assert torch.equal(outputs(adapted, images), model(images))
    told: list[str] = []
    adapters.describe(adapted, told.append)
    floats = sum(1 for key in adapted.state if not key.endswith("num_batches_tracked"))
    assert f"mapped {floats} tensors to resnet18" in told[1]
    for line in told:
        assert "*" not in line or re.match(r"dropped \d+ tensors [\w.]+\*$", line)


@pytest.mark.parametrize(
    "original", layouts.ORIGINALS, ids=lambda original: f"{original.layout}-{original.architecture}"
)
def test_networks_as_families_build_them_give_their_logits(
    tmp_path: Path, original: layouts.Original
):
    torch.manual_seed(0)
    model = distinct(original.network())
    path = tmp_path / "file.pth"
    torch.save(
        original.write({key: value.clone() for key, value in model.state_dict().items()}), path
    )
    adapted = adapters.adapt(path, classes=7)
    assert (adapted.layout.name, adapted.architecture) == (original.layout, original.architecture)
    assert adapted.head_source == "checkpoint"
    images = torch.randn(3, *original.shape)
    with torch.no_grad():
        wanted = model(images)
    assert wanted.std() > 0.01
    assert torch.allclose(
        outputs(adapted, images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("name", layouts.HEADS)
def test_separate_heads(tmp_path: Path, name: str):
    model = network()
    backbone, head = parts(model)
    torch.save(layouts.swav(backbone, head), tmp_path / "backbone.pth")
    content = layouts.HEADS[name](head)
    torch.save(content, tmp_path / "head.pth")
    adapted = adapters.adapt(tmp_path / "backbone.pth", head_path=tmp_path / "head.pth", classes=7)
    assert adapted.head_source == "file"
    images = torch.randn(2, 3, 64, 64)
    models.take_head("resnet18", model)
    with torch.no_grad():
        features = model(images)
        norm = {
            key.split("bn.")[1]: t for key, t in adapters._flatten(content).items() if "bn." in key
        }
        if norm:
            features = nn.functional.batch_norm(
                features,
                norm["running_mean"],
                norm["running_var"],
                norm.get("weight"),
                norm.get("bias"),
            )
        assert bool(norm) == (name in ("swav_linear_bn", "vissl_heads"))
        wanted = nn.functional.linear(features, head["weight"], head["bias"])
    assert torch.allclose(outputs(adapted, images), wanted, atol=1e-5)
    with pytest.raises(InputError, match="has 7 classes, but the data set has 10"):
        adapters.adapt(tmp_path / "backbone.pth", head_path=tmp_path / "head.pth", classes=10)
    torch.save({"weight": torch.randn(7, 5)}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="there are 0 such; 2-d weights are weight \\[7, 5\\]"):
        adapters.adapt(tmp_path / "backbone.pth", head_path=tmp_path / "odd.pth")


def test_wrappers_half_precision_and_old_files(tmp_path: Path):
    model = network()
    state = {f"module._orig_mod.{key}": value.half() for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "half.pth", _use_new_zipfile_serialization=False)
    adapted = adapters.adapt(tmp_path / "half.pth", scheme="moco_v3")
    assert adapted.scheme == "moco_v3"
    assert adapted.notes == ["float16 tensors were converted to float32"]
    assert torch.equal(adapted.state["conv1.weight"], model.conv1.weight.half().float())
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    adapted = adapters.adapt(tmp_path / "model.safetensors")
    assert torch.equal(adapted.state["fc.bias"], model.fc.bias)
    (tmp_path / "bad.safetensors").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="not a readable safetensors"):
        adapters.adapt(tmp_path / "bad.safetensors")


def test_torchvision_and_timm_networks(tmp_path: Path):
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    torch.save(model.state_dict(), tmp_path / "mobile.pth")
    adapted = adapters.adapt(tmp_path / "mobile.pth", scheme="supervised")
    assert (adapted.architecture, adapted.options) == ("torchvision/mobilenet_v2", {"classes": 5})
    assert (adapted.scheme, adapted.head_source) == ("supervised", "checkpoint")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(outputs(adapted, images), model.eval()(images))

    import timm

    model = timm.create_model("resnet10t", num_classes=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    torch.save({"state_dict_ema": model.state_dict(), "arch": "resnet10t"}, tmp_path / "timm.pth")
    for architecture in ("timm/resnet10t", None):  # the file tells its architecture
        adapted = adapters.adapt(tmp_path / "timm.pth", architecture=architecture)
        assert (adapted.unwrapped, adapted.architecture) == ("state_dict_ema", "timm/resnet10t")
        with torch.no_grad():
            assert torch.allclose(outputs(adapted, images), model.eval()(images), atol=1e-5)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    with pytest.raises(
        InputError, match="timm/resnet10t has exactly these tensors: if it is that, give --arch"
    ):
        adapters.adapt(tmp_path / "timm.pth")
    assert (
        adapters.adapt(tmp_path / "timm.pth", architecture="timm/resnet10t").mapped
        == adapted.mapped
    )


def test_what_lies_beside_a_checkpoint_of_hugging_face_is_read(tmp_path: Path):
    torch.manual_seed(0)
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    safetensors.torch.save_file(
        dict(distinct(layouts.HuggingFace([2, 2, 2, 2], False)).state_dict()), path
    )
    for text in ('{"downsample_in_bottleneck": false, "hidden_act": "relu"}', "[1]", "rubbish"):
        config.write_text(text)
        assert adapters.adapt(path).layout.name == "hugging-face"
    config.write_text('{"downsample_in_bottleneck": true}')
    with pytest.raises(
        InputError,
        match=r"config.json has downsample_in_bottleneck True, and networks .* False alone",
    ):
        adapters.adapt(path)

    import timm

    model = distinct(timm.create_model("resnet10t", num_classes=4))
    safetensors.torch.save_file(dict(model.state_dict()), path)
    for text, architecture in (
        (
            '{"architecture": "resnet10t", "pretrained_cfg": {"tag": "c3_in1k"}}',
            "timm/resnet10t.c3_in1k",
        ),
        ('{"architecture": "resnet10t", "pretrained_cfg": {"tag": "of_mine"}}', "timm/resnet10t"),
    ):
        config.write_text(text)
        assert adapters.adapt(path).architecture == architecture


@pytest.fixture(scope="module")
def inceptions() -> dict[str, nn.Module]:
    """torchvision's networks with auxiliary classifiers, and statistics of noise in all BN that
    evaluation has."""
    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False, "transform_input": True}
    networks = {
        "googlenet": torchvision.models.GoogLeNet(1000, **options),
        "inception_v3": torchvision.models.Inception3(1000, **options),
    }
    for model in networks.values():
        draw_statistics(model, torch.randn(4, 3, 80, 80))
    return networks


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_dropped(
    tmp_path: Path, inceptions: dict[str, nn.Module], name: str
):
    model, path = inceptions[name], tmp_path / "file.pth"
    heads = {"googlenet": {"aux1.": 10, "aux2.": 10}, "inception_v3": {"AuxLogits.": 14}}[name]
    images = torch.randn(2, 3, 80, 80)
    without = {
        key: value for key, value in model.state_dict().items() if not key.startswith(tuple(heads))
    }
    for state, dropped in ((model.state_dict(), heads), (without, {})):
        torch.save(state, path)
        for architecture in (name, f"torchvision/{name}", None):
            adapted = adapters.adapt(path, architecture=architecture, classes=1000)
            assert (adapted.architecture, adapted.head_source) == (
                f"torchvision/{name}",
                "checkpoint",
            )
            assert adapted.dropped == dropped
            assert any(
                "auxiliary classifiers serve training only" in note for note in adapted.notes
            ) == bool(dropped)
            assert any("the network renormalises its images" in note for note in adapted.notes)
        for transformed in (True, False):
            model.transform_input = transformed
            adapted = adapters.adapt(
                path, architecture=name, options={"transform_input": transformed}
            )
            assert not any("renormalises" in note for note in adapted.notes)
            with torch.no_grad():
                wanted = model(images)
            assert torch.allclose(
                outputs(adapted, images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())
            )
        model.transform_input = True

    own = {
        **model.state_dict(),
        "fc.weight": torch.randn(7, model.fc.in_features),
        "fc.bias": torch.randn(7),
    }
    torch.save(own, path)
    with pytest.raises(
        InputError,
        match=f"no tensor tells whether torchvision/{name} renormalises its images. Give",
    ):
        adapters.adapt(path, classes=7)
    with pytest.raises(InputError, match="option transform_input is 1; true or false is wanted"):
        adapters.adapt(path, options={"transform_input": 1})
    assert (
        adapters.adapt(path, classes=7, options={"transform_input": False}).options["classes"] == 7
    )


def test_published_networks_are_preprocessed_as_published(
    tmp_path: Path, inceptions: dict[str, nn.Module]
):
    path, said, known = tmp_path / "inception_v3.pth", [], data.info("imagenet")
    torch.save(inceptions["inception_v3"].state_dict(), path)

    def preprocessed(architecture: str, path: Path = path, **given) -> data.DatasetInfo:
        adapted = adapters.adapt(path, architecture=architecture)
        chosen = Options(**given)
        return community._preprocessed(chosen.describe("imagenet"), adapted, chosen, said.append)

    of_torchvision = preprocessed("torchvision/inception_v3")
    assert (of_torchvision.mean, of_torchvision.std, of_torchvision.size) == (
        known.mean,
        known.std,
        299,
    )
    assert "of torchvision/inception_v3 as published" in said[-1]
    assert "size 299" in said[-1]
    assert preprocessed("torchvision/inception_v3", size=96).size == 96
    with pytest.raises(
        InputError,
        match=r"its published weights differ: .*inception_v3.gluon_in1k wants mean \(0.485",
    ):
        preprocessed("timm/inception_v3")
    of_timm = preprocessed("timm/inception_v3.tv_in1k")
    assert (of_timm.mean, of_timm.std, of_timm.size) == ((0.5,) * 3, (0.5,) * 3, 299)
    given = preprocessed("timm/inception_v3", mean=(0.4,) * 3, std=(0.2,) * 3)
    assert (given.mean, given.std) == ((0.4,) * 3, (0.2,) * 3)

    # torchvision's renormalisation of what ImageNet's mean and deviation gave is timm's
    # preprocessing.
    pixels = torch.rand(2, 3, 80, 80)
    by_either = [
        outputs(
            adapters.adapt(path, architecture=name), data.normalise(pixels, taken.mean, taken.std)
        )
        for name, taken in (
            ("inception_v3", of_torchvision),
            ("timm/inception_v3.tv_in1k", of_timm),
        )
    ]
    assert torch.allclose(*by_either, rtol=1e-3, atol=1e-3 * float(by_either[0].abs().max()))

    torch.save(network().state_dict(), tmp_path / "ours.pth")
    assert preprocessed("resnet18", tmp_path / "ours.pth") == known


def test_a_network_that_renormalises_is_a_bundle(tmp_path: Path, inceptions: dict[str, nn.Module]):
    model, path = inceptions["googlenet"], tmp_path / "googlenet.pth"
    torch.save(model.state_dict(), path)
    arguments = [
        "export",
        "--checkpoint",
        str(path),
        "--arch",
        "googlenet",
        "--size",
        "64",
        "--out",
        str(tmp_path),
    ]
    assert main(["--data", str(tmp_path), *arguments]) == 0
    manifest = yaml.safe_load((tmp_path / "googlenet" / "manifest.yaml").read_text())
    options = {"channels": 3, "classes": 1000, "transform_input": True}
    assert manifest["architecture"] == {"name": "torchvision/googlenet", "options": options}
    pixels = torch.rand(2, 3, 64, 64)
    images = data.normalise(
        pixels, *(tuple(manifest["preprocessing"][key]) for key in ("mean", "std"))
    )
    session = session_of((tmp_path / "googlenet" / "model.onnx").read_bytes())
    with torch.no_grad():
        wanted = model(data.normalise(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).numpy()
    assert np.allclose(run(session, images), wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_unrecognised_networks_are_told_what_is_near(tmp_path: Path):
    path = tmp_path / "file.pth"
    state = network().state_dict()
    lacking = {
        key: value for key, value in state.items() if not key.startswith("layer3.1.bn2.running_")
    }
    torch.save(lacking | {"layer4.1.attention.weight": torch.ones(3)}, path)
    with pytest.raises(InputError) as error:
        adapters.adapt(path)
    assert (
        "the nearest known network is resnet18 (width 4, stem imagenet, channels 3, classes 7); missing: "
        "layer3.1.bn2.running_mean, layer3.1.bn2.running_var; not in the architecture: layer4.1.attention.weight"
    ) in str(error.value)
    assert "--arch" not in str(error.value)
    assert str(error.value).endswith(
        "Any other network can be exported to ONNX where its code is, for `python -m exporters import`"
    )
    torch.save(dict(state) | {"rotation.weight": torch.ones(4, 32)}, path)
    with pytest.raises(
        InputError,
        match=r"rotation.weight. If the network does without these in evaluation, save the",
    ):
        adapters.adapt(path)
    torch.save({"tokens.weight": torch.ones(9, 2), "blocks.0.mix.weight": torch.ones(2, 2)}, path)
    with pytest.raises(
        InputError, match=r"near these 2 tensors: tokens.weight \[9, 2\], .*\]\. Any other"
    ):
        adapters.adapt(path)
    torch.save(
        {"patch_embed.proj.weight": torch.ones(9, 3, 2, 2), "mix.weight": torch.ones(2, 2)}, path
    )
    with pytest.raises(
        InputError,
        match=r"near these 2 tensors: patch_embed.* If timm has the network, give --arch timm/",
    ):
        adapters.adapt(path)


def test_the_pooling_after_a_small_stem_is_asked_for(tmp_path: Path):
    model = network(OPTIONS | {"stem": "small_pool"})
    torch.save(model.state_dict(), tmp_path / "file.pth")
    for arguments in ({}, {"architecture": "resnet18"}, {"options": {"width": 4}}):
        with pytest.raises(
            InputError, match="conv1 is 3x3, and no tensor tells whether a max-pool follows it"
        ):
            adapters.adapt(tmp_path / "file.pth", **arguments)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
    for stem, same in (("small_pool", True), ("small", False), ("small_pad2", False)):
        adapted = adapters.adapt(tmp_path / "file.pth", options={"stem": stem})
        assert adapted.options["stem"] == stem
        assert torch.equal(outputs(adapted, images), wanted) == same
    with pytest.raises(
        InputError,
        match="resnet18 has no option 'stride'; it has width, stem, inner, channels, classes",
    ):
        adapters.adapt(tmp_path / "file.pth", options={"stem": "small", "stride": 2})
    with pytest.raises(InputError, match=r"option stem is \['small'\]; text is wanted"):
        adapters.adapt(tmp_path / "file.pth", options={"stem": ["small"]})
    with pytest.raises(
        InputError, match=r"is no resnet18 .*conv1.weight is \[4, 3, 3, 3\], not \[4, 3, 7, 7\]"
    ):
        adapters.adapt(tmp_path / "file.pth", options={"stem": "imagenet"})


def test_averaged_weights_come_first_unless_a_place_is_named(tmp_path: Path):
    model = network()
    path = tmp_path / "file.pth"
    torch.save(layouts.as_reference(dict(model.state_dict())), path)
    averaged = adapters.adapt(path)
    assert (averaged.unwrapped, averaged.dropped) == ("model_ema", {"n_averaged": 1})
    assert torch.equal(averaged.state["conv1.weight"], model.conv1.weight)
    note = "the averaged weights under model_ema were taken; --under model takes the weights themselves"
    assert note in averaged.notes
    weights = adapters.adapt(path, under="model")
    assert weights.unwrapped == "model"
    assert torch.equal(weights.state["conv1.weight"], model.conv1.weight + 1)
    torch.save({"state_dict_ema": model.state_dict()}, path)
    averaged = adapters.adapt(path)
    assert (averaged.unwrapped, averaged.notes) == ("state_dict_ema", [])
    with pytest.raises(
        InputError,
        match="has no tensors under 'model'; there are some under state_dict_ema, conv1, bn1",
    ):
        adapters.adapt(path, under="model")


def test_the_only_tensors_of_a_file_are_found_however_deep(tmp_path: Path):
    state, path = network().state_dict(), tmp_path / "file.pth"
    figures = {
        "best_acc": torch.tensor(0.9),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 3)}}},
    }
    nested = (
        {"state_dict": {"model": state}},
        {"run": {"last": {"weights": state}}},
        {"weights": state},
    )
    for content, where in zip(
        nested, ("state_dict.model", "run.last.weights", "weights"), strict=True
    ):
        torch.save(content | figures, path)
        adapted = adapters.adapt(path)
        assert (adapted.unwrapped, adapted.mapped, adapted.dropped) == (where, 102, {})
    torch.save(figures, path)
    with pytest.raises(
        InputError,
        match=r"holds no network: none of its keys \(best_acc, optimizer\) has tensors in it",
    ):
        adapters.adapt(path)


def test_one_of_several_networks_is_named(tmp_path: Path):
    model = network()
    state, path = dict(model.state_dict()), tmp_path / "file.pth"
    others = {key: value + 1 for key, value in state.items()}

    def taken(under: str) -> adapters.Adapted:
        adapted = adapters.adapt(path, under=under)
        assert torch.equal(adapted.state["fc.weight"], model.fc.weight)
        return adapted

    torch.save({"student": others, "teacher": state}, path)
    with pytest.raises(
        InputError,
        match=r"tensors in several places: student \(122\), teacher \(122\); .* --under stu",
    ):
        adapters.adapt(path)
    assert taken("teacher").unwrapped == "teacher"

    pair = layouts.under("student.", others) | layouts.under("teacher.", state)
    torch.save({"state_dict": layouts.under("module.", pair)}, path)
    with pytest.raises(
        InputError,
        match=r"not of one network alone: --under student takes those of resnet18 .* and --un",
    ):
        adapters.adapt(path)
    for under in ("teacher", "state_dict.teacher"):
        assert taken(under).dropped == {"student.": 122}
    with pytest.raises(
        InputError,
        match="has no tensors under 'pupil'; there are some under state_dict, student, teacher",
    ):
        taken("pupil")

    torch.save(
        layouts.lightning(layouts.under("model.", state) | {"criterion.weight": torch.ones(7)}),
        path,
    )
    with pytest.raises(
        InputError,
        match="these 123 tensors are not of one network alone: --under model takes those of",
    ):
        adapters.adapt(path)
    assert taken("model").dropped == {"criterion.": 1}

    backbone, head = parts(model)
    torch.save(
        layouts.under("net.backbone.", backbone) | layouts.under("net.classify.", head), path
    )
    with pytest.raises(
        InputError, match="not of one network alone: --under backbone takes those of resnet18"
    ):
        adapters.adapt(path)
    adapted = adapters.adapt(path, under="backbone", head_path=path)
    assert (adapted.head_source, adapted.dropped) == ("file", {"classify.": 2})
    assert torch.equal(adapted.state["fc.bias"], model.fc.bias)


def test_a_classifier_that_is_no_layer_alone_is_not_lost_in_silence(tmp_path: Path):
    model, path = network(), tmp_path / "fine tuned.pth"
    state = {key.replace("fc.", "fc.1."): value for key, value in model.state_dict().items()}
    torch.save(state, path)
    adapted = adapters.adapt(path)
    assert (adapted.head_source, adapted.dropped) == ("none", {"fc.": 2})
    assert adapted.notes == [
        "fc is no single linear layer but fc.1.weight, fc.1.bias, which were dropped; if one linear layer of the file "
        f"is the classifier, --head '{path}' takes it"
    ]
    images = torch.randn(2, 3, 64, 64)
    adapted = adapters.adapt(path, head_path=path)
    assert (adapted.head_source, adapted.dropped, adapted.notes) == ("file", {"fc.": 2}, [])
    with torch.no_grad():
        assert torch.equal(outputs(adapted, images), model(images))
    torch.save(state | {"fc.4.weight": torch.ones(7, 32)}, path)
    with pytest.raises(
        InputError,
        match=r"but there are 2 such; 2-d weights are fc.1.weight \[7, 32\], fc.4.weight",
    ):
        adapters.adapt(path, head_path=path)
    torch.save(dict(model.state_dict()) | {"fc.bias": torch.ones(6)}, path)
    with pytest.raises(
        InputError, match=r"weight is \[7, 32\] and its bias \[6\], which do not fit together"
    ):
        adapters.adapt(path)
    torch.save({"fc.weight": model.fc.weight, "fc.bias": model.fc.bias}, path)
    with pytest.raises(
        InputError, match=r"fc.bias \[7\] is a linear layer alone: give it as --head"
    ):
        adapters.adapt(path)


def test_weights_that_cannot_be_computed_with_are_refused(tmp_path: Path):
    state, path = network().state_dict(), tmp_path / "file.pth"
    torch.save(state | {"layer1.0.conv1.weight": torch.full((4, 4, 3, 3), torch.nan)}, path)
    with pytest.raises(
        InputError,
        match=r"1 of 122 tensors hold NaN or infinite values \(layer1.0.conv1.weight\): the tr",
    ):
        adapters.adapt(path)
    torch.save(state | {"fc.bias": torch.full((7,), torch.inf)}, path)
    with pytest.raises(
        InputError, match=r"1 of 122 tensors hold NaN or infinite values \(fc.bias\)"
    ):
        adapters.adapt(path)
    for odd, says in (
        (
            torch.zeros(7, 32, dtype=torch.complex64),
            "fc.weight is of complex64, not of floating point",
        ),
        (torch.zeros(7, 32, dtype=torch.int64), "fc.weight is of int64, not of floating point"),
        (torch.zeros(7, 32).to_sparse(), r"fc.weight is a sparse tensor: save its to_dense\(\)"),
        (
            torch.zeros(7, 32, device="meta"),
            "fc.weight is a meta tensor, which has no values: load the weights",
        ),
    ):
        torch.save(dict(state) | {"fc.weight": odd}, path)
        with pytest.raises(InputError, match=says):
            adapters.adapt(path)
    torch.save({key: value.to(torch.int8) for key, value in state.items()}, path)
    with pytest.raises(InputError, match=r"conv1.weight is of int8, not of floating point: give"):
        adapters.adapt(path)


def test_a_classifier_of_other_features_is_refused(tmp_path: Path):
    state = dict(layouts.Kuangliu([2, 2, 2, 2], 4).state_dict()) | {
        "linear.weight": torch.randn(7, 128)
    }
    for key in [key for key in state if key.endswith("running_mean")]:
        state[key] = torch.randn_like(state[key])
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(
        InputError, match=r"the classifier takes 128 features, but resnet18 \(.*\) has 32"
    ):
        adapters.adapt(tmp_path / "file.pth")


def test_networks_of_torchvision_for_small_images_are_asked_about(tmp_path: Path):
    torch.manual_seed(0)
    model = distinct(torchvision.models.mobilenet_v2(num_classes=10))
    torch.save(model.state_dict(), tmp_path / "mobile.pth")
    arguments = {"chosen": Options("cifar-10"), "say": quiet}
    with pytest.raises(
        InputError, match="give --arch torchvision/mobilenet_v2 if it was trained exactly as torch"
    ):
        community.export_community(
            tmp_path / "mobile.pth", tmp_path, tmp_path / "onnx", **arguments
        )
    arguments["architecture"] = "torchvision/mobilenet_v2"
    assert community.export_community(
        tmp_path / "mobile.pth", tmp_path, tmp_path / "onnx", **arguments
    ).is_dir()


def test_preprocessing_is_what_is_given_or_the_family_s_or_the_data_set_s(tmp_path: Path):
    torch.manual_seed(0)
    state = distinct(layouts.Kuangliu([3, 3, 3], 4, option="A")).state_dict()
    head = {"linear.weight": torch.randn(10, 16), "linear.bias": torch.randn(10)}
    torch.save(layouts.as_akamaster(state | head), tmp_path / "r20.th")
    said: list[str] = []

    def export(name: str, **given) -> dict:
        folder = community.export_community(
            tmp_path / "r20.th", tmp_path, tmp_path / "onnx", chosen=Options("cifar-10", **given), name=name,
            network=tmp_path / f"{name}.pt", say=said.append,
        )  # fmt: skip
        return yaml.safe_load((folder / "manifest.yaml").read_text())["preprocessing"]

    own = export("own")
    assert (own["mean"], own["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    told = "preprocessing of layout akamaster: mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225"
    assert any(
        line.startswith(told) and line.endswith("(--mean and --std overrule it)") for line in said
    )
    assert Checkpoint.load(tmp_path / "own.pt").own.std == (0.229, 0.224, 0.225)
    given = export("given", std=(0.25, 0.25, 0.2))
    assert (given["mean"], given["std"]) == ([0.485, 0.456, 0.406], [0.25, 0.25, 0.2])
    assert any(
        line.startswith("preprocessing as given: mean 0.485, 0.456, 0.406; std 0.25, 0.25, 0.2")
        for line in said
    )


def test_classes_of_ones_own_are_not_imagenet(tmp_path: Path):
    torch.save(network().state_dict(), tmp_path / "own.pth")
    (tmp_path / "classes.txt").write_text("\n".join(f"kind {label}" for label in range(7)))
    said: list[str] = []
    folder = community.export_community(
        tmp_path / "own.pth", tmp_path, tmp_path / "onnx", network=tmp_path / "own.pt", say=said.append,
        chosen=Options(classes=tmp_path / "classes.txt", size=32), options={"stem": "imagenet"},
    )  # fmt: skip
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert (manifest["pretraining"]["dataset"], manifest["classes"][0]) == ("unknown", "kind 0")
    assert manifest["preprocessing"]["mean"] == list(data.info("imagenet").mean)
    assert "no --dataset, --mean and --std: images are normalised as ImageNet's" in said
    assert any(line.startswith("preprocessing of imagenet: mean 0.485") for line in said)
    with pytest.raises(
        InputError, match="the network was trained on unknown: name its folder with --dataset"
    ):
        Options().of(Checkpoint.load(tmp_path / "own.pt").dataset())

    (tmp_path / "classes.txt").write_text("\n".join(data.info("imagenet").classes))
    assert (
        Options(classes=tmp_path / "classes.txt").describe_unnamed(said.append).name == "imagenet"
    )


def test_what_does_not_fit_is_refused(tmp_path: Path):
    model = network()
    state = model.state_dict()
    path = tmp_path / "file.pth"

    torch.save(state, path)
    with pytest.raises(InputError) as error:
        adapters.adapt(path, architecture="resnet34")
    assert "missing: layer1.2.conv1.weight" in str(error.value)
    assert "; resnet18 (width 4, stem imagenet, channels 3, classes 7) would fit" in str(
        error.value
    )
    with pytest.raises(InputError, match=r"conv1.weight is \[4, 3, 7, 7\], not \[8, 3, 7, 7\]"):
        adapters.adapt(path, architecture="resnet18", options={"width": 8})

    torch.save(
        {key: value for key, value in state.items() if key != "layer3.0.bn2.running_var"}, path
    )
    with pytest.raises(InputError, match=r"missing: layer3\.0\.bn2\.running_var"):
        adapters.adapt(path, architecture="resnet18")
    torch.save(state | {"extra.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"not in the architecture: extra\.weight"):
        adapters.adapt(path, architecture="resnet18")

    fresh = dict(models.build("resnet18", OPTIONS).state_dict())
    torch.save(fresh, path)
    with pytest.raises(
        InputError, match=r"20 of 20 BN layers have the initial statistics 0 and 1 \(bn1, "
    ):
        adapters.adapt(path)
    torch.save(state | {"bn1.running_var": -state["bn1.running_var"]}, path)
    with pytest.raises(
        InputError, match=r"1 of 20 BN layers have a negative variance .bn1.: the file is damaged"
    ):
        adapters.adapt(path)

    torch.save(layouts.moco_v2(*parts(model)), path)
    with pytest.raises(InputError, match="layout of MoCo v2: moco_v2"):
        adapters.adapt(path, scheme="byol")
    with pytest.raises(InputError, match="does not have the layout swav"):
        adapters.adapt(path, scheme="swav")
    with pytest.raises(InputError, match="must be auto, a layout"):
        adapters.adapt(path, scheme="mocov2")
    torch.save({"epoch": 3}, path)
    with pytest.raises(
        InputError, match=r"holds no network: none of its keys \(epoch\) has tensors in it"
    ):
        adapters.adapt(path)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_conversion_keeps_tensors_and_runs_nothing(tmp_path: Path, legacy: bool):
    mark = tmp_path / "executed"
    tensors = {
        "conv.weight": torch.randn(3, 2),
        "half": torch.randn(4).half(),
        "count": torch.tensor(3),
    }
    meters = collections.defaultdict(list)
    meters["loss"].append(1.0)
    content = {
        "hostile": Hostile(mark), "meters": meters, "state_dict": collections.OrderedDict(tensors), "epoch": 3,
        "parameter": {"weight": nn.Parameter(torch.ones(2))},
    }  # fmt: skip
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=not legacy)
    said: list[str] = []
    clean = adapters.read(
        convert.convert(tmp_path / "file.pt", tmp_path / "clean.pt", say=said.append)
    )
    assert clean.keys() == {"state_dict", "parameter"}
    assert all(torch.equal(clean["state_dict"][key], value) for key, value in tensors.items())
    assert "posix.mkdir" in said[0]
    assert not mark.exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"weights": Hostile(mark)}))
    for content in (b"rubbish", (tmp_path / "plain.pkl").read_bytes()):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(InputError):
            convert.convert(tmp_path / "bad.pt", tmp_path / "clean2.pt", say=quiet)
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no tensors in dictionaries and no module"):
        convert.convert(tmp_path / "list.pt", tmp_path / "clean2.pt", say=quiet)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_becomes_its_state_dict(tmp_path: Path, legacy: bool):
    model = nn.DataParallel(network())
    model.module.register_buffer("transient", torch.ones(1), persistent=False)
    torch.save(
        {"model": model, "epoch": 3},
        tmp_path / "file.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(InputError, match="python -m exporters convert"):
        adapters.read(tmp_path / "file.pt")
    clean = adapters.read(convert.convert(tmp_path / "file.pt", tmp_path / "clean.pt", say=quiet))
    assert list(clean["model"]) == list(model.state_dict())
    adapted = adapters.adapt(tmp_path / "clean.pt")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(outputs(adapted, images), model.module(images))


@pytest.mark.parametrize("legacy", [False, True])
def test_settings_beside_the_tensors_are_left_out_and_code_is_refused(tmp_path: Path, legacy: bool):
    mark = tmp_path / "executed"
    content = layouts.as_reference(dict(network().state_dict()))
    content |= {
        "when": datetime.datetime(2026, 1, 1),
        "figures": np.arange(3.0),
        "meters": collections.Counter("aa"),
    }
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    adapted = adapters.adapt(tmp_path / "file.pth")
    left_out = next(
        note for note in adapted.notes if note.startswith("settings in the file were left out: ")
    )
    assert "argparse.Namespace" in left_out
    assert "numpy" in left_out
    assert adapters.read(tmp_path / "file.pth")["args"]["model"] == "resnet18"
    torch.save(content | {"hostile": Hostile(mark)}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="python -m exporters convert"):
        adapters.adapt(tmp_path / "file.pth")
    assert not mark.exists()


GREY = {"width": 4, "stem": "small", "channels": 1, "classes": 10}


def test_export_of_a_community_checkpoint(tmp_path: Path, tiny: Split, monkeypatch):
    monkeypatch.setattr(data, "test_split", lambda *_: tiny)
    model = network(GREY, "resnet10")
    torch.save(layouts.mmselfsup(*parts(model)), tmp_path / "own.pth")
    arguments = [
        "--data",
        str(tmp_path),
        "export",
        "--checkpoint",
        str(tmp_path / "own.pth"),
        "--out",
        str(tmp_path),
    ]
    arguments += ["--arch-options", "{stem: small}"]
    assert main([*arguments, "--dataset", "fashion-mnist", "--scheme", "moco_v2"]) == 0
    manifest = yaml.safe_load((tmp_path / "own" / "manifest.yaml").read_text())
    assert manifest["pretraining"]["scheme"] == "moco_v2"
    assert manifest["pretraining"]["head"] == "linear_probe"
    assert manifest["accuracy"]["images"] == 200
    assert manifest["source"]["layout"] == "mmselfsup"

    assert main([*arguments, "--dataset", "cifar-10"]) == 2  # channels
    assert main([*arguments, "--dataset", "imagenet"]) == 2  # classes
    assert main([*arguments, "own.pt"]) == 2  # both kinds of input

    assert (
        main(
            [
                *arguments,
                "--dataset",
                "fashion-mnist",
                "--name",
                "saved",
                "--save-network",
                str(tmp_path / "n.pt"),
            ]
        )
        == 0
    )
    with pytest.raises(
        InputError, match=r"n.pt was written by the exporters themselves: leave out --checkpoint"
    ):
        adapters.adapt(tmp_path / "n.pt")
    with pytest.raises(
        InputError,
        match=r"a checkpoint of others becomes a bundle by `export --checkpoint .*own.pth`",
    ):
        Checkpoint.load(tmp_path / "own.pth")


def test_features_only_bundle(tmp_path: Path, capsys):
    model = network(GREY, "resnet10")
    backbone, head = parts(model)
    torch.save(layouts.moco_v3(backbone, head), tmp_path / "own.pth")
    said: list[str] = []
    folder = community.export_community(
        tmp_path / "own.pth", tmp_path, tmp_path / "onnx", chosen=Options("fashion-mnist"), network=tmp_path / "own.pt",
        options={"stem": "small"}, say=said.append,
    )  # fmt: skip
    assert "features only" in said[-1]
    assert any("accuracy not measured" in line for line in said)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["pretraining"]["head"] == "none"
    assert manifest["classes"] == []
    assert manifest["onnx"]["output"] == "features"
    assert len(manifest["statistics"]["layers"]) == 12
    assert "accuracy" not in manifest
    probe = safetensors.torch.load_file(folder / "golden.safetensors")
    assert not {"targets", "logits"} & set(probe)
    models.take_head("resnet10", model)
    with torch.no_grad():
        assert torch.allclose(probe["features"], model(probe["input"]), atol=1e-5)
    assert probe["ce"] == 0
    assert probe["loss"].item() == pytest.approx(0.01 * probe["bn_loss"].item())
    assert Checkpoint.load(tmp_path / "own.pt").pretraining.scheme == "moco_v3"


def test_images_too_small_for_the_network(tmp_path: Path):
    torch.manual_seed(0)
    model = torchvision.models.alexnet(num_classes=10)
    torch.save(model.state_dict(), tmp_path / "alex.pth")
    with pytest.raises(InputError, match="can't take images of 32x32"):
        community.export_community(
            tmp_path / "alex.pth", tmp_path, tmp_path / "onnx", architecture="torchvision/alexnet",
            chosen=Options("cifar-10"), say=quiet,
        )  # fmt: skip
