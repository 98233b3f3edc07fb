"""The two ways in which a command can end badly, and how their messages list names."""

from collections.abc import Iterable
from pathlib import Path


class InputError(Exception):
    """The user's input (a config, a checkpoint, a data file) cannot be used. Exit code 2."""


class CheckError(Exception):
    """A result failed one of our own checks (ONNX Runtime disagrees, a BN node is missing). Exit
    code 1."""


def check_there(path: Path, remedy: str = "") -> None:
    """InputError where there is nothing at `path`; `remedy` says what writes it."""
    if not path.exists():
        start = "" if path.is_absolute() else f"; relative paths start at {Path.cwd()}"
        raise InputError(f"{path} does not exist{start}" + (f"; {remedy}" if remedy else ""))


def listed(names: Iterable[str], most: int = 6, between: str = ", ") -> str:
    """The first `most` of `names`, and how many there are beyond them."""
    names = list(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return between.join(names[:most] + more) or "none"
