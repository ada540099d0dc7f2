"""Rules that involve several keys. If a key has a fault of its own, rules that read it report nothing.

Rules that import custom classes are separate: ``cross_check`` runs them only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffusion_lab.config.evaluation_rules import (
    check_evaluation_is_used,
    check_evaluation_requirements,
    check_evaluation_steps,
    check_metric_direction,
    check_weights_are_used,
)
from diffusion_lab.config.model_rules import (
    check_attention_flags,
    check_beta_range,
    check_image_size,
    check_num_classes,
    check_num_classes_is_used,
    check_sigma_range,
    check_transformer_width,
)
from diffusion_lab.config.path_rules import (
    check_generation_checkpoint,
    check_image_folders,
    check_image_paths,
    check_resume_checkpoint,
    check_subfolder_links,
)
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.config.signatures import check_class
from diffusion_lab.config.targets import check_targets
from diffusion_lab.config.training_rules import (
    check_amp_precision,
    check_best_needs_validation,
    check_ema_decay_needs_ema,
    check_ema_decays,
    check_fused_or_foreach,
    check_metric_is_logged,
    check_plateau_needs_validation,
    check_raw_loss_needs_ema,
    check_resume_keys_are_used,
    check_sampler_steps,
)
from diffusion_lab.faults import Fault

CROSS_CHECKS: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (
    check_attention_flags,
    check_transformer_width,
    check_image_size,
    check_beta_range,
    check_sigma_range,
    check_num_classes,
    check_num_classes_is_used,
    check_image_paths,
    check_fused_or_foreach,
    check_metric_is_logged,
    check_raw_loss_needs_ema,
    check_best_needs_validation,
    check_plateau_needs_validation,
    check_resume_checkpoint,
    check_resume_keys_are_used,
    check_generation_checkpoint,
    check_sampler_steps,
    check_amp_precision,
    check_ema_decays,
    check_ema_decay_needs_ema,
    check_evaluation_is_used,
    check_evaluation_requirements,
    check_evaluation_steps,
    check_weights_are_used,
    check_metric_direction,
)
IMPORTING_CHECKS = (*map(check_class, CHOICES), check_targets)

CHECKS_AT_START: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (check_image_folders, check_subfolder_links)
"""Checks that depend on the folders of the machine."""


def cross_check(tree: SettingsReader, *, import_classes: bool) -> list[Fault]:
    """Return the faults of keys that are valid alone and not together.

    Args:
        tree: Reader of the keys.
        import_classes: Whether to import classes named by their dotted path, to check their arguments. Never for the
            content of a checkpoint: importing runs code.
    """
    return _faults_of((*CROSS_CHECKS, *(IMPORTING_CHECKS if import_classes else ())), tree)


def check_start(tree: SettingsReader) -> list[Fault]:
    """Return what prevents a run on this machine: missing image folders, links that lead out of the run folder."""
    return _faults_of(CHECKS_AT_START, tree)


def _faults_of(checks: Iterable[Callable[[SettingsReader], Iterable[Fault]]], tree: SettingsReader) -> list[Fault]:
    faults: list[Fault] = []
    for check in checks:
        try:
            faults += check(tree)
        except Unreadable:
            continue  # the key in question has been reported already
    return faults
