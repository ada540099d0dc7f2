"""Typed settings of ``evaluate.py`` from the configuration composed by Hydra: evaluation and every generation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.cli.compose import config_dir
from diffusion_lab.cli.default_prediction import prediction_is_default, with_default_prediction
from diffusion_lab.cli.evaluate_rules import evaluation_faults
from diffusion_lab.cli.evaluate_schema import EvaluateConfig
from diffusion_lab.cli.interpolations import check_interpolations
from diffusion_lab.cli.key_locations import KeyLocations, job_key_locations
from diffusion_lab.cli.run_dir import hydra_folder_faults
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.config.validate import field_faults, parse_as
from diffusion_lab.faults import ConfigError, Fault
from diffusion_lab.faults.unresolved import resolved
from diffusion_lab.runtime.import_class import find_classes_in
from diffusion_lab.typed_settings.settings_reader import SettingsReader, expand_home, leaves, limit_integers, plain_tree
from diffusion_lab.typed_settings.spelling import normalize_spelling

EVALUATE_SHORT_NAMES = (
    *("ckpt", "samples", "reference", "metrics", "features", "weights", "num_samples", "split", "guidance_scale"),
    *("seed", "device", "use_ema", "ema_decay", "trust", "wandb"),
)
"""Top-level keys of ``conf/evaluate.yaml`` that only fill other keys."""

GENERATED = 1000
"""Default number of images to generate."""

AXES = (
    "generation.checkpoint",
    "generation.sampling.use_ema",
    "generation.sampling.ema_decay",
    "generation.sampling.guidance_scale",
    "compute.seed",
)
"""Keys that may have several values, besides the options of the sampler; the last one varies fastest."""

CHECKED_FOR_EACH_POINT = ("model", "sampler")
"""Sections that are completed and checked with one value of each list: they describe a generation."""


@dataclass(frozen=True)
class Point:
    """One generation to evaluate: its settings, and the values that vary between points, by key."""

    config: GenerateConfig
    values: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationRequest:
    """Request to ``evaluate.py``; ``points`` is empty if existing images are evaluated."""

    config: EvaluateConfig
    points: tuple[Point, ...] = ()


def compose_evaluate_config(
    composed: DictConfig, read_locations: Callable[[], KeyLocations] = job_key_locations
) -> EvaluationRequest:
    """Check the settings of an evaluation, with every combination of the values in lists.

    Raises:
        ConfigError: With all faults, broken references included, and where their keys were set.
    """
    check_interpolations(OmegaConf.to_container(composed, resolve=False), "the composed configuration")
    find_classes_in(config_dir())
    faults = list(hydra_folder_faults())
    tree = resolved(composed, faults)
    for name in EVALUATE_SHORT_NAMES:
        tree.pop(name, None)
    return parse_evaluation(tree, read_locations(), faults)


def parse_evaluation(
    tree: dict[str, Any], locations: KeyLocations | None = None, faults: Sequence[Fault] = ()
) -> EvaluationRequest:
    """Check a tree of settings of an evaluation. Raises ConfigError with all faults.

    Args:
        tree: The settings by section, with lists where several values are evaluated.
        locations: Locations of its keys; None if there is no command line.
        faults: Faults found earlier, reported together with the others.
    """
    all_faults = list(faults)
    tree = limit_integers(plain_tree(tree), all_faults)
    expand_home(tree, EvaluateConfig)
    normalize_spelling(tree, EvaluateConfig)
    own = {name: value for name, value in tree.items() if name not in CHECKED_FOR_EACH_POINT}
    all_faults += field_faults(own, EvaluateConfig)
    reader = SettingsReader(tree, EvaluateConfig, [fault.key for fault in all_faults])
    default_steps = _has_default_steps(tree, locations)
    locations = locations or KeyLocations()
    all_faults += evaluation_faults(reader, _typed(locations))
    points = _points(tree, locations, default_steps, all_faults) if _generates(tree) else ()
    if all_faults:
        error = ConfigError(sorted(_deduplicated(all_faults), key=lambda fault: fault.key))
        raise error.with_suggestions(EVALUATE_SHORT_NAMES).with_locations(locations.location_of)
    return EvaluationRequest(EvaluateConfig.model_validate(own), points)


def _generates(tree: Mapping[str, Any]) -> bool:
    """Return whether images are generated, not only read."""
    samples = (tree.get("evaluation") or {}).get("samples")
    return not samples and bool((tree.get("generation") or {}).get("checkpoint"))


def _has_default_steps(tree: Mapping[str, Any], locations: KeyLocations | None) -> bool:
    """Return whether the number of sampling steps was left to the default; one passed from Python was not."""
    if locations is not None:
        return not locations.is_typed("sampler.steps")
    sampler = tree.get("sampler")
    return not isinstance(sampler, Mapping) or "steps" not in sampler


def _points(
    tree: dict[str, Any], locations: KeyLocations, default_steps: bool, faults: list[Fault]
) -> tuple[Point, ...]:
    """Return a point for each combination of the values in lists; their faults are added to ``faults``."""
    axes = dict(_axes(tree))
    for key, values in axes.items():
        if any(value in values[:index] for index, value in enumerate(values)):
            faults.append(Fault(key, "must be a list of different values", values))
    default_steps = default_steps and "sampler.steps" not in axes  # a list is an explicit choice, wherever it is set
    template = _generation_tree(tree)
    points = []
    for combination in itertools.product(*axes.values()):
        chosen_values = dict(zip(axes, combination, strict=True))
        chosen = deepcopy(template)
        for key, value in chosen_values.items():
            _put(chosen, key, value)
        try:
            config = parse_as(GenerateConfig, chosen, default_steps=default_steps, starts=True)
        except ConfigError as error:
            faults += error.faults
            continue
        if prediction_is_default(GenerateConfig, chosen, locations, config_dir()):
            config = with_default_prediction(config)
        points.append(Point(config, chosen_values))
    return tuple(points)


def _axes(tree: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the keys with a list of values, each with the list, slowest-varying first."""
    first, *others = AXES
    values = leaves({name: tree.get(name) or {} for name in ("generation", "compute", "sampler")})
    options = [key for key in values if key.startswith("sampler.") and key != "sampler.type"]
    for key in (first, *others[:2], *options, *others[2:]):
        value = values.get(key)
        if isinstance(value, list) and value and not _is_one_value(key, value):
            yield key, value


