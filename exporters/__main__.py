"""`python -m exporters COMMAND`. Exit codes: 0 done, 1 a check failed, 2 the input cannot be used."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from .errors import CheckError, InputError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m exporters", description="Pretrain, probe and export networks.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="bring Fashion-MNIST to the data folder")
    pretrain = commands.add_parser("pretrain", help="train a network as a configuration says; resumes")
    pretrain.add_argument("config", type=Path)
    probe = commands.add_parser("probe", help="fit a linear classifier on a frozen backbone")
    probe.add_argument("checkpoint", type=Path)
    probe.add_argument("--output", type=Path, help="merged checkpoint (default: probed.pt beside the backbone's)")
    export = commands.add_parser("export", help="write a trained network as a bundle")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("--name", help="the bundle's name (default: the checkpoint's)")
    student = commands.add_parser("export-student", help="write an untrained network as a bundle")
    student.add_argument("config", type=Path)
    for command in (export, student):
        command.add_argument("--out", type=Path, required=True, help="folder in which the bundle's folder is made")
        command.add_argument("--replace", action="store_true", help="replace a bundle of that name")
    chosen = parser.parse_args(arguments)
    say = functools.partial(print, flush=True)
    try:
        if chosen.command == "fetch":
            from .fetch import fetch_fashion_mnist

            fetch_fashion_mnist(chosen.data, say)
        elif chosen.command == "pretrain":
            from .pretrain import pretrain as run

            print(run(chosen.config, chosen.data, say=say))
        elif chosen.command == "probe":
            from .probe import probe as run

            print(run(chosen.checkpoint, chosen.data, chosen.output, say=say))
        elif chosen.command == "export":
            from .bundle import export_teacher as run

            run(chosen.checkpoint, chosen.data, chosen.out, name=chosen.name, replace=chosen.replace, say=say)
        else:
            from .bundle import export_student as run

            run(chosen.config, chosen.data, chosen.out, replace=chosen.replace, say=say)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CheckError as error:
        print(f"check failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
