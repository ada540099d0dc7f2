"""Inspect, verify and export checkpoints: ``diffusion-lab checkpoint inspect|verify|export PATH``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.checkpoint.content import Checkpoint
from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.export import EXPORT_SUFFIX, public_metadata, verify_export, write_export
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
from diffusion_lab.console.command_line import usage
from diffusion_lab.console.messages import explain, sentence, show_plain_warnings
from diffusion_lab.console.terminal import on_one_line, printable, quiet_broken_pipe
from diffusion_lab.faults import shown
from diffusion_lab.files.writing import check_writable
from diffusion_lab.typed_settings.section import home_expanded

EXIT_CODE = 2
"""Exit code of a command that failed; ``verify`` exits with 1 if it found damage."""

UNVERIFIED_CODE = 3
"""Exit code of ``verify`` if it found no damage, but files without checksums."""

VALID, UNVERIFIED, DAMAGED, IGNORED = "valid", "unverified", "DAMAGED", "ignored"
"""Results of ``verify``."""


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    args = create_parser().parse_args(arguments)
    show_plain_warnings()
    try:
        code: int = args.do(args)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(explain(error))}", file=sys.stderr)
        return EXIT_CODE
    return code


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(prog=usage("checkpoint"), description="Inspect, verify and export checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="inspect|verify|export")
    path = "checkpoint file, export, or run folder (its best checkpoint, else its last)"

    inspect = commands.add_parser("inspect", help="show the contents of a checkpoint")
    inspect.add_argument("path", type=Path, help=path)
    inspect.add_argument("--json", action="store_true", help="as JSON, with all settings")
    inspect.set_defaults(do=_inspect)

    check = commands.add_parser(
        "verify", help="check whether checkpoints are valid; exit code 1 if one is damaged, 3 if one is unverified"
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
        help="default: model.safetensors next to the checkpoint, or in the run folder",
    )
    export.add_argument("--raw", action="store_true", help="the raw weights, not their average")
    export.add_argument("--ema-decay", type=float, help="decay of the average to export")
    export.set_defaults(do=_export)
    return parser


def _inspect(args: argparse.Namespace) -> int:
    file = find_checkpoint(args.path)
    checkpoint = read_checkpoint(file)
    facts = dict(_describe(file, checkpoint))
    if args.json:
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


def _describe(file: Path, checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Yield the facts to show, in order."""
    metadata, manifest = checkpoint.metadata, Manifest.read(file)
    environment = metadata.get("environment")
    environment = environment if isinstance(environment, dict) else {}
    packages = environment.get("packages")
    yield "file", str(file.resolve() if file.is_symlink() else file)
    yield "size", f"{file.stat().st_size / 2**20:.1f} MiB"
    yield "verified", "no manifest: checked by its own checksums" if manifest is None else manifest.sha256
    for name in ("step", "epochs_done", "seed", "config_hash", "data_fingerprint"):
        if metadata.get(name) is not None:
            yield name.replace("_", " "), metadata[name]
    if environment.get("git_commit"):
        yield "git commit", environment["git_commit"]
    if isinstance(packages, dict):
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    foreign = checkpoint.foreign
    if foreign is not None and foreign.saved_in_training:
        yield "written by", "another program"
        yield "epoch", shown(foreign.epoch)
    num_classes = foreign.num_classes if foreign is not None and isinstance(foreign.num_classes, int) else None
    yield "classes", list(checkpoint.class_names) or num_classes
    yield "parameters", sum(math.prod(tensor.shape) for tensor in _some_weights(checkpoint).values())
    yield "averages", _averages(checkpoint)
    yield "to resume", _training_state(file)


def _averages(checkpoint: Checkpoint) -> Any:
    """Return the decays of the averages, or why there are none."""
    if checkpoint.foreign is not None and checkpoint.foreign.ema_fault is not None:
        return f"none: {checkpoint.foreign.ema_fault}"
    return ["of unknown decay" if decay is None else decay for decay in checkpoint.decays] or None


def _some_weights(checkpoint: Checkpoint) -> Weights:
    """Return the raw weights, or an average, which has the same shapes."""
    return checkpoint.weights or next(iter(checkpoint.ema_weights.values()))


def _check_writable(target: Path) -> None:
    try:
        check_writable(target.parent, "the folder of an export")
    except PermissionError as error:
        raise PermissionError(f"{error}: give --output FILE{EXPORT_SUFFIX}") from error


def _training_state(file: Path) -> list[str] | None:
    """Return the names of the training state in a checkpoint, besides the weights."""
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
    present = {key for key, value in content.items() if isinstance(value, dict | list | tuple) and value}
    return [name for key, name in known.items() if key in present] or None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)


def _verify(args: argparse.Namespace) -> int:
    if not args.path.is_dir() and not args.path.is_file():  # inside a folder such entries are ignored
        raise FileNotFoundError(f"{args.path} is neither a checkpoint file nor a folder: check the path")
    files = sorted(_checkpoints_under(args.path)) if args.path.is_dir() else [args.path]
    if not files:
        raise FileNotFoundError(
            f"the folder {args.path} holds no checkpoint: give a run folder, or one that holds runs"
        )
    states = set()
    for file in files:
        state, note = _verify_file(file)
        states.add(state)
        name = on_one_line(file)
        print(printable(f"{state:<10}  {name}{note.replace(str(file), name)}"), flush=True)
    return 1 if DAMAGED in states else UNVERIFIED_CODE if UNVERIFIED in states else 0


def _verify_file(file: Path) -> tuple[str, str]:
    """Return the result for a file and a note. Any error counts as damage, so that the other files are verified."""
    if not file.is_file():
        return IGNORED, ": not a file"
    try:
        if verify(file) is not None:
            return VALID, ""
        if file.suffix != EXPORT_SUFFIX:
            read_checkpoint(file)
            return VALID, f"  (no manifest; by {OWN_CHECKSUMS})"
        if verify_export(file):
            return VALID, "  (no manifest; by the SHA-256 inside it)"
    except DamagedCheckpointError as error:
        return DAMAGED, f": {error.fault}"
    except Exception as error:
        return DAMAGED, f": {str(error) or type(error).__name__}"
    return UNVERIFIED, ": no manifest, and the format has no checksums, so that changed weights cannot be found"


def _checkpoints_under(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix in (".ckpt", EXPORT_SUFFIX) and not file.is_symlink() and not file.name.startswith("."):
            yield file


def _export(args: argparse.Namespace) -> int:
    file = find_checkpoint(args.path)
    checkpoint = read_checkpoint(file)
    if checkpoint.config is None:
        raise ValueError(f"{file} holds only weights and not their architecture: export a checkpoint of a training run")
    target = args.output or (args.path if args.path.is_dir() else file.parent) / f"model{EXPORT_SUFFIX}"
    _check_writable(target)
    averaged = bool(checkpoint.ema_weights) and not args.raw
    decay = checkpoint.select_decay(averaged, args.ema_decay)
    weights: Weights = checkpoint.select_weights(averaged, decay)
    metadata = {**public_metadata(checkpoint.metadata), "averaged": averaged, "ema_decay": decay}
    write_export(target, weights, metadata)
    which = f"average of decay {decay:g}" if decay is not None else "average" if averaged else "raw weights"
    step = step_of(file.resolve()) or checkpoint.step
    print(printable(f"{target}: {which} after step {step}, SHA-256 {file_hash(target)}"))
    return 0
