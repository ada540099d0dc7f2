"""Images that a report samples: any number of steps of the noise process, and errors that do not end the report."""

from __future__ import annotations

import pytest

from diffusion_lab.commands.report import main
from diffusion_lab.config import get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser
from diffusion_lab.reports import sampled
from diffusion_lab.sampling import DiffusionSampler
from tests.reports.synthetic_runs import write_run


@pytest.mark.parametrize("timesteps", [1, 2])
def test_a_noise_process_may_have_fewer_steps_than_the_grid(timesteps):
    model = get_default_config()["model"]
    model["architecture"] |= {"image_size": 8, "in_channels": 1, "model_channels": 8, "num_res_blocks": 1}
    model["architecture"] |= {"channel_multipliers": [1], "use_attention": [False]}
    model["conditioning"] |= {"type": None, "num_classes": None}
    model["diffusion"] |= {"num_timesteps": timesteps}
    sampler = DiffusionSampler(create_denoiser(parse_section(ModelSettings, model, "model")), device="cpu")
    grid = sampled.draw_guidance_and_steps(sampler)
    strip, _ = sampled.draw_strips(sampler)
    assert grid.width < strip.width


def test_a_run_that_cannot_be_sampled_from_is_named(tmp_path, monkeypatch, capsys):
    def fail(run_folder):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sampled, "sample_for_report", fail)
    folder = write_run(tmp_path / "run")
    assert main([str(folder), "--sample"]) == 0
    assert f"Warning: {folder} cannot be sampled from: out of memory" in capsys.readouterr().err
    assert (folder / "report.html").is_file()
