"""Bundles of other people's checkpoints: `export --checkpoint FILE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch

from . import adapters, data, models
from .adapters import SMALL_IMAGES
from .bundle import write_teacher
from .errors import InputError
from .files import sha256
from .network import Checkpoint, Pretraining, own_data

UNTOLD = ("unknown", "supervised")
"""Schemes of checkpoints that may be those which a library publishes."""


def export_community(
    path: Path,
    data_root: Path,
    output: Path,
    *,
    head_path: Path | None = None,
    scheme: str = "auto",
    architecture: str | None = None,
    options: dict[str, Any] | None = None,
    chosen: data.Options = data.AS_KNOWN,
    under: str | None = None,
    name: str | None = None,
    network: Path | None = None,
    replace: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the checkpoint at `path` as the bundle `output/name` and tells what became of its
    tensors.

    The preprocessing is the family's own for the data set where it has one and `chosen` gives none.
    `under` is the place of the network's tensors in the file (`adapters.adapt`). Accuracy is
    measured if the data set is there. `network` is a file to which the network is written for
    `probe` and `recalibrate`.
    """
    if chosen.sample is not None:
        raise InputError(
            "--sample has no effect: no training images are read for a checkpoint of others; leave it out"
        )
    dataset = chosen.describe_unnamed(say)
    adapted = adapters.adapt(
        path,
        head_path=head_path,
        scheme=scheme,
        architecture=architecture,
        options=options,
        classes=len(dataset.classes),
        under=under,
    )
    adapters.describe(adapted, say)
    if adapted.options.get("channels", 3) != dataset.channels:
        raise InputError(
            f"{path} takes images of {adapted.options.get('channels', 3)} channels, but those of {dataset.name} have "
            f"{dataset.channels}; give another --dataset"
        )
    if (
        architecture is None
        and adapted.architecture.startswith("torchvision/")
        and dataset.size < SMALL_IMAGES
    ):
        raise InputError(
            f"{path} has the tensors of {adapted.architecture}, but tensors do not tell strides, and networks for "
            f"images of {dataset.size}x{dataset.size} often have smaller ones; give --arch {adapted.architecture} if "
            "it was trained exactly as torchvision builds it"
        )
    dataset = _preprocessed(dataset, adapted, chosen, say)

    head = {"none": "none"}.get(
        adapted.head_source, "joint" if adapted.scheme == "supervised" else "linear_probe"
    )
    if head != "none" and adapted.scheme == "unknown":
        head = "unknown"
    checkpoint = Checkpoint(
        name=name or path.name.split(".")[0],
        architecture=adapted.architecture,
        options=adapted.options,
        pretraining=Pretraining(
            scheme=adapted.scheme,
            dataset=dataset.name,
            epochs=None,
            command=f"python -m exporters export --checkpoint {path.name}",
            wall_seconds=None,
            head=head,
        ),
        state=adapted.state,
        own=own_data(dataset),
    )
    _check_size(checkpoint, dataset)
    if network is not None:
        checkpoint.save(network)
    source = {"file": path.name, "sha256": sha256(path), "layout": adapted.layout.name}
    if head_path is not None:
        source |= {"head_file": head_path.name, "head_sha256": sha256(head_path)}
    folder = write_teacher(
        checkpoint,
        dataset,
        data.test_split(dataset, data_root, say),
        source,
        output,
        name=name,
        replace=replace,
        say=say,
    )
    if head == "none":
        say(
            "features only: usable for BN statistics; it can't label images, weigh a cross entropy or be measured"
        )
    return folder


def _preprocessed(
    dataset: data.DatasetInfo,
    adapted: adapters.Adapted,
    chosen: data.Options,
    say: Callable[[str], None],
) -> data.DatasetInfo:
    """`dataset` with the family's own preprocessing for it, where the command line gives none.

    Without one, classifiers of ImageNet are preprocessed as torchvision or timm does for the
    weights that it publishes.
    """
    given = [key for key in ("mean", "std", "size") if getattr(chosen, key) is not None]
    own: dict[str, Any] = dict(adapted.layout.preprocessing(dataset.name))
    source = f"of layout {adapted.layout.name}"
    may_be_published = adapted.head_source == "checkpoint" and adapted.scheme in UNTOLD
    if not own and may_be_published and dataset.name in (data.IMAGENET, data.UNKNOWN):
        own, source = _published(adapted.architecture, given)
    own = {
        key: value
        for key, value in own.items()
        if key not in given and (key == "size" or len(value) == dataset.channels)
    }
    used = changed(dataset, **own)
    is_given = {"mean", "std"} & set(given)
    of_data = "of imagenet" if dataset.name == data.UNKNOWN else f"of {dataset.name}"
    source = "as given" if is_given else source if {"mean", "std"} & set(own) else of_data
    values = "; ".join(
        f"{key} {', '.join(f'{each:.4g}' for each in getattr(used, key))}"
        for key in ("mean", "std")
    )
    size = f"; size {used.size}" if "size" in own else ""
    overrule = " (--mean and --std overrule it)" if not is_given else ""
    say(f"preprocessing {source}: {values}{size}{overrule}")
    return used


def _published(architecture: str, given: list[str]) -> tuple[dict[str, Any], str]:
    """What the library of `architecture` does with images for its own weights, and whose that is.

    :raises InputError: when it publishes weights that want different things, and neither name nor
    user tells which.
    """
    published = models.published_preprocessing(architecture)
    if not published:
        return {}, ""
    if len(published) > 1 and not {"mean", "std"} <= set(given):
        ways = "; ".join(
            f"{architecture}.{each.tag} wants mean {each.mean} and std {each.std}"
            for each in published
        )
        raise InputError(
            f"no tensor tells how the images of {architecture} are normalised, and its published weights differ: "
            f"{ways}. Name the weights with --arch, or give --mean and --std"
        )
    own = {key: getattr(published[0], key) for key in ("mean", "std", "size")}
    return own, f"of {architecture} as published"


@torch.no_grad()
def _check_size(checkpoint: Checkpoint, dataset: data.DatasetInfo) -> None:
    size = dataset.size
    try:
        checkpoint.network()(torch.zeros(1, dataset.channels, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{checkpoint.architecture} can't take images of {size}x{size} ({reason}); give another --size"
        ) from error
