"""Keeps narrow networks clear of a fault of PyTorch's CPU convolutions, before they are trained.

The weight gradient of a 1x1 convolution of stride 2 or more with 2 to 7 input channels is wrong,
hangs or corrupts memory where oneDNN computes it for AVX2, if input or weight lie channels-last
(PyTorch 2.13, oneDNN 3.12; what was tried: docs/processors.md). Its test fails if the guard is
taken out, for as long as PyTorch has the fault.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

FIRST_RIGHT_WIDTH = 8
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def subsample_first(model: nn.Module) -> None:
    """Lets each convolution of `model` that PyTorch gets wrong take a part of its input at stride 1
    instead.

    A 1x1 convolution without padding reads every stride-th pixel and no other, so the outputs stay
    the same. The names and shapes of parameters and buffers stay too; a copy of `model` is kept
    clear as well.
    """
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS) and _is_faulty(module):
            module.register_forward_pre_hook(functools.partial(_subsample, tuple(module.stride)))
            module.stride = (1,) * len(module.stride)


def _is_faulty(convolution: Any) -> bool:
    return (
        convolution.in_channels < FIRST_RIGHT_WIDTH
        and all(size == 1 for size in convolution.kernel_size)
        and any(stride > 1 for stride in convolution.stride)
        and (convolution.padding == "valid" or not any(convolution.padding))
    )


def _subsample(
    strides: tuple[int, ...], _: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Every stride-th pixel of the input `[N, C, …]`."""
    images, *rest = inputs
    for axis, stride in enumerate(strides, start=images.ndim - len(strides)):
        every = [slice(None)] * axis
        images = images[(*every, slice(None, None, stride))]
    return images, *rest
