"""Training steps of a small network of the project, with the settings of ``training.performance``."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from diffusion_lab.config.defaults import get_default_config
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.console.command_line import CONF
from diffusion_lab.create import create_ddpm
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.doctor.candidates import Effect
from diffusion_lab.networks.compiled import compile_in_place
from diffusion_lab.networks.cost import count_forward_flops
from diffusion_lab.runtime.threads import choose_threads
from diffusion_lab.training.optimizers import create_optimizer

NOT_COMPILED = "the network runs without being compiled"
CLASSES = 10


@dataclass(frozen=True)
class Work:
    """What is trained.

    Args:
        model: File of ``conf/model``.
        batch: Images per step.
    """

    model: str
    batch: int

    @property
    def architecture(self) -> dict[str, object]:
        """Arguments of ``create_ddpm``."""
        values = yaml.safe_load((CONF / "model" / f"{self.model}.yaml").read_text(encoding="utf-8"))
        return {"architecture_type": values.pop("type"), "num_classes": CLASSES, **values}

    def text(self) -> str:
        """Describe it."""
        size, channels = (self.architecture[name] for name in ("image_size", "in_channels"))
        return f"model={self.model}, {self.batch} images of {size}×{size}×{channels}"


SMALL, FOR_GPU = Work("unet_small", 8), Work("unet_base", 64)


def work_for(device: torch.device) -> Work:
    """Return work whose steps take a fraction of a second on a device and keep it busy."""
    return SMALL if device.type == "cpu" else FOR_GPU


def threads_for(work: Work, conf: Path = CONF) -> int:
    """Return the CPU threads that training with this work would use."""
    denoiser = create_ddpm(**work.architecture)  # type: ignore[arg-type]
    flops = count_forward_flops(denoiser.network, denoiser.image_shape, denoiser.num_classes)
    return choose_threads(None if flops is None else flops * work.batch, torch.get_num_threads())


def training_step(work: Work, effect: Effect, device: torch.device) -> Callable[[], None]:
    """Return the step of ``train.py``: loss, gradients, clipping, optimizer; it ends when the device is done."""
    torch.manual_seed(0)
    denoiser = create_ddpm(**work.architecture, device=device)  # type: ignore[arg-type]
    denoiser.compute_dtype = effect.dtype
    if effect.compiled:
        compile_in_place(denoiser.network)
    images = torch.randn(work.batch, *denoiser.image_shape, device=device).clamp(-1, 1)
    labels = torch.arange(work.batch, device=device) % CLASSES
    scaled = effect.dtype == torch.float16
    settings = parse_section(OptimizerSettings, get_default_config()["training"]["optimizer"], "training.optimizer")
    parameters = list(denoiser.parameters())
    optimizer = create_optimizer(settings, parameters, scaled=scaled)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    loss = DenoisingLoss()

    def step() -> None:
        with _backends(effect):
            scaler.scale(loss(denoiser, images, labels, seed=0)).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip_norm or float("inf"), foreach=True)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()

    return step


def warm_up(step: Callable[[], None], steps: int = 2) -> str | None:
    """Make some steps, compiling the network if it is to be; return why that failed, or None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            step()
    messages = [str(warning.message) for warning in caught]
    return next((message.partition(": ")[2] for message in messages if message.startswith(NOT_COMPILED)), None)


@contextlib.contextmanager
def _backends(effect: Effect) -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark
    products.allow_tf32 = convolutions.allow_tf32 = effect.tf32
    convolutions.benchmark = effect.kernel_search
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = before
