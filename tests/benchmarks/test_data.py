"""The data benchmark compares loading of the same images with the same augmentations."""

from __future__ import annotations

import pytest
import torch

from benchmarks import data
from benchmarks.harness import Row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images"
    data.make_images(path, 5)
    return path


def batches(folder, monkeypatch, make):
    """Return the images of an epoch; the benchmark only counts them."""
    seen = []
    prepared = data.ImageDataModule.prepare_batch
    monkeypatch.setattr(
        data.ImageDataModule,
        "prepare_batch",
        lambda self, batch, training: (
            seen.append(prepared(self, batch, training).images),
            prepared(self, batch, training),
        )[1],
    )
    assert make() == 5
    return torch.cat(seen)


@pytest.mark.parametrize("all_changes", [False, True])
def test_ours_delivers_all_images_as_floats_at_the_requested_size(folder, tmp_path, monkeypatch, all_changes):
    images = batches(folder, monkeypatch, data.ours(folder, 16, all_changes, tmp_path, 0))
    assert (images.shape, images.dtype) == ((5, 3, 16, 16), torch.float32)
    assert -1 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("all_changes", [False, True])
def test_there_is_a_row_for_the_first_and_for_later_epochs(folder, monkeypatch, all_changes):
    monkeypatch.setattr(data, "WORKERS", 0)
    monkeypatch.setattr(data, "peer", lambda *_: data.bare(5, 16))
    rows = data.rows(folder, 5, 16, 1, all_changes)
    assert [(type(row), row.goal, row.bound) for row in rows] == [(Row, "3", 20.0), (Row, "3", 1.0)]
    assert all(row.ours and row.peer and row.ratio for row in rows)
    assert ("rotation" in rows[0].what) is all_changes


def test_the_peer_delivers_all_images(folder, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(data, "WORKERS", 2)
    assert data.peer(folder, 16, all_changes=True)() == 5
