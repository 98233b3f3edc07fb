"""The peers of `benches/gpu/run.py`: what a user of PyTorch would run instead.

    python peers.py <peer> <cpu|cuda> <fp32|tf32|bf16> <batch> <times> <bundle>

A peer does its work `times` times for every line on standard input and prints the milliseconds of
all of them: between two CUDA events on a GPU, by the clock on a CPU. The first output line is JSON;
for gradients it holds the loss and the norm, which must be those of ours. Needs PyTorch alone.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

R_BN, FIRST = 0.01, 10.0
RATE, BETAS, STEPS = 0.25, (0.5, 0.9), 4000
TV, L2 = 0.0, 0.0
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEMPERATURE = 20.0


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbers and values of the fields of a protocol buffer."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, data[at : at + size]
        at += size


def weights(bundle: Path) -> dict[str, Tensor]:
    """The float32 initialisers of the bundle's model (onnx.proto: ModelProto.graph = 7,
    GraphProto.initializer = 5, TensorProto: dims = 1, data_type = 2, name = 8, raw_data = 9)."""
    found = {}
    (graph,) = (v for n, v in fields(memoryview((bundle / "model.onnx").read_bytes())) if n == 7)
    for tensor in (v for n, v in fields(graph) if n == 5):
        parts = list(fields(tensor))
        one = dict(parts)
        if one.get(2) == 1 and 9 in one:
            shape = [v for n, v in parts if n == 1]
            values = torch.frombuffer(bytearray(one[9]), dtype=torch.float32)
            found[bytes(one[8]).decode()] = values.reshape(shape)
    return found


class Block(nn.Module):
    """A basic block of a ResNet (He et al. 2016), its modules named as torchvision names them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or before != width:
            shortcut = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 of the width and for the images that `state` was made for."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        width, channels, kernel, _ = state["conv1.weight"].shape
        stride = 2 if kernel == 7 else 1
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if kernel == 7 else nn.Identity()
        before = width
        for number in range(4):
            stage = width << number
            stride = 1 if number == 0 else 2
            blocks = [Block(before, stage, stride), Block(stage, stage, 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            before = stage
        self.fc = nn.Linear(before, len(state["fc.bias"]))
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert all(key.endswith("num_batches_tracked") for key in missing), missing
        assert not unexpected, unexpected

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Bench:
    """What all peers need. `device`, `precision`, `batch`, `times`, `bundle` as in the command."""

    def __init__(self, device: str, precision: str, batch: int, times: int, bundle: Path) -> None:
        self.device, self.precision = torch.device(device), precision
        self.batch, self.times = batch, times
        state = weights(bundle)
        self.model = ResNet18(state).to(self.device)
        self.classes, self.channels = self.model.fc.out_features, state["conv1.weight"].shape[1]
        kernel = state["conv1.weight"].shape[2]
        self.side = 224 if kernel == 7 else 32 if self.channels == 3 else 28
        self.targets = torch.arange(batch, device=self.device) % self.classes
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
        torch.backends.cuda.matmul.allow_tf32 = False

    def autocast(self) -> torch.autocast:
        enabled = self.precision == "bf16" and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def frozen(self) -> nn.Module:
        return self.model.eval().requires_grad_(False)

    def pattern(self) -> Tensor:
        """The images at which our worker evaluates the gradient."""
        shape = (self.batch, self.channels, self.side, self.side)
        values = (torch.arange(math.prod(shape), dtype=torch.float64) * 0.7).sin()
        return values.float().reshape(shape).to(self.device)

    def noise(self) -> Tensor:
        return torch.randn(self.batch, self.channels, self.side, self.side, device=self.device)


def hooked(model: nn.Module, statistics: Callable[[Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
    """A list to which each forward pass appends the distance of every BN layer."""
    distances: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        mean, var = statistics(inputs[0])
        distances.append((module.running_var - var).norm() + (module.running_mean - mean).norm())

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    return distances


def by_copy(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance by a contiguous copy, channels first, as the published recipes have it."""
    x = x.float()
    rows = x.permute(1, 0, 2, 3).contiguous().flatten(1)
    return x.mean((0, 2, 3)), rows.var(1, unbiased=False)


def at_once(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, var


def total(ce: Tensor, distances: list[Tensor]) -> Tensor:
    return ce + R_BN * (FIRST * distances[0] + sum(distances[1:]))


def official(bench: Bench) -> Callable[[], None]:
    """Steps of a recovery as SRe2L and SC-DD publish it for ImageNet: one crop, flip and shift for
    the whole batch, statistics in hooks, priors, Adam, clipping, the loss read at every step."""
    model = bench.frozen()
    distances = hooked(model, by_copy)
    x = bench.noise().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=RATE, betas=BETAS, eps=1e-8)
    jitter, step = bench.side // 7, 0
    mean, std = MEAN[: bench.channels], STD[: bench.channels]

    def one() -> None:
        nonlocal step
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        step += 1
        seen = crop(x)
        if torch.rand(()) < 0.5:
            seen = seen.flip(3)
        shifts = torch.randint(0, jitter + 1, (2,)).tolist()
        seen = seen.roll(shifts, (2, 3))
        optimizer.zero_grad()
        distances.clear()
        with bench.autocast():
            ce = F.cross_entropy(model(seen), bench.targets)
        prior = TV * variation(seen) + L2 * seen.reshape(bench.batch, -1).norm(dim=1).mean()
        loss = total(ce, distances) + prior
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
                x[:, channel].clamp_(-m / s, (1 - m) / s)
        loss.item()

    return one


def crop(x: Tensor) -> Tensor:
    """A random part of every image, the same of all, scaled to the images' size (Szegedy et al.
    2015)."""
    side = x.shape[2]
    for _ in range(10):
        area = side * side * float(torch.empty(()).uniform_(*SCALE))
        ratio = math.exp(float(torch.empty(()).uniform_(*map(math.log, RATIO))))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= side and 0 < width <= side:
            break
    else:
        height = width = side
    top = int(torch.randint(0, side - height + 1, ()))
    left = int(torch.randint(0, side - width + 1, ()))
    part = x[:, :, top : top + height, left : left + width]
    return F.interpolate(part, (side, side), mode="bilinear", antialias=True)


def variation(x: Tensor) -> Tensor:
    """The total variation in four directions."""
    down, right = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    falling = x[:, :, 1:, 1:] - x[:, :, :-1, :-1]
    rising = x[:, :, 1:, :-1] - x[:, :, :-1, 1:]
    return sum(part.norm() for part in (down, right, falling, rising))


def gradient(bench: Bench, loss_of: Callable[[Tensor], Tensor], form: torch.memory_format):
    """A function that evaluates loss and gradient, and what it gives."""
    images = bench.pattern()

    def evaluate() -> tuple[Tensor, Tensor]:
        x = images.clone(memory_format=form).requires_grad_(True)
        loss = loss_of(x)
        loss.backward()
        return loss, x.grad

    return evaluate


def hooks(bench: Bench):
    model = bench.frozen()
    distances = hooked(model, by_copy)

    def loss_of(x: Tensor) -> Tensor:
        distances.clear()
        with bench.autocast():
            ce = F.cross_entropy(model(x), bench.targets)
        return total(ce, distances)

    return gradient(bench, loss_of, torch.contiguous_format)


def compiled(bench: Bench):
    """The best formulation in PyTorch that we know: channels-last, one var_mean per layer."""
    model = bench.frozen().to(memory_format=torch.channels_last)
    distances = hooked(model, at_once)

    @torch.compile
    def loss_of(x: Tensor) -> Tensor:
        distances.clear()
        with bench.autocast():
            ce = F.cross_entropy(model(x), bench.targets)
        found = total(ce, distances)
        distances.clear()
        return found

    return gradient(bench, loss_of, torch.channels_last)


def label(bench: Bench, how: str) -> Callable[[], None]:
    """Logits of a batch with the statistics of the batch. Without views, copies and storing."""
    model = bench.model.requires_grad_(False).train()
    images = bench.noise()
    if how == "compiled":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        model = torch.compile(model)

    def one() -> None:
        with torch.no_grad(), bench.autocast():
            model(images)

    return one


def train(bench: Bench, how: str) -> Callable[[], None]:
    """A step of AdamW on soft labels: KL divergence at a temperature. Without views and copies."""
    model, images = bench.model.train(), bench.noise()
    labels = F.softmax(torch.randn(bench.batch, bench.classes, device=bench.device), dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    if how == "compiled":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)

    def loss_of(x: Tensor) -> Tensor:
        with bench.autocast():
            logits = model(x)
        log = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
        return F.kl_div(log, labels, reduction="batchmean") * TEMPERATURE**2

    if how == "compiled":
        loss_of = torch.compile(loss_of)

    def one() -> None:
        optimizer.zero_grad()
        loss_of(images).backward()
        optimizer.step()

    return one


PEERS: dict[str, Callable[[Bench], Callable]] = {
    "official": official,
    "hooks": hooks,
    "compiled": compiled,
    "label-eager": lambda bench: label(bench, "eager"),
    "label-compiled": lambda bench: label(bench, "compiled"),
    "train-eager": lambda bench: train(bench, "eager"),
    "train-compiled": lambda bench: train(bench, "compiled"),
}


def timed(work: Callable[[], None], device: torch.device) -> float:
    """The milliseconds of `work`."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def main() -> None:
    peer, device, precision, batch, times, bundle = sys.argv[1:]
    bench = Bench(device, precision, int(batch), int(times), Path(bundle))
    one, about = PEERS[peer](bench), {}
    if peer in ("hooks", "compiled"):
        loss, grad = one()
        about = {"loss": loss.item(), "gradient_norm": grad.norm().item()}
    one()
    print(json.dumps(about), flush=True)

    def turn() -> None:
        for _ in range(bench.times):
            one()

    for _line in sys.stdin:
        print(json.dumps({"ms": timed(turn, bench.device)}), flush=True)


if __name__ == "__main__":
    main()
