"""The fixed probe of a bundle: what PyTorch computes, for every loader to reproduce. Definitions:
docs/bundle.md.

The probe of a graph that has no PyTorch module is made in reference.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import BATCH_NORMS, Layer

R_BN = 0.01
FIRST_BN_MULTIPLIER = 10.0
NORMALISATIONS = (*BATCH_NORMS, nn.LayerNorm)


def golden_input(
    images: Tensor | None,
    labels: Tensor | None,
    shape: tuple[int, int, int],
    classes: int,
    count: int = 4,
):
    """`count` inputs `[N, C, H, W]` and targets `[N]`: standard-normal noise, but the last half
    `images` if given.

    `images` `[count / 2, C, H, W]` are normalised.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, *shape, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    if images is not None and labels is not None:
        inputs[count // 2 :] = images[: count - count // 2]
        targets[count // 2 :] = labels[: count - count // 2]
    return inputs, targets


@contextmanager
def observe(model: nn.Module, layers: list[Layer]) -> Iterator[dict[str, Tensor]]:
    """The activations of `layers` by key, as the runs within the context make them.

    They are what enters a normalisation and what leaves any other module.
    """
    modules = dict(model.named_modules())
    seen: dict[str, Tensor] = {}
    handles = []
    for layer in layers:
        module, key = modules[layer.key], layer.key
        if isinstance(module, NORMALISATIONS):
            hook = module.register_forward_pre_hook(
                lambda _, args, key=key: seen.__setitem__(key, args[0].clone())
            )
        else:
            hook = module.register_forward_hook(
                lambda _, args, output, key=key: seen.__setitem__(key, output.clone())
            )
        handles.append(hook)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_rows(model: nn.Module) -> Iterator[None]:
    """Lays out what enters batch norms, and what flows back into those run within the context, row
    by row.

    For a batch of one, PyTorch 2.13's CPU kernel takes a tensor whose channels lie innermost (as
    after a transpose from or into tokens) for one that lies in rows, and gives a wrong gradient
    without a word.
    """

    def lay_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0].contiguous()

    def lay_gradient(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(Tensor.contiguous)

    norms = [
        module
        for module in model.modules()
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))
    ]
    handles = [norm.register_forward_pre_hook(lay_input) for norm in norms]
    handles += [norm.register_forward_hook(lay_gradient) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_statistics(activation: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, each `[C]`.

    The axis is the last one where the graph's is and the module's input is not laid out as an
    image, else the second.
    """
    last = layer.axis == -1 and activation.shape[-1] == layer.channels
    activation = activation.flatten(0, -2).T[None] if last else activation
    rows = activation.reshape(*activation.shape[:2], -1)
    count = rows.shape[0] * rows.shape[2]
    mean = rows.mean((0, 2))
    # Image by image, several times as fast as torch.var_mean and as one norm over all of them.
    deviation = torch.linalg.vector_norm(rows - mean.view(1, -1, 1), dim=2)
    return mean, deviation.square().sum(0) / count


def golden(
    model: nn.Module,
    layers: list[Layer],
    statistics: dict[str, Tensor],
    inputs: Tensor,
    targets: Tensor | None,
    *,
    folded: bool = False,
) -> dict[str, Tensor]:
    """All tensors of `golden.safetensors`, computed in float64; `statistics` are those of
    `bn_stats.safetensors`.

    Deep networks amplify float32's rounding, up to where a ReLU takes the other branch; the probe
    is free of that. Where convolutions standardise their weights, `model` is
    `graph.standardised_module`. Without `targets` the network returns features, and the loss is the
    BN loss alone. Where BN is `folded`, `model` is `graph.folded_module`: its layers are what left
    the BN, as the statistics here are, while the loss is of what would have entered it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact = copy.deepcopy(model).eval().double()
        statistics = {name: tensor.double() for name, tensor in statistics.items()}
        inputs = inputs.double().requires_grad_(True)
        with (
            observe(exact, layers) as seen,
            _in_rows(exact) if inputs.shape[0] == 1 else nullcontext(),
        ):
            logits = exact(inputs)
        found = objective(logits, targets, seen, layers, statistics, folded=folded)
        (gradient,) = torch.autograd.grad(found["loss"], inputs)
    finally:
        torch.set_num_threads(threads)
    return in_float32({"input": inputs, **found, "input_grad": gradient})


def objective(
    logits: Tensor,
    targets: Tensor | None,
    seen: dict[str, Tensor],
    layers: list[Layer],
    statistics: dict[str, Tensor],
    *,
    folded: bool = False,
) -> dict[str, Tensor]:
    """What the probe has of a network's output and of its layers' activations `seen`: statistics
    and losses."""
    ce = logits.new_zeros(()) if targets is None else F.cross_entropy(logits, targets)
    bn_loss = torch.zeros((), dtype=torch.float64)
    found = {}
    for index, layer in enumerate(layers):
        key = layer.key
        mean, variance = channel_statistics(seen[key], layer)
        found[f"stats.{key}.mean"], found[f"stats.{key}.var"] = mean, variance
        target_mean, target_variance = (
            statistics[f"{key}.running_mean"],
            statistics[f"{key}.running_var"],
        )
        if folded:
            scale = statistics[f"{key}.weight"] / (target_variance + layer.eps).sqrt()
            mean = (mean - statistics[f"{key}.bias"]) / scale + target_mean
            variance = variance / scale.square()
        weight = FIRST_BN_MULTIPLIER if index == 0 else 1.0
        bn_loss = bn_loss + weight * (
            (mean - target_mean).norm() + (variance - target_variance).norm()
        )
    return {
        **({"features": logits} if targets is None else {"targets": targets, "logits": logits}),
        "ce": ce,
        "bn_loss": bn_loss,
        "loss": ce + R_BN * bn_loss,
        **found,
    }


def in_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the file holds them: what is computed in float64 is stored in float32."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return tensors | {name: tensor.detach().float().contiguous() for name, tensor in floats.items()}
