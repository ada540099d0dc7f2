"""Evaluator of sets of images: stored measurements, and dependence of the values on the training images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_lab.data.source import ArraySource
from diffusion_lab.evaluation import evaluator as module
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings
from diffusion_lab.evaluation.run_data import RealSources
from diffusion_lab.evaluation.stored_measurement import rows_of
from diffusion_lab.metric_names import DEFAULT_METRICS, MetricName


def noise(count: int, seed: int) -> ArraySource:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return ArraySource(pixels, np.zeros(count, dtype=np.int64), ())


REAL = RealSources(noise(60, 0), None, None, "reference images")
SAMPLES = noise(40, 1)


def evaluator_of(cache: Path, real: RealSources = REAL, metrics: tuple[MetricName, ...] = ("kid",)) -> Evaluator:
    return Evaluator(real, MeasureSettings(metrics, "pixels", cache_dir=cache))


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Measurements that were computed, not read from storage."""
    computed: list[object] = []
    measure = module.measure

    def recorded(*args: Any, **options: Any) -> Any:
        computed.append(measure(*args, **options))
        return computed[-1]

    monkeypatch.setattr(module, "measure", recorded)
    return computed


@pytest.mark.parametrize("change", ["version", "device"])
def test_measurements_of_another_version_or_device_are_not_reused(
    change: str, tmp_path: Path, measurements: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = evaluator_of(tmp_path)
    for _ in range(2):
        evaluator.measure(SAMPLES, 0, store_in=tmp_path)
    assert len(measurements) == 1
    if change == "version":
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    else:
        monkeypatch.setattr(evaluator.extractor, "device", torch.device("cuda:1"), raising=False)
    evaluator.measure(SAMPLES, 0, store_in=tmp_path)
    assert len(measurements) == 2


def test_memorization_uses_the_images_the_model_was_trained_on(tmp_path: Path, measurements: list[object]) -> None:
    metrics: tuple[MetricName, ...] = ("kid", "memorization")
    results = []
    for trained_on in (SAMPLES, noise(50, 2), None):
        real = replace(REAL, trained_on=trained_on)
        assert real.train is (trained_on or real.reference)
        results.append(evaluator_of(tmp_path, real, metrics).measure(SAMPLES, 0, store_in=tmp_path))
    assert len(measurements) == 3
    shares = [{row.key: row.value for row in rows_of(each.measurement)}["memorization"] for each in results]
    assert shares[0] == 1
    assert max(shares[1:]) < 0.5


def test_memorization_is_skipped_if_the_training_images_are_unknown(tmp_path: Path) -> None:
    real = replace(REAL, unknown="they are lost")
    measurement = evaluator_of(tmp_path, real, DEFAULT_METRICS).measure(SAMPLES, 0).measurement
    assert measurement["skipped"]["memorization"] == "they are lost"
    assert "memorization" not in {row.key for row in rows_of(measurement)}
