"""`python -m exporters COMMAND`. Exit codes: 0 done, 1 a check failed, 2 the input cannot be
used."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import registry
from .config import parse_mapping
from .errors import CheckError, InputError

OF_CHECKPOINTS: dict[str, Any] = {
    "head": None,
    "scheme": "auto",
    "arch": None,
    "arch_options": "{}",
    "under": None,
    "save_network": None,
}
"""The options of `export` that only `--checkpoint` takes, with their defaults."""


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(map(float, text.split(",")))


def add_data_options(command: argparse.ArgumentParser, sample: bool = True) -> None:
    """Options of commands that see images; `data_options` reads them."""
    group = command.add_argument_group("images")
    group.add_argument(
        "--dataset",
        metavar="NAME|DIR",
        help="a known data set, or the folder or archive of one's own",
    )
    group.add_argument("--mean", type=numbers, help="of pixels in 0..1, such as 0.485,0.456,0.406")
    group.add_argument("--std", type=numbers, help="likewise")
    group.add_argument("--size", type=int, help="the images' height and width")
    group.add_argument(
        "--classes", type=Path, help="file of the classes' names in label order, one a line"
    )
    if sample:
        group.add_argument(
            "--sample",
            type=int,
            metavar="N",
            help="take N training images, even over the classes, not all",
        )


def data_options(chosen: argparse.Namespace) -> Any:
    """What `add_data_options` read, as `data.Options`."""
    from .data import Options

    return Options(
        chosen.dataset,
        chosen.mean,
        chosen.std,
        chosen.size,
        chosen.classes,
        getattr(chosen, "sample", None),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m exporters", description="Pretrain, probe and export networks."
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("SCDD_DATA") or "data"),
        help="folder of the data sets (default: SCDD_DATA, else data)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="bring a data set to the data folder; resumes")
    fetch.add_argument(
        "name", nargs="?", default="fashion-mnist", metavar="NAME", help=", ".join(registry.names())
    )
    pretrain = commands.add_parser(
        "pretrain", help="train a network as a configuration says; resumes"
    )
    pretrain.add_argument("config", type=Path)
    add_data_options(pretrain)
    probe = commands.add_parser("probe", help="fit a linear classifier on a frozen backbone")
    probe.add_argument("checkpoint", type=Path)
    probe.add_argument(
        "--output", type=Path, help="merged checkpoint (default: probed.pt beside the backbone's)"
    )
    add_data_options(probe)
    recalibrate = commands.add_parser(
        "recalibrate", help="measure BN statistics on the clean training images"
    )
    recalibrate.add_argument("checkpoint", type=Path)
    recalibrate.add_argument(
        "--output", type=Path, help="(default: recalibrated.pt beside the checkpoint)"
    )
    add_data_options(recalibrate)
    zoo = commands.add_parser(
        "zoo", help="pretrain, probe and export, except what is there already; resumes"
    )
    zoo.add_argument("configs", type=Path, nargs="+", metavar="config")
    zoo.add_argument("--out", type=Path, required=True, help="folder of the bundles")
    teachers = commands.add_parser(
        "teachers", help="write the tables of the teachers in folders of bundles"
    )
    teachers.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    teachers.add_argument("--table", type=Path, required=True, help="the Markdown file to write")
    layouts = commands.add_parser(
        "adapters", help="write the table of the layouts of community checkpoints"
    )
    layouts.add_argument("--table", type=Path, required=True, help="the Markdown file to write")
    export = commands.add_parser("export", help="write a trained network as a bundle")
    export.add_argument(
        "network", type=Path, nargs="?", help="what pretrain, probe or recalibrate wrote"
    )
    export.add_argument(
        "--checkpoint", type=Path, help="instead: a checkpoint of torchvision, timm, MoCo, DINO, …"
    )
    export.add_argument(
        "--head", type=Path, help="file of its linear classifier, if that is separate"
    )
    export.add_argument(
        "--scheme",
        default=OF_CHECKPOINTS["scheme"],
        help="its layout (docs/adapters.md) or pretraining scheme",
    )
    export.add_argument("--arch", help="its architecture; recognised otherwise")
    export.add_argument(
        "--arch-options",
        default=OF_CHECKPOINTS["arch_options"],
        help="such as '{width: 64, stem: small}'",
    )
    add_data_options(export)
    export.add_argument(
        "--under",
        metavar="PLACE",
        help="key of the file under which the network is, or what its names begin with",
    )
    export.add_argument(
        "--save-network",
        type=Path,
        help="also write it in the form that probe and recalibrate read",
    )
    export.add_argument("--name", help="the bundle's name (default: the checkpoint's)")
    imported = commands.add_parser(
        "import", help="write an ONNX file that others exported as a bundle"
    )
    imported.add_argument("file", type=Path)
    add_data_options(imported, sample=False)
    imported.add_argument(
        "--scheme", default="unknown", help="its pretraining: supervised, moco_v2, …"
    )
    imported.add_argument(
        "--output", help="the value that holds the logits, where the graph has several outputs"
    )
    imported.add_argument("--name", help="the bundle's name (default: the file's)")
    unpack = commands.add_parser(
        "unpack", help="write a bundle's network as probe, recalibrate and export read it"
    )
    unpack.add_argument("bundle", type=Path)
    unpack.add_argument("output", type=Path)
    convert = commands.add_parser(
        "convert", help="copy the tensors out of a checkpoint that export refuses"
    )
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument("output", type=Path)
    student = commands.add_parser("export-student", help="write an untrained network as a bundle")
    student.add_argument("config", type=Path)
    add_data_options(student, sample=False)
    incremental = commands.add_parser(
        "incremental", help="class-incremental learning from sets that scdd export-set wrote"
    )
    incremental.add_argument("sets", type=Path, nargs="+", metavar="SET")
    incremental.add_argument("--student", type=Path, required=True, help="as export-student reads")
    incremental.add_argument("--steps", type=int, default=5, help="of equally many classes")
    incremental.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the classes' order and the students"
    )
    prune = commands.add_parser(
        "prune", help="write a teacher's bundle without a share of its channels, data-free"
    )
    prune.add_argument("bundle", type=Path)
    prune.add_argument(
        "--keep", type=float, required=True, metavar="SHARE", help="of each block's inner channels"
    )
    prune.add_argument(
        "--by",
        choices=("statistics", "magnitude", "random"),
        default="statistics",
        help="what tells the channels to keep (default: statistics)",
    )
    prune.add_argument("--seed", type=int, default=0, help="of the random channels")
    prune.add_argument(
        "--tune", type=Path, metavar="SET", help="a set that scdd export-set wrote, to learn from"
    )
    prune.add_argument(
        "--name", help="the bundle's name (default: the bundle's, and what was done)"
    )
    lite = commands.add_parser(
        "efficientnet-lite", help="fetch EfficientNet-Lite0 to -Lite2 and write them as bundles"
    )
    for command in (export, imported, student, prune, lite):
        command.add_argument(
            "--out", type=Path, required=True, help="folder in which the bundle's folder is made"
        )
        command.add_argument("--replace", action="store_true", help="replace a bundle of that name")
    chosen = parser.parse_args(arguments)
    try:
        perform(chosen, functools.partial(print, flush=True))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CheckError as error:
        print(f"check failed: {error}", file=sys.stderr)
        return 1
    return 0


def perform(chosen: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Runs the command that was chosen. Each loads what it needs itself, because torch takes
    seconds to load.

    :raises InputError: when the input can't be used.
    :raises CheckError: when a check of one's own fails.
    """
    if chosen.command == "fetch":
        from .fetch import fetch

        fetch(chosen.name, chosen.data, say=say)
    elif chosen.command == "pretrain":
        from .pretrain import pretrain

        print(pretrain(chosen.config, chosen.data, chosen=data_options(chosen), say=say))
    elif chosen.command == "probe":
        from .probe import probe

        print(
            probe(
                chosen.checkpoint, chosen.data, chosen.output, chosen=data_options(chosen), say=say
            )
        )
    elif chosen.command == "recalibrate":
        from .recalibrate import recalibrate

        print(
            recalibrate(
                chosen.checkpoint, chosen.data, chosen.output, chosen=data_options(chosen), say=say
            )
        )
    elif chosen.command == "zoo":
        from .zoo import zoo

        zoo(chosen.configs, chosen.data, chosen.out, say=say)
    elif chosen.command == "teachers":
        from .zoo import teachers

        teachers(chosen.folders, chosen.data, chosen.table, say=say)
    elif chosen.command == "adapters":
        from .adapters import write_table

        write_table(chosen.table)
    elif chosen.command == "incremental":
        from .incremental import incremental

        incremental(
            chosen.sets,
            chosen.student,
            chosen.data,
            steps=chosen.steps,
            seeds=chosen.seeds,
            say=say,
        )
    elif chosen.command == "efficientnet-lite":
        from .efficientnet_lite import export_efficientnet_lite

        export_efficientnet_lite(chosen.data, chosen.out, replace=chosen.replace, say=say)
    elif chosen.command == "prune":
        from .prune import prune

        prune(
            chosen.bundle,
            chosen.data,
            chosen.out,
            keep=chosen.keep,
            by=chosen.by,
            seed=chosen.seed,
            tune=chosen.tune,
            name=chosen.name,
            overwrite=chosen.replace,
            say=say,
        )
    elif chosen.command == "unpack":
        from .unpack import unpack

        unpack(chosen.bundle, chosen.output, say=say)
    elif chosen.command == "convert":
        from .convert import convert

        convert(chosen.checkpoint, chosen.output, say=say)
    elif chosen.command == "import":
        from .importer import import_onnx

        import_onnx(
            chosen.file,
            chosen.data,
            chosen.out,
            dataset_name=chosen.dataset,
            size=chosen.size,
            mean=chosen.mean,
            std=chosen.std,
            classes_path=chosen.classes,
            scheme=chosen.scheme,
            output_value=chosen.output,
            name=chosen.name,
            replace=chosen.replace,
            say=say,
        )
    elif chosen.command == "export" and (chosen.network is None) == (chosen.checkpoint is None):
        raise InputError(
            "export wants either a network of pretrain, probe or recalibrate, or --checkpoint FILE"
        )
    elif chosen.command == "export" and chosen.checkpoint is not None:
        from .community import export_community

        export_community(
            chosen.checkpoint,
            chosen.data,
            chosen.out,
            head_path=chosen.head,
            scheme=chosen.scheme,
            architecture=chosen.arch,
            options=parse_mapping(chosen.arch_options, "--arch-options"),
            chosen=data_options(chosen),
            under=chosen.under,
            name=chosen.name,
            network=chosen.save_network,
            replace=chosen.replace,
            say=say,
        )
    elif chosen.command == "export":
        if told := [
            name for name in OF_CHECKPOINTS if getattr(chosen, name) != OF_CHECKPOINTS[name]
        ]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in told)
            raise InputError(
                f"{names}: for --checkpoint FILE alone; {chosen.network} says this itself, so leave it out"
            )
        from .bundle import export_teacher

        export_teacher(
            chosen.network,
            chosen.data,
            chosen.out,
            chosen=data_options(chosen),
            name=chosen.name,
            replace=chosen.replace,
            say=say,
        )
    else:
        from .student import export_student

        export_student(
            chosen.config,
            chosen.data,
            chosen.out,
            chosen=data_options(chosen),
            replace=chosen.replace,
            say=say,
        )


if __name__ == "__main__":
    sys.exit(main())
