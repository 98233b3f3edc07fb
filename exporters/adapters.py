"""Community checkpoints: `export --checkpoint FILE`. What the families' files look like is in
`adapters.yaml`."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import convert, models
from .cifar_networks import VGG_MULTIPLES
from .config import parse
from .errors import InputError, listed
from .files import STATE_DICT, check_kind, load_checkpoint
from .network import FORMAT

TABLE = Path(__file__).with_name("adapters.yaml")
WRAPPERS = ("module.", "model.", "net.")
COUNTERS = ("n_averaged", "steps", "total_ops", "total_params")
"""What averaging of weights (torch's, mmengine's) and thop's counting of operations leave beside
the tensors."""
BATCH_NORM_EPS = 1e-5
SMALL_IMAGES = 96
"""Networks for images of fewer pixels a side often have smaller strides than torchvision's."""
IMAGENET_CLASSES = 1000
CONFIG = "config.json"
RENORMALISED = "transform_input"
"""torchvision's name of the option by which GoogLeNet and Inception v3 renormalise their images."""
ONNX_WAY = (
    "any other network can be exported to ONNX where its code is, for `python -m exporters import`"
)


@dataclass(frozen=True)
class Layout:
    """A row of `adapters.yaml`, which says what the fields mean."""

    name: str
    family: str
    scheme: str
    unwrap: list[str]
    needs: list[str]
    lacks: list[str] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    prefix: str = ""
    rename: list[list[str]] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    head: str | None = None
    heads: str | None = None
    stem3: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    own: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    note: str | None = None
    auto: bool = True

    def fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether `tensors` are of this layout."""

        def found(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in tensors)

        def takes(name: str, inputs: int) -> bool:
            return name in tensors and tensors[name].shape[1:2] == (inputs,)

        return (
            all(map(found, self.needs))
            and not any(map(found, self.lacks))
            and all(takes(name, inputs) for name, inputs in self.inputs.items())
        )

    def lies(self, where: str) -> bool:
        """Whether tensors of this layout may lie at `where`, a place that the user names."""
        return where.rpartition(".")[2] in self.unwrap or not {"", "*"}.isdisjoint(self.unwrap)

    def preprocessing(self, dataset: str) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` that the family's code has for `dataset`; empty where it has none of its
        own."""
        of_all = {"mean": self.mean, "std": self.std}
        values = self.own.get(dataset, of_all)
        return {key: tuple(value) for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Found:
    """The tensors of a file, under the names that its layout has.

    `where` is their place in the file. `dropped` counts what lies beside them and is no part of the
    network. `beside` is the place of the weights themselves if `where` is that of their averages.
    """

    layout: Layout
    where: str
    tensors: dict[str, Tensor] = field(repr=False)
    dropped: dict[str, int]
    beside: str | None


@dataclass(frozen=True)
class Adapted:
    """A community checkpoint as a network of ours.

    `state` has the architecture's names, with the classifier exactly if `head_source` is not none;
    `mapped` and `dropped` say what became of the file's tensors.
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
    under: str | None = None,
) -> Adapted:
    """Reads the checkpoint at `path`, and the classifier at `head_path`, as a network that fits
    without a gap.

    `scheme` is auto, a layout's name, or a pretraining scheme for layouts that do not tell one.
    Without `architecture` it and its options are recognised, but for those in `options`. `under` is
    the place of the tensors: a key of the file, or what the network's names begin with; without it
    averages of the weights come first. A classifier of other than `classes` outputs is an error.
    """
    content, left_out = _read(path)
    if content.get("format") == FORMAT:
        raise InputError(
            f"{path} was written by the exporters themselves: leave out --checkpoint before it"
        )
    found = _choose(content, scheme, under, path)
    layout, tensors = found.layout, found.tensors
    config = _config_beside(path)
    _check_config(config, layout, path)
    notes = [layout.note] if layout.note else []
    if left_out:
        notes.append(f"settings in the file were left out: {', '.join(left_out)}")
    if found.beside is not None:
        notes.append(
            f"the averaged weights under {found.where} were taken; --under {found.beside} takes the weights themselves"
        )
    odd = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.dtype != torch.float32
                  and t.is_floating_point()})  # fmt: skip
    if odd:
        notes.append(f"{', '.join(odd)} tensors were converted to float32")

    network, dropped = _network_tensors(tensors, layout)
    dropped |= found.dropped
    _check_kinds(network, path)
    given = options or {}
    name, options = _architecture(
        network, layout, architecture, given, _named_in(content, config), path
    )
    if options.get(RENORMALISED) and RENORMALISED not in given:
        notes.append(
            "the network renormalises its images, as all weights that torchvision publishes for it want; was it "
            f"trained without, give --arch-options '{{{RENORMALISED}: false}}'"
        )
    if auxiliary := [key for key in network if key.startswith(models.architecture(name).auxiliary)]:
        notes.append(
            "auxiliary classifiers serve training only: evaluation never computes them, so they were dropped"
        )
    for key in auxiliary:
        del network[key]
        start = f"{key.partition('.')[0]}."
        dropped[start] = dropped.get(start, 0) + 1
    head_name = models.architecture(name).head
    inside = {key: network.pop(key) for key in list(network) if key.startswith(f"{head_name}.")}
    weight = inside.get(f"{head_name}.weight")
    head_source = "none"
    head = None
    head_shape = models.shapes(name, options)[f"{head_name}.weight"]
    features = head_shape[1]
    if head_path is not None:
        if len(head_shape) != 2:
            raise InputError(
                f"--head: the classifier of {name} is a convolution, which no linear one can stand for; "
                "leave out --head"
            )
        head, head_source = _head_of_file(read(head_path), head_path, features), "file"
    elif weight is not None and weight.ndim == len(head_shape):
        head, head_source = (
            _linear(weight, inside.pop(f"{head_name}.bias", None), path),
            "checkpoint",
        )
        del inside[f"{head_name}.weight"]
    elif layout.heads is not None and (beside := _place(content, layout.heads)):
        head, head_source = _head_of_file(beside[1], path, features), "checkpoint"
    elif layout.head is not None and f"{layout.head}weight" in tensors:
        head = _linear(tensors[f"{layout.head}weight"], tensors.get(f"{layout.head}bias"), path)
        head_source = "checkpoint"
        dropped = {key: count for key, count in dropped.items() if not layout.head.startswith(key)}
    if inside:
        dropped[f"{head_name}."] = len(inside)
    if inside and head is None:
        notes.append(
            f"{head_name} is no single linear layer but {listed(list(inside))}, which were dropped; if one linear layer "
            f"of the file is the classifier, --head {shlex.quote(str(path))} takes it"
        )
    if head is not None and classes is not None and head.out_features != classes:
        raise InputError(
            f"{head_path or path}: the classifier has {head.out_features} classes, but the data set has {classes}; "
            "give another --dataset, or a --head for it"
        )

    if head is not None:
        options = options | {"classes": head.out_features}
    state = _fit(network, name, options, path)
    if head is not None and head.in_features != features:
        raise InputError(
            f"{path}: the classifier takes {head.in_features} features, but {_named(name, options)} has {features}, so "
            f"the file's network pools otherwise; {ONNX_WAY}"
        )
    if head is not None:
        weight = head.weight.detach().reshape(head.out_features, *head_shape[1:])
        state |= {f"{head_name}.weight": weight, f"{head_name}.bias": head.bias.detach()}
    _check_values(state, path)
    return Adapted(
        layout=layout,
        scheme=_scheme(layout, scheme),
        unwrapped=found.where,
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
    say(
        f"mapped {adapted.mapped} tensors to {_named(adapted.architecture, adapted.options)}; missed none"
    )
    for prefix, count in adapted.dropped.items():
        say(f"dropped {count} tensors {prefix}*" if prefix.endswith(".") else f"dropped {prefix}")
    say(
        {"none": "no classifier", "file": "classifier from --head"}.get(
            adapted.head_source, "classifier in the file"
        )
    )
    for note in adapted.notes:
        say(f"note: {note}")


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: safetensors, or what torch reads without running code."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of a checkpoint, and the classes of a script's settings that were left out of
    it."""
    if path.suffix == ".safetensors":
        check_kind(path)
        try:
            return dict(load_file(path)), []
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path} is not a readable safetensors file ({error}): it is damaged or cut short; download or copy it "
                "again"
            ) from error
    try:
        return load_checkpoint(path), []
    except InputError:
        if not path.is_file() or (settled := convert.read_without_settings(path)) is None:
            raise
        return settled


