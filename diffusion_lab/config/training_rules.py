"""Rules that join several keys of ``training``, and of what samples with the trained weights."""

from __future__ import annotations

from collections.abc import Iterator

from diffusion_lab.config.evaluated_metrics import is_evaluated
from diffusion_lab.config.faults import Fault, closest
from diffusion_lab.config.key_aliases import keys_called
from diffusion_lab.config.optimizer_section import OPTIMIZER_OPTIONS
from diffusion_lab.config.option_rules import group_instead
from diffusion_lab.config.scheduler_section import SCHEDULER_OPTIONS
from diffusion_lab.config.settings_reader import SettingsReader
from diffusion_lab.config.training_evaluation import (
    evaluated_metric_faults,
    is_on,
    name_with_features,
    possible_names,
)
from diffusion_lab.config.training_section import LOGGED_METRICS, LOSSES, RAW_LOSSES, VALIDATION_LOSSES

REQUIRED_SCHEDULER_OPTIONS = {"cosine": ("T_max", "eta_min")}


def metric_is_logged(tree: SettingsReader) -> Iterator[Fault]:
    metric = tree["training.validation.metric"]
    if is_evaluated(metric):
        yield from evaluated_metric_faults(tree, metric)
        return
    known = (*VALIDATION_LOSSES, *LOGGED_METRICS, *(possible_names(tree) or () if is_on(tree) else ()))
    # What the user's own callbacks log cannot be known: a name that none of them logs ends the first validation.
    if metric not in known and not tree["training.callbacks"]:
        rule = (
            f"must be a metric that the run logs: {', '.join(LOSSES)} (of validation, as val/loss etc.), loss_raw etc. "
            "(of the weights without averaging), train/loss etc., train/learning_rate, val/kid_efflite0 etc. (with "
            "evaluation=on), or one that a class in training.callbacks logs"
        )
        is_rate = "training.optimizer.learning_rate" in keys_called(metric.rpartition("/")[2])
        meant = "train/learning_rate" if is_rate else closest(metric, known) or name_with_features(tree, metric)
        yield Fault("training.validation.metric", rule, metric, meant)


def raw_loss_has_an_average_beside_it(tree: SettingsReader) -> Iterator[Fault]:
    metric = tree["training.validation.metric"]
    name = metric.removeprefix("val/")
    if name in RAW_LOSSES and not tree["training.ema.enabled"]:
        plain = metric.replace("loss_raw", "loss")
        rule = (
            "needs training.ema.enabled: without an average the weights that are trained are validated as "
            f"{plain}: set training.validation.metric={plain}"
        )
        yield Fault("training.validation.metric", rule, metric)


def _is_measured(tree: SettingsReader) -> bool:
    """Whether the watched metric is known without validation, because the evaluation gives it."""
    return is_on(tree) and is_evaluated(tree["training.validation.metric"])


def best_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    best_only = tree["training.checkpointing.save_best_only"]
    if best_only and not tree["training.validation.enabled"] and not _is_measured(tree):
        rule = "needs training.validation.enabled: without validation there is no best checkpoint"
        yield Fault("training.checkpointing.save_best_only", rule, best_only)


def plateau_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["training.scheduler.type"]
    if kind == "plateau" and not tree["training.validation.enabled"] and not _is_measured(tree):
        rule = (
            "watches the metric of validation, which training.validation.enabled=false switches off: add "
            "training.validation.enabled=true to the command (it splits off images where data.paths.val is null)"
        )
        yield Fault("training.scheduler.type", rule, kind)


def amp_is_meant(tree: SettingsReader) -> Iterator[Fault]:
    precision = tree["training.performance.precision"]
    if precision == 32 and tree["training.performance.use_amp"]:
        rule = "must be auto, bf16, fp16 or null with training.performance.use_amp: true asks for less than 32 bits"
        yield Fault("training.performance.precision", rule, precision)


def decays_differ(tree: SettingsReader) -> Iterator[Fault]:
    known = [tree["training.ema.decay"]]
    for index, decay in enumerate(tree["training.ema.further_decays"]):
        if decay in known:
            rule = "must differ from training.ema.decay and from the others: it would be the same average"
            yield Fault(f"training.ema.further_decays[{index}]", rule, decay)
        known.append(decay)


def scheduler_keys_belong(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["training.scheduler.type"]
    if kind not in SCHEDULER_OPTIONS:
        return
    given = tree.section("training.scheduler")
    for name, value in given.items():
        owners = [str(owner) for owner, names in SCHEDULER_OPTIONS.items() if owner and name in names]
        if owners and value is not None and name not in SCHEDULER_OPTIONS[kind]:
            rule = f"belongs to type {' or '.join(owners)}, not to {kind or 'null'}; leave it out"
            yield Fault(f"training.scheduler.{name}", rule + group_instead("scheduler", kind), value)
    for name in REQUIRED_SCHEDULER_OPTIONS.get(kind or "", ()):
        if given.get(name) is None:
            yield Fault(f"training.scheduler.{name}", f"required with type {kind}, but missing")


def optimizer_keys_belong(tree: SettingsReader) -> Iterator[Fault]:
    kind, given = tree["training.optimizer.type"], tree.section("training.optimizer")
    if kind not in OPTIMIZER_OPTIONS:
        return
    for name, value in given.items():
        owners = [owner for owner, names in OPTIMIZER_OPTIONS.items() if name in names]
        if owners and value is not None and kind not in owners:
            rule = f"belongs to type {' or '.join(owners)}, not to {kind}; leave it out"
            yield Fault(f"training.optimizer.{name}", rule, value)


def one_kernel_or_several(tree: SettingsReader) -> Iterator[Fault]:
    if tree["training.optimizer.foreach"] and tree["training.optimizer.fused"]:
        yield Fault("training.optimizer.foreach", "cannot be true together with training.optimizer.fused", True)


def resume_keys_are_read(tree: SettingsReader) -> Iterator[Fault]:
    """A checkpoint or a switch that was typed without ``enabled`` would train from scratch in silence."""
    if tree["mode"] != "train" or tree["training.resume.enabled"]:
        return
    rule = "has no effect while training.resume.enabled is false: set it to true to resume (command line: "
    for name in ("checkpoint", "reset_optimizer", "reset_scheduler", "allow_other_data"):
        value = tree[f"training.resume.{name}"]
        if value:
            yield Fault(f"training.resume.{name}", f"{rule}training.resume.enabled=true), or leave this out", value)


def only_averages_have_a_decay(tree: SettingsReader) -> Iterator[Fault]:
    decay = tree["generation.sampling.ema_decay"]
    if decay is not None and not tree["generation.sampling.use_ema"]:
        yield Fault("generation.sampling.ema_decay", "needs generation.sampling.use_ema: it chooses an average", decay)


def sampler_steps_fit(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train" or not tree.gives("sampler.steps") or tree["model.diffusion.type"] != "discrete":
        return
    steps, most = tree["sampler.steps"], tree["model.diffusion.num_timesteps"]
    if isinstance(steps, int) and steps > most:
        rule = f"must be at most model.diffusion.num_timesteps, {most}: set sampler.steps={most} or fewer"
        yield Fault("sampler.steps", rule, steps)
