"""A linear classifier on a frozen backbone: `python -m exporters probe CHECKPOINT`.

The backbone stays in evaluation mode and keeps its BN statistics, which are what distillation will match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data, evaluate, models
from .errors import CheckError, InputError
from .network import Checkpoint

WEIGHT_DECAYS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
HELD_OUT = 0.1


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, weight_decay: float, start: nn.Linear | None
) -> nn.Linear:
    """Logistic regression by L-BFGS on features `[N, D]`: mean cross entropy + weight_decay / 2 · ‖W‖²."""
    head = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(start.weight if start else torch.zeros_like(head.weight))
        head.bias.copy_(start.bias if start else torch.zeros_like(head.bias))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), labels) + 0.5 * weight_decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.requires_grad_(False)


def linear_probe(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> tuple[nn.Linear, float, float]:
    """The head, its weight decay and its accuracy on the held-out tenth of `features` `[N, D]` that chose it.

    Features are standardised for the fit, and the standardisation is folded into the head that is returned.
    """
    mean = features.mean(0)
    scale = features.std(0).clamp(min=1e-6 * features.std())
    standard = (features - mean) / scale
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    held_out, kept = order.split([max(1, int(HELD_OUT * len(order))), len(order) - max(1, int(HELD_OUT * len(order)))])
    tried: list[tuple[float, float, nn.Linear]] = []
    head: nn.Linear | None = None
    for weight_decay in WEIGHT_DECAYS:
        head = fit_linear(standard[kept], labels[kept], classes, weight_decay, head)
        tried.append((evaluate.top1(head(standard[held_out]), labels[held_out]), weight_decay, head))
    accuracy, weight_decay, start = max(tried, key=lambda entry: entry[0])
    final = fit_linear(standard, labels, classes, weight_decay, start)
    with torch.no_grad():
        final.weight.div_(scale)
        final.bias.sub_(final.weight @ mean)
    return final, weight_decay, accuracy


def probe(
    path: Path,
    data_root: Path,
    output: Path | None = None,
    *,
    train: data.Split | None = None,
    test: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Adds a probed classifier to the backbone at `path`; returns the merged one's path, `probed.pt` beside it."""
    checkpoint = Checkpoint.load(path)
    if checkpoint.pretraining.head != "none":
        raise InputError(f"{path} already has a classifier (head: {checkpoint.pretraining.head}); export it as it is")
    dataset = data.info(checkpoint.pretraining.dataset)
    train = train or data.load(dataset.name, data_root, "train")
    test = test or data.load(dataset.name, data_root, "test")
    classes = len(dataset.classes)

    model = checkpoint.network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    features = evaluate.outputs(model, train.images, dataset)
    test_features = evaluate.outputs(model, test.images, dataset)
    if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
        raise CheckError("the backbone changed while its features were computed")

    knn = evaluate.knn(features, train.labels, test_features, test.labels, classes=classes)
    head, weight_decay, held_out = linear_probe(features, train.labels, classes)
    accuracy = evaluate.top1(head(test_features), test.labels)
    chosen = f"weight decay {weight_decay:g}, held out {held_out:.4f}"
    say(f"{checkpoint.name}: k-NN {knn:.4f}, linear probe {accuracy:.4f} ({chosen})")

    models.put_head(checkpoint.architecture, model, head)
    output = output or path.with_name("probed.pt")
    pretraining = replace(checkpoint.pretraining, head="linear_probe", probe_accuracy=accuracy, knn_accuracy=knn)
    replace(checkpoint, pretraining=pretraining, state=model.state_dict()).save(output)
    return output
