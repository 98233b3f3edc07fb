"""Writes augment.safetensors beside itself: RandAugment's operations by torchvision and DSA's by
PyTorch, for tests/augment.rs.

Run from the repository's root as `python -m tests.goldens.make_augment`. `pixels.<channels>` is an
image of 12 × 10 pixels, `view` one of normalised values. Per case `<image>/<number>/<values>` is
what the operation of that number (its place in `data::augment::Kind`) makes of it; values are
joined by commas.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

NAMES = [
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
]
NAMES += ["Posterize", "Solarize", "AutoContrast", "Equalize"]
VALUES = {
    "ShearX": [0.09, -0.21],
    "ShearY": [0.09, -0.3],
    "TranslateX": [2, -3],
    "TranslateY": [4, -1],
    "Rotate": [9, -30],
    "Brightness": [0.27, -0.9],
    "Color": [0.27, -0.63],
    "Contrast": [0.27, -0.9],
    "Sharpness": [0.27, -0.9],
    "Posterize": [7, 4],
    "Solarize": [178.5, 25.5],
}


def dsa(number: int, x: torch.Tensor, v: list[float]) -> torch.Tensor:
    """DSA's operations on `[1, C, H, W]` with the random numbers given, as
    VICO-UoE/DatasetCondensation computes them."""
    height, width = x.shape[2:]
    if number == 14:
        x = x + (v[0] - 0.5) * 1.0
        mean = x.mean(dim=1, keepdim=True)
        x = (x - mean) * (v[1] * 2.0) + mean
        mean = x.mean(dim=[1, 2, 3], keepdim=True)
        return (x - mean) * (v[2] + 0.5) + mean
    if number == 15:
        rows = torch.clamp(torch.arange(height) + int(v[0]) + 1, 0, height + 1)
        columns = torch.clamp(torch.arange(width) + int(v[1]) + 1, 0, width + 1)
        return F.pad(x, [1, 1, 1, 1])[:, :, rows][:, :, :, columns]
    if number == 16:
        size = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        rows = torch.clamp(
            torch.arange(size[0]) + int(v[0]) - size[0] // 2, 0, height - 1
        )
        columns = torch.clamp(
            torch.arange(size[1]) + int(v[1]) - size[1] // 2, 0, width - 1
        )
        mask = torch.ones(height, width)
        mask[rows[:, None], columns[None]] = 0
        return x * mask
    if number == 17:
        return x.flip(3) if v[0] else x
    if number == 18:
        theta = torch.tensor([[[v[0], 0, 0], [0, v[1], 0]]])
    else:
        angle = torch.tensor(v[0])
        theta = torch.tensor(
            [
                [
                    [torch.cos(angle), torch.sin(-angle), 0],
                    [torch.sin(angle), torch.cos(angle), 0],
                ]
            ]
        )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


DSA = {
    14: [[0.2, 0.9, 0.1], [0.8, 0.1, 0.95]],
    15: [[1, -2], [-1, 1]],
    16: [[3, 7], [0, 10], [12, 0]],
    17: [[1], [0]],
    18: [[0.9, 1.15], [1.2, 0.84]],
    19: [[0.2], [-0.26]],
}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for channels in (1, 3):
        # Not all levels, so that stretching and equalising have something to do.
        pixels = torch.randint(
            20, 210, (channels, 12, 10), dtype=torch.uint8, generator=generator
        )
        tensors[f"pixels.{channels}"] = pixels
        wide = pixels.repeat(1, 8, 8)  # equalising needs more pixels than levels
        tensors[f"wide.{channels}"] = wide
        for number, name in enumerate(NAMES):
            for value in VALUES.get(name, [0]):
                # Of single precision, as torchvision draws them.
                single = torch.tensor(value, dtype=torch.float32).item()
                found = _apply_op(pixels, name, single, InterpolationMode.NEAREST, None)
                tensors[f"pixels.{channels}/{number}/{value}"] = found
        tensors[f"wide.{channels}/13/0"] = _apply_op(
            wide, "Equalize", 0, InterpolationMode.NEAREST, None
        )
    view = torch.randn(3, 12, 10, generator=generator)
    tensors["view"] = view
    for number, cases in DSA.items():
        for values in cases:
            tensors[f"view/{number}/{','.join(map(str, values))}"] = dsa(
                number, view[None], values
            )[0]
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).parent / "augment.safetensors")


if __name__ == "__main__":
    main()
