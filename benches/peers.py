"""Measures every stage beside what a user would run instead.

Peers are PyTorch, eager and compiled, and a bare ONNX Runtime session.

    python benches/peers.py [--only resnet18-b50 train-convnet3 run-quickstart ...] [--rounds 9]

Every peer is a process of its own that does the same work, for the same network, number of images
and threads, once for every line that it reads: for recover the same loss and input gradient of the
same images, which is checked. The peers of a row take turns within each round, so that whatever
else the machine does hits all of them; a ratio is the median over the rounds. Networks, ONNX files
and images go to target/bench, the table to docs/benchmarks.md and docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
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
# What the cost grows with: a work, and one that is so many times smaller.
GROWTH = {"resnet18-b100": ("resnet18-b10", 10)}
SMALL = {"resnet18-b10": ("resnet18", 32, 10)}

# Name: (stage, teacher, student, images, batch), the networks shipped bundles.
BUNDLES = ROOT / "onnx" / "fashion-mnist"
STAGES = {
    "relabel-resnet18-w16": (
        "relabel",
        "resnet18-w16-supervised",
        "convnet3-w128",
        4000,
        100,
    ),
    "train-convnet3": ("train", "resnet18-w16-supervised", "convnet3-w128", 500, 50),
    "train-resnet18-w16": ("train", "resnet18-w16-supervised", "resnet18-w16", 500, 50),
}
STAGE_TITLES = {
    "relabel-resnet18-w16": "relabel: quarter-width ResNet-18, 28×28, 4,000 images in batches of 100, augmented (the peers: not)",
    "train-convnet3": "student training: ConvNet-3 of width 128, 28×28, 10 steps of 50 images, augmented (the peers: not)",
    "train-resnet18-w16": "student training: quarter-width ResNet-18, 28×28, 10 steps of 50 images, augmented (the peers: not)",
}
STAGE_PEERS = {
    "relabel": {
        "label-eager": "PyTorch eager",
        "label-compiled": "torch.compile",
        "label-session": "a bare ONNX Runtime session",
    },
    "train": {"train-eager": "PyTorch eager", "train-compiled": "torch.compile"},
}
TEMPERATURE = 20.0
OUTPUT = "OUTPUT"

# Name: (experiment file, what makes it short).
RUNS = {
    "run-quickstart": (
        "configs/quickstart.yaml",
        ["seeds=[0]", "recover.iterations=60", "relabel.epochs=20"],
    ),
}
RUN_TITLES = {
    "run-quickstart": "scdd run: the quickstart with one seed, 60 steps and 20 epochs, from nothing",
}
RUN_PEERS = {"one stage after another (--jobs 1)": ["--jobs", "1"]}
# Name: what `scdd` is given; it needs no network for it.
STARTS = {
    "start-help": ["--help"],
    "start-schema": ["schema"],
    "start-dry-run": ["run", "configs/quickstart.yaml", "--dry-run"],
}
STARTS_PEER = "the same by scdd-worker, which links libtorch"
# Images to load; their height and width.
LOADED, LOADED_SIDES = 4000, (320, 288)
LOADS = {
    "load-folder": "loading: 4,000 JPEG files of 320×288, scaled and cut to 224×224, by scdd pack, which also writes them",
}
LOADS_PEER = "torchvision's ImageFolder, 2 workers"


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

    architecture, side, batch = (WORKS | SMALL)[name]
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
    """The statistics in forward hooks, as the published recipes describe them: one contiguous copy
    per layer, channels first."""
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
    """The best eager formulation that we know, through torch.compile: channels-last, one var_mean
    per layer."""
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


def shipped(bundle: str):
    """The network of a shipped bundle with its weights, and the shape of its images."""
    import torch
    import yaml

    import onnx
    from exporters import models
    from onnx import numpy_helper

    manifest = yaml.safe_load((BUNDLES / bundle / "manifest.yaml").read_text())
    architecture, shape = manifest["architecture"], manifest["preprocessing"]
    model = models.build(architecture["name"], architecture["options"])
    initializers = onnx.load(BUNDLES / bundle / "model.onnx").graph.initializer
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in initializers}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing), missing
    return model, (shape["channels"], shape["height"], shape["width"])


def label(name: str, how: str):
    """The logits of all images, batch by batch."""
    import torch

    _stage, teacher, _student, count, size = STAGES[name]
    model, shape = shipped(teacher)
    model.eval().requires_grad_(False)
    batches = torch.randn(count, *shape).split(size)
    if how == "session":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            BUNDLES / teacher / "model.onnx",
            options,
            providers=["CPUExecutionProvider"],
        )
        field = session.get_inputs()[0].name
        return lambda: [session.run(None, {field: b.numpy()}) for b in batches]
    if how == "compiled":
        model = torch.compile(model.to(memory_format=torch.channels_last))
        batches = [b.to(memory_format=torch.channels_last) for b in batches]
    return torch.inference_mode()(lambda: [model(b) for b in batches])


def train(name: str, how: str):
    """One epoch of AdamW on soft labels: KL divergence at a temperature."""
    import torch
    import torch.nn.functional as F

    _stage, _teacher, student, count, size = STAGES[name]
    model, shape = shipped(student)
    model.train()
    images = torch.randn(count, *shape)
    if how == "compiled":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    labels = F.softmax(torch.randn(count, 10) / TEMPERATURE, dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(x, y):
        log = F.log_softmax(model(x) / TEMPERATURE, dim=1)
        return F.kl_div(log, y, reduction="batchmean") * TEMPERATURE**2

    if how == "compiled":
        loss_of = torch.compile(loss_of)

    def epoch():
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            optimizer.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def loaded() -> Path:
    """A folder of JPEG files, made once."""
    from large_folder import make_folder

    folder = BENCH / "images"
    if not folder.exists():
        aside = BENCH / "images.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        classes = [f"c{number}" for number in range(10)]
        make_folder(aside, classes, len(classes), LOADED, LOADED_SIDES)
        aside.rename(folder)
    return folder


def load_folder(_name: str, _how: str):
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    convert = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    )
    images = datasets.ImageFolder(str(loaded() / "test"), convert)

    def turn() -> None:
        for _images, _labels in DataLoader(images, batch_size=50, num_workers=2):
            pass

    return turn


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell the peak memory of a process")


def work(peer: str, name: str) -> None:
    """A peer: answers every line with the time of one evaluation."""
    if name in STAGES or name in LOADS:
        kind, how = peer.split("-")
        turn = {"label": label, "train": train, "load": load_folder}[kind](name, how)
        turn()
        about = {}
    else:
        turn = {"hooks": hooks, "compiled": compiled}[peer](name)
        loss, gradient = turn()
        about = {"loss": loss, "gradient_norm": gradient.norm().item()}
    print(json.dumps(about), flush=True)
    for _line in sys.stdin:
        start = time.perf_counter()
        turn()
        ms = (time.perf_counter() - start) * 1e3
        print(json.dumps({"ms": ms, "peak_mib": peak_mib()}), flush=True)


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
    """Floating-point operations of all convolutions, forward and back to their inputs, computed
    directly."""
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
    """A worker; a turn of it is its work done `times` times."""

    def __init__(self, command: list[str], times: int = 1) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.times = times
        self.about = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def _once(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def turn(self) -> dict:
        answers = [self._once() for _ in range(self.times)]
        return answers[-1] | {"ms": sum(answer["ms"] for answer in answers)}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Gemm:
    """The time that so many floating-point operations take at the peak of matrix products."""

    def __init__(self, flops: float) -> None:
        self.flops = flops

    def turn(self) -> dict:
        return {"ms": self.flops / gemm_peak() / 1e6}

    def close(self) -> None:
        pass


class Program:
    """A program that runs to its end in every turn; `OUTPUT` in its command becomes a new folder.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def turn(self) -> dict:
        with tempfile.TemporaryDirectory() as output:
            command = [part.replace(OUTPUT, output) for part in self.command]
            begin = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            return {"ms": (time.perf_counter() - begin) * 1e3}

    def close(self) -> None:
        pass


