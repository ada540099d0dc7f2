"""The rules that join several keys. Where a key is at fault itself, those that read it stay silent.

Rules that import the user's own classes stand apart: ``cross_check`` runs them only where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffusion_lab.config.faults import Fault
from diffusion_lab.config.folders import no_mistyped_subfolder, subfolders_stay_inside
from diffusion_lab.config.model_rules import (
    betas_rise,
    class_needs_num_classes,
    dit_has_one_stage,
    dit_knows_row_and_column,
    image_size_halves,
    num_classes_is_read,
    one_attention_flag_a_stage,
    process_keys_belong,
    sigmas_rise,
)
from diffusion_lab.config.option_rules import no_unread_keys, takes_options
from diffusion_lab.config.path_rules import (
    generates_from_something,
    image_paths_fit_the_type,
    images_are_there,
    resumes_from_something,
)
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.settings_reader import SettingsReader, Unreadable
from diffusion_lab.config.signatures import arguments_are_taken
from diffusion_lab.config.training_evaluation import (
    evaluation_has_what_it_needs,
    evaluation_is_read,
    evaluation_steps_fit,
    metric_rises_or_falls,
    weights_are_read,
)
from diffusion_lab.config.training_rules import (
    amp_is_meant,
    best_needs_validation,
    decays_differ,
    metric_is_logged,
    one_kernel_or_several,
    only_averages_have_a_decay,
    optimizer_keys_belong,
    plateau_needs_validation,
    raw_loss_has_an_average_beside_it,
    resume_keys_are_read,
    sampler_steps_fit,
    scheduler_keys_belong,
)

PLUGGABLE = ("model.architecture", "model.diffusion", "data", "training.optimizer", "training.scheduler")
"""Sections whose further keys are for a class given by its dotted path."""

CROSS_CHECKS: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (
    one_attention_flag_a_stage,
    dit_has_one_stage,
    dit_knows_row_and_column,
    image_size_halves,
    betas_rise,
    sigmas_rise,
    process_keys_belong,
    class_needs_num_classes,
    num_classes_is_read,
    image_paths_fit_the_type,
    no_mistyped_subfolder,
    optimizer_keys_belong,
    one_kernel_or_several,
    scheduler_keys_belong,
    metric_is_logged,
    raw_loss_has_an_average_beside_it,
    best_needs_validation,
    plateau_needs_validation,
    resumes_from_something,
    resume_keys_are_read,
    generates_from_something,
    sampler_steps_fit,
    amp_is_meant,
    decays_differ,
    only_averages_have_a_decay,
    evaluation_is_read,
    evaluation_has_what_it_needs,
    evaluation_steps_fit,
    weights_are_read,
    metric_rises_or_falls,
    *map(no_unread_keys, PLUGGABLE),
)
IMPORTING_CHECKS: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (
    arguments_are_taken,
    *map(takes_options, CHOICES),
)

CHECKS_AT_START: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (images_are_there, subfolders_stay_inside)
"""What depends on the folders of the machine that runs."""


def cross_check(tree: SettingsReader, *, import_classes: bool) -> list[Fault]:
    """What keys, each sound by itself, get wrong together.

    Args:
        tree: The keys.
        import_classes: Whether to import classes named by their dotted path, to look at their arguments. Never for
            what a checkpoint says: importing runs code.
    """
    return _faults_of((*CROSS_CHECKS, *(IMPORTING_CHECKS if import_classes else ())), tree)


def check_start(tree: SettingsReader) -> list[Fault]:
    """What stands in the way of a run on this machine: folders of images that are not there, links that lead away."""
    return _faults_of(CHECKS_AT_START, tree)


def _faults_of(checks: Iterable[Callable[[SettingsReader], Iterable[Fault]]], tree: SettingsReader) -> list[Fault]:
    faults: list[Fault] = []
    for check in checks:
        try:
            faults += check(tree)
        except Unreadable:
            continue  # the key in question has been reported already
    return faults
