"""Memory that runs out while sampling."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import create_ddpm
from tests.faults.conftest import Start
from tests.programs import Program

pytestmark = pytest.mark.faults

MIB = 1 << 20
MODEL = (
    "model=unet_tiny",
    "diffusion=cosine",
    "conditioning=none",
    "model.architecture.image_size=64",
    "model.architecture.model_channels=16",
    "model.architecture.use_attention=[false,false]",
    "model.diffusion.num_timesteps=20",
)
SAMPLE = ("sample.py", "ckpt=weights.pt", *MODEL, "device=cpu", "sampler.steps=2", "guidance_scale=1", "use_ema=false")
LARGE = "generation.sampling.batch_size=64"


@pytest.fixture
def weights(tmp_path: Path) -> None:
    """Save a network whose layers take a quarter of a megabyte per image."""
    torch.manual_seed(0)
    size = {"image_size": 64, "in_channels": 1, "model_channels": 16, "num_timesteps": 20, "num_res_blocks": 1}
    model = create_ddpm(**size, channel_multipliers=[1, 2], use_attention=[False, False])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    (tmp_path / "work").mkdir()
    torch.save(model.state_dict(), tmp_path / "work" / "weights.pt")


def leave_room(program: Program, size: int) -> None:
    """Limit the program to ``size`` bytes more than it has now, before it samples."""
    held = int(re.findall(r"^VmData:\s*(\d+) kB$", Path(f"/proc/{program.pid}/status").read_text(), re.MULTILINE)[0])
    limit = held * 1024 + size
    resource.prlimit(program.pid, resource.RLIMIT_DATA, (limit, limit))


def images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("sample_*.png"))]


@pytest.mark.usefixtures("weights")
def test_the_batch_is_halved(start: Start, tmp_path: Path) -> None:
    """Row 21: memory runs out while sampling: the batch is halved and the images are the same."""
    starved = start(*SAMPLE, LARGE, "num_samples=80", "output.base_dir=starved")
    leave_room(starved, 100 * MIB)
    assert starved.wait() == 0, starved.err
    (size,) = map(int, re.findall(r"batch_size = 64 does not fit into memory: (\d+) images at a time", starved.err))
    assert size < 64
    assert "Traceback" not in starved.err

    rich = start(*SAMPLE, LARGE, "num_samples=80", "output.base_dir=rich")
    small = start(*SAMPLE, f"generation.sampling.batch_size={size}", "num_samples=80", "output.base_dir=small")
    assert (rich.wait(), small.wait()) == (0, 0)
    assert "does not fit" not in rich.err
    starved_images, in_small, in_large = (
        images(next((tmp_path / "work" / name / "generated").iterdir())) for name in ("starved", "small", "rich")
    )
    assert len(starved_images) == 80
    assert all(np.array_equal(one, other) for one, other in zip(starved_images, in_small, strict=True))
    # the processor's kernels for another batch size round differently: one step of 256 at most
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(starved_images, in_large, strict=True)) <= 1


@pytest.mark.usefixtures("weights")
def test_memory_too_small_for_one_image(start: Start) -> None:
    """Row 21: if not even one image fits, there is one clear error."""
    starved = start(*SAMPLE, LARGE, "num_samples=4", "model.architecture.image_size=256")
    leave_room(starved, 30 * MIB)
    assert starved.wait() == 2, starved.err
    assert "memory is too small for one image at a time" in starved.err
    assert "Traceback" not in starved.err
