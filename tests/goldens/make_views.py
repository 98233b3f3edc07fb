"""Writes views.safetensors beside itself: what PyTorch makes of crops, flips and rolls, for the
tests of src/data/view.rs.

Per case: `<i>.case` int32 [top, left, height, width, flip, input roll dy, dx, output roll dy, dx],
`<i>.input` and `<i>.output` float32 [C, H, W], `<i>.output_grad` and the `<i>.input_grad` that
autograd makes of it.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

# source (C, H, W), output (H, W), case
CASES = [
    ((1, 28, 28), (28, 28), (0, 0, 28, 28, 0, 0, 0, 0, 0)),
    ((1, 28, 28), (28, 28), (0, 0, 28, 28, 1, 3, -5, 0, 0)),
    ((1, 28, 28), (28, 28), (3, 7, 20, 17, 0, 0, 0, 0, 0)),
    ((1, 28, 28), (28, 28), (3, 7, 20, 17, 1, 0, 0, 4, -4)),
    ((3, 16, 12), (9, 21), (2, 1, 13, 11, 1, 30, -19, -2, 33)),
    ((3, 16, 12), (9, 21), (15, 11, 1, 1, 0, 0, 0, 0, 0)),
    ((2, 7, 9), (21, 3), (0, 0, 7, 9, 0, 0, 0, 0, 0)),
    ((2, 12, 12), (4, 4), (0, 0, 12, 12, 1, 1, 1, 1, 1)),
    ((2, 12, 12), (6, 24), (1, 2, 10, 10, 0, -1, 6, 0, 0)),
    ((1, 5, 5), (1, 1), (1, 1, 3, 4, 1, 0, 0, 0, 0)),
    ((1, 1, 1), (3, 2), (0, 0, 1, 1, 1, 1, -1, 0, 1)),
    ((1, 33, 40), (32, 32), (5, 6, 22, 31, 1, -7, 2, 0, 0)),
]


def view(image, output, case):
    top, left, height, width, flip, in_dy, in_dx, out_dy, out_dx = case
    image = torch.roll(image, (in_dy, in_dx), (1, 2))[None, :, top : top + height, left : left + width]
    image = interpolate(image, output, mode="bilinear", align_corners=False, antialias=False)[0]
    return torch.roll(image.flip(2) if flip else image, (out_dy, out_dx), (1, 2))


def main():
    torch.manual_seed(0)
    tensors = {}
    for number, (source, output, case) in enumerate(CASES):
        image = torch.rand(source, requires_grad=True)
        result = view(image, output, case)
        result_grad = torch.randn_like(result)
        result.backward(result_grad)
        values = {
            "case": torch.tensor(case, dtype=torch.int32),
            "input": image.detach(),
            "output": result.detach(),
            "output_grad": result_grad,
            "input_grad": image.grad,
        }
        tensors |= {f"{number}.{name}": value.contiguous() for name, value in values.items()}
    save_file(tensors, Path(__file__).with_name("views.safetensors"))


if __name__ == "__main__":
    main()