def _is_one_value(key: str, entries: Sequence[Any]) -> bool:
    """Return whether a list is a single value of its key, as the times of ``sampler.spacing`` are."""
    return key == "sampler.spacing" and all(isinstance(entry, int | float) for entry in entries)


def _generation_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of ``sample.py`` with the same settings, lists included."""
    generation = tree.get("generation") or {}
    sampling = {**(generation.get("sampling") or {})}
    sampling["num_samples"] = (tree.get("evaluation") or {}).get("num_samples") or GENERATED
    sections = {name: tree[name] for name in ("compute", "sampler", "guidance", "model") if tree.get(name) is not None}
    return {
        "mode": "generate",
        **deepcopy(sections),
        "generation": {
            "checkpoint": generation.get("checkpoint"),
            "trust": generation.get("trust") or [],
            "sampling": sampling,
            "output": {"save_individual": False, "save_grid": True, "save_npz": True},
        },
        "output": {"base_dir": "evaluation"},  # replaced when the checkpoint is known
    }


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[name] = value


def _deduplicated(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without the duplicates from several combinations or both checks."""
    unique: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        unique.setdefault((fault.key, str(fault.value)), fault)
    list_keys = {fault.key for fault in unique.values() if isinstance(fault.value, list)}
    return [fault for fault in unique.values() if fault.key not in list_keys or isinstance(fault.value, list)]


def _typed(locations: KeyLocations) -> Callable[[str], bool]:
    """Return a predicate: whether the command line sets a key, or one in it, or selects a file of that group."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    chosen = {str(override).lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides}
    return lambda key: key in chosen or locations.is_typed_within(key)
