"""Packs what a bare machine with a GPU needs to run `benches/gpu/run.py` into one archive.

    python benches/gpu/pack.py [--work DIR] [--out target/gpu/scdd-gpu.tar.xz]

That machine has Python with torch 2.11.0 and ONNX Runtime, but no Rust and no network. So the
programs are built here against that libtorch, in a copy of the tree that takes the bindings of that
version, and stripped. The archive also holds a ResNet-18 for 224² images with random weights and
some shipped bundles. DIR keeps the copy, its environment and its build; a second call is fast.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TORCH = "2.11.0"
# The bindings of that version of libtorch (tch's README lists them).
BINDINGS = "0.24"
# What libtorch's library for the CPU is linked to; everything else is needed on a GPU alone.
LINKED = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
BUNDLES = [
    "fashion-mnist/convnet3-w128",
    "cifar-100/resnet18-w16-supervised",
    "cifar-100/resnet18-w16",
]
# What no program is built from, and what would choose another libtorch.
LEFT_OUT = (".cargo/", "Cargo.lock", "onnx/", "tests/goldens/")
# A weight is one of 15 values.
LEVELS = 7
LARGEST = 25 * 2**20


def run(command: list[str], **options) -> str:
    print("+", " ".join(command), file=sys.stderr, flush=True)
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)
    return found.stdout


def copy_tree(tree: Path) -> None:
    """The tracked files as they are now. Unchanged ones keep their times, so that cargo builds
    little anew."""
    names = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, tree / name
        if name.startswith(LEFT_OUT) or not source.is_file():
            continue
        content = source.read_bytes()
        if name == "Cargo.toml":
            content = with_bindings(content.decode()).encode()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def with_bindings(manifest: str) -> str:
    """The workspace's manifest with the other bindings, and without debug information."""
    manifest, found = re.subn(r'(?m)^tch = "[^"]*"$', f'tch = "{BINDINGS}"', manifest)
    manifest, profiles = re.subn(r'(?m)^debug = "line-tables-only"$', "debug = false", manifest)
    if (found, profiles) != (1, 1):
        raise SystemExit(
            "error: Cargo.toml has no `tch` or no profile to change; see with_bindings"
        )
    return manifest


def build(work: Path) -> dict[str, Path]:
    """The programs by name."""
    tree, venv = work / "tree", work / "venv"
    uv = shutil.which("uv") or str(ROOT / ".venv-tools" / "bin" / "uv")
    if not (venv / "lib").exists():
        run([uv, "venv", "--quiet", "--python", "3.11", str(venv)])
        packages = [f"torch=={TORCH}", *LINKED]
        run([uv, "pip", "install", "--no-deps", "--python", f"{venv}/bin/python", *packages])
    copy_tree(tree)
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    environment = os.environ | {
        "VIRTUAL_ENV": str(venv),
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "LIBTORCH": str(site / "torch"),
        "CARGO_TARGET_DIR": str(work / "target"),
    }
    locked, lock = work / "Cargo.lock", ROOT / "Cargo.lock"
    if not locked.exists() or locked.read_bytes() != lock.read_bytes():
        shutil.copyfile(lock, tree / "Cargo.lock")
        run(
            ["cargo", "update", "-p", "tch", "--precise", f"{BINDINGS}.0"],
            cwd=tree,
            env=environment,
        )
        shutil.copyfile(lock, locked)
    command = ["cargo", "build", "--release", "--bin", "scdd-worker", "--bench", "gpu"]
    command += ["--message-format", "json-render-diagnostics"]
    lines = run(command, cwd=tree, env=environment).splitlines()
    made = [json.loads(line) for line in lines if line.startswith("{")]
    return {m["target"]["name"]: Path(m["executable"]) for m in made if m.get("executable")}


def network(folder: Path) -> None:
    """The bundle of a ResNet-18 for ImageNet, in `folder`. Its weights are random, and of few
    values, so that they take little room."""
    import torch
    from torch import nn
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18().train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.uniform_(module.bias, -0.2, 0.2)
        for weight in model.parameters():
            if weight.dim() > 1:
                step = weight.abs().max() / LEVELS
                weight.copy_((weight / step).round() * step)
        for _ in range(8):
            model(torch.randn(8, 3, 224, 224))
    state = folder / "resnet18.pt"
    torch.save(model.state_dict(), state)
    pixels = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--size", "224"]
    command = [sys.executable, "-m", "exporters", "export", "--checkpoint", str(state)]
    command += ["--arch", "resnet18", *pixels, "--name", "resnet18-224", "--out", str(folder)]
    run(command, cwd=ROOT)
    state.unlink()


def stage(work: Path, programs: dict[str, Path]) -> Path:
    """The folder that is packed."""
    folder = work / "scdd-gpu"
    kept = work / "network"
    if not (kept / "resnet18-224" / "manifest.yaml").exists():
        kept.mkdir(exist_ok=True)
        network(kept)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    # `scdd` would start the worker, which takes the same commands.
    for name, program in [("scdd", programs["scdd-worker"]), ("gpu", programs["gpu"])]:
        run(["strip", "-o", str(folder / "bin" / name), str(program)])
    for script in ("run.py", "peers.py"):
        shutil.copy2(ROOT / "benches" / "gpu" / script, folder)
    shutil.copytree(kept / "resnet18-224", folder / "onnx" / "resnet18-224")
    for bundle in BUNDLES:
        shutil.copytree(ROOT / "onnx" / bundle, folder / "onnx" / bundle.replace("/", "-"))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "gpu" / "work")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "gpu" / "scdd-gpu.tar.xz")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folder = stage(args.work, build(args.work))
    aside = args.out.with_name(args.out.name + ".tmp")
    with lzma.open(aside, "wb", preset=6) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    size = aside.stat().st_size
    if size > LARGEST:
        raise SystemExit(
            f"error: {aside} has {size / 2**20:.1f} MiB, more than {LARGEST >> 20}: pack fewer bundles"
        )
    aside.rename(args.out)
    print(f"{args.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
