"""Callback that adapts the state of a checkpoint to a run whose settings may differ from those it was saved with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.training.callbacks.checkpoints import Checkpoints
from diffusion_lab.training.lr_schedules import current_rates, rebuild_state

ALWAYS_FRESH = ("fused",)
"""Options of an optimizer that depend on the device and the precision, so that they are never restored."""


@dataclass(frozen=True)
class ResumePlan:
    """Parts of the state that a resumed run takes from the settings instead of the checkpoint.

    Attributes:
        reset_optimizer: Do not restore the optimizer state.
        reset_scheduler: Restart the learning-rate schedule.
        batches_done: Number of batches, of the current size, that the unfinished epoch has seen.
        optimizer_options: Names, in the optimizer's parameter groups, of the options that the settings changed.
        rebuild_schedule: Whether the schedule keeps its position and takes its options and base rate from the settings.
        rate_factor: Ratio of ``training.optimizer.learning_rate`` to that of the checkpoint.
        forget_best: Whether values of the validation metric are not comparable with earlier ones.
        callback_arguments: Arguments that the settings changed, for each callback of ``training.callbacks``.
    """

    reset_optimizer: bool = False
    reset_scheduler: bool = False
    batches_done: int = 0
    optimizer_options: tuple[str, ...] = ()
    rebuild_schedule: bool = True
    rate_factor: float = 1.0
    forget_best: bool = False
    callback_arguments: Sequence[Mapping[str, Any]] = ()


class ResumeOverrides(Callback):
    """Changes the state in a checkpoint according to the plan, before the trainer restores it.

    Args:
        plan: Parts of the state to take from the settings.
        custom: The callbacks of ``training.callbacks``. Their state is restored, except for changed arguments:
            Lightning's EarlyStopping, for one, keeps its ``patience`` in its state.
        report_rate: Called before the first step with the learning rate in the checkpoint and the current one, if the
            checkpoint contains the optimizer state.
    """

    def __init__(
        self,
        plan: ResumePlan,
        custom: Sequence[Callback] = (),
        report_rate: Callable[[float, float], None] | None = None,
    ) -> None:
        self.plan = plan
        self.custom = custom
        self.report_rate = report_rate
        self._checkpoint: dict[str, Any] = {}
        self._fresh_rates: list[float] = []
        self._saved_rate: float | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._checkpoint = checkpoint  # the trainer restores from this dict object, after on_fit_start
        for state in checkpoint.get("optimizer_states", ()):
            self._saved_rate = float(state["param_groups"][0]["lr"])
        # Lightning restores pairwise, so nothing from an empty list.
        if self.plan.reset_optimizer:
            checkpoint["optimizer_states"] = []
        if self.plan.reset_scheduler:
            checkpoint["lr_schedulers"] = []
        for callback, arguments in zip(self.custom, self.plan.callback_arguments, strict=False):
            state = checkpoint["callbacks"].get(callback.state_key, {})
            state.update({name: value for name, value in arguments.items() if name in state})
        if self.plan.batches_done:
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            more = self.plan.batches_done - counts["ready"]
            counts.update({name: count + more for name, count in counts.items()})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The optimizer and the schedule have been created, but not restored yet.
        checkpoint, self._checkpoint = self._checkpoint, {}
        self._fresh_rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        overridden = {*self.plan.optimizer_options, *ALWAYS_FRESH}
        for optimizer, state in zip(trainer.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            for fresh, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
                saved.update({name: fresh[name] for name in overridden & fresh.keys() & saved.keys()})
        states = checkpoint.get("lr_schedulers", ())
        for index, (entry, saved) in enumerate(zip(trainer.lr_scheduler_configs, states, strict=False)):
            if self.plan.rebuild_schedule:
                keep_best = not self.plan.forget_best
                states[index] = rebuild_state(entry.scheduler, saved, self.plan.rate_factor, keep_best)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Use the rate of the schedule at this position: neither that of a fresh optimizer nor, if the run was extended,
        # that at the end of the shorter run.
        rates = [rate for entry in trainer.lr_scheduler_configs for rate in current_rates(entry.scheduler)]
        if not rates and (self.plan.reset_scheduler or "lr" in self.plan.optimizer_options):
            rates = self._fresh_rates
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=bool(rates)):
            group["lr"] = rate
        if self.plan.forget_best:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Checkpoints):
                    callback.forget_best()
        if self.report_rate is not None and self._saved_rate is not None:
            self.report_rate(self._saved_rate, float(groups[0]["lr"]))
