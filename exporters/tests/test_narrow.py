"""Gradients of narrow networks, as on a processor without AVX-512. A process that hangs or dies
fails the test."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import nn

from exporters import models, narrow

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def gradient_error(width: int, outputs: int, stride: int | tuple[int, int], side: int) -> float:
    """How far the weight gradient of a guarded convolution is from float64's, relatively, in the
    worst layout."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, width, side, side, generator=generator)
    convolution = nn.Conv2d(width, outputs, 1, stride)
    exact = copy.deepcopy(convolution).double()
    errors = []
    for layout in (torch.channels_last, torch.contiguous_format):
        own = copy.deepcopy(convolution).to(memory_format=torch.channels_last)
        narrow.subsample_first(own)
        found = own(images.contiguous(memory_format=layout))
        wanted = exact(images.double())
        weight = torch.randn(wanted.shape, generator=generator)
        (gradient,) = torch.autograd.grad((found * weight).sum(), own.weight)
        (right,) = torch.autograd.grad((wanted * weight.double()).sum(), exact.weight)
        errors += [
            float((gradient - right).norm() / right.norm()),
            float((found - wanted).norm() / wanted.norm()),
        ]
    return max(errors)


def resnet_error() -> float:
    """The same of all parameters of a narrow ResNet in training, as `pretrain` lays it out."""
    torch.manual_seed(0)
    model = models.build("resnet10", {"width": 4, "stem": "small", "channels": 1, "classes": 10})
    exact = copy.deepcopy(model).double()
    narrow.subsample_first(model)
    model = copy.deepcopy(model.to(memory_format=torch.channels_last))
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels).backward()
    F.cross_entropy(exact(images.double()), labels).backward()
    errors = [
        float((own.grad - right.grad).norm() / right.grad.norm())
        for own, right in zip(model.parameters(), exact.parameters(), strict=True)
    ]
    return max(errors)


def as_without_avx512(expression: str) -> float:
    """What `expression` is in a process that computes as on such a processor."""
    code = f"from exporters.tests.test_narrow import *; print({expression})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=os.environ | AVX2, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    return float(done.stdout)


def test_the_weight_gradients_of_narrow_strided_convolutions_are_right():
    cases = [(width, 16, stride, 28) for width in range(2, 8) for stride in (2, (1, 2), (2, 1), 4)]
    assert as_without_avx512(f"max(gradient_error(*case) for case in {cases})") < 1e-5


def test_a_narrow_resnet_trains_with_the_right_gradients():
    assert as_without_avx512("resnet_error()") < 1e-3


def test_only_what_is_wrong_is_changed():
    convolutions = {
        "1x1": nn.Conv2d(4, 8, 1, 2),
        "wide": nn.Conv2d(8, 8, 1, 2),
        "3x3": nn.Conv2d(4, 8, 3, 2),
        "stride 1": nn.Conv2d(4, 8, 1),
        "padded": nn.Conv2d(4, 8, 1, 2, padding=1),
        "valid": nn.Conv1d(4, 8, 1, 2, padding="valid"),
    }
    model = nn.ModuleDict(convolutions)
    names = list(model.state_dict())
    narrow.subsample_first(model)
    assert [name for name, module in model.items() if module._forward_pre_hooks] == ["1x1", "valid"]
    assert list(model.state_dict()) == names
