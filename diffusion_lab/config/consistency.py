"""The rules that join several keys. Where a key is at fault itself, those that read it stay silent.

Rules that import the user's own classes stand apart: ``cross_check`` runs them only where it is told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from inspect import isabstract
from pathlib import Path

from pydantic import ValidationError

from diffusion_lab.config.choice import ChoiceSettings, options_schema
from diffusion_lab.config.data_section import CLASSES_OF_NAMED_SETS, DOWNLOADED_TYPES, SELF_CONTAINED_TYPES
from diffusion_lab.config.faults import ConfigError, Fault, closest, faults_of
from diffusion_lab.config.folders import subfolders_stay_inside
from diffusion_lab.config.model_section import DEFAULT_PROCESS, PROCESS_OPTIONS
from diffusion_lab.config.reading import SettingsReader, Unreadable, suggest_key
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.signatures import arguments_are_taken
from diffusion_lab.config.training_section import SCHEDULER_OPTIONS

LOGGED_METRICS = ("loss",)
"""What validation logs, and so what ``training.validation.metric`` can be."""

PLUGGABLE = ("model.architecture", "model.diffusion", "data", "training.optimizer", "training.scheduler")
"""Sections whose further keys are for a class given by its dotted path."""

REQUIRED_SCHEDULER_OPTIONS = {"cosine": ("T_max", "eta_min")}


def one_attention_flag_a_stage(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] == "dit":
        return  # has a rule of its own
    stages = len(tree["model.architecture.channel_multipliers"])
    flags = tree["model.architecture.use_attention"]
    if len(flags) != stages:
        rule = f"must have one entry a stage: {stages}, as model.architecture.channel_multipliers has"
        yield Fault("model.architecture.use_attention", rule, flags)


def dit_has_one_stage(tree: SettingsReader) -> Iterator[Fault]:
    if tree["model.architecture.type"] != "dit":
        return
    multipliers = tree["model.architecture.channel_multipliers"]
    flags = tree["model.architecture.use_attention"]
    instead = "with model.architecture.type dit, which has one stage (command line: model=dit_tiny or another dit)"
    if len(multipliers) != 1:
        yield Fault("model.architecture.channel_multipliers", f"must have one entry {instead}", multipliers)
    if list(flags) != [True]:
        yield Fault("model.architecture.use_attention", f"must be [true] {instead}", flags)


def dit_knows_row_and_column(tree: SettingsReader) -> Iterator[Fault]:
    channels, multipliers = tree["model.architecture.model_channels"], tree["model.architecture.channel_multipliers"]
    if tree["model.architecture.type"] == "dit" and channels * multipliers[0] % 4:
        rule = f"times the multiplier, {multipliers[0]}, must be divisible by 4 with model.architecture.type dit: "
        yield Fault("model.architecture.model_channels", rule + "a sine and a cosine for row and column", channels)


def image_size_halves(tree: SettingsReader) -> Iterator[Fault]:
    size, patch = tree["model.architecture.image_size"], tree["model.architecture.patch_size"]
    halvings = len(tree["model.architecture.channel_multipliers"]) - 1
    if size % (patch * 2**halvings):
        stages = [f"{halvings + 1} stages halve the image {halvings} times"] if halvings else []
        reasons = ", after ".join(stages + ([f"patches of {patch}"] if patch > 1 else []))
        yield Fault("model.architecture.image_size", f"must be divisible by {patch * 2**halvings}: {reasons}", size)


def betas_rise(tree: SettingsReader) -> Iterator[Fault]:
    start, end = tree["model.diffusion.beta_start"], tree["model.diffusion.beta_end"]
    if start >= end:
        yield Fault("model.diffusion.beta_start", f"must be less than model.diffusion.beta_end, {end}", start)


def class_needs_num_classes(tree: SettingsReader) -> Iterator[Fault]:
    classes = tree["model.conditioning.num_classes"]
    if tree["model.conditioning.type"] == "class" and classes is None:
        rule = "required with model.conditioning.type class: the number of classes, or auto to count them"
        yield Fault("model.conditioning.num_classes", rule, classes)


def num_classes_is_read(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train" or tree["model.conditioning.type"] is not None:
        return
    classes, kind = tree["model.conditioning.num_classes"], tree["data.type"]
    if classes in (None, "auto") or (kind != "image_folder" and classes == CLASSES_OF_NAMED_SETS):
        return
    rule = "has no effect without model.conditioning.type class (command line: conditioning=class); otherwise null"
    yield Fault("model.conditioning.num_classes", rule, classes)


def metric_is_logged(tree: SettingsReader) -> Iterator[Fault]:
    metric = tree["training.validation.metric"]
    if metric not in LOGGED_METRICS:
        rule = f"must be a metric that validation logs: {', '.join(LOGGED_METRICS)}"
        yield Fault("training.validation.metric", rule, metric, closest(metric, LOGGED_METRICS))


def best_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    best_only = tree["training.checkpointing.save_best_only"]
    if best_only and not tree["training.validation.enabled"]:
        rule = "needs training.validation.enabled: without validation there is no best checkpoint"
        yield Fault("training.checkpointing.save_best_only", rule, best_only)


def plateau_needs_validation(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["training.scheduler.type"]
    if kind == "plateau" and not tree["training.validation.enabled"]:
        yield Fault("training.scheduler.type", "needs training.validation.enabled=true, whose metric it watches", kind)


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


def only_averages_have_a_decay(tree: SettingsReader) -> Iterator[Fault]:
    decay = tree["generation.sampling.ema_decay"]
    if decay is not None and not tree["generation.sampling.use_ema"]:
        yield Fault("generation.sampling.ema_decay", "needs generation.sampling.use_ema: it chooses an average", decay)


def sampler_steps_fit(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train" or not tree.gives("sampler.steps") or tree["model.diffusion.type"] != "discrete":
        return
    steps, most = tree["sampler.steps"], tree["model.diffusion.num_timesteps"]
    if isinstance(steps, int) and steps > most:
        yield Fault("sampler.steps", f"must be at most model.diffusion.num_timesteps, {most}", steps)


def process_keys_belong(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["model.diffusion.type"]
    for name, value in tree.section("model.diffusion").items():
        owners = [owner for owner, names in PROCESS_OPTIONS.items() if name in names]
        if owners and kind in PROCESS_OPTIONS and kind not in owners and value != DEFAULT_PROCESS[name]:
            rule = f"belongs to type {' or '.join(owners)}, not to {kind}; leave it out"
            yield Fault(f"model.diffusion.{name}", rule, value)


def sigmas_rise(tree: SettingsReader) -> Iterator[Fault]:
    low, high = tree["model.diffusion.sigma_min"], tree["model.diffusion.sigma_max"]
    if low >= high:
        yield Fault("model.diffusion.sigma_min", f"must be less than model.diffusion.sigma_max, {high:g}", low)


def images_are_there(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] != "train":
        return
    kind = tree["data.type"]
    paths = {key: tree[key] for key in ("data.paths.train", "data.paths.val")}
    if kind in DOWNLOADED_TYPES and paths["data.paths.val"]:
        rule = f"must be null with data.type {kind}: validation images are split off the training images"
        yield Fault("data.paths.val", rule, paths["data.paths.val"])
    if kind in SELF_CONTAINED_TYPES:
        rule = f"must be null with data.type {kind}, which brings its own images (yours: data.type image_folder)"
        yield from (Fault(key, rule, path) for key, path in paths.items() if path is not None)
        return
    if paths["data.paths.train"] is None and "." not in kind:
        wanted = "an existing folder of images" if kind == "image_folder" else "the folder to download to"
        yield Fault("data.paths.train", f"required with data.type {kind}: {wanted}", None)
    if kind == "image_folder":
        rule = "must be an existing folder of images, flat or with one subfolder a class"
        yield from (Fault(key, rule, path) for key, path in paths.items() if path and not _is_there(path, Path.is_dir))


def resumes_from_something(tree: SettingsReader) -> Iterator[Fault]:
    enabled = tree["mode"] == "train" and tree["training.resume.enabled"]
    if enabled and tree["training.resume.checkpoint"] != "auto":
        rule = "with training.resume.enabled must be an existing checkpoint file or run folder, or auto"
        yield from _existing("training.resume.checkpoint", rule, tree)


def resume_keys_are_read(tree: SettingsReader) -> Iterator[Fault]:
    """A checkpoint or a switch that was typed without ``enabled`` would train from scratch in silence."""
    if tree["mode"] != "train" or tree["training.resume.enabled"]:
        return
    rule = "has no effect while training.resume.enabled is false: set it to true to resume (command line: "
    for name in ("checkpoint", "reset_optimizer", "reset_scheduler", "allow_other_data"):
        value = tree[f"training.resume.{name}"]
        if value:
            yield Fault(f"training.resume.{name}", f"{rule}training.resume.enabled=true), or leave this out", value)


def generates_from_something(tree: SettingsReader) -> Iterator[Fault]:
    if tree["mode"] == "generate":
        rule = "must be an existing checkpoint file or run folder (sample.py: ckpt=PATH)"
        yield from _existing("generation.checkpoint", rule, tree)


def scheduler_keys_belong(tree: SettingsReader) -> Iterator[Fault]:
    kind = tree["training.scheduler.type"]
    if kind not in SCHEDULER_OPTIONS:
        return
    given = tree.section("training.scheduler")
    for name, value in given.items():
        owners = [str(owner) for owner, names in SCHEDULER_OPTIONS.items() if owner and name in names]
        if owners and value is not None and name not in SCHEDULER_OPTIONS[kind]:
            rule = f"belongs to type {' or '.join(owners)}, not to {kind or 'null'}; leave it out"
            yield Fault(f"training.scheduler.{name}", rule + _group_instead("scheduler", kind), value)
    for name in REQUIRED_SCHEDULER_OPTIONS.get(kind or "", ()):
        if given.get(name) is None:
            yield Fault(f"training.scheduler.{name}", f"required with type {kind}, but missing")


def _no_unread_keys(section: str) -> Callable[[SettingsReader], Iterator[Fault]]:
    """Keys that no field declares are for a class given by its dotted path; a built-in type has none."""

    def rule(tree: SettingsReader) -> Iterator[Fault]:
        given = tree.section(section)
        if "." in str(given.get("type")):
            return
        for name in given.keys() - tree.schema_of(section).model_fields.keys():
            key = f"{section}.{name}"
            yield Fault(key, "unknown key", given[name], suggest_key(key, tree.root))

    return rule


def _takes_options(choice: type[ChoiceSettings]) -> Callable[[SettingsReader], Iterator[Fault]]:
    """The values of a class's options; whether a class of the user's own has them is for its signature to say."""

    def rule(tree: SettingsReader) -> Iterator[Fault]:
        given = tree.section(choice.KEY) if tree.gives(choice.KEY) else {}
        name = tree[f"{choice.KEY}.type"]
        named = name in choice.NAMED
        options = {key: value for key, value in given.items() if key != "type"}
        try:
            cls = choice.class_of(name)
        except ConfigError:
            return  # its signature has been asked for already
        schema = options_schema(cls)
        if schema is None or isabstract(cls):
            return
        if not named:
            options = {key: value for key, value in options.items() if key in schema.model_fields}
        try:
            cls(**schema.model_validate(options).model_dump(exclude_unset=True))
        except ValidationError as error:
            errors = [each for each in error.errors() if named or each["type"] != "missing"]
            beside = partial(_closest_of, names=schema.model_fields)
            for fault in faults_of(errors, options, beside, choice.KEY):
                yield _of_another_type(fault, name, choice)
        except (TypeError, ValueError) as error:
            yield Fault(choice.KEY, str(error), given)

    return rule


def _of_another_type(fault: Fault, kind: str, choice: type[ChoiceSettings]) -> Fault:
    """A fault that says whose option it is, where it is one of another type's: it is likely left over from there."""
    option = fault.key.rpartition(".")[2]
    owners = [name for name in choice.NAMED if option in choice.options_of(name)]
    if kind not in choice.NAMED or kind in owners or not owners:
        return fault
    group = choice.KEY.rpartition(".")[2]
    rule = f"belongs to type {' or '.join(owners)}, not to {kind}; leave it out" + _group_instead(group, kind)
    return Fault(fault.key, rule, fault.value)


