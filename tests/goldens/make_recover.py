"""Writes recover.safetensors beside itself: 20 steps of synthesis by plain PyTorch, for tests/recover.rs.

Run from the repository's root. The network is the shipped supervised teacher, rebuilt as an `nn.Module` with the weights out of its ONNX
file; the loss is computed with forward hooks and autograd, the shifts with `torch.roll`, the steps with `torch.optim.Adam`. Two cases: SC-DD's
loss alone (`plain`), and with total variation and L2 (`priors`). Per case: `<case>.losses` [20], `<case>.images` [N, C, H, W] after the last
step; for both: `start` [N, C, H, W], `targets` int64 [N], `shifts` int32 [20, N, 2].
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import onnx
import torch
import yaml
from onnx import numpy_helper
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

sys.path.insert(0, ".")
from exporters.models import build

BUNDLE = Path("onnx/fashion-mnist/resnet18-w16-supervised")
STEPS, IMAGES, RATE, R_BN, FIRST, TV, L2 = 20, 8, 0.1, 0.01, 10.0, 1e-3, 1e-2


def teacher(manifest: dict) -> torch.nn.Module:
    network = build(manifest["architecture"]["name"], manifest["architecture"]["options"])
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in onnx.load(BUNDLE / "model.onnx").graph.initializer}
    missing = network.load_state_dict(weights, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return network.eval().requires_grad_(False)


def priors(x: torch.Tensor) -> torch.Tensor:
    right = x[..., :, :-1] - x[..., :, 1:]
    down = x[..., :-1, :] - x[..., 1:, :]
    diagonal = x[..., :-1, :-1] - x[..., 1:, 1:]
    other = x[..., :-1, 1:] - x[..., 1:, :-1]
    return TV * sum(d.norm() for d in (right, down, diagonal, other)) + L2 * x.flatten(1).norm(dim=1).mean()


def synthesise(network, start, targets, shifts, low, high, with_priors):
    terms = []

    def hook(module, inputs):
        x = inputs[0]
        mean = x.mean((0, 2, 3))
        var = x.var((0, 2, 3), unbiased=False)
        terms.append((mean - module.running_mean).norm() + (var - module.running_var).norm())

    hooks = [m.register_forward_pre_hook(hook) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([x], lr=RATE, betas=(0.5, 0.9))
    losses = []
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 0.5 * RATE * (1 + math.cos(math.pi * step / STEPS))
        terms.clear()
        seen = torch.stack([x[i].roll(tuple(shifts[step, i].tolist()), (1, 2)) for i in range(IMAGES)])
        loss = cross_entropy(network(seen), targets)
        loss = loss + R_BN * (FIRST * terms[0] + sum(terms[1:]))
        if with_priors:
            loss = loss + priors(seen)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            x.clamp_(low, high)
        losses.append(loss.detach())
    for h in hooks:
        h.remove()
    return torch.stack(losses), x.detach()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    manifest = yaml.safe_load((BUNDLE / "manifest.yaml").read_text())
    p = manifest["preprocessing"]
    low, high = (0 - p["mean"][0]) / p["std"][0], (1 - p["mean"][0]) / p["std"][0]
    network = teacher(manifest)
    start = torch.randn(IMAGES, p["channels"], p["height"], p["width"])
    targets = torch.arange(IMAGES) % len(manifest["classes"])
    shifts = torch.randint(-4, 5, (STEPS, IMAGES, 2), dtype=torch.int32)
    tensors = {"start": start, "targets": targets, "shifts": shifts}
    for case, with_priors in [("plain", False), ("priors", True)]:
        losses, images = synthesise(network, start, targets, shifts, low, high, with_priors)
        tensors[f"{case}.losses"], tensors[f"{case}.images"] = losses, images
    save_file(tensors, Path(__file__).with_name("recover.safetensors"))


if __name__ == "__main__":
    main()
