"""Community checkpoints: `export --checkpoint FILE`. What the families' files look like is in `adapters.yaml`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import models
from .config import parse
from .errors import InputError
from .files import load_checkpoint

TABLE = Path(__file__).with_name("adapters.yaml")
WRAPPERS = ("module.", "_orig_mod.")
BATCH_NORM_EPS = 1e-5
SHOWN = 6
"""How many names an error lists before it only counts."""


@dataclass(frozen=True)
class Layout:
    """A row of `adapters.yaml`, which says what the fields mean."""

    name: str
    family: str
    scheme: str
    unwrap: list[str]
    needs: list[str]
    prefix: str = ""
    rename: list[list[str]] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    head: str | None = None
    heads: str | None = None
    stem3: str = "small"
    mean: list[float] | None = None
    std: list[float] | None = None
    note: str | None = None
    auto: bool = True


@dataclass(frozen=True)
class Adapted:
    """A community checkpoint as a network of ours.

    `state` has the architecture's names, with the classifier exactly if `head_source` is not none; `mapped` and
    `dropped` say what became of the file's tensors.
    """

    layout: Layout
    scheme: str
    unwrapped: str
    architecture: str
    options: dict[str, Any]
    state: dict[str, Tensor] = field(repr=False)
    head_source: str
    mapped: int
    dropped: dict[str, int]
    notes: list[str]


def layouts() -> list[Layout]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [parse(Layout, row, f"{TABLE.name}: {row.get('name')}") for row in rows]


def adapt(
    path: Path,
    *,
    head_path: Path | None = None,
    scheme: str = "auto",
    architecture: str | None = None,
    options: dict[str, Any] | None = None,
    classes: int | None = None,
) -> Adapted:
    """Reads the checkpoint at `path`, and the classifier at `head_path`, as a network that fits without a gap.

    `scheme` is auto, a layout's name, or a pretraining scheme for layouts that do not tell one. Without
    `architecture` (and its `options`) it is recognised. A classifier of other than `classes` outputs is an error.
    """
    content = read(path)
    layout, unwrapped, tensors = _choose(content, scheme, path)
    notes = [layout.note] if layout.note else []
    odd = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.dtype != torch.float32
                  and t.is_floating_point()})  # fmt: skip
    if odd:
        notes.append(f"{', '.join(odd)} tensors were converted to float32")

    network, dropped = _network_tensors(tensors, layout)
    name, options = _architecture(network, layout, architecture, options, path)
    head_name = models.architecture(name).head
    inside = {part: network.pop(f"{head_name}.{part}", None) for part in ("weight", "bias")}
    head_source = "none"
    head = None
    if head_path is not None:
        head, head_source = _head_of_file(read(head_path), head_path, _feature_dim(name, options)), "file"
        if inside["weight"] is not None:
            dropped[f"{head_name}."] = 2
    elif inside["weight"] is not None and inside["weight"].ndim == 2:
        head, head_source = _linear(inside["weight"], inside["bias"]), "checkpoint"
    elif layout.heads is not None and isinstance(beside := _find(content, layout.heads), dict):
        head, head_source = _head_of_file(beside, path, _feature_dim(name, options)), "checkpoint"
    elif layout.head is not None and f"{layout.head}weight" in tensors:
        head = _linear(tensors[f"{layout.head}weight"], tensors.get(f"{layout.head}bias"))
        head_source = "checkpoint"
        dropped = {key: count for key, count in dropped.items() if not layout.head.startswith(key)}
    if head is not None and classes is not None and head.out_features != classes:
        raise InputError(
            f"{head_path or path}: the classifier has {head.out_features} classes, but the data set has {classes}; "
            "give another --dataset, or a --head for it"
        )

    if head is not None:
        options = options | {"classes": head.out_features}
    state = _fit(network, name, options, path)
    _check_statistics(state, path)
    if head is not None:
        state |= {f"{head_name}.weight": head.weight.detach(), f"{head_name}.bias": head.bias.detach()}
    return Adapted(
        layout=layout,
        scheme=_scheme(layout, scheme),
        unwrapped=unwrapped,
        architecture=name,
        options=options,
        state=state,
        head_source=head_source,
        mapped=sum(1 for key in state if not key.endswith("num_batches_tracked")),
        dropped=dropped,
        notes=notes,
    )


def describe(adapted: Adapted, say: Callable[[str], None]) -> None:
    """Tells what became of the file's tensors."""
    where = f" under {adapted.unwrapped}" if adapted.unwrapped else ""
    say(f"layout {adapted.layout.name} ({adapted.layout.family}){where}; scheme {adapted.scheme}")
    say(f"mapped {adapted.mapped} tensors to {_named(adapted.architecture, adapted.options)}; missed none")
    for prefix, count in adapted.dropped.items():
        say(f"dropped {count} tensors {prefix}*" if prefix.endswith(".") else f"dropped {prefix}")
    say({"none": "no classifier", "file": "classifier from --head"}.get(adapted.head_source, "classifier in the file"))
    for note in adapted.notes:
        say(f"note: {note}")


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: safetensors, or what torch reads without running code."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    return load_checkpoint(path)