def write_table(output: Path) -> None:
    """The Markdown table of all layouts, `python -m exporters adapters --table FILE`."""
    lines = [
        "# Checkpoints of the community",
        "",
        f"Written by `python -m exporters adapters --table {output.as_posix()}` from `exporters/{TABLE.name}`, whose "
        "rows are all there is to a layout. `export --checkpoint FILE` takes the first layout that fits; each is "
        "tested on a file as the family writes it (`exporters/tests/layouts.py`). Prefixes that all tensors share "
        "(DataParallel's `module.`, Lightning's `model.` or `net.`, and any other) and torch.compile's `_orig_mod.` "
        "are removed; safetensors, half precision and torch's old file format are read. Settings beside the tensors "
        "(`argparse.Namespace`, numpy scalars, paths) are left out, nothing of the file is executed; of a file with "
        "other classes in it `convert` copies the tensors. Where a file also holds averages of the weights, those are "
        "taken. Where it holds several networks, `--under` names the place of the one that is meant: a key of the file "
        "(`--under model`), or what its names begin with (`--under student`). Tensors under the prefix must be exactly "
        "the architecture's, or the file is refused; all others are listed as dropped. Not read: DeepMind's BYOL (JAX "
        "pickles of networks that pad as TensorFlow's SAME does) and the port of SimCLR v2 (a network of its own).",
        "",
        "Tensors do not tell everything. Whether a max-pool follows a 3x3 stem shows in none: where the layout does "
        "not tell either, `export` asks for `--arch-options '{stem: small}'` or another stem. A network of "
        f"torchvision's for images below {SMALL_IMAGES} pixels wants `--arch`, as many people give it smaller strides. "
        "GoogLeNet and Inception v3 are taken with or without their auxiliary classifiers, which are dropped; "
        "`--arch-options '{transform_input: false}'` is for those that do not renormalise their images, as all "
        "published ones do. "
        "Preprocessing is the data set's unless the table has the family's own or the file is a classifier of ImageNet "
        "in an architecture of torchvision or timm: then it is as published, and where published weights differ "
        "(`timm/inception_v3`), `--arch` wants timm's tag (`timm/inception_v3.tv_in1k`). `--mean`, `--std` and "
        "`--size` overrule all; the accuracy that `export` measures where the data set's images are at hand proves it.",
        "",
        "| layout | family | scheme | tensors under | prefix | dropped | classifier | remarks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layout in layouts():
        remarks = [layout.note] if layout.note else []
        remarks += ["only with --scheme"] if not layout.auto else []
        remarks += ["renamed to torchvision's names"] if layout.rename else []
        remarks += [
            f"{key} {value}"
            for key in ("mean", "std")
            if (value := getattr(layout, key)) is not None
        ]
        remarks += [
            f"on {name} mean {own['mean']}, std {own['std']}" for name, own in layout.own.items()
        ]
        remarks += [
            f"a {CONFIG} beside it must have {key} {json.dumps(value)}"
            for key, value in layout.config.items()
        ]
        remarks += [f"a 3x3 stem is `{layout.stem3}`"] if layout.stem3 else []
        cells = [
            layout.name,
            layout.family,
            layout.scheme,
            ", ".join({"": "top", "*": "any other"}.get(path, path) for path in layout.unwrap),
            layout.prefix,
            ", ".join(name.replace("\\", "") + "*" for name in layout.drop),
            layout.head
            or layout.heads
            or ("none" if layout.drop or layout.prefix else "the architecture's"),
            "; ".join(remarks),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _choose(content: dict[str, Any], scheme: str, under: str | None, path: Path) -> Found:
    """The layout of `content` and the tensors that have it."""
    table = layouts()
    named = [layout for layout in table if layout.name == scheme]
    if not named and scheme != "auto":
        known = {layout.scheme for layout in table} | {"supervised"}
        if scheme not in known:
            raise InputError(
                f"--scheme {scheme}: it must be auto, a layout ({', '.join(layout.name for layout in table)}) or a "
                f"scheme ({', '.join(sorted(known))})"
            )
    chosen = None if under is None else _under(content, under, path)
    for layout in named or [
        layout for layout in table if layout.auto and (under is None or layout.lies(under))
    ]:
        places = (
            [chosen]
            if chosen
            else [place for each in layout.unwrap if (place := _place(content, each))]
        )
        for where, held, beside in places:
            counters = [key for key in held if key.rpartition(".")[2] in COUNTERS]
            tensors = _unwrap_names(
                {key: tensor for key, tensor in held.items() if key not in counters}
            )
            peeled = [each for each in _peeled(tensors) if layout.fits(each)]
            if not peeled:
                continue
            if not layout.needs:  # whatever has tensors fits
                recognised = (
                    each for each in peeled if recognise(_network_tensors(each, layout)[0], layout)
                )
                peeled = [next(recognised, peeled[0])]
            weights = next(
                (place for place, *_ in places if place and "ema" not in place and "ema" in where),
                None,
            )
            return Found(layout, where, peeled[0], beside | dict.fromkeys(counters, 1), weights)
    if named:
        keys = listed([str(key) for key in content])
        raise InputError(
            f"{path} does not have the layout {scheme} ({named[0].family}); its keys are {keys}; leave out "
            "--scheme, and it is recognised"
        )
    raise InputError(f"{path} {_without_tensors(content)}")


def _without_tensors(content: dict[str, Any]) -> str:
    """What there is in the place of one dictionary of tensors, and what helps."""
    places = [f"{where} ({len(tensors)})" for where, tensors in _dictionaries(content) if where]
    if places:
        return (
            f"holds tensors in several places: {listed(places)}; name that of the network, such as --under "
            f"{places[0].partition(' ')[0]}"
        )
    keys = listed([str(key) for key in content])
    return f"holds no network: none of its keys ({keys}) has tensors in it; {STATE_DICT}"


Place = tuple[str, dict[str, Tensor], dict[str, int]]
"""Where in a file a network's tensors are, these, and how many others lie beside them by the start
of their names."""


def _place(content: dict[str, Any], path: str) -> Place | None:
    """The tensors at `path` in the file; `*` is its only dictionary of tensors."""
    found = [(where, tensors) for where, tensors in _dictionaries(content) if path in (where, "*")]
    return (*found[0], {}) if len(found) == 1 else None


def _dictionaries(
    content: dict[str, Any], where: str = ""
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All dictionaries of a network's tensors in a file, each with its place: keys with dots
    between them.

    An optimiser's are none, and single numbers are figures of a training.
    """
    tensors = {
        str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)
    }
    if any(tensor.ndim for tensor in tensors.values()):
        yield where, tensors
    for key, value in content.items():
        if isinstance(value, dict) and "optim" not in str(key):
            yield from _dictionaries(value, f"{where}.{key}" if where else str(key))


def _under(content: dict[str, Any], under: str, path: Path) -> Place:
    """The tensors at the place `under`, or else those whose names in a dictionary begin so."""
    places = list(_dictionaries(content))
    under = under.strip(".")
    for where, tensors in places:
        if where == under:
            return where, tensors, {}
    for where, held in places:
        named = _unwrap_names(held)
        start = under.removeprefix(f"{where}.") + "."
        tensors = {
            key.removeprefix(start): tensor
            for key, tensor in named.items()
            if key.startswith(start)
        }
        if tensors:
            return under, tensors, _counted(key for key in named if not key.startswith(start))
    known = [where for where, _ in places if where]
    known += [
        start.removesuffix(".") for _, held in places for start in _counted(_unwrap_names(held))
    ]
    raise InputError(
        f"{path} has no tensors under {under!r}; there are some under {listed(list(dict.fromkeys(known)))}"
    )


def _counted(names: Iterable[str], under: str = "") -> dict[str, int]:
    """How many of `names`, which may begin with `under`, there are by the first part of what
    follows that."""
    counted: dict[str, int] = {}
    for name in names:
        beginning = under if name.startswith(under) else ""
        first, dot, _ = name.removeprefix(beginning).partition(".")
        start = beginning + first + dot
        counted[start] = counted.get(start, 0) + 1
    return counted


def _peeled(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """`tensors`, then without the first part of their names, as long as all share it."""
    while tensors:
        yield tensors
        first = {key.partition(".")[0] for key in tensors}
        if len(first) != 1 or not all("." in key for key in tensors):
            return
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}


def _scheme(layout: Layout, asked: str) -> str:
    if asked in ("auto", layout.name, layout.scheme):
        return layout.scheme
    if layout.scheme != "unknown":
        raise InputError(
            f"--scheme {asked}, but the checkpoint has the layout of {layout.family}: {layout.scheme}"
        )
    return asked


def _unwrap_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    while shared := [
        wrapper
        for wrapper in WRAPPERS
        if tensors and all(key.startswith(wrapper) for key in tensors)
    ]:
        tensors = {key.removeprefix(shared[0]): value for key, value in tensors.items()}
    return tensors


def _network_tensors(
    tensors: dict[str, Tensor], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The network's tensors by its names as float32, and how many others there are by the start of
    their names."""
    network: dict[str, Tensor] = {}
    others: list[str] = []
    for key, tensor in tensors.items():
        name = key.removeprefix(layout.prefix)
        if key.startswith(layout.prefix):
            for pattern, replacement in layout.rename:
                name = re.sub(f"^(?:{pattern})", replacement, name)
        if not key.startswith(layout.prefix) or any(
            re.match(pattern, name) for pattern in layout.drop
        ):
            others.append(key)
        else:
            network[name] = tensor.float() if tensor.is_floating_point() else tensor
    return network, _counted(others, layout.prefix)


def _architecture(
    network: dict[str, Tensor],
    layout: Layout,
    name: str | None,
    given: dict[str, Any],
    told: list[str],
    path: Path,
) -> tuple[str, dict[str, Any]]:
    """The architecture of `network` and its options: `name`, or what is recognised, maybe because
    the file tells it.

    Where the tensors can't tell an option of it, `given` must.
    """
    if name is not None:
        name = models.full_name(name)
        options = models.architecture(name).options() | _options(name, network, layout)
    else:
        found = recognise(network, layout) or next(
            (fit for each in told if (fit := _fitting(network, each))), None
        )
        if found is None:
            raise InputError(f"{path}: {_unrecognised(network)}")
        name, options = found
    if (
        name in models.RESNETS
        and "stem" not in given
        and layout.stem3 is None
        and _kernel(network) == 3
    ):
        raise InputError(
            f"{path}: conv1 is 3x3, and no tensor tells whether a max-pool follows it. Give --arch-options "
            "'{stem: small}' for none, as most networks for small images have it, '{stem: small_pool}' for the "
            "max-pool of networks for ImageNet, or '{stem: small_pad2}' for none and a padding of 2, as solo-learn "
            "has it"
        )
    if RENORMALISED in models.architecture(name).options() and RENORMALISED not in given:
        head = network.get(f"{models.architecture(name).head}.weight")
        if head is None or len(head) != IMAGENET_CLASSES:
            raise InputError(
                f"{path}: no tensor tells whether {name} renormalises its images. Give --arch-options "
                f"'{{{RENORMALISED}: true}}' if the training began with torchvision's published weights, "
                f"'{{{RENORMALISED}: false}}' if it began from scratch"
            )
        options |= {RENORMALISED: True}
    for key, value in given.items():
        models.check_option(name, key, value)
    return name, options | given


def recognise(
    network: dict[str, Tensor], layout: Layout | None = None
) -> tuple[str, dict[str, Any]] | None:
    """The known architecture and options that `network` fits, whatever its classifier."""
    for name, options in _candidates(network, layout):
        if _difference(network, name, options) == ([], [], []):
            return name, options
    return None


def _candidates(
    network: dict[str, Tensor], layout: Layout | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Architectures of which `network` may be, with the options that it shows."""
    for name in models.ARCHITECTURES:
        if shown := _options(name, network, layout):
            yield name, models.architecture(name).options() | shown | _classes(name, network)
    for name in models.torchvision_names(network):
        yield name, {"classes": IMAGENET_CLASSES} | _classes(name, network)


def _classes(name: str, network: dict[str, Tensor]) -> dict[str, Any]:
    """The option `classes` of architecture `name` if the tensors have its classifier, else none."""
    head = network.get(f"{models.architecture(name).head}.weight")
    return {} if head is None or head.ndim < 2 else {"classes": len(head)}


def _options(name: str, network: dict[str, Tensor], layout: Layout | None) -> dict[str, Any]:
    """The options of one of our own architectures that the tensors show; empty if they can't be of
    it."""
    begins_with_features = name in models.CONVNETS or name in models.CIFAR_VGGS
    first = network.get("features.0.weight" if begins_with_features else "conv1.weight")
    if first is None or first.ndim != 4:
        return {}
    shown: dict[str, Any] = {"channels": first.shape[1]}
    if name == "cifar-mobilenetv2":
        return shown if "layers.0.conv3.weight" in network else {}
    if name == "cifar-shufflenetv2":
        half = network.get("layer1.0.conv5.weight")
        return {} if half is None else shown | {"width": 2 * len(half)}
    if name in models.CIFAR_DENSENETS:
        return shown | {"growth": len(first) // 2} if "dense1.0.conv1.weight" in network else {}
    if name in models.CIFAR_WIDE_RESNETS:
        wide = network.get("block1.layer.0.conv1.weight")
        return {} if wide is None else shown | {"factor": max(1, len(wide) // 16)}
    shown = {"width": first.shape[0]} | shown
    if name in models.CIFAR_VGGS:
        multiples = VGG_MULTIPLES
        size = _pooled_size(network, len(first) * multiples[-1], len(multiples))
        hidden = network.get("hidden.0.weight")
        return (
            shown | {"size": size, "hidden": 0 if hidden is None else len(hidden)} if size else {}
        )
    if name in models.CIFAR_PREACT_RESNETS:
        return shown if "layer1.0.bn1.weight" in network and "bn1.weight" not in network else {}
    if name in models.RESNETS:
        small = (layout and layout.stem3) or "small"
        return shown | {"stem": small if _kernel(network) == 3 else "imagenet"}
    if name in models.CIFAR_RESNETS:
        return shown | {"shortcut": "conv" if "layer2.0.downsample.0.weight" in network else "pad"}
    if name in models.CONVNETS and (
        size := _pooled_size(network, len(first), int(name.removeprefix("convnet")))
    ):
        return shown | {
            "norm": "batch" if "features.1.running_mean" in network else "instance",
            "size": size,
        }
    return {}


def _pooled_size(network: dict[str, Tensor], width: int, poolings: int) -> int | None:
    """The height of the images that a network takes which halves it `poolings` times and flattens
    `width` channels.

    None if its first linear layer does not tell. Networks for images of one channel pad by 3 first,
    which is ours for 28x28 images alone.
    """
    head = network.get("hidden.0.weight", network.get("classifier.weight"))
    if head is None or head.ndim != 2:
        return None
    channels = network["features.0.weight"].shape[1]
    side = math.isqrt(head.shape[1] // width)
    size = side << poolings
    if side * side * width != head.shape[1] or (channels == 1 and size != 32):
        return None
    return 28 if channels == 1 else size


def _kernel(network: dict[str, Tensor]) -> int:
    """The side of the first convolution of a ResNet."""
    weight = network.get("conv1.weight")
    return weight.shape[-1] if weight is not None and weight.ndim == 4 else 0


def _config_beside(path: Path) -> dict[str, Any]:
    """What `config.json` beside a checkpoint holds, as the hub of Hugging Face keeps them; empty if
    there is none."""
    try:
        config = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no file, or one of something else
        return {}
    return config if isinstance(config, dict) else {}


def _check_config(config: dict[str, Any], layout: Layout, path: Path) -> None:
    """InputError if the file beside the checkpoint tells a network that has the same tensors but is
    another."""
    for key, wanted in layout.config.items():
        if config.get(key, wanted) != wanted:
            raise InputError(
                f"{path.parent / CONFIG} has {key} {config[key]!r}, and networks of layout {layout.name} are read with "
                f"{wanted!r} alone; {ONNX_WAY}"
            )


def _named_in(content: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Architectures that a training script named in its file, or timm beside it: as torchvision and
    timm call them."""
    args = content.get("args")
    settings = args if isinstance(args, dict) else {}
    weights = config.get("pretrained_cfg")
    tag = weights.get("tag") if isinstance(weights, dict) else None
    names = [f"{config.get('architecture')}.{tag}", config.get("architecture")]
    names += [content.get("arch"), settings.get("arch"), settings.get("model")]
    plain = [
        name for name in names if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.]+", name)
    ]
    return [prefix + name for name in dict.fromkeys(plain) for prefix in ("torchvision/", "timm/")]


def _fitting(network: dict[str, Tensor], name: str) -> tuple[str, dict[str, Any]] | None:
    """`name` and its options if there is such an architecture and `network` has exactly its
    tensors."""
    try:
        options = {"classes": models.architecture(name).options()["classes"]}
    except InputError:
        return None
    return (name, options) if _difference(network, name, options) == ([], [], []) else None


def _unrecognised(network: dict[str, Tensor]) -> str:
    """What the nearest known network has that `network` lacks, or the reverse; what helps if none
    is near."""
    if parts := _parts(network):
        takes = " and ".join(
            f"--under {start} takes those of {_named(*fit)}" for start, fit in parts
        )
        return f"these {len(network)} tensors are not of one network alone: {takes}"
    if sorted(tensor.ndim for tensor in network.values()) in ([2], [1, 2]):
        return f"{listed(_shapes(network))} is a linear layer alone: give it as --head, and its backbone as --checkpoint"
    otherwise = f"{ONNX_WAY[0].upper()}{ONNX_WAY[1:]}"
    candidates = [*_candidates(network, None)]
    stage = network.get("layer1.0.conv1.weight")
    if not candidates and stage is not None and stage.ndim == 4:
        candidates = [
            (name, models.architecture(name).options() | {"width": len(stage)})
            for name in models.RESNETS
        ]
    if differences := [(*each, *_difference(network, *each)) for each in candidates]:
        name, options, missing, unexpected, differing = min(
            differences, key=lambda each: sum(map(len, each[2:]))
        )
        if 2 * (len(unexpected) + len(differing)) <= len(network):
            text = f"the nearest known network is {_named(name, options)}; {_reasons(missing, unexpected, differing)}"
            import timm  # takes seconds, which only a refusal takes

            relatives = [f"timm/{each}" for each in timm.list_models(f"{name.rpartition('/')[2]}*")]
            fits = next((each for each in relatives if _fitting(network, each)), None)
            if fits is not None:
                return (
                    f"{text}. {fits} has exactly these tensors: if it is that, give --arch {fits}"
                )
            if not missing and not differing:
                text += (
                    ". If the network does without these in evaluation, save the file without them"
                )
            return f"{text}. {otherwise}"
    text = f"no known architecture is near these {len(network)} tensors: {listed(_shapes(network))}"
    if models.timm_may_have(network):
        return f"{text}. If timm has the network, give --arch timm/NAME; {ONNX_WAY}"
    return f"{text}. {otherwise}"


def _parts(network: dict[str, Tensor]) -> list[tuple[str, tuple[str, dict[str, Any]]]]:
    """What the names of some of these tensors begin with that are exactly a known network, and that
    network."""
    starts = (
        ".".join(key.split(".")[:depth])
        for depth in (1, 2, 3)
        for key in network
        if key.count(".") >= depth
    )
    found: list[tuple[str, tuple[str, dict[str, Any]]]] = []
    table = [layout for layout in layouts() if layout.auto and layout.lies("")]
    for start in dict.fromkeys(starts):
        named = {
            key.removeprefix(f"{start}."): t
            for key, t in network.items()
            if key.startswith(f"{start}.")
        }
        layout = next(each for each in table if each.fits(named))
        if len(named) < len(network) and (
            fit := recognise(_network_tensors(named, layout)[0], layout)
        ):
            found.append((start, fit))
    return found


def _difference(
    network: dict[str, Tensor], name: str, options: dict[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """Names that the architecture has and `network` lacks, the reverse, and those of other shapes;
    no classifier."""
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
    ignored = (f"{head}.", *models.architecture(name).auxiliary)
    given = {key: tuple(t.shape) for key, t in network.items() if not key.startswith(ignored)}
    given = {key: shape for key, shape in given.items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    differing = [
        f"{key} is {list(given[key])}, not {list(wanted[key])}"
        for key in wanted
        if key in given and given[key] != wanted[key]
    ]
    return missing, unexpected, differing


def _fit(
    network: dict[str, Tensor], name: str, options: dict[str, Any], path: Path
) -> dict[str, Tensor]:
    """The state of the network without classifier; InputError if anything is missing, left over or
    of another shape."""
    missing, unexpected, differing = _difference(network, name, options)
    if missing or unexpected or differing:
        fitting = recognise(network)
        hint = f"no known architecture would fit; {ONNX_WAY}"
        if fitting:
            hint = f"{_named(fitting[0], fitting[1] | {'classes': options['classes']})} would fit"
        raise InputError(
            f"{path} is no {_named(name, options)}: {_reasons(missing, unexpected, differing)}; {hint}"
        )
    state = {}
    for key in models.shapes(name, options):
        if key.endswith("num_batches_tracked"):
            state[key] = network.get(key, torch.zeros((), dtype=torch.int64))
        elif key in network:
            state[key] = network[key].contiguous()
    return state


def _reasons(missing: list[str], unexpected: list[str], differing: list[str]) -> str:
    labelled = {
        "missing": missing,
        "not in the architecture": unexpected,
        "of another shape": differing,
    }
    return "; ".join(f"{label}: {listed(names)}" for label, names in labelled.items() if names)


def _check_kinds(network: dict[str, Tensor], path: Path) -> None:
    """Tensors without values, sparse ones and weights of other than floating point are errors."""
    for key, tensor in network.items():
        is_weight = tensor.dtype != torch.int64 or key.endswith(("weight", "bias"))
        if tensor.is_meta:
            raise InputError(
                f"{path}: {key} is a meta tensor, which has no values: load the weights, and {STATE_DICT}"
            )
        if tensor.layout != torch.strided:
            raise InputError(f"{path}: {key} is a sparse tensor: save its to_dense()")
        if is_weight and not tensor.is_floating_point():
            raise InputError(
                f"{path}: {key} is of {str(tensor.dtype).removeprefix('torch.')}, not of floating point: give the "
                "checkpoint from before the network was quantised or converted"
            )


def _check_values(state: dict[str, Tensor], path: Path) -> None:
    """Values that are not finite, and BN statistics that are none or never were updated, are
    errors."""
    broken = [key for key, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: {len(broken)} of {len(state)} tensors hold NaN or infinite values ({listed(broken)}): the "
            "training diverged; give an earlier checkpoint"
        )
    layers = [key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")]
    unused = [
        layer
        for layer in layers
        if not state[f"{layer}.running_mean"].any() and (state[f"{layer}.running_var"] == 1).all()
    ]
    if unused:
        raise InputError(
            f"{path}: {len(unused)} of {len(layers)} BN layers have the initial statistics 0 and 1 ({listed(unused)}): "
            "the network was trained without running statistics, or they were not saved"
        )
    negative = [layer for layer in layers if (state[f"{layer}.running_var"] < 0).any()]
    if negative:
        raise InputError(
            f"{path}: {len(negative)} of {len(layers)} BN layers have a negative variance ({listed(negative)}): the "
            "file is damaged; download or copy it again"
        )


def _head_of_file(content: dict[str, Any], path: Path, features: int) -> nn.Linear:
    """The one linear layer over `features` in a head's file, a BN layer before it folded in.

    What has convolutions is a backbone, whose BN layers are not the head's.
    """
    tensors = _unwrap_names(_flatten(content))
    backbone = {key.partition(".")[0] for key, tensor in tensors.items() if tensor.ndim > 2}
    tensors = {
        key: tensor for key, tensor in tensors.items() if key.partition(".")[0] not in backbone
    }
    weights = [key for key, t in tensors.items() if key.split(".")[-1] == "weight" and t.ndim == 2]
    fitting = [key for key in weights if tensors[key].shape[1] == features]
    if len(fitting) != 1:
        shapes = listed([f"{key} {list(tensors[key].shape)}" for key in weights])
        raise InputError(
            f"{path}: a head is one linear layer over the network's {features} features, but there are "
            f"{len(fitting)} such; 2-d weights are {shapes}; give a file with the classifier alone"
        )
    head = _linear(
        tensors[fitting[0]], tensors.get(fitting[0].removesuffix("weight") + "bias"), path
    )
    means = [
        key for key, t in tensors.items() if key.endswith("running_mean") and t.shape == (features,)
    ]
    if len(means) > 1:
        raise InputError(
            f"{path}: several BN layers over the features: {listed(means)}; give a file with the classifier alone"
        )
    for key in means:
        prefix = key.removesuffix("running_mean")
        factor = (tensors[f"{prefix}running_var"].float() + BATCH_NORM_EPS).rsqrt()
        factor = factor * tensors.get(f"{prefix}weight", torch.ones(())).float()
        shift = (
            tensors.get(f"{prefix}bias", torch.zeros(())).float() - tensors[key].float() * factor
        )
        head = _linear(head.weight * factor, head.bias + head.weight @ shift.expand(features), path)
    return head


def _flatten(content: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors in nested dictionaries, except those of optimisers, by the last dictionary's
    names."""
    found: dict[str, Tensor] = {}
    for _, tensors in _dictionaries(content):
        found |= tensors
    return found


def _linear(weight: Tensor, bias: Tensor | None, path: Path) -> nn.Linear:
    """The layer with `weight` `[K, D]`, or `[K, D, 1, 1]` of a convolution, and `bias` `[K]`, which
    are of `path`."""
    weight = weight.flatten(1)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"{path}: the classifier's weight is {list(weight.shape)} and its bias {list(bias.shape)}, which do not "
            "fit together: give another classifier with --head"
        )
    head = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return head


def _shapes(tensors: dict[str, Tensor]) -> list[str]:
    return [f"{key} {list(tensor.shape)}" for key, tensor in tensors.items()]


def _named(name: str, options: dict[str, Any]) -> str:
    """The network with its options, but for shares that leave it whole."""
    defaults = models.architecture(name).options()
    shown = [
        f"{key} {value}"
        for key, value in options.items()
        if not (isinstance(value, float) and value == defaults.get(key))
    ]
    return f"{name} ({', '.join(shown)})"
