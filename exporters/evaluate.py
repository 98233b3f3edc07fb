"""Outputs of a network over a data set, and accuracies from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import data


@torch.no_grad()
def outputs(
    model: nn.Module, images: Tensor | data.Files, dataset: data.DatasetInfo, batch_size: int = 500
) -> Tensor:
    """What `model` returns for bytes `[N, C, H, W]`, in evaluation mode; the mode it was in is
    restored."""
    was_training = model.training
    model.eval()
    collected = []
    for batch in images.split(batch_size):
        normalised = data.normalise(data.to_float(batch), dataset.mean, dataset.std)
        collected.append(model(normalised.contiguous(memory_format=torch.channels_last)))
    model.train(was_training)
    return torch.cat(collected)


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is the label's, 0..1."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of the weighted k-NN classifier (arXiv 1805.01978): votes are exp(cosine similarity
    / temperature)."""
    bank = F.normalize(bank, dim=1)
    neighbours = min(neighbours, len(bank))
    right = 0
    for batch, labels in zip(
        F.normalize(queries, dim=1).split(500), query_labels.split(500), strict=True
    ):
        similarity, index = (batch @ bank.T).topk(neighbours, dim=1)
        votes = torch.zeros(len(batch), classes)
        votes.scatter_add_(1, bank_labels[index], (similarity / temperature).exp())
        right += int((votes.argmax(1) == labels).sum())
    return right / len(queries)
