"""Settings that need too much memory are refused before it is allocated, with the keys to reduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.training import memory_check
from diffusion_lab.training.memory_check import check_memory
from tests.training.tiny import tiny_config, tiny_run

DIGITS = {"data.type": "digits", "model.conditioning.num_classes": 10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.architecture.image_size": 2**20}, r"model\.architecture needs at least .* for one image.* image_size"),
        (
            {**DIGITS, "model.architecture.image_size": 2**14, "model.architecture.patch_size": 2**10},
            r"the 1,797 images of data\.type digits need at least 449 GiB.*smaller model\.architecture\.image_size",
        ),
        (
            {"training.visualization": {"enabled": True, "interval": 1, "num_samples": 2**31 - 1, "guidance_scale": 1}},
            r"sample images of training\.visualization need at least 512 GiB.*smaller "
            r"training\.visualization\.num_samples",
        ),
    ],
)
def test_too_little_memory_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has 100 GiB."""
    for module in (memory_check, memory_check.check_model_fits_memory.__globals__):
        place = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(place, "host_memory", lambda: 100 * 2.0**30)
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path / "run", changes)
    assert not (tmp_path / "run").exists()


def test_a_batch_is_no_larger_than_the_data(tmp_path: Path) -> None:
    check_memory(tiny_config(tmp_path, {**DIGITS, "data.loading.batch_size": 2**31 - 1}))
