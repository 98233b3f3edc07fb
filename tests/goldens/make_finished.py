"""Writes finished sets as others publish them into finished/ beside itself.

Run from the repository's root as `python -m tests.goldens.make_finished`. All hold the same six
images of three classes, whose pixels follow a formula that the tests know too.
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "finished"
SHAPE = (6, 3, 4, 5)
MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.5)


class Executable:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("executed",)


def pixels() -> torch.Tensor:
    """uint8 [N, C, H, W]."""
    n, c, y, x = torch.meshgrid(*(torch.arange(side) for side in SHAPE), indexing="ij")
    return ((31 * n + 17 * c + 5 * y + x) % 256).to(torch.uint8)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    images, labels = pixels(), torch.tensor([0, 0, 1, 1, 2, 2])
    unit = images.float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (unit - mean) / std
    torch.save({"images": unit.double(), "labels": labels}, FOLDER / "named.pt")
    # MTT: leaves of the graph, in two files.
    torch.save(unit.clone().requires_grad_(True), FOLDER / "images_best.pt")
    torch.save(labels, FOLDER / "labels_best.pt")
    # Channels last in memory, and soft labels.
    soft = torch.nn.functional.one_hot(labels).float() * 3 - 1
    # Half precision of NumPy, the last image first.
    arrays = {"images": unit.half(), "labels": soft.softmax(1).half()}
    np.savez(FOLDER / "half.npz", **{name: tensor.flip(0) for name, tensor in arrays.items()})
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.save([torch.nn.Parameter(last.float()), soft], FOLDER / "pair.pt")
    torch.save({"images": normalised, "labels": labels}, FOLDER / "normalised.pt")
    # DC and DM: a normalised set for each repetition, and accuracies of NumPy's type.
    repeated = [[normalised, labels], [normalised.flip(0), labels.flip(0)]]
    accuracies = {"ConvNet": [np.float64(0.25), np.float64(0.513)]}
    torch.save({"data": repeated, "accs_all_exps": accuracies}, FOLDER / "repeated.pt")
    # Half precision keeps every pixel.
    torch.save({"images": unit.half(), "labels": labels}, FOLDER / "half.pt")
    torch.save({"images": images.bfloat16(), "labels": labels}, FOLDER / "bfloat.pt")
    torch.save({"images": Executable(), "labels": labels}, FOLDER / "executable.pt")
    torch.save({"images": images, "labels": labels[:-1]}, FOLDER / "short.pt")


if __name__ == "__main__":
    main()
