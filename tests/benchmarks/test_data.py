"""The benchmark of data compares the same pictures, changed alike."""

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
    """The images of an epoch, which the benchmark only counts."""
    seen = []
    prepared = data.ImageDataModule.prepare_batch
    monkeypatch.setattr(
        data.ImageDataModule,
        "prepare_batch",
        lambda self, batch, vary: (seen.append(prepared(self, batch, vary).images), prepared(self, batch, vary))[1],
    )
    assert make() == 5
    return torch.cat(seen)


@pytest.mark.parametrize("all_changes", [False, True])
def test_ours_delivers_all_of_them_as_floats_of_the_size(folder, tmp_path, monkeypatch, all_changes):
    images = batches(folder, monkeypatch, data.ours(folder, 16, all_changes, tmp_path, 0))
    assert (images.shape, images.dtype) == ((5, 3, 16, 16), torch.float32)
    assert -1 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("all_changes", [False, True])
def test_rows_tell_of_first_and_later_epochs(folder, monkeypatch, all_changes):
    monkeypatch.setattr(data, "WORKERS", 0)
    monkeypatch.setattr(data, "peer", lambda *given: data.bare(5, 16))
    found = data.rows(folder, 5, 16, 1, all_changes)
    assert [(type(row), row.goal, row.bound) for row in found] == [(Row, "3", 20.0), (Row, "3", 1.0)]
    assert all(row.ours and row.peer and row.ratio for row in found)
    assert ("turns" in found[0].what) is all_changes


def test_the_peer_delivers_as_many(folder, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(data, "WORKERS", 2)
    assert data.peer(folder, 16, all_changes=True)() == 5
