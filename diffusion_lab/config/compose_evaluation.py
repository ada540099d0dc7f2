"""From what Hydra composed for ``evaluate.py`` to typed settings: those of the evaluation, and of every generation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.compose import config_dir, resolved
from diffusion_lab.config.default_prediction import prediction_is_default, with_default_prediction
from diffusion_lab.config.dotted import find_classes_in
from diffusion_lab.config.evaluate_rules import evaluation_faults
from diffusion_lab.config.evaluate_schema import EvaluateConfig
from diffusion_lab.config.evaluation_section import GENERATED
from diffusion_lab.config.faults import ConfigError, Fault
from diffusion_lab.config.origins import Origins, job_origins
from diffusion_lab.config.reading import SettingsReader, expand_home, leaves, plain_tree
from diffusion_lab.config.references import refuse_endless_references
from diffusion_lab.config.run_dir import hydras_folder_faults
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.config.spelling import spell_as_the_schema_does
from diffusion_lab.config.validate import field_faults, parse_as, without_excess

EVALUATE_SHORT_NAMES = (
    *("ckpt", "samples", "reference", "metrics", "features", "weights", "num_samples", "split", "guidance_scale"),
    *("seed", "device", "use_ema", "ema_decay", "trust"),
)
"""Keys at the root of ``conf/evaluate.yaml`` that only fill others."""

AXES = (
    "generation.checkpoint",
    "generation.sampling.use_ema",
    "generation.sampling.ema_decay",
    "generation.sampling.guidance_scale",
    "compute.seed",
)
"""Keys that take several values, beside the options of the sampler; the last one varies fastest."""


@dataclass(frozen=True)
class Point:
    """One of the generations to evaluate: its settings, and the values that other points may differ in, by key."""

    config: GenerateConfig
    values: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationRequest:
    """What ``evaluate.py`` is asked to do; ``points`` is empty where images that are there are measured."""

    config: EvaluateConfig
    points: tuple[Point, ...] = ()


def compose_evaluate_config(composed: DictConfig, origins: Callable[[], Origins] = job_origins) -> EvaluationRequest:
    """Check the settings of an evaluation, with every combination of the values in lists.

    Raises:
        ConfigError: With all faults, broken references included, and where their keys were given.
    """
    refuse_endless_references(OmegaConf.to_container(composed, resolve=False), "the composed configuration")
    find_classes_in(config_dir())
    faults = list(hydras_folder_faults())
    tree = resolved(composed, faults)
    for name in EVALUATE_SHORT_NAMES:
        tree.pop(name, None)
    return parse_evaluation(tree, origins(), faults)


def parse_evaluation(
    tree: dict[str, Any], places: Origins | None = None, faults: Sequence[Fault] = ()
) -> EvaluationRequest:
    """Check a tree of settings of an evaluation. Raises ConfigError with all faults.

    Args:
        tree: The settings by section, with lists where several values are evaluated.
        places: Where its keys were given; None where nobody typed them on a command line.
        faults: What is known to be wrong already, to be reported along with the rest.
    """
    found = list(faults)
    tree = without_excess(plain_tree(tree), found)
    expand_home(tree, EvaluateConfig)
    spell_as_the_schema_does(tree, EvaluateConfig)
    whole = {name: value for name, value in tree.items() if name != "model"}  # which a point completes and checks
    found += field_faults(whole, EvaluateConfig)
    reader = SettingsReader(tree, EvaluateConfig, [fault.key for fault in found])
    default_steps = _steps_are_default(tree, places)
    places = places or Origins()
    found += evaluation_faults(reader, _typed(places))
    points = _points(tree, places, default_steps, found) if _generates(tree) else ()
    if found:
        error = ConfigError(sorted(_each_once(found), key=lambda fault: fault.key))
        raise error.suggesting(EVALUATE_SHORT_NAMES).located(places.place_of)
    return EvaluationRequest(EvaluateConfig.model_validate(whole), points)


def _generates(tree: Mapping[str, Any]) -> bool:
    """Whether images are generated, and not only read."""
    samples = (tree.get("evaluation") or {}).get("samples")
    return not samples and bool((tree.get("generation") or {}).get("checkpoint"))


def _steps_are_default(tree: Mapping[str, Any], places: Origins | None) -> bool:
    """Whether nobody has asked for the number of sampling steps; what Python gives was asked for."""
    if places is not None:
        return not places.is_typed("sampler.steps")
    sampler = tree.get("sampler")
    return not isinstance(sampler, Mapping) or "steps" not in sampler


def _points(tree: dict[str, Any], places: Origins, default_steps: bool, faults: list[Fault]) -> tuple[Point, ...]:
    """Return a point for each combination of the values in lists; what is wrong with any is added to ``faults``."""
    axes = dict(_axes(tree))
    for key, values in axes.items():
        if any(value in values[:place] for place, value in enumerate(values)):
            faults.append(Fault(key, "must be a list of different values", values))
    default_steps = default_steps and "sampler.steps" not in axes  # a list was asked for, wherever it stands
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
        if prediction_is_default(GenerateConfig, chosen, places, config_dir()):
            config = with_default_prediction(config)
        points.append(Point(config, chosen_values))
    return tuple(points)


def _axes(tree: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """The keys that have a list of values, each with these, the one that varies slowest first."""
    first, *others = AXES
    given = leaves({name: tree.get(name) or {} for name in ("generation", "compute", "sampler")})
    options = [key for key in given if key.startswith("sampler.") and key != "sampler.type"]
    for key in (first, *others[:2], *options, *others[2:]):
        value = given.get(key)
        if isinstance(value, list) and value and not _is_one_value(key, value):
            yield key, value


def _is_one_value(key: str, entries: Sequence[Any]) -> bool:
    """Whether a list is a single value of its key: the times of ``sampler.spacing`` are."""
    return key == "sampler.spacing" and all(isinstance(entry, int | float) for entry in entries)


def _generation_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of ``sample.py`` with the same settings; lists are still in it."""
    generation = tree.get("generation") or {}
    sampling = {**(generation.get("sampling") or {})}
    sampling["num_samples"] = (tree.get("evaluation") or {}).get("num_samples") or GENERATED
    kept = {name: tree[name] for name in ("compute", "sampler", "guidance", "model") if tree.get(name) is not None}
    return {
        "mode": "generate",
        **deepcopy(kept),
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


def _each_once(faults: Sequence[Fault]) -> list[Fault]:
    """The faults without those that several combinations, or both checks, have in common."""
    found: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        found.setdefault((fault.key, str(fault.value)), fault)
    whole = {fault.key for fault in found.values() if isinstance(fault.value, list)}
    return [fault for fault in found.values() if fault.key not in whole or isinstance(fault.value, list)]


def _typed(places: Origins) -> Callable[[str], bool]:
    """Whether the command line sets a key or one within it, or chooses a file of the group of that name."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    chosen = {str(override).lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides}
    return lambda key: key in chosen or places.is_typed_within(key)
