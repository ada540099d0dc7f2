from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def fail_on_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def saved(tmp_path):
    def save(content, name="last.ckpt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        return path

    return save
