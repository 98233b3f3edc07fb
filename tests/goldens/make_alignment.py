"""Writes alignment.safetensors beside itself: the loss and its input gradient for every way to
align statistics, for tests/alignment.rs.

Run from the repository's root. The network is the shipped supervised teacher as in make_recover.py,
in float64, the gradient autograd's. The statistics of classes are made up: those of class k of K
are mean + (k - 4.5) / 10 * sqrt(var) and var * (0.5 + k / 10); so are those of patches, 2 per side,
whose mean is larger by (column - row) / 5 * sqrt(var) and whose variance is (1 + row / 2) times as
large. `input` [N, C, H, W], `targets` int64 [N]; per case `<case>.loss` [] and `<case>.gradient`
[N, C, H, W].
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

sys.path[:0] = [".", "tests/goldens"]
from make_recover import BUNDLE, teacher

R_BN, FIRST = 0.01, 10.0
# distance, r_var, class_share, r_patch
CASES = {
    "norm": ("norm", 1.0, 0.0, 0.0),
    "r_var": ("norm", 11.0, 0.0, 0.0),
    "squared": ("squared", 3.0, 0.0, 0.0),
    "normalised": ("normalised", 2.0, 0.0, 0.0),
    "class": ("norm", 1.0, 1.0, 0.0),
    "mixed": ("norm", 1.0, 0.25, 0.0),
    "class_squared": ("squared", 1.0, 0.25, 0.0),
    "class_normalised": ("normalised", 1.0, 1.0, 0.0),
    "patches": ("norm", 1.0, 0.0, 0.5),
    "class_patches": ("normalised", 2.0, 0.25, 1.0),
}


def mixture(mean, var, targets):
    classes = targets.double()[:, None]
    means = mean + (classes - 4.5) / 10 * var.sqrt()
    variances = var * (0.5 + classes / 10)
    centre = means.mean(0)
    return centre, (variances + means.square()).mean(0) - centre.square()


def difference(found, wanted, distance, r_var):
    (mean, var), (to_mean, to_var) = found, wanted
    mean, var = mean - to_mean, var - to_var
    if distance == "squared":
        return (mean @ mean) + r_var * (var @ var)
    if distance == "normalised":
        unit = to_var + 1e-3 * to_var.mean()
        return (mean / unit.sqrt()).square().mean().sqrt() + r_var * (var / unit).square().mean().sqrt()
    return mean.norm() + r_var * var.norm()


def statistics(x):
    x = x.transpose(0, 1).flatten(1)
    return x.mean(1), x.var(1, unbiased=False)


def patches(x):
    """Row by row; halves of an odd side overlap."""
    rows, columns = x.shape[2:]
    edges = [[(0, (side + 1) // 2), (side // 2, side)] for side in (rows, columns)]
    found = [statistics(x[:, :, top:bottom, left:right]) for top, bottom in edges[0] for left, right in edges[1]]
    return [torch.stack(part, 1).flatten() for part in zip(*found, strict=True)]


def own_patches(mean, var):
    row, column = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    means = mean[:, None] + (column - row) / 5 * var.sqrt()[:, None]
    return means.flatten(), (var[:, None] * (1 + row / 2)).flatten()


def evaluate(network, inputs, targets, distance, r_var, share, r_patch):
    terms = []

    def cost(found, own):
        return (1 - share) * difference(found, own, distance, r_var) + share * difference(
            found, mixture(*own, targets), distance, r_var
        )

    def hook(module, args):
        own = module.running_mean, module.running_var
        term = cost(statistics(args[0]), own)
        if r_patch:
            term = term + r_patch * cost(patches(args[0]), own_patches(*own))
        terms.append(term)

    hooks = [m.register_forward_pre_hook(hook) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = inputs.double().requires_grad_(True)
    ce = cross_entropy(network(x), targets)
    loss = ce + R_BN * (FIRST * terms[0] + sum(terms[1:]))
    (gradient,) = torch.autograd.grad(loss, x)
    for h in hooks:
        h.remove()
    return loss.detach().float(), gradient.float()


def main() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    manifest = yaml.safe_load((BUNDLE / "manifest.yaml").read_text())
    network = teacher(manifest).double()
    inputs, targets = torch.randn(4, 1, 28, 28), torch.tensor([2, 7, 2, 0])
    tensors = {"input": inputs, "targets": targets}
    for case, options in CASES.items():
        tensors[f"{case}.loss"], tensors[f"{case}.gradient"] = evaluate(network, inputs, targets, *options)
    save_file(tensors, Path(__file__).with_name("alignment.safetensors"))


if __name__ == "__main__":
    main()
