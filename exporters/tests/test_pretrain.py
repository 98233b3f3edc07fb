from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exporters import data, evaluate, models, pretrain, probe, recalibrate
from exporters.data import Split, info
from exporters.errors import CheckError, InputError
from exporters.files import load_checkpoint
from exporters.methods import METHODS
from exporters.network import Checkpoint

from .conftest import SMALL


def quiet(_: str) -> None:
    pass


def interrupt_after_one_epoch(config: Path, tiny: Split, monkeypatch, data_root: Path) -> None:
    """Trains as `config` says until an interruption in the second epoch."""
    run_epoch = pretrain._Loop.run_epoch

    def interrupted(loop: pretrain._Loop) -> None:
        if loop.epoch == 1:
            raise KeyboardInterrupt
        run_epoch(loop)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain._Loop, "run_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(config, data_root, train=tiny, test=tiny, say=quiet)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_with_the_same_weights(
    write_config, tiny: Split, monkeypatch, tmp_path: Path, method: str
):
    tiny = Split(tiny.images[:100], tiny.labels[:100])
    whole = pretrain.pretrain(
        write_config(method, output=str(tmp_path / "whole")),
        tmp_path,
        train=tiny,
        test=tiny,
        say=quiet,
    )

    config = write_config(method, output=str(tmp_path / "cut"))
    interrupt_after_one_epoch(config, tiny, monkeypatch, tmp_path)
    torch.manual_seed(999)
    said: list[str] = []
    resumed = pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=said.append)

    assert "resumed after epoch 1 of 2" in said[0]
    one, other = (
        load_checkpoint(whole.with_name("checkpoint.pt")),
        load_checkpoint(resumed.with_name("checkpoint.pt")),
    )
    assert one["tensors"].keys() == other["tensors"].keys()
    assert [
        name
        for name in one["tensors"]
        if not torch.equal(one["tensors"][name], other["tensors"][name])
    ] == []
    assert any(name.endswith("bank") and t.numel() for name, t in one["tensors"].items()) == (
        method == "moco_v2"
    )
    log = [json.loads(line) for line in resumed.with_name("log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    checkpoint = Checkpoint.load(resumed)
    assert checkpoint.pretraining.epochs == 2
    assert checkpoint.pretraining.scheme == method
    assert not sorted(resumed.parent.glob(".*"))


def test_the_tricks_of_short_trainings_survive_an_interruption(
    write_config, tiny: Split, monkeypatch, tmp_path: Path
):
    tiny = Split(tiny.images[:100], tiny.labels[:100])
    tricks = {
        "method": {"name": "supervised", "augmentation": {"flip": 0}},
        "alternating_flips": True,
        "average": 0.9,
        "monitor_every": 2,
        "epochs": 3,
    }
    whole = pretrain.pretrain(
        write_config(output=str(tmp_path / "whole"), **tricks),
        tmp_path,
        train=tiny,
        test=tiny,
        say=quiet,
    )
    config = write_config(output=str(tmp_path / "cut"), **tricks)
    interrupt_after_one_epoch(config, tiny, monkeypatch, tmp_path)
    resumed = pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=quiet)
    one, other = Checkpoint.load(whole).state, Checkpoint.load(resumed).state
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    last = load_checkpoint(whole.with_name("checkpoint.pt"))["tensors"]
    assert torch.equal(one["fc.weight"], last["average.fc.weight"])
    assert not torch.equal(one["fc.weight"], last["model.fc.weight"])
    log = [json.loads(line) for line in whole.with_name("log.jsonl").read_text().splitlines()]
    assert ["test_top1" in entry for entry in log] == [False, True, True]


def test_alternating_flips_mirror_each_image_in_every_other_epoch(write_config, tmp_path: Path):
    """Seen by what the method is given: images whose left half is black, mirrored or not."""
    images = torch.zeros(60, 1, 28, 28, dtype=torch.uint8)
    images[..., 14:] = 255
    split = Split(images, torch.arange(60) % 10)
    path = write_config(
        method={"name": "supervised", "augmentation": {"flip": 0}},
        alternating_flips=True,
        batch_size=60,
    )
    config, _, method_config = pretrain.read_config(path)
    seen: list[torch.Tensor] = []

    class Looking(METHODS["supervised"]):
        def views(self, images, generator):
            seen.append(images[:, 0, 0, 0].clone())
            return super().views(images, generator)

    model = models.build("resnet10", {"width": 8, "channels": 1})
    method = Looking(model, model.fc.in_features, method_config)
    loop = pretrain._Loop(config, info("fashion-mnist"), method, split, split, quiet)
    for epoch in range(3):
        loop.epoch = epoch
        loop._step(torch.arange(60), 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], 1 - seen[1])
    assert torch.equal(seen[0], seen[2])
    assert 15 < seen[0].sum() < 45