def worker(peer: str, name: str) -> Peer:
    return Peer([sys.executable, __file__, "worker", peer, name])


def ours(binary: str, name: str, times: int = 1) -> Peer:
    """The plan on a recover work, as `scdd` compiles it."""
    prepare(name)
    architecture, side, batch = (WORKS | SMALL)[name]
    model, images = BENCH / f"{architecture}.onnx", BENCH / f"{name}.f32"
    shape = f"{batch},3,{side},{side}"
    return Peer([binary, "plan", str(model), shape, str(images)], times)


def measure_recover(name: str, binary: str, rounds: int) -> list[dict]:
    peers = {"ours": ours(binary, name)} | {
        title: worker(peer, name) for peer, title in PEERS.items()
    }
    check_agreement(name, [peer.about for peer in peers.values()])
    title = "its convolutions, computed directly, at the peak of matrix products"
    peers[title] = Gemm(multiplications(name))
    if name in GROWTH:
        small, times = GROWTH[name]
        title = f"the same images, by ours in {times} batches"
        peers[title] = ours(binary, small, times)
    return take_turns(f"recover: {TITLES[name]}", peers, rounds)


def check_agreement(name: str, abouts: list[dict]) -> None:
    for key in ("loss", "gradient_norm"):
        values = [about[key] for about in abouts]
        if max(values) - min(values) > 1e-3 * abs(values[0]):
            raise SystemExit(
                f"{name}: the peers do not compute the same {key}: {values}"
            )


