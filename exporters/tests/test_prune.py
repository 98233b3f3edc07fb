from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from exporters import bundle, data, models
from exporters.__main__ import main
from exporters.data import DatasetInfo, Split
from exporters.distilled import DistilledSet
from exporters.errors import InputError
from exporters.network import Checkpoint, Pretraining, own_data
from exporters.prune import Inner, prune_network
from exporters.tests.test_bundle import trained
from exporters.tests.test_incremental import WholeViews

OPTIONS = {"width": 8, "stem": "small", "inner": 1.0, "channels": 1, "classes": 10}
PRETRAINING = Pretraining("supervised", "fashion-mnist", 3, "python -m x", 9.5, "joint", 0.9)


def checkpoint(name: str = "resnet10") -> Checkpoint:
    return Checkpoint("tiny", name, OPTIONS, PRETRAINING, trained(name, OPTIONS).state_dict())


def masked(whole: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """`whole` with all but the kept outputs of these BN at 0 behind their ReLU."""
    modules = dict(whole.named_modules())
    for name, channels in kept.items():
        mask = torch.zeros(1, modules[name].num_features, 1, 1)
        mask[0, channels] = 1
        # Below 0 the ReLU that follows gives 0.
        modules[name].register_forward_hook(
            lambda _module, _inputs, output, mask=mask: output * mask - (1 - mask)
        )
    return whole


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_a_pruned_network_is_the_whole_without_the_removed_channels(name: str):
    whole = checkpoint(name)
    pruned = prune_network(whole, 0.6, "magnitude")
    assert pruned.options["inner"] == 0.6
    state = {key: tensor.clone() for key, tensor in whole.state.items()}
    convolutions = [re.fullmatch(r"(layer.*)conv(\d)\.weight", key) for key in state]
    kept = {}
    for block, number in (found.groups() for found in convolutions if found):
        if f"{block}conv{int(number) + 1}.weight" in state:
            weight = state[f"{block}conv{number}.weight"]
            strongest = weight.abs().sum((1, 2, 3)).sort(descending=True).indices
            kept[f"{block}bn{number}"] = strongest[: round(0.6 * len(weight))].sort().values
    # The statistics of the pruned network, which another test looks at.
    for key in state:
        norm = key.rpartition(".")[0]
        if "running" in key and "layer" in key:
            state[key][kept.get(norm, slice(None))] = pruned.state[key]
    model = models.build(name, whole.options)
    model.load_state_dict(state)
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        found, expected = pruned.network()(images), masked(model.eval(), kept)(images)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_shares_are_those_of_rectified_normal_numbers():
    torch.manual_seed(0)
    norm, last = nn.BatchNorm2d(3), nn.BatchNorm2d(2)
    first, second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
        mean, variance = Inner(first, norm, second, last).shares()
        draws = torch.randn(1_000_000, 3, 1) * norm.weight.abs()[:, None] + norm.bias[:, None]
        seen = draws.relu().double()
        for channel in range(3):
            taps = second.weight[:, channel].flatten(1).double()
            for output in range(2):
                expected = seen[:, channel].mean() * taps[output].sum()
                spread = seen[:, channel].var() * taps[output].square().sum()
                assert mean[output, channel] == pytest.approx(float(expected), rel=0.02, abs=2e-4)
                assert variance[output, channel] == pytest.approx(float(spread), rel=0.05, abs=2e-4)


def test_channels_that_take_least_variance_go_with_what_they_gave():
    whole = checkpoint()
    pruned = prune_network(whole, 0.5)
    model = whole.network()
    layer = Inner(
        *(model.get_submodule(f"layer1.0.{part}") for part in ("conv1", "bn1", "conv2", "bn2"))
    )
    mean, variance = (share.detach().numpy() for share in layer.shares())
    before, after = (each.state for each in (whole, pruned))
    scale = before["layer1.0.bn2.running_var"].numpy() + 1e-5
    order = np.argsort(-(variance / scale[:, None]).sum(0))
    kept, removed = np.sort(order[:4]), order[4:]
    assert torch.equal(after["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"][kept])
    assert torch.equal(after["layer1.0.conv2.weight"], before["layer1.0.conv2.weight"][:, kept])
    old = {part: before[f"layer1.0.bn2.{part}"].numpy() for part in ("running_mean", "running_var")}
    new = {part: after[f"layer1.0.bn2.{part}"].numpy() for part in old}
    np.testing.assert_allclose(
        new["running_mean"], old["running_mean"] - mean[:, removed].sum(1), rtol=1e-4, atol=1e-5
    )
    left = old["running_var"] - variance[:, removed].sum(1)
    np.testing.assert_allclose(
        new["running_var"], np.maximum(left, 0.1 * old["running_var"]), rtol=1e-4
    )


def test_what_can_not_be_pruned_is_told():
    with pytest.raises(
        InputError, match=r"--keep 1\.0: it must be above 0 and below 1; 0\.8 keeps"
    ):
        prune_network(checkpoint(), 1.0)
    pruned = prune_network(checkpoint(), 0.5)
    with pytest.raises(InputError, match="tiny is pruned already; prune the network"):
        prune_network(pruned, 0.5)
    other = Checkpoint("tiny", "convnet3", {"classes": 10}, PRETRAINING, {})
    with pytest.raises(InputError, match="tiny is a convnet3; only inner channels of resnet10"):
        prune_network(other, 0.5)


def test_the_command_writes_a_bundle_that_unpacks(tmp_path: Path, capsys):
    # Images of one's own, whose preprocessing no registry knows.
    photos = DatasetInfo("photos", 1, 28, tuple("abcdefghij"), (0.25,), (0.5,))
    whole = replace(
        checkpoint(), pretraining=replace(PRETRAINING, dataset="photos"), own=own_data(photos)
    )
    folder = bundle.write_teacher(
        whole, photos, None, {}, tmp_path / "onnx", name=None, replace=False, say=lambda _: None
    )
    out = tmp_path / "pruned"
    arguments = ["--data", str(tmp_path), "prune", str(folder), "--keep", "0.5", "--out", str(out)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "tiny-pruned-50-by-statistics: " in told
    assert "accuracy not measured: photos is not in" in told
    made = out / "tiny-pruned-50-by-statistics"
    manifest = yaml.safe_load((made / "manifest.yaml").read_text())
    assert manifest["architecture"] == {"name": "resnet10", "options": OPTIONS | {"inner": 0.5}}
    assert manifest["pretraining"]["probe_accuracy"] is None
    assert (manifest["preprocessing"]["mean"], manifest["preprocessing"]["std"]) == ([0.25], [0.5])
    channels = {each["key"]: each["channels"] for each in manifest["statistics"]["layers"]}
    assert (channels["layer4.0.bn1"], channels["layer4.0.bn2"]) == (32, 64)
    assert main(["unpack", str(made), str(tmp_path / "again.pt")]) == 0
    assert Checkpoint.load(tmp_path / "again.pt").network()(torch.randn(2, 1, 28, 28)).shape == (
        2, 10,
    )  # fmt: skip
    assert main(["prune", str(out / "none"), "--keep", "0.5", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "none/manifest.yaml does not exist; `python -m exporters export` writes a bundle" in told
    first = (made / "model.onnx").read_bytes()
    assert main([*arguments, "--replace", "--by", "random", "--name", made.name]) == 0
    assert (made / "model.onnx").read_bytes() != first


def test_a_pruned_network_learns_from_a_distilled_set(
    tmp_path: Path, tiny: Split, monkeypatch, capsys
):
    whole = checkpoint()
    folder = bundle.write_teacher(
        whole, whole.dataset(), tiny, {}, tmp_path, name=None, replace=False, say=lambda _: None
    )
    images, labels = tiny.images[:40], tiny.labels[:40]
    store = WholeViews(10 * np.eye(10, dtype=np.float32)[labels], 28)
    distilled = DistilledSet("set", data.to_float(images), labels, store)
    monkeypatch.setattr(DistilledSet, "read", staticmethod(lambda _: distilled))
    monkeypatch.setattr(data, "test_split", lambda *_: Split(images, labels))
    arguments = ["prune", str(folder), "--keep", "0.5", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--tune", "set"]) == 0
    assert "-tuned: learns from set, 24 epochs" in capsys.readouterr().out
    names = ["tiny-pruned-50-by-statistics", "tiny-pruned-50-by-statistics-tuned"]
    manifests = [yaml.safe_load((tmp_path / name / "manifest.yaml").read_text()) for name in names]
    before, after = (each["accuracy"]["top1"] for each in manifests)
    assert after > max(0.6, before)
    assert manifests[1]["pretraining"]["command"].endswith("--tune set")
    store.classes = 7
    assert main([*arguments, "--tune", "set"]) == 2
    told = capsys.readouterr().err
    assert "set has labels of 7 classes, but the network has 10: name a set of its own" in told
