"""Look at checkpoints: ``python -m diffusion_lab.checkpoint inspect|verify|export PATH``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.atomic_files import check_writable
from diffusion_lab.checkpoint.content import Checkpoint
from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX, about_for_others, verify_export, write_export
from diffusion_lab.checkpoint.files import (
    OWN_CHECKSUMS,
    Manifest,
    file_hash,
    find_checkpoint,
    step_of,
    verify,
)
from diffusion_lab.checkpoint.foreign import OPTIMIZER_KEY
from diffusion_lab.checkpoint.reading import read_checkpoint
from diffusion_lab.checkpoint.tensors import load_tensors
from diffusion_lab.checkpoint.weights import Weights
from diffusion_lab.config.faults import shown
from diffusion_lab.config.section import home_expanded
from diffusion_lab.messages import explain, sentence, show_warnings_plainly
from diffusion_lab.terminal import on_one_line, printable

EXIT_CODE = 2
"""Of what cannot be done; 1 is that of ``verify`` that found damage."""

UNVERIFIED_CODE = 3
"""Of ``verify`` that found no damage, and files of which nothing tells what was written."""

WHOLE, UNVERIFIED, DAMAGED, IGNORED = "whole", "unverified", "DAMAGED", "ignored"
"""What ``verify`` finds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; gives the exit code."""
    given = _parser().parse_args(arguments)
    show_warnings_plainly()
    try:
        code: int = given.do(given)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return EXIT_CODE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.checkpoint", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect|verify|export")
    path = "checkpoint file, export, or run folder (its best checkpoint, else its last)"

    inspect = commands.add_parser("inspect", help="tell what a checkpoint holds")
    inspect.add_argument("path", type=Path, help=path)
    inspect.add_argument("--json", action="store_true", help="as JSON, with all settings")
    inspect.set_defaults(do=_inspect)

    check = commands.add_parser(
        "verify", help="tell whether checkpoints are whole; exit code 1 if one is not, 3 if one cannot be verified"
    )
    check.add_argument("path", type=Path, help="checkpoint file, or a folder: all checkpoints in it, at any depth")
    check.set_defaults(do=_verify)

    export = commands.add_parser(
        "export", help="write the weights that sampling uses, and the settings, as safetensors"
    )
    export.add_argument("path", type=Path, help=path)
    export.add_argument(
        "--output",
        type=lambda text: Path(home_expanded(text)),
        help="default: beside the checkpoint, or in the run folder, model.safetensors",
    )
    export.add_argument("--raw", action="store_true", help="the weights as trained, not their average")
    export.add_argument("--ema-decay", type=float, help="which of several averages, by its decay")
    export.set_defaults(do=_export)
    return parser


def _inspect(given: argparse.Namespace) -> int:
    file = find_checkpoint(given.path)
    checkpoint = read_checkpoint(file)
    facts = dict(_facts(file, checkpoint))
    if given.json:
        print(json.dumps({**facts, "config": checkpoint.config}, indent=2, default=str))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(printable(f"{name:<{width}}  {_shown(value)}"))
        if checkpoint.config is not None:
            print("\nmodel:")
            text = yaml.safe_dump(checkpoint.config["model"], sort_keys=False, default_flow_style=None, width=100)
            print("\n".join(f"  {line}" for line in text.rstrip().splitlines()))
    return 0


def _facts(file: Path, checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """What is worth knowing, in the order to tell it."""
    about, manifest = checkpoint.about, Manifest.of(file)
    environment = about.get("environment")
    environment = environment if isinstance(environment, dict) else {}
    packages = environment.get("packages")
    yield "file", str(file.resolve() if file.is_symlink() else file)
    yield "size", f"{file.stat().st_size / 2**20:.1f} MiB"
    yield "verified", "no manifest: checked by its own checksums" if manifest is None else manifest.sha256
    for name in ("step", "epochs_done", "seed", "config_hash", "data_fingerprint"):
        if about.get(name) is not None:
            yield name.replace("_", " "), about[name]
    if environment.get("git_commit"):
        yield "git commit", environment["git_commit"]
    if isinstance(packages, dict):
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    foreign = checkpoint.foreign
    if foreign is not None and foreign.saved_in_training:
        yield "written by", "another program"
        yield "epoch", shown(foreign.epoch)
    told = foreign.num_classes if foreign is not None and isinstance(foreign.num_classes, int) else None
    yield "classes", list(checkpoint.class_names) or told
    yield "parameters", sum(math.prod(tensor.shape) for tensor in _some_weights(checkpoint).values())
    yield "averages", _averages(checkpoint)
    yield "to resume", _training_state(file)


def _averages(checkpoint: Checkpoint) -> Any:
    """The decays of the averages, or why there are none."""
    if checkpoint.foreign is not None and checkpoint.foreign.ema_fault is not None:
        return f"none: {checkpoint.foreign.ema_fault}"
    return ["of a decay that is not told" if decay is None else decay for decay in checkpoint.decays] or None


def _some_weights(checkpoint: Checkpoint) -> Weights:
    """The raw weights, or an average, which has the same shapes."""
    return checkpoint.weights or next(iter(checkpoint.ema_weights.values()))


def _refuse_read_only(target: Path) -> None:
    try:
        check_writable(target.parent, "the folder of an export")
    except PermissionError as error:
        raise PermissionError(f"{error}: give --output FILE{EXPORT_SUFFIX}") from error


def _training_state(file: Path) -> list[str] | None:
    """What a resumed run finds in it beside the weights."""
    if file.suffix == EXPORT_SUFFIX:
        return None
    content = load_tensors(file)
    known = {
        "optimizer_states": "optimizer",
        "lr_schedulers": "schedule",
        "MixedPrecision": "scaler",
        "loops": "progress",
        "ImageDataModule": "order of the data",
        "randomness": "randomness",
        OPTIMIZER_KEY: "optimizer",
    }
    there = {key for key, value in content.items() if isinstance(value, dict | list | tuple) and value}
    return [name for key, name in known.items() if key in there] or None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)


def _verify(given: argparse.Namespace) -> int:
    if not given.path.is_dir() and not given.path.is_file():  # within a folder such things are ignored
        raise FileNotFoundError(f"{given.path} is neither a checkpoint file nor a folder: check the path")
    files = sorted(_checkpoints_under(given.path)) if given.path.is_dir() else [given.path]
    if not files:
        raise FileNotFoundError(
            f"the folder {given.path} holds no checkpoint: give a run folder, or one that holds runs"
        )
    states = set()
    for file in files:
        state, remark = _verified(file)
        states.add(state)
        name = on_one_line(file)
        print(printable(f"{state:<10}  {name}{remark.replace(str(file), name)}"), flush=True)
    return 1 if DAMAGED in states else UNVERIFIED_CODE if UNVERIFIED in states else 0


def _verified(file: Path) -> tuple[str, str]:
    """The state of a file, and what is to be said of it. Whatever it does to its readers, others follow."""
    if not file.is_file():
        return IGNORED, ": no file"
    try:
        if verify(file) is not None:
            return WHOLE, ""
        if file.suffix != EXPORT_SUFFIX:
            read_checkpoint(file)
            return WHOLE, f"  (no manifest; by {OWN_CHECKSUMS})"
        if verify_export(file):
            return WHOLE, "  (no manifest; by the SHA-256 inside it)"
    except DamagedCheckpointError as error:
        return DAMAGED, f": {error.fault}"
    except Exception as error:
        return DAMAGED, f": {str(error) or type(error).__name__}"
    return UNVERIFIED, ": no manifest, and the format has no checksums, so that changed weights cannot be found"


def _checkpoints_under(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix in (".ckpt", EXPORT_SUFFIX) and not file.is_symlink() and not file.name.startswith("."):
            yield file


def _export(given: argparse.Namespace) -> int:
    file = find_checkpoint(given.path)
    checkpoint = read_checkpoint(file)
    if checkpoint.config is None:
        raise ValueError(
            f"{file} holds weights alone and not their architecture: export a checkpoint that train.py wrote"
        )
    target = given.output or (given.path if given.path.is_dir() else file.parent) / f"model{EXPORT_SUFFIX}"
    _refuse_read_only(target)
    averaged = bool(checkpoint.ema_weights) and not given.raw
    decay = checkpoint.chosen_decay(averaged, given.ema_decay)
    weights: Weights = checkpoint.chosen_weights(averaged, decay)
    about = {**about_for_others(checkpoint.about), "averaged": averaged, "ema_decay": decay}
    write_export(target, weights, about)
    which = f"average of decay {decay:g}" if decay is not None else "average" if averaged else "weights as trained"
    step = step_of(file.resolve()) or checkpoint.step
    print(printable(f"{target}: {which} after step {step}, SHA-256 {file_hash(target)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
