"""The comparison of both variances tells means, and their difference in pairs."""

from __future__ import annotations

import pytest

from benchmarks import variances
from diffusion_lab.create import create_ddpm
from diffusion_lab.evaluation.digits import DigitJudge


def test_a_line_tells_means_and_the_difference_with_its_error():
    line = variances.row(None, {"small": [1.0, 1.2], "large": [0.9, 1.0]})
    assert line == "| all | 1.100 | 0.950 | -0.1500 ± 0.0500 |"
    assert variances.row(10, {"small": [1.0], "large": [2.0]}) == "| 10 | 1.000 | 2.000 | +1.0000 ± nan |"


def test_each_seed_and_variance_is_measured():
    denoiser = create_ddpm(
        image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1], use_attention=[False], num_classes=10
    )
    found = variances.distances(denoiser.eval(), DigitJudge(), 2, (1, 2), per_class=4)
    assert {name: len(values) for name, values in found.items()} == {"small": 2, "large": 2}
    assert found["small"] != pytest.approx(found["large"])
