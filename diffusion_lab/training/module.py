"""The LightningModule: an adapter between the denoising loss and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.denoiser import Denoiser
from diffusion_lab.determinism import seed_default_generators
from diffusion_lab.diffusion.draws import VALIDATION_DRAWS, draw_by_index
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.noise_bands import by_noise_band
from diffusion_lab.ema import EMA
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.seeds import derive_seed
from diffusion_lab.shapes import Batch
from diffusion_lab.training.anomalies import check_finite
from diffusion_lab.training.epoch_mean import EpochMean
from diffusion_lab.training.watched_metric import metric_value

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], dict[str, Any] | None]


class DiffusionModule(LightningModule):
    """Trains a denoiser; validates it, and its average where there is one, each image at a time and noise of its own.

    Args:
        denoiser: What is trained.
        loss: The loss of both training and validation.
        make_optimizer: Gives the optimizer for the parameters.
        make_schedule: Gives Lightning's learning-rate schedule entry for an optimizer, or None for a constant one.
        ema: The average, updated by the EMA callback.
        log_interval: Optimizer steps from one to the next whose metrics are told.
        about: Plain containers that explain a checkpoint: settings, class names, versions.
        watched: Name of the metric that checkpoints and schedules look at. One of training (``train/loss``) is then
            known after each validation as the mean over the epoch's images.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        loss: DenoisingLoss,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        ema: EMA[Denoiser] | None = None,
        log_interval: int = 1,
        about: dict[str, Any] | None = None,
        watched: str = "val/loss",
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.ema = ema
        self.loss = loss
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.log_interval = log_interval
        self.about = about or {}
        self.gradient_norm: Tensor | None = None
        """Of all gradients of this step, where a callback has taken it: it is not taken again for clipping."""
        self.evaluated: frozenset[str] = frozenset()
        """Names of the metrics that the evaluation of samples logs; they are known after its epochs alone."""
        self._window: list[tuple[Tensor, Tensor]] = []  # losses and noise-to-signal of each batch of this step
        self._told: dict[str, Tensor] = {}  # of this step, by metric, where the loggers are to hear of it
        self._learning_rate = 0.0
        self._epoch_mean = EpochMean(watched) if watched.startswith("train/") else None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], device: str | torch.device = "cpu") -> Self:
        """Build an untrained module: denoiser, loss, optimizer, learning-rate schedule and average.

        What belongs to the trainer (epochs, clipping, accumulation) is given to the trainer; the average is updated
        with any trainer. The weights are drawn from torch's global generator.

        Args:
            settings: A V2 tree, of which the sections ``model`` and ``training`` are read; without ``training`` its
                defaults hold.
            device: Where to put it, and for which ``training.performance.precision: auto`` is chosen.

        Raises:
            ValueError: Listing every setting that is wrong; this machine does not have the device.

        Warns:
            ConfigWarning: The noise process does not end in noise, with which sampling begins.

        Example:
            >>> from diffusion_lab.config import get_default_config
            >>> from diffusion_lab.samplers import DDIMSampler
            >>> settings = get_default_config()
            >>> settings["model"]["architecture"] |= {"image_size": 8, "model_channels": 8}
            >>> module = DiffusionModule.from_settings(settings)
            >>> module.sampler.sample(num_samples=2, seed=0, sampler=DDIMSampler(steps=2)).shape
            torch.Size([2, 3, 8, 8])
        """
        from diffusion_lab.training.standalone import module_from_settings  # which imports this module

        return module_from_settings(cls, settings, device)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # whose further arguments are for modules of hyperparameters
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device = "cpu",
        *,
        model: ModelSettings | None = None,
        trust: Collection[str] = (),
    ) -> Self:
        """Load the module of a training run: trained weights, averages and what its settings make of them.

        No code in the file is run. The state of the optimizer stays in the file: ``trainer.fit(module, …,
        ckpt_path=FILE)`` resumes with it. To sample alone, ``load_denoiser`` needs less memory and no Lightning.

        Args:
            checkpoint_path: Checkpoint file or run folder (its best checkpoint, else its last).
            map_location: Where to put it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``auto`` or a ``torch.device``.
            model: The ``model`` section, for a checkpoint that was saved without a secret in it.
            trust: Dotted paths of your own classes that may be imported because the checkpoint names them.

        Raises:
            FileNotFoundError: Nothing is there.
            ValueError: It is no checkpoint of a training run, or a damaged one, or names a class that is not trusted;
                this machine does not have the device.

        Warns:
            ConfigWarning: The noise process does not end in noise, with which sampling begins.
        """
        from diffusion_lab.training.standalone import module_from_checkpoint  # which imports this module

        return module_from_checkpoint(cls, checkpoint_path, map_location, model, trust)

    @property
    def sampler(self) -> DiffusionSampler:
        """A sampler of the denoiser and its average as they are at each call, on the device that they are on.

        It may be used at any time, in the midst of training as well: it changes no weight, mode, gradient or random
        state. ``use_ema=False`` takes the weights that are trained.
        """
        device = next(self.denoiser.parameters()).device
        return DiffusionSampler(self.denoiser, device, self.ema)

    @property
    def eval_denoiser(self) -> Denoiser:
        """The denoiser whose loss and pictures count: the average where there is one."""
        return self.denoiser if self.ema is None else self.ema.average

    @property
    def validation_denoisers(self) -> dict[str, Denoiser]:
        """What is validated, by the name of its loss: the average and the weights that are trained, on equal draws."""
        if self.ema is None:
            return {"val/loss": self.denoiser}
        return {"val/loss": self.ema.average, "val/loss_raw": self.denoiser}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seed_default_generators(
            derive_seed("dropout", batch.seed), batch.images.device
        )  # dropout and own networks draw
        losses, level = self.loss.per_image(self.denoiser, batch.images, batch.labels, batch.seed)
        self._window.append((losses.detach(), level.sigma / level.alpha))
        return losses.mean()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss, images = self.loss, batch.images
        draws = draw_by_index(images, batch.numbers) if batch.numbers else loss.draw(images, batch.seed)
        for name, denoiser in self.validation_denoisers.items():
            losses, level = loss.loss_at(denoiser, images, batch.labels, draws)
            for metric, (mean, count) in _means(name, losses, level.sigma / level.alpha).items():
                self.log(metric, mean, batch_size=count)

    # Under accumulation the trainer takes the mean of so many batches, however many an epoch's last step is made of,
    # and however large its last one is. These two make it the mean of the images, as of one large batch.
    def backward(self, loss: Tensor) -> None:
        weight = len(self._window[-1][0]) / len(self._window[0][0])
        (loss if weight == 1 else weight * loss).backward()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        window, self._window = self._window, []
        counts = [len(losses) for losses, _ in window]
        factor = self.trainer.accumulate_grad_batches * counts[0] / sum(counts)
        if factor != 1:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], factor)
            self.gradient_norm = None if self.gradient_norm is None else self.gradient_norm * factor
        is_told = (self.global_step + 1) % self.log_interval == 0
        if not is_told and self._epoch_mean is None:
            return
        losses, ratio = (torch.cat(parts) for parts in zip(*window, strict=True))
        means = _means("train/loss", losses, ratio)
        if is_told:
            self._told = {name: mean for name, (mean, _) in means.items()}
            self._learning_rate = optimizer.param_groups[0]["lr"]
        if self._epoch_mean is not None:
            rate = torch.tensor(float(optimizer.param_groups[0]["lr"]))
            self._epoch_mean.add(self.current_epoch, means | {"train/learning_rate": (rate, len(losses))})

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        # Straight to the loggers: the trainer's own way of naming metrics takes half a millisecond for each.
        told, self._told = self._told, {}
        if not told:
            return
        metrics = dict(zip(told, torch.stack(list(told.values())).tolist(), strict=True))
        metrics |= {"train/learning_rate": self._learning_rate, "epoch": self.current_epoch}
        for logger in self.loggers:
            logger.log_metrics(metrics, self.global_step - 1)
            logger.save()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # Gradients below the bound would be multiplied by one. A GPU does that sooner than it tells whether it must.
        is_below = norm.device.type == "cpu" and gradient_clip_val and bool(norm < 0.999 * gradient_clip_val)
        if gradient_clip_val is not None and not is_below:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grads_with_norm_(weights, gradient_clip_val, norm)

    def on_validation_end(self) -> None:
        if self._epoch_mean is not None and (mean := self._epoch_mean.value(self.current_epoch)) is not None:
            self.trainer.callback_metrics[self._epoch_mean.name] = torch.tensor(mean)
        watched = {str(entry.monitor) for entry in self.trainer.lr_scheduler_configs}
        self.step_plateau(watched - self.evaluated)

    def step_plateau(self, metrics: Collection[str]) -> None:
        """Let learning-rate schedules of type ``plateau`` that watch one of these metrics see its present value."""
        for entry in self.trainer.lr_scheduler_configs:
            if isinstance(entry.scheduler, ReduceLROnPlateau) and str(entry.monitor) in metrics:
                entry.scheduler.step(metric_value(self.trainer, str(entry.monitor)))

    def configure_callbacks(self) -> list[Callback]:
        """Add what updates the average to a trainer that was given no such callback."""
        from diffusion_lab.training.callbacks.ema import EMACallback  # it imports this module

        trainer: Any = self.trainer  # whose class declares no callbacks
        if self.ema is None or any(isinstance(callback, EMACallback) for callback in trainer.callbacks):
            return []
        return [EMACallback()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(self.denoiser.parameters())
        schedule = self.make_schedule(optimizer)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedule}  # type: ignore[return-value]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Without it Lightning would not ask the callbacks what to restore of a checkpoint without optimizer.
        checkpoint.setdefault("callbacks", {})
        if self._epoch_mean is not None:
            self._epoch_mean.load(checkpoint.get("diffusion_lab", {}).get("epoch_mean"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_finite(checkpoint["state_dict"], self.global_step)
        epochs_done = self.trainer.fit_loop.epoch_progress.state_dict()["current"]["processed"]
        checkpoint["diffusion_lab"] = {
            **self.about,
            "step": self.global_step,
            "epochs_done": epochs_done,
            "validation_draws": VALIDATION_DRAWS,
        }
        if self._epoch_mean is not None:
            checkpoint["diffusion_lab"]["epoch_mean"] = self._epoch_mean.saved()


def _means(name: str, losses: Tensor, ratio: Tensor) -> dict[str, tuple[Tensor, int]]:
    """The mean of all losses and that of each band of noise levels, with the numbers of images, by metric."""
    means = {name: (losses.mean(), len(losses))}
    for band, found in by_noise_band(losses, ratio).items():
        means[f"{name}_at_{band}_noise"] = found
    return means
