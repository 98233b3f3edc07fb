"""Checks `scdd` on this machine's GPU, and measures it beside PyTorch.

    python3 run.py [--device cuda|cpu] [--minutes 8] [--out results]

It lies in the archive that `benches/gpu/pack.py` makes, and needs Python with PyTorch and ONNX
Runtime. Correctness comes first: every packed bundle in every precision, labels and a student's
epoch against the CPU, the same bytes twice, and after a stop and a kill. Then every kind of work is timed in turns with its peers, all in one run; a ratio
is that of the medians. Each step has its own time limit; what does not fit into --minutes is left
out, and said. results.json and results.md are written after every step. On a CPU everything is
small: that tries the check itself.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLES = HERE / "onnx"
# How far our loss and gradient may be from PyTorch's on the same device, relatively.
LIMITS = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
LARGE, SMALL = "resnet18-224", "cifar-100-resnet18-w16-supervised"
STUDENT = "cifar-100-resnet18-w16"
# How far labels and the loss of a student's epoch on the device may be from those on the CPU.
AGREEMENT = {"fp32": 1e-3, "tf32": 2e-2}
LEAST_SECONDS = 15
# How long a peer may take until it is ready, mostly for torch.compile.
PEER_SECONDS = 60
STOPPED = 75


class StepError(Exception):
    """Why a step has no result."""


@dataclass
class Timing:
    """A work, and the peers that it is timed with."""

    what: str
    work: str
    peers: dict[str, str]
    precision: str
    bundle: str = LARGE
    student: str | None = None
    batch: int = 100
    times: int = 10

    def title(self) -> str:
        return f"{self.what}: {NETWORKS[self.bundle]}"


@dataclass
class Sizes:
    """How much is computed."""

    rounds: int
    iterations: int
    most_images: int
    most_times: int
    timings: list[Timing]


RECOVER = {"official": "the official loop"}
GRADIENT = {"hooks": "PyTorch eager, forward hooks", "compiled": "torch.compile, channels-last"}
LABEL = {"label-eager": "PyTorch eager", "label-compiled": "torch.compile, channels-last"}
TRAIN = {"train-eager": "PyTorch eager", "train-compiled": "torch.compile, channels-last"}
NETWORKS = {LARGE: "ResNet-18, 224x224", SMALL: "quarter-width ResNet-18, 32x32"}
PAIR = {"bundle": SMALL, "student": STUDENT, "batch": 128, "times": 20}
STEP, SLOPE = "a step of recover", "the synthesis gradient"
TIMINGS = [
    Timing(STEP, "recover", RECOVER, "tf32", times=30),
    Timing(SLOPE, "gradient", GRADIENT, "tf32"),
    Timing(STEP, "recover", RECOVER, "bf16", times=30),
    Timing("a student's step, augmented (the peers: not)", "train", TRAIN, "tf32", **PAIR),
    Timing("relabel a batch, augmented (the peers: not)", "relabel", LABEL, "tf32", **PAIR),
    Timing(STEP, "recover", RECOVER, "tf32", bundle=SMALL, times=60),
    Timing(SLOPE, "gradient", GRADIENT, "bf16"),
    Timing(SLOPE, "gradient", GRADIENT, "fp32"),
]
# The CPU computes in float32 alone.
ON_CPU = [replace(timing, precision="fp32", bundle=SMALL) for timing in TIMINGS[:2] + TIMINGS[3:5]]
SIZES = {"cuda": Sizes(8, 400, 1000, 1000, TIMINGS), "cpu": Sizes(2, 30, 2, 2, ON_CPU)}


def environment() -> dict[str, str]:
    """That of our programs: this Python's libtorch and ONNX Runtime."""
    spec = importlib.util.find_spec("torch"), importlib.util.find_spec("onnxruntime")
    if not all(spec):
        raise SystemExit(
            "error: this Python lacks torch or onnxruntime; run it by one that has both"
        )
    torch, runtime = (Path(s.submodule_search_locations[0]) for s in spec)
    libraries = sorted((runtime / "capi").glob("libonnxruntime.so*"))
    paths = [str(torch / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
        "ORT_DYLIB_PATH": str(libraries[-1]),
    }


class Check:
    """The check under way."""

    def __init__(self, device: str, minutes: float, out: Path) -> None:
        self.device, self.out = device, out
        self.sizes = SIZES[device]
        self.end = time.monotonic() + 60 * minutes
        self.environment = environment() | {"SCDD_CACHE": str(out / "cache")}
        self.results: dict = {"machine": machine(device), "steps": []}
        self.children: list[subprocess.Popen] = []

    def start(self, command: list[str], **options) -> subprocess.Popen:
        child = subprocess.Popen(command, env=self.environment, text=True, cwd=HERE, **options)
        self.children.append(child)
        return child

    def scdd(self, *arguments: str) -> tuple[int, str]:
        """Runs our program to its end; its exit code and what it printed."""
        child = self.start([str(HERE / "bin" / "scdd"), *arguments], stdout=subprocess.PIPE)
        printed, _ = child.communicate()
        return child.returncode, printed

    @contextmanager
    def limited(self, seconds: float) -> Iterator[threading.Event]:
        """Ends all children after so many seconds, and then sets the event; and at the end."""
        expired = threading.Event()

        def end() -> None:
            for child in self.children:
                if child.poll() is None:
                    child.kill()

        def expire() -> None:
            expired.set()
            end()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()
            end()
            for child in self.children:
                child.wait()
            self.children.clear()

    def step(self, name: str, limit: float, work: Callable[[], dict]) -> None:
        """Does `work` within so many seconds, and writes what came out of it."""
        seconds = min(limit, self.end - time.monotonic())
        found: dict = {"name": name}
        start = time.monotonic()
        if seconds <= LEAST_SECONDS:
            found["state"] = "left out: no time"
        else:
            with self.limited(seconds) as expired:
                try:
                    found |= {"state": "passed"} | work()
                except (StepError, OSError, ValueError, KeyError) as error:
                    why = f"{type(error).__name__}: {error}"
                    found["state"] = f"failed: {error if isinstance(error, StepError) else why}"
            if expired.is_set():
                found["state"] = f"failed: not done within {seconds:.3g} s"
        found["seconds"] = round(time.monotonic() - start, 1)
        print(f"{found['state']:<12} {name} ({found['seconds']} s)", flush=True)
        self.results["steps"].append(found)
        self.write()

    def write(self) -> None:
        texts = {
            "results.json": json.dumps(self.results, indent=2),
            "results.md": page(self.results),
        }
        for name, text in texts.items():
            aside = self.out / f"{name}.tmp"
            aside.write_text(text + "\n")
            aside.rename(self.out / name)

    def verify(self, precision: str) -> dict:
        """Every bundle: ONNX Runtime and libtorch on the CPU, and the plan on the device."""
        bundles = sorted(str(path.relative_to(HERE)) for path in BUNDLES.iterdir())
        options = ["--json", "--device", self.device, "--precision", precision]
        code, printed = self.scdd("verify", *options, *bundles)
        if code not in (0, 1):
            raise StepError(f"`scdd verify` ended with {code}; see above")
        checks = [
            {"bundle": Path(bundle).name, **check}
            for bundle, verdict in zip(bundles, json.loads(printed), strict=True)
            for check in verdict["checks"]
            if check["name"].startswith("plan on") or not check["passed"]
        ]
        return {"state": "passed" if code == 0 else "failed: a check", "checks": checks}

    def compare(self, precision: str) -> dict:
        """Labels by ONNX Runtime and by libtorch, and a student's epoch: the device against the CPU.
        An ONNX Runtime for the CPU alone answers there, which the result says."""
        sizes = [str(min(64, self.sizes.most_images)), str(min(4, self.sizes.most_times))]
        bundles = [str(BUNDLES / SMALL), str(BUNDLES / STUDENT)]
        command = [str(HERE / "bin" / "gpu"), "compare", self.device, precision, *sizes, *bundles]
        child = self.start(command, stdout=subprocess.PIPE)
        printed, _ = child.communicate()
        if child.returncode != 0:
            raise StepError(f"the worker ended with {child.returncode}; see above")
        found = json.loads(printed)
        places = found.pop("onnx_runtime_on")
        checks = [
            {
                "name": f"{name}, {precision}",
                "bundle": STUDENT if "student" in name else SMALL,
                "error": error,
                "limit": AGREEMENT[precision],
                "passed": error <= AGREEMENT[precision],
            }
            for name, error in found.items()
        ]
        passed = all(check["passed"] for check in checks)
        state = "passed" if passed else "failed: a check"
        return {"state": state, "onnx_runtime_on": places, "checks": checks}

    def experiment(self) -> Path:
        """A recovery in two batches."""
        size, count, teacher = (50, 100, LARGE) if self.device == "cuda" else (2, 4, SMALL)
        path = self.out / "check.yaml"
        path.write_text(
            f"name: check\ndata: none\nteachers: {BUNDLES / teacher}\nstudents: []\nipc: 1\nbaselines: []\n"
            f"device: {self.device}\nprecision: tf32\n"
            "recover:\n  preset: sre2l-imagenet\n"
            f"  iterations: {self.sizes.iterations}\n  batch_size: {size}\n"
            f"  classes: [{', '.join(map(str, range(count)))}]\n"
        )
        return path

    def recover(
        self, name: str, until: Callable[[Path], bool] | None = None, number: int = signal.SIGTERM
    ) -> int:
        """The exit code of a recovery into the folder `name`, which gets the signal `number` as
        soon as `until` holds of that folder."""
        output = self.out / name
        command = [str(HERE / "bin" / "scdd"), "recover", str(self.experiment()), "--quiet"]
        child = self.start([*command, "--output", str(output)], stdout=subprocess.DEVNULL)
        while until and child.poll() is None:
            if until(output):
                child.send_signal(number)
                break
            time.sleep(0.01)
        return child.wait()

    def repeated(self) -> dict:
        """Two recoveries give the same files, and so does one that is stopped and then killed."""
        for name in ("first", "second"):
            shutil.rmtree(self.out / name, ignore_errors=True)
            if (code := self.recover(name)) != 0:
                raise StepError(f"a recovery ended with {code}")
        expected, again = files(self.out / "first"), files(self.out / "second")
        shutil.rmtree(self.out / "broken", ignore_errors=True)
        stopped = self.recover("broken", is_stepping)
        killed = self.recover("broken", has_images, signal.SIGKILL)
        finished = self.recover("broken")
        if (stopped, killed, finished) != (STOPPED, -signal.SIGKILL, 0):
            raise StepError(f"stop, kill and end gave {stopped}, {killed}, {finished}")
        resumed = files(self.out / "broken")
        same = {"twice": expected == again, "after a stop and a kill": expected == resumed}
        if not expected or not all(same.values()):
            raise StepError(f"{len(expected)} files; the same bytes: {same}")
        return {"files": len(expected), "same": same}

    def time(self, timing: Timing) -> dict:
        """Ours and every peer in turns."""
        batch = min(timing.batch, self.sizes.most_images)
        times = min(timing.times, self.sizes.most_times)
        about = [
            self.device,
            timing.precision,
            str(batch),
            str(times),
            str(BUNDLES / timing.bundle),
        ]
        student = [str(BUNDLES / timing.student)] if timing.student else []
        peers = {"ours": [str(HERE / "bin" / "gpu"), timing.work, *about, *student]}
        for peer in timing.peers:
            # A student's peer has the student's architecture, which is the teacher's.
            peers[peer] = [sys.executable, str(HERE / "peers.py"), peer, *about]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        workers = {name: self.start(command, **pipes) for name, command in peers.items()}
        late = without_late_peers(workers, PEER_SECONDS)
        abouts = {name: answer(name, worker) for name, worker in workers.items()}
        turns: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(self.sizes.rounds + 1):
            for name, worker in workers.items():
                worker.stdin.write("\n")
                worker.stdin.flush()
                ms = answer(name, worker)["ms"] / times
                if number > 0:
                    turns[name].append(ms)
        return {
            "timing": {"work": f"{timing.title()}, batch {batch}", "precision": timing.precision},
            "ms": turns,
            "rows": rows(timing, turns),
            "agreement": agreement(abouts, LIMITS[timing.precision]),
        } | ({"state": f"passed, but {', '.join(late)}: not ready in {PEER_SECONDS} s"} if late else {})

    def all(self) -> None:
        precisions = dict.fromkeys(timing.precision for timing in self.sizes.timings)
        for precision in precisions:
            self.step(f"verify, {precision}", 90, lambda p=precision: self.verify(p))
        for precision in filter(AGREEMENT.get, precisions):
            name = f"labels and a student's epoch against the CPU, {precision}"
            self.step(name, 60, lambda p=precision: self.compare(p))
        self.step("the same bytes: twice, after a stop and a kill", 150, self.repeated)
        for timing in self.sizes.timings:
            name = f"{timing.title()}, {timing.precision}"
            self.step(name, 100, lambda t=timing: self.time(t))


def machine(device: str) -> dict:
    import torch

    gpu = torch.cuda.get_device_name(0) if device == "cuda" else None
    return {"device": gpu or platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "torch": torch.__version__}  # fmt: skip


def files(output: Path) -> dict[str, str]:
    """The hashes of all images of a recovery."""
    images = (output / "stages" / "recover").rglob("*.png")
    return {str(p.relative_to(output)): hashlib.sha256(p.read_bytes()).hexdigest() for p in images}


def is_stepping(output: Path) -> bool:
    """Whether a recovery has noted a step."""
    return any((output / "stages" / ".locks").glob("recover-*.progress"))


def has_images(output: Path) -> bool:
    """Whether a recovery has written the images of its first batch."""
    return any((output / "stages" / "recover").rglob("*.png"))


def answer(name: str, worker: subprocess.Popen) -> dict:
    line = worker.stdout.readline()
    if not line:
        raise StepError(f"the worker `{name}` ended with {worker.wait()}; see above")
    return json.loads(line)


def without_late_peers(workers: dict[str, subprocess.Popen], seconds: float) -> list[str]:
    """Ends the peers, not ours, that say nothing within so many seconds, removes them from
    `workers`, and returns their names: a slow compilation costs one row, not the step."""
    end, late = time.monotonic() + seconds, []
    for name, worker in list(workers.items()):
        left = max(0.0, end - time.monotonic())
        if name != "ours" and not select.select([worker.stdout], [], [], left)[0]:
            worker.kill()
            late.append(name)
            del workers[name]
    return late


def rows(timing: Timing, turns: dict[str, list[float]]) -> list[dict]:
    ours = statistics.median(turns["ours"])
    found = []
    for peer, title in timing.peers.items():
        if peer not in turns:
            continue
        theirs = statistics.median(turns[peer])
        found.append({"peer": title, "ours_ms": ours, "peer_ms": theirs, "ratio": theirs / ours})
    return found


def agreement(abouts: dict[str, dict], limit: float) -> dict:
    """How far the peers' loss and gradient are from ours, relatively."""
    ours = abouts["ours"]
    found = {
        f"{peer}, {key}": abs(theirs[key] / ours[key] - 1)
        for peer, theirs in abouts.items()
        for key in ("loss", "gradient_norm")
        if peer != "ours" and key in ours and key in theirs
    }
    if not all(error <= limit for error in found.values()):
        raise StepError(f"they compute different things: {found}, limit {limit}")
    return found


def page(results: dict) -> str:
    """The results as Markdown."""
    about = results["machine"]
    lines = [f"# {about['device']}, {about['cores']} cores, torch {about['torch']}", ""]
    lines += ["| step | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {s['name']} | {s['state']} | {s['seconds']} |" for s in results["steps"]]
    lines += ["", "| check | bundle | error | limit |", "|---|---|---|---|"]
    for step in results["steps"]:
        for c in step.get("checks", []):
            mark = "" if c["passed"] else " **FAILED**"
            lines.append(
                f"| {c['name']}{mark} | {c['bundle']} | {c['error']:.1e} | {c['limit']:.0e} |"
            )
    lines += ["", "| work | precision | peer | ours, ms | peer, ms | peer / ours |"]
    lines += ["|---|---|---|---|---|---|"]
    for step in results["steps"]:
        for r in step.get("rows", []):
            work, precision = step["timing"].values()
            figures = f"{r['ours_ms']:.2f} | {r['peer_ms']:.2f} | {r['ratio']:.2f}"
            lines.append(f"| {work} | {precision} | {r['peer']} | {figures} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args.device, args.minutes, args.out.resolve())
    check.all()
    print(f"{args.out}/results.md")
    failed = [s for s in check.results["steps"] if s["state"].startswith("failed")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
