"""Pretraining: `python -m exporters pretrain CONFIG.yaml`.

Writes into `<output>/<name>/`: `checkpoint.pt` (everything a resumed run needs), `model.pt` (the
network after the last finished epoch, what `probe` and `export` read) and `log.jsonl`. Each is
replaced as a whole after every epoch. Every random draw depends on the seed and the epoch alone, so
a run that was interrupted and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import data, evaluate, models, narrow
from .config import parse, read_yaml
from .errors import CheckError, InputError
from .files import load_checkpoint, save_checkpoint, write_aside
from .methods import METHODS, Method
from .network import Checkpoint, Pretraining, own_data

PROGRESS_SECONDS = 20.0


@dataclass(frozen=True)
class ArchitectureConfig:
    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with Nesterov momentum; norms and biases have no decay.

    The rate rises linearly over `warmup_epochs`, then falls to 0 along a cosine or a line
    (`decay`). A warm-up of a fifth of the training makes it the one-cycle rate of short trainings
    (arXiv 1708.07120).
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5
    decay: str = "cosine"

    def __post_init__(self) -> None:
        if (
            self.lr <= 0
            or self.weight_decay < 0
            or self.warmup_epochs < 0
            or not 0 < self.momentum < 1
        ):
            raise ValueError(
                "lr must be positive, momentum between 0 and 1, weight_decay and warmup_epochs not negative"
            )
        if self.decay not in ("cosine", "linear"):
            raise ValueError(f"decay is {self.decay!r}; it must be cosine or linear")

    def at(self, epoch: float, epochs: int, steps_per_epoch: int) -> float:
        """The rate at `epoch` (a fraction inside one) of `epochs`."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1 / steps_per_epoch) / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
        return self.lr * (
            1 - done if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        )


