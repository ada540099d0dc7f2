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
from diffusion_lab.diffusion.draws import VALIDATION_DRAWS, draw_by_index
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.ema import EMA
from diffusion_lab.runtime.determinism import seed_default_generators
from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.shapes import Batch
from diffusion_lab.training.accumulation import AccumulationWindow, loss_means
from diffusion_lab.training.anomalies import check_finite, gradient_norm
from diffusion_lab.training.epoch_mean import EpochMean
from diffusion_lab.training.watched_metric import metric_value

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], dict[str, Any] | None]


class DiffusionModule(LightningModule):
    """Trains a denoiser and validates it and its EMA, drawing a time and noise for each validation image.

    Args:
        denoiser: The denoiser to train.
        loss: Loss of both training and validation.
        make_optimizer: Creates the optimizer for the parameters.
        make_schedule: Creates Lightning's ``lr_scheduler`` entry for an optimizer; None for a constant learning rate.
        ema: Exponential moving average of the denoiser, updated by ``EMACallback``.
        log_interval: Optimizer steps between two logged ones.
        metadata: Metadata of checkpoints in plain containers: settings, class names, versions.
        monitor: Name of the metric that checkpoints and schedules monitor. The value of a training metric
            (``train/loss``) is set after each validation to its mean over the images of the epoch.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        loss: DenoisingLoss,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        ema: EMA[Denoiser] | None = None,
        log_interval: int = 1,
        metadata: dict[str, Any] | None = None,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.ema = ema
        self.loss = loss
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.log_interval = log_interval
        self.metadata = metadata or {}
        self.evaluated: frozenset[str] = frozenset()
        """Names of the metrics that the evaluation of samples logs, in the epochs that it runs in."""
        self._window = AccumulationWindow()
        self._gradient_norm: Tensor | None = None  # of this step, once it is known
        self._metrics_to_log: dict[str, Tensor] = {}  # of this step, by name
        self._learning_rate = 0.0
        self._epoch_mean = EpochMean(monitor) if monitor.startswith("train/") else None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], device: str | torch.device = "cpu") -> Self:
        """Build an untrained module: denoiser, loss, optimizer, learning-rate schedule and EMA.

        Pass the options of the trainer (epochs, clipping, accumulation) to the trainer; the EMA is updated with any
        trainer. The weights are drawn from torch's global generator.

        Args:
            settings: Settings in V2 format, of which the sections ``model`` and ``training`` are read; without
                ``training`` its defaults apply.
            device: Device of the module, for which ``training.performance.precision: auto`` is resolved.

        Raises:
            ValueError: Settings are invalid (the message lists all of them), or this machine does not have the device.

        Warns:
            ConfigWarning: The noise process does not end in pure noise, from which sampling starts.

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
        """Load the module of a training run: trained weights and EMA, with the objects that its settings describe.

        No code in the file is run. The optimizer state is not loaded: ``trainer.fit(module, …, ckpt_path=FILE)``
        resumes with it. For sampling only, ``load_denoiser`` needs less memory and no Lightning.

        Args:
            checkpoint_path: Checkpoint file or run folder (its best checkpoint, else its last).
            map_location: Device of the module: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``auto`` or a ``torch.device``.
            model: The ``model`` section, for a checkpoint from which a secret in it was removed.
            trust: Dotted paths of your own classes that may be imported because the checkpoint names them.

        Raises:
            FileNotFoundError: The file or folder does not exist.
            ValueError: The file is not a checkpoint of a training run, is damaged, or names a class that is not
                trusted; this machine does not have the device.

        Warns:
            ConfigWarning: The noise process does not end in pure noise, from which sampling starts.
        """
        from diffusion_lab.training.standalone import module_from_checkpoint  # which imports this module

        return module_from_checkpoint(cls, checkpoint_path, map_location, model, trust)

    @property
    def sampler(self) -> DiffusionSampler:
        """Sampler that uses the current weights of the denoiser and its EMA, on their device.

        It may be used at any time, also during training: it changes no weight, mode, gradient or random state.
        ``use_ema=False`` uses the raw weights.
        """
        device = next(self.denoiser.parameters()).device
        return DiffusionSampler(self.denoiser, device, self.ema)

    @property
    def eval_denoiser(self) -> Denoiser:
        """The denoiser to evaluate: the EMA if there is one, else the raw weights."""
        return self.denoiser if self.ema is None else self.ema.average

    @property
    def validation_denoisers(self) -> dict[str, Denoiser]:
        """The denoisers to validate by the name of their loss: the EMA and the raw weights, with the same noise."""
        if self.ema is None:
            return {"val/loss": self.denoiser}
        return {"val/loss": self.ema.average, "val/loss_raw": self.denoiser}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seed_default_generators(
            derive_seed("dropout", batch.seed), batch.images.device
        )  # used by dropout and custom networks
        losses, level = self.loss.per_image(self.denoiser, batch.images, batch.labels, batch.seed)
        self._window.add(losses, level.sigma / level.alpha)
        return losses.mean()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss, images = self.loss, batch.images
        draws = draw_by_index(images, batch.indices) if batch.indices else loss.draw(images, batch.seed)
        for name, denoiser in self.validation_denoisers.items():
            losses, level = loss.loss_at(denoiser, images, batch.labels, draws)
            for metric, (mean, count) in loss_means(name, losses, level.sigma / level.alpha).items():
                self.log(metric, mean, batch_size=count)

    def backward(self, loss: Tensor) -> None:
        weight = self._window.batch_weight
        (loss if weight == 1 else weight * loss).backward()

    def gradient_norm(self, optimizer: Optimizer) -> Tensor:
        """Return the total norm of the gradients for the next step; it is computed once, also for clipping."""
        if self._gradient_norm is None:
            self._gradient_norm = gradient_norm(optimizer)
        return self._gradient_norm

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        step = self._window.close()
        factor = step.gradient_factor(self.trainer.accumulate_grad_batches)
        if factor != 1:
            torch._foreach_mul_([weight.grad for weight in _weights(optimizer) if weight.grad is not None], factor)
            self._gradient_norm = None if self._gradient_norm is None else self._gradient_norm * factor
        is_logged = (self.global_step + 1) % self.log_interval == 0
        if not is_logged and self._epoch_mean is None:
            return
        means = step.means("train/loss")
        if is_logged:
            self._metrics_to_log = {name: mean for name, (mean, _) in means.items()}
            self._learning_rate = optimizer.param_groups[0]["lr"]
        if self._epoch_mean is not None:
            rate = torch.tensor(float(optimizer.param_groups[0]["lr"]))
            rate_of_images = rate, means["train/loss"][1]
            self._epoch_mean.add(self.current_epoch, {**means, "train/learning_rate": rate_of_images})

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        # Directly to the loggers: self.log takes half a millisecond per metric.
        tensors, self._metrics_to_log = self._metrics_to_log, {}
        if not tensors:
            return
        metrics = dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
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
        norm, self._gradient_norm = self._gradient_norm, None
        if norm is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # Clipping multiplies gradients below the bound by one. On a GPU that is faster than reading whether it must.
        is_below = norm.device.type == "cpu" and gradient_clip_val and bool(norm < 0.999 * gradient_clip_val)
        if gradient_clip_val is not None and not is_below:
            nn.utils.clip_grads_with_norm_(_weights(optimizer), gradient_clip_val, norm)

    def on_validation_end(self) -> None:
        if self._epoch_mean is not None and (mean := self._epoch_mean.value(self.current_epoch)) is not None:
            self.trainer.callback_metrics[self._epoch_mean.name] = torch.tensor(mean)
        watched = {str(entry.monitor) for entry in self.trainer.lr_scheduler_configs}
        self.step_plateau(watched - self.evaluated)

    def step_plateau(self, metrics: Collection[str]) -> None:
        """Step the learning-rate schedules of type ``plateau`` that monitor one of these metrics."""
        for entry in self.trainer.lr_scheduler_configs:
            if isinstance(entry.scheduler, ReduceLROnPlateau) and str(entry.monitor) in metrics:
                entry.scheduler.step(metric_value(self.trainer, str(entry.monitor)))

    def configure_callbacks(self) -> list[Callback]:
        """Return an ``EMACallback`` if there is an EMA and the trainer has no such callback yet."""
        from diffusion_lab.training.callbacks.ema import EMACallback  # it imports this module

        trainer: Any = self.trainer  # its class does not declare callbacks
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
        # Without this key Lightning does not call the callbacks' on_load_checkpoint if there is no optimizer state.
        checkpoint.setdefault("callbacks", {})
        if self._epoch_mean is not None:
            self._epoch_mean.load(checkpoint.get("diffusion_lab", {}).get("epoch_mean"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_finite(checkpoint["state_dict"], self.global_step)
        epochs_done = self.trainer.fit_loop.epoch_progress.state_dict()["current"]["processed"]
        checkpoint["diffusion_lab"] = {
            **self.metadata,
            "step": self.global_step,
            "epochs_done": epochs_done,
            "validation_draws": VALIDATION_DRAWS,
        }
        if self.trainer.should_stop:  # a limit or a callback ends the run here
            checkpoint["diffusion_lab"]["stopped"] = True
        if self._epoch_mean is not None:
            checkpoint["diffusion_lab"]["epoch_mean"] = self._epoch_mean.saved()


def _weights(optimizer: Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]
