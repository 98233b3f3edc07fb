"""The fixed probe of a bundle: what PyTorch computes, for every loader to reproduce. Definitions: docs/bundle.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

R_BN = 0.01
FIRST_BN_MULTIPLIER = 10.0


def golden_input(
    images: Tensor | None, labels: Tensor | None, shape: tuple[int, int, int], classes: int, count: int = 4
):
    """`count` inputs `[N, C, H, W]` and targets `[N]`: standard-normal noise, but the last half `images` if given.

    `images` `[count / 2, C, H, W]` are normalised.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, *shape, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    if images is not None and labels is not None:
        inputs[count // 2 :] = images[: count - count // 2]
        targets[count // 2 :] = labels[: count - count // 2]
    return inputs, targets


def golden(model: nn.Module, bn_keys: list[str], inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """All tensors of `golden.safetensors`, on one CPU thread. `bn_keys` are the BN modules in execution order."""
    modules = dict(model.named_modules())
    seen: dict[str, Tensor] = {}
    handles = [
        modules[key].register_forward_pre_hook(lambda _, args, key=key: seen.__setitem__(key, args[0]))
        for key in bn_keys
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        inputs = inputs.clone().requires_grad_(True)
        logits = model.eval()(inputs)
        ce = F.cross_entropy(logits, targets)
        bn_loss = torch.zeros(())
        statistics = {}
        for index, key in enumerate(bn_keys):
            variance, mean = torch.var_mean(seen[key], dim=(0, 2, 3), correction=0)
            module = modules[key]
            weight = FIRST_BN_MULTIPLIER if index == 0 else 1.0
            bn_loss = bn_loss + weight * ((mean - module.running_mean).norm() + (variance - module.running_var).norm())
            statistics[f"stats.{key}.mean"], statistics[f"stats.{key}.var"] = mean, variance
        loss = ce + R_BN * bn_loss
        (gradient,) = torch.autograd.grad(loss, inputs)
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
    tensors = {
        "input": inputs,
        "targets": targets,
        "logits": logits,
        "ce": ce,
        "bn_loss": bn_loss,
        "loss": loss,
        "input_grad": gradient,
        **statistics,
    }
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