def write_table(output: Path) -> None:
    """The Markdown table of all layouts, `python -m exporters adapters --table FILE`."""
    lines = [
        "# Checkpoints of the community",
        "",
        f"Written by `python -m exporters adapters --table {output.as_posix()}` from `exporters/{TABLE.name}`, whose "
        "rows are all there is to a layout. `export --checkpoint FILE` takes the first layout that fits; each is "
        "tested on a file as the family writes it (`exporters/tests/layouts.py`). DataParallel's `module.` and "
        "torch.compile's `_orig_mod.` are removed first; safetensors, half precision and torch's old file format are "
        "read. Tensors under the prefix must be exactly the architecture's, or the file is refused; all others are "
        "listed as dropped. Not read: DeepMind's BYOL (JAX pickles of networks that pad as TensorFlow's SAME does) and "
        "the port of SimCLR v2 (a network of its own).",
        "",
        "| layout | family | scheme | tensors under | prefix | dropped | classifier | remarks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layout in layouts():
        remarks = [layout.note] if layout.note else []
        remarks += ["only with --scheme"] if not layout.auto else []
        remarks += ["renamed to torchvision's names"] if layout.rename else []
        remarks += [f"{key} {value}" for key in ("mean", "std") if (value := getattr(layout, key)) is not None]
        remarks += ["3x3 stem with padding 2"] if layout.stem3 != "small" else []
        cells = [
            layout.name,
            layout.family,
            layout.scheme,
            ", ".join(path or "top" for path in layout.unwrap),
            layout.prefix,
            ", ".join(name.replace("\\", "") + "*" for name in layout.drop),
            layout.head or layout.heads or ("none" if layout.drop or layout.prefix else "the architecture's"),
            "; ".join(remarks),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _choose(content: dict[str, Any], scheme: str, path: Path) -> tuple[Layout, str, dict[str, Tensor]]:
    """The layout of `content`, where its tensors lie, and those tensors without wrappers in their names."""
    table = layouts()
    named = [layout for layout in table if layout.name == scheme]
    if not named and scheme != "auto":
        known = {layout.scheme for layout in table} | {"supervised"}
        if scheme not in known:
            raise InputError(
                f"--scheme {scheme}: it must be auto, a layout ({', '.join(layout.name for layout in table)}) or a "
                f"scheme ({', '.join(sorted(known))})"
            )
    for layout in named or [layout for layout in table if layout.auto]:
        for unwrapped in layout.unwrap:
            found = _find(content, unwrapped)
            tensors = _unwrap_names(_tensors(found)) if isinstance(found, dict) else {}
            if tensors and all(any(re.match(need, key) for key in tensors) for need in layout.needs):
                return layout, unwrapped, tensors
    keys = [str(key) for key in content]
    if named:
        raise InputError(f"{path} does not have the layout {scheme} ({named[0].family}); its keys are {_some(keys)}")
    raise InputError(f"{path} holds no tensors where any known layout has them; its keys are {_some(keys)}")


def _scheme(layout: Layout, asked: str) -> str:
    if asked in ("auto", layout.name, layout.scheme):
        return layout.scheme
    if layout.scheme != "unknown":
        raise InputError(f"--scheme {asked}, but the checkpoint has the layout of {layout.family}: {layout.scheme}")
    return asked


def _find(content: Any, path: str) -> Any:
    for key in path.split(".") if path else []:
        if not isinstance(content, dict) or key not in content:
            return None
        content = content[key]
    return content


def _tensors(mapping: dict[str, Any]) -> dict[str, Tensor]:
    return {str(key): value.detach() for key, value in mapping.items() if isinstance(value, Tensor)}


def _unwrap_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    while tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _network_tensors(tensors: dict[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The network's tensors by its names as float32, and how many others there are by the start of their names."""
    network: dict[str, Tensor] = {}
    dropped: dict[str, int] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(layout.prefix)
        if key.startswith(layout.prefix):
            for pattern, replacement in layout.rename:
                renamed = re.sub(f"^(?:{pattern})", replacement, name)
                if renamed != name:
                    name = renamed
                    break
        if not key.startswith(layout.prefix) or any(re.match(pattern, name) for pattern in layout.drop):
            under = layout.prefix if key.startswith(layout.prefix) else ""
            first, dot, _ = key.removeprefix(under).partition(".")
            start = under + first + dot
            dropped[start] = dropped.get(start, 0) + 1
        else:
            network[name] = tensor.float() if tensor.is_floating_point() else tensor
    return network, dropped


def _architecture(
    network: dict[str, Tensor], layout: Layout, name: str | None, options: dict[str, Any] | None, path: Path
) -> tuple[str, dict[str, Any]]:
    if name is not None:
        known = models.architecture(name).options()
        inferred = _resnet_options(network, layout) if name in models.RESNETS else {}
        return name, {**known, **{k: v for k, v in inferred.items() if k in known}, **(options or {})}
    found = recognise(network, layout)
    if found is None:
        raise InputError(
            f"{path}: no known architecture has these {len(network)} tensors; give --arch. "
            f"They are {_some(_shapes(network))}"
        )
    return found


def recognise(network: dict[str, Tensor], layout: Layout | None = None) -> tuple[str, dict[str, Any]] | None:
    """The known architecture and options that `network` fits, whatever its classifier."""
    for name in models.RESNETS:
        options = models.architecture(name).options() | _resnet_options(network, layout)
        if options["width"] and _difference(network, name, options) == ([], [], []):
            return name, options
    for name in models.torchvision_names(network):
        if _difference(network, name, {"classes": 1000}) == ([], [], []):
            return name, {"classes": 1000}
    return None


def _resnet_options(network: dict[str, Tensor], layout: Layout | None) -> dict[str, Any]:
    weight = network.get("conv1.weight")
    if weight is None or weight.ndim != 4:
        return {"width": 0}
    small = layout.stem3 if layout else "small"
    stem = small if weight.shape[-1] == 3 else "imagenet"
    return {"width": weight.shape[0], "channels": weight.shape[1], "stem": stem}


def _feature_dim(name: str, options: dict[str, Any]) -> int:
    return models.shapes(name, options)[f"{models.architecture(name).head}.weight"][1]


def _difference(
    network: dict[str, Tensor], name: str, options: dict[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """Names that the architecture has and `network` lacks, the reverse, and those of other shapes; no classifier."""
    try:
        wanted = models.shapes(name, options)
    except (InputError, RuntimeError, ValueError):
        return ["everything"], [], []
    head = models.architecture(name).head
    wanted = {
        key: shape
        for key, shape in wanted.items()
        if not key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")
    }
    given = {key: tuple(t.shape) for key, t in network.items() if not key.startswith(f"{head}.")}
    given = {key: shape for key, shape in given.items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    differing = [
        f"{key} is {list(given[key])}, not {list(wanted[key])}"
        for key in wanted
        if key in given and given[key] != wanted[key]
    ]
    return missing, unexpected, differing


def _fit(network: dict[str, Tensor], name: str, options: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The state of the network without classifier; InputError if anything is missing, left over or of another shape."""
    missing, unexpected, differing = _difference(network, name, options)
    if missing or unexpected or differing:
        reasons = [
            f"{label}: {_some(names)}"
            for label, names in (
                ("missing", missing), ("not in the architecture", unexpected), ("of another shape", differing)
            )
            if names
        ]  # fmt: skip
        fitting = recognise(network)
        hint = f"; {_named(*fitting)} would fit" if fitting else "; no known architecture would fit"
        raise InputError(f"{path} is no {_named(name, options)}: {'; '.join(reasons)}{hint}")
    state = {}
    for key in models.shapes(name, options):
        if key.endswith("num_batches_tracked"):
            state[key] = network.get(key, torch.zeros((), dtype=torch.int64))
        elif key in network:
            state[key] = network[key].contiguous()
    return state


def _check_statistics(state: dict[str, Tensor], path: Path) -> None:
    """BN statistics that nothing ever updated, or that are no statistics, are an error."""
    layers = [key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")]
    unused = [
        layer
        for layer in layers
        if not state[f"{layer}.running_mean"].any() and (state[f"{layer}.running_var"] == 1).all()
    ]
    if unused:
        raise InputError(
            f"{path}: {len(unused)} of {len(layers)} BN layers have the initial statistics 0 and 1 ({_some(unused)}): "
            "the network was trained without running statistics, or they were not saved"
        )
    for layer in layers:
        mean, var = state[f"{layer}.running_mean"], state[f"{layer}.running_var"]
        if not mean.isfinite().all() or not var.isfinite().all() or (var < 0).any():
            raise InputError(f"{path}: the statistics of BN layer {layer} are not finite, or a variance is negative")


def _head_of_file(content: dict[str, Any], path: Path, features: int) -> nn.Linear:
    """The one linear layer over `features` in a head's file, a BN layer before it folded in."""
    tensors = _unwrap_names(_flatten(content))
    weights = [key for key, t in tensors.items() if key.split(".")[-1] == "weight" and t.ndim == 2]
    fitting = [key for key in weights if tensors[key].shape[1] == features]
    if len(fitting) != 1:
        shapes = _some([f"{key} {list(tensors[key].shape)}" for key in weights])
        raise InputError(
            f"{path}: a head is one linear layer over the network's {features} features, but there are "
            f"{len(fitting)} such; 2-d weights are {shapes}"
        )
    head = _linear(tensors[fitting[0]], tensors.get(fitting[0].removesuffix("weight") + "bias"))
    means = [key for key, t in tensors.items() if key.endswith("running_mean") and t.shape == (features,)]
    if len(means) > 1:
        raise InputError(f"{path}: several BN layers over the features: {_some(means)}")
    for key in means:
        prefix = key.removesuffix("running_mean")
        factor = (tensors[f"{prefix}running_var"].float() + BATCH_NORM_EPS).rsqrt()
        factor = factor * tensors.get(f"{prefix}weight", torch.ones(())).float()
        shift = tensors.get(f"{prefix}bias", torch.zeros(())).float() - tensors[key].float() * factor
        head = _linear(head.weight * factor, head.bias + head.weight @ shift.expand(features))
    return head


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """All tensors in nested dictionaries, except those of optimisers, by the last dictionary's names."""
    found = _tensors(content)
    for key, value in content.items():
        if isinstance(value, dict) and "optim" not in str(key):
            found |= _flatten(value)
    return found


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return head


def _shapes(tensors: dict[str, Tensor]) -> list[str]:
    return [f"{key} {list(tensor.shape)}" for key, tensor in tensors.items()]


def _named(name: str, options: dict[str, Any]) -> str:
    return f"{name} ({', '.join(f'{key} {value}' for key, value in options.items())})"


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "") if names else "none"
