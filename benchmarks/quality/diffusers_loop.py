"""diffusers: ``UNet2DModel`` in a loop with the arguments of its example ``train_unconditional.py``.

AdamW with its betas and weight decay, warm-up and a cosine, averages with their warm-up, linear betas, attention in the
last stage but one, as that file has them; without ``--random_flip``, as it is by default. Its 500 steps of warm-up are
at most a tenth of the training here, which is short. The network is as wide as makes its parameters equal ours.
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
from benchmarks.quality.stopwatch import Stopwatch, nearest
from diffusion_lab.shapes import Pixels

MULTIPLIERS = ((1, 2, 2), (1, 2, 3), (1, 2, 4), (1, 1, 2), (1, 2, 2, 2))
WARM_UP_STEPS = 500
PROBED_STEPS = 10
UNTIMED_STEPS = 3
"""Steps before the probe: the first ones take longer."""

DRAWN_AT_ONCE = 100


def network(parameters: int, channels: int, image_size: int) -> Any:
    """The network with as many parameters as asked for, within 20 %."""

    def make(width: int, multipliers: tuple[int, ...]) -> Any:
        return _network(width, multipliers, channels, image_size)

    widths = range(32, 257, 32)  # its group normalization has 32 groups
    fitting = [multipliers for multipliers in MULTIPLIERS if image_size % 2 ** (len(multipliers) - 1) == 0]
    shapes = [(width, each) for width in widths for each in fitting]
    shapes.sort(key=lambda shape: sum((shape[0] * multiplier) ** 2 for multiplier in shape[1]))
    return nearest(parameters, make, shapes)


def _network(width: int, multipliers: tuple[int, ...], channels: int, image_size: int) -> Any:
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


class _Pictures(Dataset[torch.Tensor]):
    """The files of a folder, opened each time, as the example's data set does."""

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
            changed: torch.Tensor = self.transform(image.convert(self.mode))
        return changed


def train(
    folder: Path, out: Path, seconds: float, parameters: int, batch_size: int, channels: int, image_size: int
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Train for so long; yields the seconds and the averaged weights at each mark."""
    torch.manual_seed(0)
    loader = DataLoader(_Pictures(folder, channels, image_size), batch_size=batch_size, shuffle=True)
    loop = _Loop(network(parameters, channels, image_size), loader)
    for _ in range(UNTIMED_STEPS):
        loop.step()
    began = time.perf_counter()
    for _ in range(PROBED_STEPS):
        loop.step()
    steps = int(seconds / ((time.perf_counter() - began) / PROBED_STEPS))
    torch.manual_seed(0)
    loop = _Loop(network(parameters, channels, image_size), loader, steps)
    kept: list[tuple[float, dict[str, Any]]] = []
    watch = Stopwatch(seconds, lambda at: kept.append((at, loop.averaged())))
    while not watch.tick():
        loop.step()
    watch.keep_now()
    yield from kept


class _Loop:
    """The steps of the example; ``steps`` is what its cosine is for."""

    def __init__(self, model: Any, loader: DataLoader[torch.Tensor], steps: int = 1) -> None:
        self.model, self.loader, self.batches = model, loader, iter(loader)
        self.noising = peer("diffusers").DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
        self.schedule = peer("diffusers.optimization").get_scheduler(
            "cosine",
            optimizer=self.optimizer,
            num_warmup_steps=min(WARM_UP_STEPS, steps // 10),
            num_training_steps=steps,
        )
        self.left = steps
        self.average = peer("diffusers.training_utils").EMAModel(
            model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
        )

    def step(self) -> None:
        """Take one step on the next batch."""
        images = next(self.batches, None)
        if images is None:
            self.batches = iter(self.loader)
            images = next(self.batches)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        predicted = self.model(self.noising.add_noise(images, noise, times), times).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.left > 0:  # beyond its end the cosine would rise again
            self.schedule.step()
        self.left -= 1
        self.optimizer.zero_grad()
        self.average.step(self.model.parameters())

    def averaged(self) -> dict[str, Any]:
        """The state of the network with averaged weights."""
        self.average.store(self.model.parameters())
        self.average.copy_to(self.model.parameters())
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.average.restore(self.model.parameters())
        return state


@torch.no_grad()
def draw(weights: dict[str, Any], images: int, steps: int, parameters: int, channels: int, image_size: int) -> Pixels:
    """Images of a snapshot, uint8 (N, C, H, W), by its ``DDIMScheduler``."""
    model = network(parameters, channels, image_size)
    model.load_state_dict(weights)
    model.eval()
    scheduler = peer("diffusers").DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    parts = []
    for start in range(0, images, DRAWN_AT_ONCE):
        noisy = torch.randn(min(DRAWN_AT_ONCE, images - start), channels, image_size, image_size)
        for at in scheduler.timesteps:
            noisy = scheduler.step(model(noisy, at).sample, at, noisy).prev_sample
        parts.append(noisy)
    return ((torch.cat(parts) / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
