"""The scripts of benches/gpu, as far as they go without a GPU: the peers compute what the bundles
say, and the results are what was measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "onnx" / "cifar-100" / "resnet18-w16-supervised"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", ROOT / f"benches/gpu/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_weights_are_the_initialisers_of_the_graph():
    found = script("peers").weights(BUNDLE)
    initialisers = onnx.load(BUNDLE / "model.onnx").graph.initializer
    expected = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in initialisers}
    assert found.keys() == {name for name, t in expected.items() if t.dtype == torch.float32}
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("statistics", ["by_copy", "at_once"])
def test_the_peers_loss_and_gradient_are_those_of_the_golden_probe(statistics: str):
    peers, golden = script("peers"), load_file(BUNDLE / "golden.safetensors")
    model = peers.ResNet18(peers.weights(BUNDLE)).eval().requires_grad_(False)
    distances = peers.hooked(model, getattr(peers, statistics))
    x = golden["input"].clone().requires_grad_(True)
    logits = model(x)
    loss = peers.total(F.cross_entropy(logits, golden["targets"]), distances)
    loss.backward()
    torch.testing.assert_close(logits.detach(), golden["logits"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loss.detach(), golden["loss"], rtol=1e-4, atol=0)
    assert (x.grad - golden["input_grad"]).norm() < 1e-3 * golden["input_grad"].norm()


def test_a_crop_is_of_the_images_size_and_differs_from_step_to_step():
    peers = script("peers")
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    first, second = peers.crop(x), peers.crop(x)
    assert first.shape == second.shape == x.shape
    assert not torch.equal(first, second)


def test_ratios_are_of_medians_and_what_failed_is_on_the_page():
    run = script("run")
    timing = run.Timing("a step", "recover", {"official": "the official loop"}, "tf32")
    turns = {"ours": [2.0, 1.0, 9.0], "official": [8.0, 3.0, 6.0]}
    (row,) = rows = run.rows(timing, turns)
    assert row == {"peer": "the official loop", "ours_ms": 2.0, "peer_ms": 6.0, "ratio": 3.0}
    check = {"name": "plan on x: output", "bundle": "b", "error": 0.5, "limit": 0.1}
    steps = [
        {"name": "verify", "state": "failed: a check", "seconds": 1, "checks": [check | {"passed": False}]},
        {"name": "t", "state": "passed", "seconds": 2, "timing": {"work": "w", "precision": "tf32"}, "rows": rows},
    ]  # fmt: skip
    page = run.page({"machine": {"device": "d", "cores": 1, "torch": "2"}, "steps": steps})
    assert "| plan on x: output **FAILED** | b | 5.0e-01 | 1e-01 |" in page
    assert "| w | tf32 | the official loop | 2.00 | 6.00 | 3.00 |" in page
    assert "| verify | failed: a check | 1 |" in page


def test_peers_that_compute_something_else_are_refused():
    run = script("run")
    ours = {"loss": 2.0, "gradient_norm": 1.0}
    near, far = ours | {"loss": 2.001}, ours | {"gradient_norm": 1.5}
    assert run.agreement({"ours": ours, "hooks": near}, 1e-2)["hooks, loss"] < 1e-3
    with pytest.raises(run.StepError, match="different things"):
        run.agreement({"ours": ours, "hooks": far}, 1e-2)
    with pytest.raises(run.StepError, match="different things"):
        run.agreement({"ours": ours, "hooks": ours | {"loss": float("nan")}}, 1e-2)


def test_a_peer_that_is_never_ready_costs_its_own_row_alone():
    run = script("run")
    commands = {
        "ours": "print('{}')",
        "quick": "print('{}')",
        "slow": "import time; time.sleep(60)",
    }
    workers = {
        name: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for name, code in commands.items()
    }
    slow = workers["slow"]
    assert run.without_late_peers(workers, 10) == ["slow"]
    assert slow.wait() != 0
    assert {run.answer(name, worker) == {} for name, worker in workers.items()} == {True}
    timing = run.Timing("t", "w", {"quick": "Quick", "slow": "Slow"}, "tf32")
    assert [row["peer"] for row in run.rows(timing, {"ours": [2.0], "quick": [4.0]})] == ["Quick"]


def test_a_step_that_takes_too_long_ends_and_is_told(tmp_path: Path, monkeypatch):
    run = script("run")
    monkeypatch.setattr(run, "LEAST_SECONDS", 0)
    check = run.Check("cpu", 1, tmp_path)
    monkeypatch.setattr(run, "HERE", tmp_path)

    def endless() -> dict:
        return {"code": check.start([sys.executable, "-c", "import time; time.sleep(60)"]).wait()}

    check.step("endless", 0.5, endless)
    check.end = 0
    check.step("late", 5, dict)
    states = [step["state"] for step in check.results["steps"]]
    assert states == ["failed: not done within 0.5 s", "left out: no time"]
    assert "left out: no time" in (tmp_path / "results.md").read_text()


def test_the_manifest_takes_the_other_bindings():
    pack = script("pack")
    changed = pack.with_bindings((ROOT / "Cargo.toml").read_text())
    assert f'tch = "{pack.BINDINGS}"' in changed
    assert "line-tables-only" not in changed
    with pytest.raises(SystemExit, match="no `tch`"):
        pack.with_bindings("[package]\n")
