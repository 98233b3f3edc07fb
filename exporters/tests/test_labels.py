"""Stores that the Rust writer made (`tests/labels.rs`), against their formula and the formats'
definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.errors import InputError
from exporters.labels import LabelStore, replay

GOLDENS = Path(__file__).parents[2] / "tests/goldens/labels"


def logits_of(epoch: int, images: np.ndarray) -> torch.Tensor:
    """The same formula as `logit` in tests/labels.rs: `[n, 6]`."""
    classes = torch.arange(6)
    return (7 * torch.from_numpy(images)[:, None] + 3 * classes**2 + 5 * epoch).remainder(
        23
    ) / 4 - 2


@pytest.mark.parametrize("name", ["f16", "f32"])
def test_dense_stores_are_exact(name: str):
    store = LabelStore(GOLDENS / f"{name}.scdd")
    assert (store.epochs, store.batches, store.classes) == (3, 2, 6)
    for epoch in reversed(range(3)):
        batches = [store.batch(epoch, number) for number in (1, 0)]
        assert sorted(np.concatenate([batch.indices for batch in batches])) == list(range(5))
        for batch in batches:
            assert torch.equal(torch.from_numpy(batch.logits), logits_of(epoch, batch.indices))


def test_quantised_rows_are_half_a_step_off_at_most():
    store = LabelStore(GOLDENS / "i8.scdd")
    for epoch in range(3):
        batch = store.batch(epoch, 0)
        exact = logits_of(epoch, batch.indices)
        step = (exact.amax(1) - exact.amin(1)) / 255
        assert ((torch.from_numpy(batch.logits) - exact).abs() <= step[:, None] * 0.501).all()
        assert batch.mix == "none"


def test_top_k_keeps_the_probabilities_and_replays_stored_epochs():
    store = LabelStore(GOLDENS / "top-k.scdd")
    assert (store.stored_epochs, store.pad, store.meta["top_k"]) == (
        2,
        2,
        {"k": 2, "temperature": 4.0},
    )
    assert np.array_equal(store.batch(2, 1).logits, store.batch(0, 1).logits)
    for epoch in range(2):
        batch = store.batch(epoch, 0)
        exact = (logits_of(epoch, batch.indices) / 4).softmax(1)
        found = (torch.from_numpy(batch.logits) / 4).softmax(1)
        kept = exact.topk(2).indices
        assert torch.allclose(found.gather(1, kept), exact.gather(1, kept), atol=2e-3)
        rest = torch.ones_like(exact, dtype=torch.bool).scatter(1, kept, False)
        for probabilities, mask in zip(found, rest, strict=True):
            assert probabilities[mask].unique().numel() == 1


def test_without_a_temperature_only_the_top_k_have_a_probability():
    store = LabelStore(GOLDENS / "only-top-k.scdd")
    batch = store.batch(1, 0)
    exact = logits_of(1, batch.indices)
    kept = exact.topk(2).indices
    found = (torch.from_numpy(batch.logits) / 4).softmax(1)
    assert torch.allclose(found.gather(1, kept), (exact.gather(1, kept) / 4).softmax(1), atol=2e-3)
    assert (found.scatter(1, kept, 0.0) == 0).all()


@pytest.mark.parametrize("name", ["f16", "f32", "i8", "top-k"])
def test_mixed_views_are_made_of_unmixed_ones(name: str):
    store = LabelStore(GOLDENS / f"{name}.scdd")
    batch = store.batch(1, 0)
    images = torch.rand(5, 1, 12, 10, generator=torch.Generator().manual_seed(0))[batch.indices]
    seen = replay(images, batch, store)
    assert seen.shape == (3, 1, 28, 28)
    alone = replay(images, type(batch)(**{**vars(batch), "mix": "none"}), store)
    other = alone[batch.partners]
    if batch.mix == "mixup":
        assert torch.allclose(seen, batch.share * alone + (1 - batch.share) * other)
    else:
        top, left, height, width = batch.box
        inside = torch.zeros(28, 28, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal(seen, torch.where(inside, other, alone))
        assert inside.float().mean() == pytest.approx(1 - batch.share)


def test_other_files_and_batches_are_refused(tmp_path: Path):
    whole = (GOLDENS / "f16.scdd").read_bytes()
    for content, said in [
        (b"", "cannot read"),
        (b"PK" + whole[2:], "not a soft-label store"),
        (
            whole[:8] + b"\3" + whole[9:],
            "has the format version 3, this program reads 4: remove it and relabel again",
        ),
        (whole.replace(b"config_hash", b"config_bush"), "its head is not as it was written"),
        (whole[:-1], "bytes, not"),
    ]:
        path = tmp_path / "labels.scdd"
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            LabelStore(path)
    with pytest.raises(IndexError, match="batch 2 of epoch 0: there are 3 epochs of 2"):
        LabelStore(GOLDENS / "f16.scdd").batch(0, 2)


@pytest.mark.parametrize("name", ["f16", "top-k", "dsa"])
def test_a_flipped_bit_is_found_when_its_epoch_is_read(name: str, tmp_path: Path):
    golden = LabelStore(GOLDENS / f"{name}.scdd")
    path = tmp_path / "labels.scdd"
    for damaged in range(golden.stored_epochs):
        content = bytearray(golden.bytes.tobytes())
        content[int(golden.index[damaged * golden.batches + 1]) + 3] ^= 1 << damaged
        path.write_bytes(content)
        store = LabelStore(path)
        for epoch in range(store.epochs):
            if epoch % store.stored_epochs != damaged:
                store.batch(epoch, 0)
                continue
            with pytest.raises(
                InputError, match=f"labels.scdd: epoch {damaged} is not .*: remove it and relabel"
            ):
                store.batch(epoch, 0)
