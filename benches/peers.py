"""Recover beside what a user would run instead: PyTorch eager with forward hooks, and torch.compile.

    python benches/peers.py [--only resnet18-b50 ...] [--rounds 9]

Every peer is a process of its own that evaluates the same loss and input gradient, for the same network, images and number of threads, once for
every line that it reads. The peers of a row take turns within each round, so that whatever else the machine does hits all of them; a ratio is the
median over the rounds. Networks, ONNX files and images go to target/bench, the table to docs/benchmarks.md and docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BENCH = ROOT / "target" / "bench"
R_BN, FIRST = 0.01, 10.0

# Name: (architecture, image side, batch).
WORKS = {
    "resnet18-b50": ("resnet18", 32, 50),
    "resnet18-b100": ("resnet18", 32, 100),
    "resnet18-w16-b50": ("resnet18-w16", 32, 50),
    "resnet50-b8": ("resnet50", 224, 8),
    "efficientnet-lite0-b8": ("efficientnet_lite0", 224, 8),
}
TITLES = {
    "resnet18-b50": "ResNet-18, 32×32, batch 50",
    "resnet18-b100": "ResNet-18, 32×32, batch 100",
    "resnet18-w16-b50": "quarter-width ResNet-18, 32×32, batch 50",
    "resnet50-b8": "ResNet-50, 224×224, batch 8",
    "efficientnet-lite0-b8": "EfficientNet-Lite0, 224×224, batch 8",
}
PEERS = {"hooks": "PyTorch eager, forward hooks", "compiled": "torch.compile"}


def build(architecture: str):
    """The network with random weights, its BN layers away from their initial state."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if architecture.startswith("resnet18"):
        from exporters import models

        width = 16 if architecture.endswith("w16") else 64
        model = models.build(
            "resnet18", {"width": width, "stem": "small", "channels": 3, "classes": 10}
        )
    elif architecture == "resnet50":
        import torchvision

        model = torchvision.models.resnet50(num_classes=1000)
    else:
        import timm

        model = timm.create_model(architecture, pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def prepare(name: str) -> None:
    """Writes the state, the ONNX file and the images of a work."""
    import torch

    from exporters.graph import to_onnx

    architecture, side, batch = WORKS[name]
    BENCH.mkdir(parents=True, exist_ok=True)
    state, onnx = BENCH / f"{architecture}.pt", BENCH / f"{architecture}.onnx"
    if not (state.exists() and onnx.exists()):
        model = build(architecture).train()
        with torch.no_grad():
            for _ in range(8):
                model(torch.randn(8, 3, side, side))
        torch.save(model.state_dict(), state)
        onnx.write_bytes(to_onnx(model.eval(), (3, side, side))[0])
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, side, side, generator=generator)
    images.numpy().astype("<f4").tofile(BENCH / f"{name}.f32")


def load(name: str):
    """The frozen network, the images (asking for gradients) and the targets."""
    import numpy as np
    import torch

    architecture, side, batch = WORKS[name]
    model = build(architecture).eval()
    model.load_state_dict(torch.load(BENCH / f"{architecture}.pt", weights_only=True))
    model.requires_grad_(False)
    images = np.fromfile(BENCH / f"{name}.f32", dtype="<f4").reshape(
        batch, 3, side, side
    )
    return model, torch.from_numpy(images), torch.arange(batch) % 10


def hooks(name: str):
    """The statistics in forward hooks, as the published recipes describe them: one contiguous copy per layer, channels first."""
    import torch.nn.functional as F
    from torch import nn

    model, images, targets = load(name)
    distances = []

    def hook(module, inputs, _output):
        x = inputs[0]
        mean = x.mean(dim=(0, 2, 3))
        var = x.permute(1, 0, 2, 3).contiguous().flatten(1).var(dim=1, unbiased=False)
        distances.append(
            (mean - module.running_mean).norm() + (var - module.running_var).norm()
        )

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)

    def evaluate():
        distances.clear()
        x = images.clone().requires_grad_(True)
        ce = F.cross_entropy(model(x), targets)
        bn = FIRST * distances[0] + sum(distances[1:])
        loss = ce + R_BN * bn
        loss.backward()
        return loss.item(), x.grad

    return evaluate


