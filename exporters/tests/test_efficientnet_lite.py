"""EfficientNet-Lite: the checkpoint in a package becomes timm's network tensor by tensor, or is
refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from exporters import efficientnet_lite as lite
from exporters import models
from exporters.errors import InputError

VARIANT = lite.VARIANTS[0]
OPTIONS = {"channels": 3, "classes": 1000}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """What a package holds: the architecture's tensors, in its order, under other names."""
    torch.manual_seed(0)
    own = models.build(VARIANT.architecture, OPTIONS).state_dict()
    return {
        f"_{index}.{key.rpartition('.')[2]}": tensor
        for index, (key, tensor) in enumerate(own.items())
    }


def test_tensors_are_taken_over_in_order(state: dict[str, torch.Tensor]) -> None:
    renamed = lite.in_order(state, VARIANT, Path("x.pth"))
    network = models.build(VARIANT.architecture, OPTIONS)
    network.load_state_dict(renamed)
    assert torch.equal(network.conv_stem.weight, next(iter(state.values())))
    assert lite.dataset(lite.VARIANTS[2]).size == 260


def test_what_does_not_fit_is_refused(state: dict[str, torch.Tensor]) -> None:
    names = list(state)
    with pytest.raises(InputError, match=f"holds {len(names) - 1} tensors"):
        lite.in_order(dict(list(state.items())[:-1]), VARIANT, Path("x.pth"))
    swapped = dict(state)
    swapped[names[0]], swapped[names[-2]] = state[names[-2]], state[names[0]]
    with pytest.raises(InputError, match=r"conv_stem\.weight \[32, 3, 3, 3\] belongs"):
        lite.in_order(swapped, VARIANT, Path("x.pth"))
    order = [
        *names[:2],
        names[3],
        names[2],
        *names[4:],
    ]  # the same shapes, but the mean where the bias should be
    with pytest.raises(InputError, match="belongs"):
        lite.in_order({name: state[name] for name in order}, VARIANT, Path("x.pth"))


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({}, content)
    with zipfile.ZipFile(tmp_path / VARIANT.wheel, "w") as wheel:
        wheel.writestr("models/efficientnet-lite0.pth", content.getvalue())
    with pytest.raises(InputError, match="is not the package that"):
        lite.export(tmp_path, VARIANT, tmp_path / "out")
    assert not (tmp_path / "out").exists()