def measure_stage(name: str, binary: str, rounds: int) -> list[dict]:
    stage, teacher, student, count, batch = STAGES[name]
    bundles = [str(BUNDLES / teacher), str(BUNDLES / student)]
    peers = {"ours": Peer([binary, stage, *bundles, str(count), str(batch)])} | {
        title: worker(peer, name) for peer, title in STAGE_PEERS[stage].items()
    }
    return take_turns(STAGE_TITLES[name], peers, rounds)


def measure_run(name: str, binary: str, rounds: int) -> list[dict]:
    experiment, settings = RUNS[name]
    command = [binary, "run", experiment, "--quiet", "--output", OUTPUT]
    command += [part for setting in settings for part in ("--set", setting)]
    peers = {"ours": Program(command)} | {
        title: Program([*command, *flags]) for title, flags in RUN_PEERS.items()
    }
    return take_turns(RUN_TITLES[name], peers, rounds)


def measure_load(name: str, binary: str, rounds: int) -> list[dict]:
    command = [binary, "pack", str(loaded()), "--size", "224", "--only", "test"]
    peers = {
        "ours": Program([*command, "--out", f"{OUTPUT}/packed"]),
        LOADS_PEER: worker("load-torchvision", name),
    }
    return take_turns(LOADS[name], peers, rounds)


def measure_start(name: str, binaries: dict[str, str], rounds: int) -> list[dict]:
    programs = {"ours": "scdd", STARTS_PEER: "scdd-worker"}
    peers = {
        title: Program([binaries[program], *STARTS[name]])
        for title, program in programs.items()
    }
    return take_turns(start_title(name), peers, rounds)


def start_title(name: str) -> str:
    return f"start-up: scdd {' '.join(STARTS[name])}"


def take_turns(
    work: str, peers: dict[str, Peer | Gemm | Program], rounds: int
) -> list[dict]:
    """The rows of a work: ours beside every other peer. Two more rounds, at the start, warm up."""
    turns = {peer: [] for peer in peers}
    for i in range(rounds + 2):
        for title, peer in peers.items():
            answer = peer.turn()
            if i >= 2:
                turns[title].append(answer)
        shown = {
            title: round(found[-1]["ms"]) for title, found in turns.items() if found
        }
        print(work, i, shown, file=sys.stderr)
    for peer in peers.values():
        peer.close()

    def row(title: str) -> dict:
        mine, theirs = ([turn["ms"] for turn in turns[t]] for t in ("ours", title))
        mib = [turns[t][-1].get("peak_mib") for t in ("ours", title)]
        return {
            "work": work,
            "peer": title,
            "ours_ms": round(statistics.median(mine), 1),
            "peer_ms": round(statistics.median(theirs), 1),
            "ratio": round(
                statistics.median(t / m for m, t in zip(mine, theirs, strict=True)), 2
            ),
            "ours_mib": mib[0] and round(mib[0]),
            "peer_mib": mib[1] and round(mib[1]),
            "date": datetime.date.today().isoformat(),
        }

    return [row(title) for title in peers if title != "ours"]