def _group_instead(group: str, kind: str | None) -> str:
    """What a command line says to have the keys of a type alone, where it changed the type alone."""
    return f" (command line: {group}={kind})" if kind else ""


def _closest_of(key: str, names: Iterable[str]) -> str | None:
    return closest(key.rpartition(".")[2], names)


def _is_there(path: str | Path, check: Callable[[Path], bool]) -> bool:
    """Whether a path passes ``check``; one that no file system takes, for its length, does not."""
    try:
        return check(Path(path))
    except OSError:
        return False


def _existing(key: str, rule: str, tree: SettingsReader) -> Iterator[Fault]:
    path = tree[key]
    if path is None or not _is_there(path, Path.exists):
        yield Fault(key, rule, path)


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
    images_are_there,
    subfolders_stay_inside,
    scheduler_keys_belong,
    metric_is_logged,
    best_needs_validation,
    plateau_needs_validation,
    resumes_from_something,
    resume_keys_are_read,
    generates_from_something,
    sampler_steps_fit,
    amp_is_meant,
    decays_differ,
    only_averages_have_a_decay,
    *map(_no_unread_keys, PLUGGABLE),
)
IMPORTING_CHECKS: tuple[Callable[[SettingsReader], Iterable[Fault]], ...] = (
    arguments_are_taken,
    *map(_takes_options, CHOICES),
)


def cross_check(tree: SettingsReader, *, import_classes: bool) -> list[Fault]:
    """What keys, each sound by itself, get wrong together.

    Args:
        tree: The keys.
        import_classes: Whether to import classes named by their dotted path, to look at their arguments. Never for
            what a checkpoint says: importing runs code.
    """
    faults: list[Fault] = []
    for check in (*CROSS_CHECKS, *(IMPORTING_CHECKS if import_classes else ())):
        try:
            faults += check(tree)
        except Unreadable:
            continue  # the key in question has been reported already
    return faults
