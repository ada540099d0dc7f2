"""Notes of a feature extractor are included in every result computed with it."""

from __future__ import annotations

from pathlib import Path

from diffusion_lab.data.digits import digits
from diffusion_lab.data.source import Subset
from diffusion_lab.evaluation.evaluator import Evaluator, MeasureSettings
from diffusion_lab.evaluation.run_data import RealSources
from tests.features.own_features import WithNotes


def test_notes_of_the_features_are_in_each_result(tmp_path: Path) -> None:
    everything = digits()
    real = RealSources(Subset(everything, range(60)), None, None, "reference images")
    settings = MeasureSettings(("kid",), "tests.features.own_features.WithNotes", cache_dir=tmp_path)
    for first in (100, 200):
        samples = Subset(everything, range(first, first + 40))
        for _ in range(2):  # computed, then read from storage
            stored = Evaluator(real, settings).measure(samples, 0, store_in=tmp_path / "stored")
            assert stored.measurement["notes"][0] == WithNotes.notes[0]