def table(rows: list[dict]) -> str:
    lines = [
        "| work | peer | ours, ms | peer, ms | peer / ours | ours, MiB | peer, MiB | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mib = ["" if row[who] is None else row[who] for who in ("ours_mib", "peer_mib")]
        cells = [
            row["work"],
            row["peer"],
            row["ours_ms"],
            row["peer_ms"],
            row["ratio"],
            *mib,
            row["date"],
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def build_ours() -> dict[str, str]:
    """The Rust peers and `scdd` itself, built; their paths by name."""
    benches = build_with("bench", "--bench", "recover", "--bench", "stages", "--no-run")
    return benches | build_with("build", "--release")


def build_with(*command: str) -> dict[str, str]:
    out = subprocess.run(
        ["cargo", *command, "--message-format", "json-render-diagnostics"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    artifacts = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {
        a["target"]["name"]: a["executable"] for a in artifacts if a.get("executable")
    }


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        return work(*sys.argv[2:4])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WORKS, *STAGES, *LOADS, *RUNS, *STARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="the folder of the table"
    )
    args = parser.parse_args()
    binaries = build_ours()
    # What torch.compile made for other instructions would be run again, or crash.
    kept = BENCH / "inductor" / instructions().replace(" ", "-")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    path = args.out / "benchmarks.json"
    tables = json.loads(path.read_text())["tables"] if path.exists() else []
    machine = about_machine()
    rows = next((t["rows"] for t in tables if t["machine"] == machine), [])
    order = [f"recover: {title}" for title in TITLES.values()]
    order += [*STAGE_TITLES.values(), *LOADS.values(), *RUN_TITLES.values()]
    order += map(start_title, STARTS)
    for name in args.only:
        if name in RUNS:
            # Minutes each, and long enough to vary little.
            found = measure_run(name, binaries["scdd"], max(args.rounds // 3, 1))
        elif name in STARTS:
            found = measure_start(name, binaries, args.rounds)
        elif name in LOADS:
            found = measure_load(name, binaries["scdd"], args.rounds)
        elif name in STAGES:
            found = measure_stage(name, binaries["stages"], args.rounds)
        else:
            found = measure_recover(name, binaries["recover"], args.rounds)
        rows = [row for row in rows if row["work"] != found[0]["work"]] + found
        known = [row for row in rows if row["work"] in order]
        rows = sorted(known, key=lambda row: order.index(row["work"]))
        others = [table for table in tables if table["machine"] != machine]
        write(path, [*others, {"machine": machine, "rows": rows}])


def about_machine() -> dict:
    """What tells tables apart: figures of one processor under other instructions are others."""
    import torch

    return {
        "cores": os.cpu_count(),
        "machine": cpu(),
        "instructions": instructions(),
        "torch": torch.__version__,
    }


def write(path: Path, tables: list[dict]) -> None:
    tables = sorted(tables, key=lambda table: table["machine"]["instructions"])
    text = json.dumps({"tables": tables}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n")
    sections = [section(table["machine"], table["rows"]) for table in tables]
    path.with_suffix(".md").write_text(
        "# Benchmarks\n\n"
        "`make bench` runs this program and every peer in turns, on the same network, number of images and threads, and writes this table. A row of\n"
        "recover is one evaluation of the synthesis loss and its input gradient. Times and ratios are medians over the rounds; memory is the peak of\n"
        "the whole process, runtime and compilation included. Large folders are measured in [data.md](data.md), growth in [scale.md](scale.md).\n\n"
        + "\n".join(sections)
    )


def section(about: dict, rows: list[dict]) -> str:
    return (
        f"## {about['instructions']}\n\n"
        f"On {about['cores']} cores of {about['machine']}, PyTorch {about['torch']}.\n\n"
        f"{table(rows)}\n"
    )


# What bounds the instruction set of our kernels, of libtorch's and of oneDNN's.
LIMITS = ("SCDD_MAX_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


def instructions() -> str:
    """The processor's best vector instructions, and the bounds under which the programs ran."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    flags = {"avx512_bf16": "AVX-512 and bf16", "avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    best = next((name for flag, name in flags.items() if flag in words), "no known vector instructions")
    bounds = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    return " under ".join([best, *([", ".join(bounds)] if bounds else [])])


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
