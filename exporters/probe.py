"""A linear classifier on a frozen backbone: `python -m exporters probe CHECKPOINT`.

The backbone stays in evaluation mode and keeps its BN statistics, which are what distillation will
match.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, evaluate, models
from .errors import CheckError, InputError
from .network import Checkpoint

WEIGHT_DECAYS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
SGD_RATES = (30.0, 3.0, 0.3)
SGD_EPOCHS = 100
SGD_BATCH = 256
HELD_OUT = 0.1


@dataclass(frozen=True)
class LinearProbe:
    """A fitted head, how it was fitted, and its accuracy on the held-out features that chose the
    recipe."""

    head: nn.Linear
    recipe: str
    held_out: float


def fit_lbfgs(
    features: Tensor, labels: Tensor, classes: int, weight_decay: float, start: nn.Linear | None
) -> nn.Linear:
    """Logistic regression by L-BFGS on features `[N, D]`: mean cross entropy + weight_decay / 2 ·
    ‖W‖²."""
    head = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(start.weight if start else torch.zeros_like(head.weight))
        head.bias.copy_(start.bias if start else torch.zeros_like(head.bias))
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(head(features), labels)
            + 0.5 * weight_decay * head.weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.requires_grad_(False)


@torch.no_grad()
def fit_sgd(
    features: Tensor, labels: Tensor, classes: int, rates: tuple[float, ...], seed: int
) -> list[nn.Linear]:
    """The papers' recipe on features `[N, D]`, one head per rate, all trained at once.

    SGD with momentum 0.9 and no weight decay, batches of 256, 100 epochs, the rate falling to 0
    along a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    weight = torch.zeros(len(rates), inputs.shape[1], classes)
    velocity = torch.zeros_like(weight)
    rate = torch.tensor(rates).view(-1, 1, 1)
    size = min(SGD_BATCH, len(inputs))
    steps = len(inputs) // size
    for epoch in range(SGD_EPOCHS):
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            batch = order[step * size : (step + 1) * size]
            error = (inputs[batch] @ weight).softmax(-1)
            error[:, torch.arange(size), labels[batch]] -= 1
            velocity.mul_(0.9).add_(inputs[batch].T @ error / size)
            done = (epoch + step / steps) / SGD_EPOCHS
            weight -= rate * 0.5 * (1 + math.cos(math.pi * done)) * velocity
    return [_linear(matrix[:-1].T, matrix[-1]) for matrix in weight]


def linear_probe(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> LinearProbe:
    """The best of L-BFGS with several weight decays and SGD with several rates, by the held-out
    tenth of `features`.

    For L-BFGS, features are standardised, and the standardisation is folded into the head that is
    returned. The chosen recipe is applied to all `features` `[N, D]`.
    """
    mean = features.mean(0)
    scale = features.std(0).clamp(min=1e-6 * features.std())
    standard = (features - mean) / scale
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    held_out, kept = order.split(
        [max(1, int(HELD_OUT * len(order))), len(order) - max(1, int(HELD_OUT * len(order)))]
    )

    tried: list[tuple[float, float, nn.Linear]] = []
    head: nn.Linear | None = None
    for weight_decay in WEIGHT_DECAYS:
        head = fit_lbfgs(standard[kept], labels[kept], classes, weight_decay, head)
        tried.append(
            (evaluate.top1(head(standard[held_out]), labels[held_out]), weight_decay, head)
        )
    accuracy, weight_decay, start = max(tried, key=lambda entry: entry[0])
    sgd = [
        (evaluate.top1(head(features[held_out]), labels[held_out]), rate)
        for rate, head in zip(
            SGD_RATES, fit_sgd(features[kept], labels[kept], classes, SGD_RATES, seed), strict=True
        )
    ]
    sgd_accuracy, rate = max(sgd)

    if sgd_accuracy > accuracy:
        (final,) = fit_sgd(features, labels, classes, (rate,), seed)
        return LinearProbe(final, f"sgd lr {rate:g}", sgd_accuracy)
    final = fit_lbfgs(standard, labels, classes, weight_decay, start)
    weight = final.weight / scale
    return LinearProbe(
        _linear(weight, final.bias - weight @ mean),
        f"lbfgs weight_decay {weight_decay:g}",
        accuracy,
    )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(bias)
    return head


def probe(
    path: Path,
    data_root: Path,
    output: Path | None = None,
    *,
    chosen: data.Options = data.AS_KNOWN,
    train: data.Split | None = None,
    test: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Measures the features of the network at `path` by k-NN and a linear probe; returns
    `probed.pt`'s path.

    A backbone gets the probed classifier; a network that was trained with a classifier keeps its
    own.
    """
    checkpoint = Checkpoint.load(path)
    if checkpoint.pretraining.head == "linear_probe":
        raise InputError(
            f"{path} was probed already; export it as it is, or probe the checkpoint it came from"
        )
    dataset = chosen.of(checkpoint.dataset())
    train = train or data.load(dataset, data_root, "train", sample=chosen.sample)
    test = test or data.load(dataset, data_root, "test")

    model = checkpoint.network()
    own_head = (
        models.take_head(checkpoint.architecture, model)
        if checkpoint.pretraining.head != "none"
        else None
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = measure(model, train, test, dataset)
    if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
        raise CheckError("the backbone changed while its features were computed")
    say(
        f"{checkpoint.name}: k-NN {measured.knn:.4f}, linear probe {measured.accuracy:.4f} "
        f"({measured.probe.recipe}, held out {measured.probe.held_out:.4f})"
    )

    models.put_head(checkpoint.architecture, model, own_head or measured.probe.head)
    output = output or path.with_name("probed.pt")
    pretraining = replace(
        checkpoint.pretraining,
        head=checkpoint.pretraining.head if own_head else "linear_probe",
        probe_accuracy=measured.accuracy,
        knn_accuracy=measured.knn,
        probe=measured.probe.recipe + (f", {len(train.images)} images" if chosen.sample else ""),
    )
    replace(checkpoint, pretraining=pretraining, state=model.state_dict()).save(output)
    return output


@dataclass(frozen=True)
class Measured:
    """A backbone's accuracies on the test set, and the probe that has `accuracy`."""

    knn: float
    accuracy: float
    probe: LinearProbe


def measure(
    model: nn.Module, train: data.Split, test: data.Split, dataset: data.DatasetInfo
) -> Measured:
    """How good the features are that `model` returns `[N, D]`."""
    features = evaluate.outputs(model, train.images, dataset)
    test_features = evaluate.outputs(model, test.images, dataset)
    classes = len(dataset.classes)
    fitted = linear_probe(features, train.labels, classes)
    return Measured(
        evaluate.knn(features, train.labels, test_features, test.labels, classes=classes),
        evaluate.top1(fitted.head(test_features), test.labels),
        fitted,
    )
