"""Writes labels/replay.safetensors beside itself: what `exporters.labels` reads and replays of
labels/*.scdd, for tests/labels.rs.

Run from the repository's root as `python -m tests.goldens.make_labels`. Per store, epoch and batch:
`<store>.<epoch>.<batch>.logits` `[n, K]` and `….seen` `[n, 1, 28, 28]`, the views of the images
(pixel `place * 37 % 256`) normalised for the student convnet3-w128.
"""

from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from exporters.labels import LabelStore, replay

HERE = Path(__file__).parent / "labels"
STUDENT = Path(__file__).parents[2] / "onnx/fashion-mnist/convnet3-w128/manifest.yaml"


def images() -> torch.Tensor:
    return (torch.arange(5 * 12 * 10) * 37 % 256).reshape(5, 1, 12, 10) / 255


def main() -> None:
    preprocessing = yaml.safe_load(STUDENT.read_text())["preprocessing"]
    mean, std = preprocessing["mean"], preprocessing["std"]
    tensors = {}
    for path in sorted(HERE.glob("*.scdd")):
        store = LabelStore(path)
        for epoch in range(store.epochs):
            for number in range(store.batches):
                batch = store.batch(epoch, number)
                key = f"{path.stem}.{epoch}.{number}"
                tensors[f"{key}.logits"] = torch.from_numpy(batch.logits)
                tensors[f"{key}.seen"] = (replay(images()[batch.indices], batch, store, mean, std) - mean[0]) / std[0]
    save_file(tensors, HERE / "replay.safetensors")


if __name__ == "__main__":
    main()
