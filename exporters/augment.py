"""Augmentation of whole batches of images as tensors, each image with its own draw.

Images are float32 `[N, C, H, W]` with values in 0..1, C = 1 or 3. All randomness comes from the
generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class CropFlip:
    """The supervised augmentation: a crop of the padded image and a horizontal flip.

    `padding` is in pixels per side; `mode` is torch's name of the padding: reflect, constant
    (zeros) or replicate.
    """

    padding: int = 2
    mode: str = "reflect"
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in ("reflect", "constant", "replicate"):
            raise ValueError(f"mode is {self.mode!r}; it must be reflect, constant or replicate")
        if self.padding < 0:
            raise ValueError("padding must not be negative")
        _probabilities(flip=self.flip)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4, mode=self.mode) if self.padding else images
        offset = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        rows = offset[0] + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        flipped = torch.rand(count, 1, generator=generator) < self.flip
        columns = offset[1] + torch.where(flipped, width - 1 - columns, columns)
        index = torch.arange(count)
        picked = padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class SslView:
    """One view of the self-supervised methods: random resized crop, flip, colour jitter, grey,
    blur.

    `scale` and `ratio` are the crop's share of the area and its width to height; `brightness`,
    `contrast`, `saturation` are half-widths of the factor around 1 and `hue` is a half-width in
    turns, all applied together with probability `jitter`; `blur_sigma` is in pixels. Saturation,
    hue and grey do nothing to one-channel images. `size` is the view's side in pixels, 0 for the
    image's.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    size: int = 0

    def __post_init__(self) -> None:
        _probabilities(flip=self.flip, jitter=self.jitter, grey=self.grey, blur=self.blur)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {list(self.scale)}; 0 < low <= high <= 1 is wanted")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {list(self.ratio)}; 0 < low <= high is wanted")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma is {list(self.blur_sigma)}; 0 < low <= high is wanted")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in 0..1")
        if self.size < 0:
            raise ValueError("size must not be negative")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue is {self.hue}; it must be in 0..0.5")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        images = resized_crop(images, self.scale, self.ratio, self.flip, generator, self.size)
        images = self._jitter(images, generator)
        if self.blur > 0:
            images = gaussian_blur(images, self.blur, self.blur_sigma, generator)
        return images

    def _jitter(self, images: Tensor, generator: Generator) -> Tensor:
        count, channels = images.shape[:2]
        applied = torch.rand(count, 1, 1, 1, generator=generator) < self.jitter

        def factor(half_width: float, centre: float) -> Tensor:
            drawn = centre + (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1) * half_width
            return torch.where(applied, drawn, torch.tensor(centre))

        images = (images * factor(self.brightness, 1.0)).clamp_(0, 1)
        images = _blend(
            images, grey_of(images).mean((1, 2, 3), keepdim=True), factor(self.contrast, 1.0)
        )
        if channels == 3:
            images = _blend(images, grey_of(images), factor(self.saturation, 1.0))
            images = rotate_hue(images, factor(self.hue, 0.0).view(count))
            greyed = torch.rand(count, 1, 1, 1, generator=generator) < self.grey
            images = torch.where(greyed, grey_of(images).expand_as(images), images)
        return images


def resized_crop(
    images: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
    generator: Generator,
    size: int = 0,
) -> Tensor:
    """A random rectangle of each image, resampled bilinearly and mirrored with probability `flip`.

    The result has the images' size, or sides of `size` pixels if that is not 0. The rectangle lies
    inside the image; area and (logarithmically) ratio are uniform, sides longer than the image's
    are cut.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(*scale)
    shape = torch.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
    width = (area * shape).sqrt().clamp(max=1)
    height = (area / shape).sqrt().clamp(max=1)
    centre_x = uniform(-1, 1) * (1 - width)
    centre_y = uniform(-1, 1) * (1 - height)
    mirrored = torch.where(torch.rand(count, generator=generator) < flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width * mirrored, centre_x
    theta[:, 1, 1], theta[:, 1, 2] = height, centre_y
    wanted = [count, images.shape[1], size, size] if size else list(images.shape)
    grid = F.affine_grid(theta, wanted, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def grey_of(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) `[N, 1, H, W]`; one channel is returned as it is."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turns YIQ's chroma plane by `turns` `[N]` (1 is a full turn): luma stays, hue turns nearly as
    in HSV."""
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    )
    angle = 2 * math.pi * turns
    turn = torch.zeros(len(turns), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("nij,njhw->nihw", matrix, images).clamp_(0, 1)


def gaussian_blur(
    images: Tensor, probability: float, sigma: tuple[float, float], generator: Generator
) -> Tensor:
    """Separable Gaussian blur with reflected borders, each image with its own sigma (pixels).

    The kernel reaches a twentieth of the shorter side, at least one pixel.
    """
    count, channels, height, width = images.shape
    radius = max(1, min(height, width) // 20)
    drawn = sigma[0] + (sigma[1] - sigma[0]) * torch.rand(count, 1, generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / drawn) ** 2)
    identity = torch.zeros(2 * radius + 1)
    identity[radius] = 1
    blurred = torch.rand(count, 1, generator=generator) < probability
    kernel = torch.where(blurred, kernel / kernel.sum(1, keepdim=True), identity)
    kernel = kernel.repeat_interleave(channels, 0)
    padded = F.pad(images, (radius,) * 4, mode="reflect").reshape(
        1, count * channels, height + 2 * radius, -1
    )
    padded = F.conv2d(padded, kernel[:, None, None, :], groups=count * channels)
    return F.conv2d(padded, kernel[:, None, :, None], groups=count * channels).view(
        count, channels, height, width
    )


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def _probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be in 0..1")