def compiled(name: str):
    """The best eager formulation that we know, through torch.compile: channels-last, one var_mean per layer."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    model, images, targets = load(name)
    model = model.to(memory_format=torch.channels_last)
    distances = []

    def hook(module, inputs, _output):
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        distances.append(
            (mean - module.running_mean).norm() + (var - module.running_var).norm()
        )

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)

    @torch.compile
    def loss_of(x):
        distances.clear()
        ce = F.cross_entropy(model(x), targets)
        bn = FIRST * distances[0] + sum(distances[1:])
        distances.clear()
        return ce + R_BN * bn

    def evaluate():
        x = images.clone(memory_format=torch.channels_last).requires_grad_(True)
        loss = loss_of(x)
        loss.backward()
        return loss.item(), x.grad

    return evaluate


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell the peak memory of a process")


def work(peer: str, name: str) -> None:
    """A peer: answers every line with the time of one evaluation."""
    evaluate = {"hooks": hooks, "compiled": compiled}[peer](name)
    loss, gradient = evaluate()
    print(
        json.dumps({"loss": loss, "gradient_norm": gradient.norm().item()}), flush=True
    )
    for _line in sys.stdin:
        start = time.perf_counter()
        evaluate()
        print(
            json.dumps(
                {"ms": (time.perf_counter() - start) * 1e3, "peak_mib": peak_mib()}
            ),
            flush=True,
        )


def gemm_peak() -> float:
    """GFLOP/s of the fastest of several large matrix products."""
    import torch

    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    best = 0.0
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * 1536**3 / (time.perf_counter() - start) / 1e9)
    return best


def multiplications(name: str) -> float:
    """Floating-point operations of all convolutions, forward and back to their inputs, computed directly."""
    import torch
    from torch import nn

    model, images, _targets = load(name)
    total = 0

    def hook(module, _inputs, output):
        nonlocal total
        total += 4 * output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model(images[:1])
    return total * len(images)


class Peer:
    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.about = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def turn(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(name: str, binary: str, rounds: int) -> list[dict]:
    prepare(name)
    architecture, side, batch = WORKS[name]
    ours = [
        binary,
        "plan",
        str(BENCH / f"{architecture}.onnx"),
        f"{batch},3,{side},{side}",
        str(BENCH / f"{name}.f32"),
    ]
    python = [sys.executable, __file__, "worker"]
    peers = {"ours": Peer([*ours, "--autotune"])} | {
        peer: Peer([*python, peer, name]) for peer in PEERS
    }
    losses = {peer: process.about["loss"] for peer, process in peers.items()}
    norms = {peer: process.about["gradient_norm"] for peer, process in peers.items()}
    for found in (losses, norms):
        if any(
            abs(value - found["hooks"]) > 1e-3 * abs(found["hooks"])
            for value in found.values()
        ):
            raise SystemExit(f"{name}: the peers do not compute the same: {found}")
    flops = multiplications(name)
    turns = {peer: [] for peer in [*peers, "gemm"]}
    for i in range(rounds + 2):
        for peer, process in peers.items():
            answer = process.turn()
            if i >= 2:
                turns[peer].append(answer)
        if i >= 2:
            turns["gemm"].append({"ms": flops / gemm_peak() / 1e6})
        print(
            name,
            i,
            {peer: round(found[-1]["ms"]) for peer, found in turns.items() if found},
            file=sys.stderr,
        )
    for process in peers.values():
        process.close()

    def row(peer: str, title: str) -> dict:
        ms = {who: [turn["ms"] for turn in turns[who]] for who in ("ours", peer)}
        pairs = [
            theirs / mine for mine, theirs in zip(ms["ours"], ms[peer], strict=True)
        ]
        return {
            "work": f"recover: {TITLES[name]}",
            "peer": title,
            "ours_ms": round(statistics.median(ms["ours"]), 1),
            "peer_ms": round(statistics.median(ms[peer]), 1),
            "ratio": round(statistics.median(pairs), 2),
            "ours_mib": round(turns["ours"][-1]["peak_mib"]),
            "peer_mib": round(turns[peer][-1]["peak_mib"])
            if "peak_mib" in turns[peer][-1]
            else None,
        }

    rows = [row(peer, title) for peer, title in PEERS.items()]
    return [
        *rows,
        row(
            "gemm",
            "its convolutions, computed directly, at the peak of matrix products",
        ),
    ]


def table(rows: list[dict]) -> str:
    lines = [
        "| work | peer | ours, ms | peer, ms | peer / ours | ours, MiB | peer, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mib = "" if row["peer_mib"] is None else row["peer_mib"]
        cells = [
            row["work"],
            row["peer"],
            row["ours_ms"],
            row["peer_ms"],
            row["ratio"],
            row["ours_mib"],
            mib,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def build_ours() -> str:
    """The Rust peer, built; its path."""
    command = [
        "cargo",
        "bench",
        "--bench",
        "recover",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]
    out = subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    artifacts = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return next(
        a["executable"]
        for a in artifacts
        if a.get("target", {}).get("name") == "recover" and a.get("executable")
    )


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        return work(*sys.argv[2:4])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--binary", help="the Rust peer, if it is built already")
    args = parser.parse_args()
    binary = args.binary or build_ours()
    path = ROOT / "docs" / "benchmarks.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in args.only:
        found = measure(name, binary, args.rounds)
        rows = [row for row in rows if row["work"] != found[0]["work"]] + found
        order = [f"recover: {title}" for title in TITLES.values()]
        rows.sort(
            key=lambda row: (
                order.index(row["work"]) if row["work"] in order else len(order)
            )
        )
        write(path, rows)


def write(path: Path, rows: list[dict]) -> None:
    import torch

    about = {"cores": os.cpu_count(), "machine": cpu(), "torch": torch.__version__}
    path.write_text(
        json.dumps({"machine": about, "rows": rows}, indent=2, ensure_ascii=False)
        + "\n"
    )
    path.with_suffix(".md").write_text(
        "# Benchmarks\n\n"
        "`make bench` runs this program and every peer in turns, on the same network, images and threads, and writes this table. A row is one\n"
        "evaluation of the synthesis loss and its input gradient. Times and ratios are medians over the rounds; memory is the peak of the whole\n"
        "process, runtime and compilation included.\n\n"
        f"Measured on {about['cores']} cores of {about['machine']}, PyTorch {about['torch']}.\n\n{table(rows)}\n"
    )


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
