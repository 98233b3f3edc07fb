"""Pretraining: `python -m exporters pretrain CONFIG.yaml`.

Writes into `<output>/<name>/`: `checkpoint.pt` (everything a resumed run needs), `model.pt` (the network after the
last finished epoch, what `probe` and `export` read) and `log.jsonl`. Each is replaced as a whole after every epoch.
Every random draw depends on the seed and the epoch alone, so a run that was interrupted and resumed ends with the
weights of one that was not.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data, evaluate, models
from .config import parse, read_yaml
from .errors import CheckError, InputError
from .files import load_checkpoint, save_checkpoint, write_aside
from .methods import METHODS, Method
from .network import Checkpoint, Pretraining

PROGRESS_SECONDS = 20.0


@dataclass(frozen=True)
class ArchitectureConfig:
    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with Nesterov momentum; norms and biases have no decay.

    The rate rises linearly over `warmup_epochs`, then falls to 0 along a cosine.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup_epochs < 0 or not 0 < self.momentum < 1:
            raise ValueError(
                "lr must be positive, momentum between 0 and 1, weight_decay and warmup_epochs not negative"
            )


@dataclass(frozen=True)
class PretrainConfig:
    """`method` holds `name` and that method's own options; results are reproducible for a fixed number of `threads`.

    `precision` is float32 or bfloat16, which runs the convolutions of the training in bfloat16: twice as fast on
    processors that have such instructions. Parameters, BN statistics, heads and losses are float32 always.
    """

    name: str
    dataset: str
    architecture: ArchitectureConfig
    method: dict[str, Any]
    optimizer: OptimizerConfig
    epochs: int
    batch_size: int
    seed: int = 0
    threads: int = 1
    precision: str = "float32"
    output: str = "runs/pretrain"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name is {self.name!r}; letters, digits, dots, dashes and underscores are allowed")
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; it must be float32 or bfloat16")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}; it must be in 0..2^31")


def read_config(path: Path) -> tuple[PretrainConfig, str, Any]:
    """The configuration, the method's name and the method's own configuration."""
    config = parse(PretrainConfig, read_yaml(path), str(path))
    options = dict(config.method)
    name = options.pop("name", None)
    if name not in METHODS:
        raise InputError(f"{path}: method: name is {name!r}; known methods are {', '.join(METHODS)}")
    return config, name, parse(METHODS[name].Config, options, f"{path}: method")


def pretrain(
    path: Path,
    data_root: Path,
    *,
    train: data.Split | None = None,
    test: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains what the configuration at `path` describes, from where an earlier run stopped; returns `model.pt`'s path.

    `train` and `test` replace the data set's splits.
    """
    config, method_name, method_config = read_config(path)
    dataset = data.info(config.dataset)
    options = models.resolve(
        config.architecture.name,
        config.architecture.options,
        channels=dataset.channels,
        size=dataset.size,
        classes=len(dataset.classes),
    )
    train = train or data.load(config.dataset, data_root, "train")
    test = test or data.load(config.dataset, data_root, "test")
    if config.batch_size > len(train.images):
        raise InputError(
            f"{path}: batch_size is {config.batch_size}, but there are {len(train.images)} training images"
        )

    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = models.build(config.architecture.name, options)
    head = models.take_head(config.architecture.name, model)
    method_class = METHODS[method_name]
    if method_class.trains_head:
        models.put_head(config.architecture.name, model, head)
    method = method_class(model, head.in_features, method_config).to(memory_format=torch.channels_last)
    method.bfloat16 = config.precision == "bfloat16"
    loop = _Loop(config, dataset, method, train, test, say)

    folder = Path(config.output) / config.name
    loop.resume(folder / "checkpoint.pt")
    while loop.epoch < config.epochs:
        loop.run_epoch()
        loop.save(folder / "checkpoint.pt")
        lines = "".join(json.dumps(entry) + "\n" for entry in loop.history)
        write_aside(folder / "log.jsonl", lambda file, lines=lines: file.write(lines.encode()))
        Checkpoint(
            name=config.name,
            architecture=config.architecture.name,
            options=options,
            pretraining=Pretraining(
                scheme=method_name,
                dataset=config.dataset,
                epochs=loop.epoch,
                command=f"python -m exporters pretrain {_shown(path)}",
                wall_seconds=round(loop.wall_seconds, 1),
                cpu_seconds=round(loop.cpu_seconds, 1),
                head="joint" if method.trains_head else "none",
            ),
            state=method.model.state_dict(),
        ).save(folder / "model.pt")
    return folder / "model.pt"