def test_images_are_not_mirrored_twice(write_config, tiny: Split, tmp_path: Path):
    with pytest.raises(InputError, match="alternating_flips mirrors images already"):
        pretrain.pretrain(
            write_config(alternating_flips=True), tmp_path, train=tiny, test=tiny, say=quiet
        )


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(decay: str):
    settings = pretrain.OptimizerConfig(lr=0.4, warmup_epochs=2, decay=decay)
    rates = [settings.at(step / 10, epochs=10, steps_per_epoch=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[20] == pytest.approx(0.4)
    assert rates[60] == pytest.approx(0.2)
    assert rates[40] == pytest.approx(0.3 if decay == "linear" else 0.2 * (1 + 0.5**0.5))
    assert rates[100] == pytest.approx(0)


def test_a_checkpoint_of_another_configuration_is_refused(
    write_config, tiny: Split, tmp_path: Path
):
    pretrain.pretrain(write_config(epochs=1), tmp_path, train=tiny, test=tiny, say=quiet)
    with pytest.raises(InputError, match="belongs to another configuration"):
        pretrain.pretrain(
            write_config(epochs=1, seed=5), tmp_path, train=tiny, test=tiny, say=quiet
        )


def test_divergence_is_reported(write_config, tiny: Split, tmp_path: Path):
    config = write_config(optimizer={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(CheckError, match="the loss became"):
        pretrain.pretrain(config, tmp_path, train=tiny, test=tiny, say=quiet)


def test_probe_learns_and_leaves_the_backbone_alone(write_config, tiny: Split, tmp_path: Path):
    path = pretrain.pretrain(
        write_config("moco_v2", epochs=1), tmp_path, train=tiny, test=tiny, say=quiet
    )
    with pytest.raises(InputError, match="not written by"):
        Checkpoint.load(path.with_name("checkpoint.pt"))
    merged = Checkpoint.load(probe.probe(path, tmp_path, train=tiny, test=tiny, say=quiet))
    backbone = Checkpoint.load(path).state
    assert {name for name in merged.state if name not in backbone} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(merged.state[name], tensor) for name, tensor in backbone.items())
    assert merged.pretraining.head == "linear_probe"
    measured = evaluate.top1(
        evaluate.outputs(merged.network(), tiny.images, info("fashion-mnist")), tiny.labels
    )
    assert measured == pytest.approx(merged.pretraining.probe_accuracy, abs=0.006)
    assert measured > 0.9
    with pytest.raises(InputError, match="was probed already"):
        probe.probe(path.with_name("probed.pt"), tmp_path, train=tiny, test=tiny, say=quiet)


def test_probe_measures_a_supervised_network_and_keeps_its_classifier(
    write_config, tiny: Split, tmp_path: Path
):
    path = pretrain.pretrain(write_config(), tmp_path, train=tiny, test=tiny, say=quiet)
    probed = Checkpoint.load(probe.probe(path, tmp_path, train=tiny, test=tiny, say=quiet))
    before = Checkpoint.load(path).state
    assert probed.state.keys() == before.keys()
    assert all(torch.equal(probed.state[name], tensor) for name, tensor in before.items())
    assert probed.pretraining.head == "joint"
    assert probed.pretraining.probe_accuracy > 0.9
    assert probed.pretraining.knn_accuracy > 0.9


def test_both_probe_recipes_find_a_linear_rule():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (600,), generator=generator)
    features = torch.randn(600, 8, generator=generator)
    features[:, :3] += 4 * torch.eye(3)[labels]
    for head in (
        probe.fit_lbfgs(features, labels, 3, 1e-3, None),
        *probe.fit_sgd(features, labels, 3, (0.3,), seed=0),
    ):
        assert evaluate.top1(head(features), labels) > 0.97
    fitted = probe.linear_probe(features, labels, 3)
    assert fitted.held_out > 0.95
    assert evaluate.top1(fitted.head(features), labels) > 0.97


def test_sgd_wins_where_it_is_better(monkeypatch):
    """Features in float32 that L-BFGS is not allowed to fit: the other recipe is chosen, and
    named."""
    labels = torch.arange(300) % 3
    features = torch.eye(3)[labels]
    monkeypatch.setattr(
        probe,
        "fit_lbfgs",
        lambda f, y, classes, *_: probe._linear(torch.zeros(3, 3), torch.zeros(3)),
    )
    fitted = probe.linear_probe(features, labels, 3)
    assert fitted.recipe.startswith("sgd lr ")
    assert fitted.held_out == 1


@pytest.mark.parametrize("method", [name for name in METHODS if name != "supervised"])
def test_methods_train_the_backbone_and_no_momentum_copy(method: str):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.build("resnet10", {"width": 8, "channels": 1})
    head = models.take_head("resnet10", model)
    instance = METHODS[method](
        model, head.in_features, METHODS[method].Config(**SMALL.get(method, {}))
    )
    instance.train()
    frozen = {n: p.clone() for n, p in instance.named_parameters() if not p.requires_grad}
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 28, 28, generator=generator)
    optimizer = torch.optim.SGD([p for p in instance.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(8):
        instance.before_step(step / 8)
        views = instance.views(images, torch.Generator().manual_seed(step % 2))
        loss = instance.loss(views, torch.zeros(16, dtype=torch.int64), generator)
        assert loss.shape == ()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        # Steps of one length: by the raw gradient Barlow Twins' loss of hundreds leaps up and
        # down, differently on each kind of processor.
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(p).all() for p in instance.parameters())
    parameters = dict(instance.named_parameters())
    assert all(parameters[name].grad is None for name in frozen)
    if method not in ("moco_v2", "dino"):  # their targets move: a filling queue, a centre
        assert sum(losses[-2:]) < sum(losses[:2])


def test_bfloat16_leaves_parameters_and_statistics_in_float32(
    write_config, tiny: Split, tmp_path: Path
):
    gentle = {"lr": 0.001}
    exact = Checkpoint.load(
        pretrain.pretrain(
            write_config(epochs=1, optimizer=gentle), tmp_path, train=tiny, test=tiny, say=quiet
        )
    )
    mixed = Checkpoint.load(
        pretrain.pretrain(
            write_config(epochs=1, optimizer=gentle, name="mixed", precision="bfloat16"),
            tmp_path, train=tiny, test=tiny, say=quiet,
        )
    )  # fmt: skip
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in mixed.state.values())
    for name, tensor in exact.state.items():
        assert torch.allclose(mixed.state[name].float(), tensor.float(), rtol=0.2, atol=0.1), name
    assert not all(torch.equal(mixed.state[name], tensor) for name, tensor in exact.state.items())


def test_recalibration_measures_clean_images(write_config, tiny: Split, tmp_path: Path):
    path = pretrain.pretrain(
        write_config("simclr", epochs=1), tmp_path, train=tiny, test=tiny, say=quiet
    )
    probed = probe.probe(path, tmp_path, train=tiny, test=tiny, say=quiet)
    before = Checkpoint.load(probed)
    after = Checkpoint.load(recalibrate.recalibrate(probed, tmp_path, train=tiny, say=quiet))
    assert (after.pretraining.statistics, after.pretraining.head) == ("recalibrated", "none")
    assert after.pretraining.probe_accuracy is None
    assert before.pretraining.statistics == "training"
    images = data.normalise(
        data.to_float(tiny.images), info("fashion-mnist").mean, info("fashion-mnist").std
    )
    entering = torch.nn.functional.conv2d(images, before.state["conv1.weight"], padding=1)
    variance, mean = torch.var_mean(entering, dim=(0, 2, 3))
    assert torch.allclose(after.state["bn1.running_mean"], mean, atol=1e-4)
    assert torch.allclose(after.state["bn1.running_var"], variance, rtol=1e-3)
    for name, tensor in after.state.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, before.state[name])
    again = Checkpoint.load(
        probe.probe(path.with_name("recalibrated.pt"), tmp_path, train=tiny, test=tiny, say=quiet)
    )
    assert again.pretraining.statistics == "recalibrated"

    student = Checkpoint.load(path)
    model = models.build(
        "convnet3", {"width": 4, "norm": "instance", "channels": 1, "size": 28, "classes": 10}
    )
    bare = replace(
        student,
        architecture="convnet3",
        options={"width": 4, "norm": "instance", "channels": 1, "size": 28, "classes": 10},
        pretraining=replace(student.pretraining, head="joint"),
        state=model.state_dict(),
    )
    bare.save(tmp_path / "bare.pt")
    with pytest.raises(InputError, match="no BN layers"):
        recalibrate.recalibrate(tmp_path / "bare.pt", tmp_path, train=tiny, say=quiet)


def test_knn_votes_by_similarity():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    queries = torch.tensor([[2.0, 0.1], [0.0, 3.0], [0.0, 1.0]])
    assert evaluate.knn(bank, labels, queries, torch.tensor([0, 1, 0]), classes=2) == pytest.approx(
        2 / 3
    )


class Hostile:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickles_are_refused_unexecuted(tmp_path: Path, legacy: bool):
    path, mark = tmp_path / "hostile.pt", tmp_path / "executed"
    torch.save({"state": Hostile(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="is refused"):
        Checkpoint.load(path)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(InputError):
        Checkpoint.load(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(InputError):
        Checkpoint.load(path)
    assert not mark.exists()
