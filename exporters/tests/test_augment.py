from __future__ import annotations

import pytest
import torch
from torch import Generator

from exporters import augment
from exporters.augment import CropFlip, SslView


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", [CropFlip(), SslView(), SslView(blur=0.5)])
def test_shape_range_and_repeatability(augmentation, channels: int):
    images = torch.rand(16, channels, 28, 28, generator=seeded())
    first, again = augmentation(images, seeded(1)), augmentation(images, seeded(1))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, again)
    assert not torch.equal(first, augmentation(images, seeded(2)))


def test_every_image_has_its_own_draw():
    images = torch.rand(1, 1, 28, 28, generator=seeded()).expand(8, -1, -1, -1)
    for augmentation in (CropFlip(), SslView()):
        out = augmentation(images, seeded(1))
        assert len(torch.unique(out.flatten(1), dim=0)) >= 7


def test_crop_flip_moves_whole_pixels():
    images = torch.rand(64, 3, 9, 9, generator=seeded())
    assert torch.equal(CropFlip(padding=0, flip=0)(images, seeded()), images)
    assert torch.equal(CropFlip(padding=0, flip=1)(images, seeded()), images.flip(3))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    shifts = [padded[:, :, y : y + 9, x : x + 9] for y in range(5) for x in range(5)]
    out = CropFlip(padding=2, mode="constant", flip=0)(images, seeded(3))
    matched = torch.stack([(shift == out).flatten(1).all(1) for shift in shifts])
    assert matched.sum(0).eq(1).all()
    assert matched.any(1).sum() > 15


def test_resized_crop_of_everything_is_the_image_or_its_mirror():
    images = torch.rand(8, 1, 28, 28, generator=seeded())
    same = augment.resized_crop(images, (1.0, 1.0), (1.0, 1.0), 0.0, seeded())
    mirrored = augment.resized_crop(images, (1.0, 1.0), (1.0, 1.0), 1.0, seeded())
    assert torch.allclose(same, images, atol=1e-5)
    assert torch.allclose(mirrored, images.flip(3), atol=1e-5)


def test_resized_crop_covers_the_asked_share():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(256, 1, 64, 64)
    out = augment.resized_crop(ramp, (0.25, 0.25), (1.0, 1.0), 0.0, seeded())
    spans = out.amax((1, 2, 3)) - out.amin((1, 2, 3))
    assert torch.allclose(spans, torch.full_like(spans, 0.5), atol=0.02)


def test_grey_hue_and_blur():
    images = torch.rand(4, 3, 28, 28, generator=seeded()) * 0.5 + 0.25
    assert torch.allclose(augment.rotate_hue(images, torch.zeros(4)), images, atol=1e-5)
    turned = augment.rotate_hue(images * 0.1 + 0.45, torch.full((4,), 0.3))
    assert torch.allclose(augment.grey_of(turned), augment.grey_of(images * 0.1 + 0.45), atol=1e-3)
    flat = torch.full((4, 3, 28, 28), 0.3)
    assert torch.allclose(augment.gaussian_blur(flat, 1.0, (1.0, 2.0), seeded()), flat, atol=1e-6)
    assert torch.allclose(
        augment.gaussian_blur(images, 0.0, (1.0, 2.0), seeded()), images, atol=1e-6
    )
    assert augment.gaussian_blur(images, 1.0, (1.0, 2.0), seeded()).var() < images.var()
    grey = SslView(grey=1.0)(images, seeded())
    assert torch.allclose(grey[:, :1], grey[:, 1:2], atol=1e-6)


def test_bad_settings():
    for make in (
        lambda: CropFlip(mode="mirror"), lambda: CropFlip(padding=-1), lambda: CropFlip(flip=1.5),
        lambda: SslView(scale=(0.5, 0.2)), lambda: SslView(ratio=(0.0, 1.0)), lambda: SslView(brightness=2.0),
        lambda: SslView(hue=0.7), lambda: SslView(blur_sigma=(0.0, 1.0)), lambda: SslView(grey=-0.1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"is|must"):
            make()
