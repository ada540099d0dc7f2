"""diffusers: ``UNet2DModel`` in a loop with the arguments of its example ``train_unconditional.py``.

As in that file: AdamW with its betas and weight decay, warm-up followed by a cosine, EMA with its warm-up, linear
betas, attention in the last stage but one, and no ``--random_flip``, the default. Training here is short, so the 500
warm-up steps are limited to a tenth of it. The width of the network is chosen to match our number of parameters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.equal_work import peer
from benchmarks.quality.snapshot_timer import SnapshotTimer, build_network_of_size
from diffusion_lab.shapes import Pixels

MULTIPLIERS = ((1, 2, 2), (1, 2, 3), (1, 2, 4), (1, 1, 2), (1, 2, 2, 2))
WARM_UP_STEPS = 500
PROBE_STEPS = 10
UNTIMED_STEPS = 3
"""Steps before the probe: the first ones take longer."""

SAMPLING_BATCH = 100


def build_network(parameters: int, channels: int, image_size: int) -> Any:
    """Build the network with this number of parameters, within 20 %."""

    def build(width: int, multipliers: tuple[int, ...]) -> Any:
        return _unet(width, multipliers, channels, image_size)

    widths = range(32, 257, 32)  # its group normalization has 32 groups
    fitting = [multipliers for multipliers in MULTIPLIERS if image_size % 2 ** (len(multipliers) - 1) == 0]
    shapes = [(width, multipliers) for width in widths for multipliers in fitting]
    shapes.sort(key=lambda shape: sum((shape[0] * multiplier) ** 2 for multiplier in shape[1]))
    return build_network_of_size(parameters, build, shapes)


def _unet(width: int, multipliers: tuple[int, ...], channels: int, image_size: int) -> Any:
    down, up = ["DownBlock2D"] * len(multipliers), ["UpBlock2D"] * len(multipliers)
    down[-2], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    return peer("diffusers").UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=[width * multiplier for multiplier in multipliers],
        down_block_types=down,
        up_block_types=up,
    )


class _ImageFolder(Dataset[torch.Tensor]):
    """PNG files of a folder, decoded on each access like in the dataset of the example."""

    def __init__(self, folder: Path, channels: int, image_size: int) -> None:
        transforms = peer("torchvision.transforms")
        self.paths, self.mode = sorted(folder.rglob("*.png")), "L" if channels == 1 else "RGB"
        self.transform = transforms.Compose(
            [
                transforms.Resize(image_size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.RandomCrop(image_size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            transformed: torch.Tensor = self.transform(image.convert(self.mode))
        return transformed


def train(
    folder: Path, out: Path, seconds: float, parameters: int, batch_size: int, channels: int, image_size: int
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Train for ``seconds``; yield the training time and the averaged weights at each mark."""
    torch.manual_seed(0)
    loader = DataLoader(_ImageFolder(folder, channels, image_size), batch_size=batch_size, shuffle=True)
    loop = _Loop(build_network(parameters, channels, image_size), loader)
    for _ in range(UNTIMED_STEPS):
        loop.step()
    began = time.perf_counter()
    for _ in range(PROBE_STEPS):
        loop.step()
    steps = int(seconds / ((time.perf_counter() - began) / PROBE_STEPS))
    torch.manual_seed(0)
    loop = _Loop(build_network(parameters, channels, image_size), loader, steps)
    snapshots: list[tuple[float, dict[str, Any]]] = []
    timer = SnapshotTimer(seconds, lambda elapsed: snapshots.append((elapsed, loop.averaged_state())))
    while not timer.tick():
        loop.step()
    timer.save_now()
    yield from snapshots


class _Loop:
    """Training loop of the example; its cosine schedule ends after ``steps``."""

    def __init__(self, model: Any, loader: DataLoader[torch.Tensor], steps: int = 1) -> None:
        self.model, self.loader, self.batches = model, loader, iter(loader)
        self.noise_scheduler = peer("diffusers").DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
        self.lr_scheduler = peer("diffusers.optimization").get_scheduler(
            "cosine",
            optimizer=self.optimizer,
            num_warmup_steps=min(WARM_UP_STEPS, steps // 10),
            num_training_steps=steps,
        )
        self.scheduled_steps_left = steps
        self.ema = peer("diffusers.training_utils").EMAModel(
            model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
        )

    def step(self) -> None:
        """Take one step on the next batch."""
        images = next(self.batches, None)
        if images is None:
            self.batches = iter(self.loader)
            images = next(self.batches)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        predicted = self.model(self.noise_scheduler.add_noise(images, noise, times), times).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.scheduled_steps_left > 0:  # after its end the cosine would rise again
            self.lr_scheduler.step()
        self.scheduled_steps_left -= 1
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())

    def averaged_state(self) -> dict[str, Any]:
        """Return the state dict of the network with averaged weights."""
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.ema.restore(self.model.parameters())
        return state


@torch.no_grad()
def sample(weights: dict[str, Any], images: int, steps: int, parameters: int, channels: int, image_size: int) -> Pixels:
    """Return samples of a snapshot by its ``DDIMScheduler``, uint8 (N, C, H, W)."""
    model = build_network(parameters, channels, image_size)
    model.load_state_dict(weights)
    model.eval()
    scheduler = peer("diffusers").DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    parts = []
    for start in range(0, images, SAMPLING_BATCH):
        noisy = torch.randn(min(SAMPLING_BATCH, images - start), channels, image_size, image_size)
        for timestep in scheduler.timesteps:
            noisy = scheduler.step(model(noisy, timestep).sample, timestep, noisy).prev_sample
        parts.append(noisy)
    return ((torch.cat(parts) / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