class _Loop:
    """The state of one training."""

    def __init__(
        self,
        config: PretrainConfig,
        dataset: data.DatasetInfo,
        method: Method,
        train: data.Split,
        test: data.Split,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.dataset, self.method, self.train, self.test, self.say = (
            config, dataset, method, train, test, say
        )  # fmt: skip
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.optimizer.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.optimizer.lr, momentum=config.optimizer.momentum, nesterov=True
        )
        self.steps_per_epoch = len(train.images) // config.batch_size
        self.epoch = 0
        self.wall_seconds = self.cpu_seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        content = load_checkpoint(path)
        if content["config"] != _plain(self.config):
            raise InputError(
                f"{path} belongs to another configuration; delete it to start anew, or choose another output"
            )
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(content["tensors"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.history = content["epoch"], content["history"]
        self.wall_seconds, self.cpu_seconds = content["wall_seconds"], content["cpu_seconds"]
        self.say(f"{self.config.name}: resumed after epoch {self.epoch} of {self.config.epochs}")

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            {
                "config": _plain(self.config),
                "tensors": {name: tensor.detach() for name, tensor in self._tensors().items()},
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
                "history": self.history,
            },
        )

    def _tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers, also those that a state dict leaves out (lightly's memory bank)."""
        return dict(self.method.named_parameters()) | dict(self.method.named_buffers())

    def run_epoch(self) -> None:
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.train.images), generator=generator)
        self.method.train()
        started = shown = time.monotonic()
        cpu_started = time.process_time()
        total = 0.0
        for step in range(self.steps_per_epoch):
            batch = order[step * self.config.batch_size : (step + 1) * self.config.batch_size]
            lr = self._set_lr(self.epoch + step / self.steps_per_epoch)
            total += self._step(batch, (self.epoch + step / self.steps_per_epoch) / self.config.epochs, generator)
            now = time.monotonic()
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                rate = (step + 1) / (now - started)
                left = (self.config.epochs - self.epoch) * self.steps_per_epoch - step - 1
                self.say(
                    f"{self.config.name}: epoch {self.epoch + 1}/{self.config.epochs} step {step + 1}/"
                    f"{self.steps_per_epoch} loss {total / (step + 1):.4f} lr {lr:.4f} "
                    f"{rate * self.config.batch_size:.0f} images/s, {left / rate / 60:.1f} min left"
                )
        entry: dict[str, Any] = {"epoch": self.epoch + 1, "loss": total / self.steps_per_epoch}
        entry |= self._monitor()
        self.epoch += 1
        seconds = time.monotonic() - started
        self.wall_seconds += seconds
        self.cpu_seconds += time.process_time() - cpu_started
        self.history.append(entry | {"seconds": round(seconds, 2)})
        self.say(f"{self.config.name}: " + json.dumps(self.history[-1]))

    def _step(self, batch: Tensor, progress: float, generator: torch.Generator) -> float:
        self.method.before_step(progress)
        images = data.to_float(self.train.images[batch])
        views = [
            data.normalise(view, self.dataset.mean, self.dataset.std).contiguous(memory_format=torch.channels_last)
            for view in self.method.views(images, generator)
        ]
        loss = self.method.loss(views, self.train.labels[batch], generator)
        if not math.isfinite(loss.item()):
            raise CheckError(
                f"{self.config.name}: the loss became {loss.item()} in epoch {self.epoch + 1}; lower the lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _set_lr(self, epoch: float) -> float:
        settings = self.config.optimizer
        if epoch < settings.warmup_epochs:
            lr = settings.lr * (epoch + 1 / self.steps_per_epoch) / settings.warmup_epochs
        else:
            done = (epoch - settings.warmup_epochs) / max(self.config.epochs - settings.warmup_epochs, 1e-9)
            lr = settings.lr * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _monitor(self) -> dict[str, float]:
        """Test accuracy, or k-NN accuracy of 2,000 test among 10,000 training images' features. Only logged."""
        if self.method.trains_head:
            outputs = evaluate.outputs(self.method.model, self.test.images, self.dataset)
            return {"test_top1": evaluate.top1(outputs, self.test.labels)}
        bank, queries = self.train.images[:10_000], self.test.images[:2_000]
        accuracy = evaluate.knn(
            evaluate.outputs(self.method.model, bank, self.dataset),
            self.train.labels[:10_000],
            evaluate.outputs(self.method.model, queries, self.dataset),
            self.test.labels[:2_000],
            classes=len(self.dataset.classes),
        )
        return {"knn_monitor": accuracy}


def _plain(config: PretrainConfig) -> dict[str, Any]:
    """The part of the configuration that the weights depend on."""
    return {key: value for key, value in asdict(config).items() if key != "output"}


def _shown(path: Path) -> str:
    """`path` as seen from the current directory, never absolute."""
    path = path.resolve()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name
