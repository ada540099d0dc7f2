"""Each prediction learns the digits with the default settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.predictions import PREDICTIONS, learn
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.evaluation.digits import DigitEvaluator


def test_all_predictions_are_tried():
    assert PREDICTIONS.keys() == PARAMETERIZATIONS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_unguided_samples_are_the_digits_asked_for(prediction: str, tmp_path: Path):
    assert learn(prediction, tmp_path / "run", DigitEvaluator()).label_agreement >= 0.95