@dataclass(frozen=True)
class PretrainConfig:
    """`method` holds `name` and that method's own options; results are reproducible for a fixed
    number of `threads`.

    `precision` is float32 or bfloat16, which runs the convolutions of the training in bfloat16:
    twice as fast on processors that have such instructions. Parameters, BN statistics, heads and
    losses are float32 always.

    `alternating_flips` shows each image mirrored in every other epoch, starting with a random half
    of them, in place of a draw for every view (arXiv 2404.00498, section 3.6): as many epochs see
    more different images.

    Every `monitor_every` epochs, and after the last, the log gets an accuracy on test images.

    `average` is the decay per step of a moving average of weights and BN statistics, which becomes
    the network; 0 keeps the last weights. It is what the test accuracy is measured of. (EMA as in
    arXiv 1905.11946 and timm.)
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
    alternating_flips: bool = False
    average: float = 0.0
    monitor_every: int = 1
    output: str = "runs/pretrain"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"name is {self.name!r}; letters, digits, dots, dashes and underscores are allowed"
            )
        for name in ("epochs", "batch_size", "threads", "monitor_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; it must be float32 or bfloat16")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; it must be at least 0 and below 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}; it must be in 0..2^31")


def read_config(path: Path) -> tuple[PretrainConfig, str, Any]:
    """The configuration, the method's name and the method's own configuration."""
    config = parse(PretrainConfig, read_yaml(path), str(path))
    options = dict(config.method)
    name = options.pop("name", None)
    if name not in METHODS:
        raise InputError(
            f"{path}: method: name is {name!r}; known methods are {', '.join(METHODS)}"
        )
    return config, name, parse(METHODS[name].Config, options, f"{path}: method")


def pretrain(
    path: Path,
    data_root: Path,
    *,
    chosen: data.Options = data.AS_KNOWN,
    train: data.Split | None = None,
    test: data.Split | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Trains what the configuration at `path` describes, from where an earlier run stopped; returns
    `model.pt`'s path.

    `train` and `test` replace the data set's splits.
    """
    config, method_name, method_config = read_config(path)
    dataset = chosen.describe(config.dataset)
    options = models.resolve_for(dataset, config.architecture.name, config.architecture.options)
    train = train or data.load(dataset, data_root, "train", sample=chosen.sample)
    test = test or data.load(dataset, data_root, "test")
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
    narrow.subsample_first(model)
    method = method_class(model, head.in_features, method_config).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]  # PyTorch's types lack this form
    method.is_mixed = config.precision == "bfloat16"
    if config.alternating_flips and getattr(method_config.augmentation, "flip", False):
        raise InputError(
            f"{path}: alternating_flips mirrors images already; set augmentation: flip to 0"
        )
    loop = _Loop(config, dataset, method, train, test, say)

    folder = Path(config.output) / config.name
    loop.resume(folder / "checkpoint.pt")
    while loop.epoch < config.epochs:
        loop.run_epoch()
        loop.save(folder / "checkpoint.pt")
        loop.write_log(folder / "log.jsonl")
        Checkpoint(
            name=config.name,
            architecture=config.architecture.name,
            options=options,
            pretraining=Pretraining(
                scheme=method_name,
                dataset=dataset.name,
                images=len(train.images),
                epochs=loop.epoch,
                command=f"python -m exporters pretrain {_shown(path)}",
                wall_seconds=round(loop.wall_seconds, 1),
                cpu_seconds=round(loop.cpu_seconds, 1),
                head="joint" if method.trains_head else "none",
            ),
            state=loop.network.state_dict(),
            own=own_data(dataset),
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
            {
                "params": [p for p in trained if p.ndim > 1],
                "weight_decay": config.optimizer.weight_decay,
            },
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=config.optimizer.lr, momentum=config.optimizer.momentum, nesterov=True
        )
        self.steps_per_epoch = len(train.images) // config.batch_size
        self.average = (
            copy.deepcopy(method.model).requires_grad_(False).eval() if config.average else None
        )
        generator = torch.Generator().manual_seed(config.seed)
        self.flipped_first = torch.rand(len(train.images), generator=generator) < 0.5
        self.epoch = self.step = 0
        self.wall_seconds = self.cpu_seconds = 0.0
        self.history: list[dict[str, Any]] = []

    @property
    def network(self) -> nn.Module:
        """The network that the training makes: the average of its weights, or the last ones."""
        return self.average or self.method.model

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        content = load_checkpoint(path)
        if content["config"] != _plain(self.config):
            raise InputError(
                f"{path} belongs to another configuration; delete it to start anew, or choose another output"
            )
        if content.get("data", self._data()) != self._data():
            raise InputError(
                f"{path} was trained on other data; delete it to start anew, or choose another output"
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
                "data": self._data(),
                "tensors": {name: tensor.detach() for name, tensor in self._tensors().items()},
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "wall_seconds": self.wall_seconds,
                "cpu_seconds": self.cpu_seconds,
                "history": self.history,
            },
        )

    def _data(self) -> dict[str, Any]:
        """What the training sees, but for the pixels themselves."""
        facts = {
            name: getattr(self.dataset, name) for name in ("name", "size", "classes", "mean", "std")
        }
        return facts | {"images": len(self.train.images)}

    def _tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers, also those that a state dict leaves out (lightly's memory
        bank)."""
        tensors = dict(self.method.named_parameters()) | dict(self.method.named_buffers())
        if self.average:
            tensors |= {
                f"average.{name}": tensor for name, tensor in self.average.state_dict().items()
            }
        return tensors

    def run_epoch(self) -> None:
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.train.images), generator=generator)
        self.method.train()
        started = shown = time.monotonic()
        cpu_started = time.process_time()
        total = 0.0
        for step in range(self.steps_per_epoch):
            self.step = step
            batch = order[step * self.config.batch_size : (step + 1) * self.config.batch_size]
            lr = self._set_lr(self.epoch + step / self.steps_per_epoch)
            total += self._step(
                batch, (self.epoch + step / self.steps_per_epoch) / self.config.epochs, generator
            )
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
        self.epoch += 1
        if self.epoch % self.config.monitor_every == 0 or self.epoch == self.config.epochs:
            entry |= self._monitor()
        seconds = time.monotonic() - started
        self.wall_seconds += seconds
        self.cpu_seconds += time.process_time() - cpu_started
        self.history.append(entry | {"seconds": round(seconds, 2)})
        self.say(f"{self.config.name}: " + json.dumps(self.history[-1]))

    def _step(self, batch: Tensor, progress: float, generator: torch.Generator) -> float:
        self.method.before_step(progress)
        images = data.to_float(self.train.images[batch])
        if self.config.alternating_flips:
            mirrored = self.flipped_first[batch] ^ bool(self.epoch % 2)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        views = [
            data.normalise(view, self.dataset.mean, self.dataset.std).contiguous(
                memory_format=torch.channels_last
            )
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
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        step = self.epoch * self.steps_per_epoch + self.step
        # Young averages follow faster, or the first weights would stay in them.
        decay = min(self.config.average, (1 + step) / (10 + step))
        for kept, now in zip(
            self.average.state_dict().values(), self.method.model.state_dict().values(), strict=True
        ):
            if kept.is_floating_point():
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)

    def write_log(self, path: Path) -> None:
        """One line of JSON per epoch."""
        text = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_aside(path, lambda file: file.write(text.encode()))

    def _set_lr(self, epoch: float) -> float:
        lr = self.config.optimizer.at(epoch, self.config.epochs, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _monitor(self) -> dict[str, float]:
        """Test accuracy, or k-NN accuracy of 2,000 test among 10,000 training images' features.
        Only logged."""
        if self.method.trains_head:
            outputs = evaluate.outputs(self.network, self.test.images, self.dataset)
            return {"test_top1": evaluate.top1(outputs, self.test.labels)}
        bank, queries = self.train.images[:10_000], self.test.images[:2_000]
        accuracy = evaluate.knn(
            evaluate.outputs(self.network, bank, self.dataset),
            self.train.labels[:10_000],
            evaluate.outputs(self.network, queries, self.dataset),
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
