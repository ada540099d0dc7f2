"""Ownership of checkpoint files: a run removes or replaces only files that it wrote itself, as their manifests say.

Everything else in the folder stays unchanged: checkpoints with other names, copies, checkpoints whose manifest was
lost, folders and links. A run that would have to replace such a file is refused, naming it, before it writes anything.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from diffusion_lab.checkpoint.damage import DamagedCheckpointError
from diffusion_lab.checkpoint.files import (
    BEST,
    STEP_NAME,
    Manifest,
    file_hash,
    named_steps,
    read_without_manifest,
    step_of,
    verify,
)
from diffusion_lab.console.terminal import printable

SET_ASIDE = ".damaged"
"""Suffix that a damaged checkpoint of a run gets when the run writes that step again."""


def is_written_by(file: Path, *runs: str | None) -> bool:
    """Return whether a file is a checkpoint written by one of these runs and unchanged since, by its manifest."""
    if not is_plain_file(file):
        return False
    try:
        manifest = verify(file)
    except (DamagedCheckpointError, OSError):
        return False
    return manifest is not None and manifest.run in runs


def is_own_link(best: Path) -> bool:
    """Return whether ``best.ckpt`` is a link as created by a run: to a step's checkpoint next to it."""
    return best.name == BEST and best.is_symlink() and STEP_NAME.fullmatch(os.readlink(best)) is not None


def is_plain_file(file: Path) -> bool:
    """Return whether a path is a regular file itself, not a link to one."""
    return file.is_file() and not file.is_symlink()


def blocking_entries(folder: Path, run: str | None, first: int, last: int) -> list[Path]:
    """Return the entries in place of checkpoints that a run will write, and must not replace.

    Those checkpoints are the steps after ``first`` up to ``last``, and ``best.ckpt``. A valid checkpoint of a later
    step is in the way as well: it would be mistaken for the newest of the run.

    Args:
        folder: Folder of the checkpoints; it need not exist.
        run: Id of the run.
        first: Optimizer steps done when the run starts to write.
        last: Optimizer steps done at its end.
    """
    entries = [entry for entry in _named_as_ours(folder) if (step_of(entry) or 0) > first or entry.name == BEST]
    checkpoints = [entry for entry in entries if not is_replaceable(entry, run) and _is_in_the_way(entry, last)]
    return [*checkpoints, *(path for step, path in _blocked_manifests(folder) if first < step <= last)]


def not_replaceable(folder: Path, earlier: Collection[str | None]) -> list[Path]:
    """Return the checkpoints that a new run in the folder of ``earlier`` runs must not remove."""
    checkpoints = [entry for entry in _named_as_ours(folder) if not is_replaceable(entry, *earlier)]
    return [*checkpoints, *(path for _, path in _blocked_manifests(folder))]


def unrecognized_entries(folder: Path, run: str | None) -> list[Path]:
    """Return the ``.ckpt`` entries in the folder that, by their manifests, are not from this run."""
    entries = [
        entry for entry in sorted(folder.glob("*.ckpt")) if not is_own_link(entry) and not _is_copy_of_best(entry)
    ]
    return [entry for entry in entries if (manifest := manifest_or_none(entry)) is None or manifest.run != run]


def remove_checkpoint(file: Path) -> None:
    """Remove a checkpoint and its manifest."""
    file.unlink(missing_ok=True)
    Manifest.path_of(file).unlink(missing_ok=True)


def prepare_replacement(entry: Path, *runs: str | None) -> Path | None:
    """Prepare the replacement of a checkpoint that one of ``runs`` wrote.

    The checkpoint stays until it is replaced, but its manifest, which will no longer match, is removed. A damaged
    checkpoint of these runs is moved aside.

    Returns:
        The new path of a damaged checkpoint, else None.

    Raises:
        FileExistsError: The entry belongs to something else.
    """
    manifest_path = Manifest.path_of(entry)
    if not os.path.lexists(entry):
        if os.path.lexists(manifest_path) and not is_plain_file(manifest_path):
            raise FileExistsError(_refusal([manifest_path]))
        manifest_path.unlink(missing_ok=True)  # a leftover of a file that is gone
        return None
    if not is_replaceable(entry, *runs):
        raise FileExistsError(_refusal([entry]))
    aside = None
    if _is_damaged_one_of(entry, *runs):
        aside = _free_name(entry)
        entry.rename(aside)
    manifest_path.unlink(missing_ok=True)
    return aside


def _free_name(damaged: Path) -> Path:
    names = (damaged.with_name(f"{damaged.name}{SET_ASIDE}{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def adopt(file: Path, run_of_folder: str | None, run: str | None) -> bool:
    """Verify a step's checkpoint without manifest by its own checksums, and write a manifest for it.

    The manifest names the run only if both the content and the folder belong to that run. A file copied into the
    folder from elsewhere is assigned to no run, so that no run removes it.

    Args:
        file: The checkpoint.
        run_of_folder: Id in the status of the run folder, None if there is none.
        run: Id of the run that continues.

    Returns:
        Whether it had no manifest.
    """
    if step_of(file) is None or Manifest.read(file) is not None:
        return False
    metadata = read_without_manifest(file)
    owner = run if run is not None and run == run_of_folder == metadata.get("run_id") else None
    config_hash = metadata["config_hash"] if isinstance(metadata.get("config_hash"), str) else None
    Manifest(step_of(file), file.stat().st_size, file_hash(file), config_hash, owner).write(file)
    return True


def format_paths(files: Sequence[Path]) -> str:
    """Return a list of paths for a message, at most five of them, safe to print."""
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return printable(", ".join(map(str, files[:5])) + more)


def refuse_obstacles(entries: list[Path]) -> None:
    """Raise a ValueError that names the entries in the way, if there are any."""
    if entries:
        raise ValueError(_refusal(entries))


def _named_as_ours(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.glob("*.ckpt")):
        if STEP_NAME.fullmatch(entry.name) or entry.name == BEST:
            yield entry


def _blocked_manifests(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the links and folders in place of manifests, with their steps."""
    for path in sorted(folder.glob("step_*.manifest.json")):
        step = step_of(path.with_name(path.name.replace(".manifest.json", ".ckpt")))
        if step is not None and not is_plain_file(path):
            yield step, path


def is_replaceable(entry: Path, *runs: str | None) -> bool:
    """Return whether an entry in place of a checkpoint may be replaced: one of these runs wrote it."""
    if entry.is_symlink():
        return is_own_link(entry)
    return is_written_by(entry, *runs) or _is_damaged_one_of(entry, *runs) or _is_copy_of_best(entry)


def _is_copy_of_best(entry: Path) -> bool:
    """Return whether it is ``best.ckpt`` as a copy of a checkpoint next to it, not a link (as after ``scp -r``)."""
    if entry.name != BEST or not is_plain_file(entry):
        return False
    return any(_same_bytes(entry, file) for file in named_steps(entry.parent))


def _same_bytes(one: Path, other: Path) -> bool:
    """Return whether two files have the same content."""
    return one.stat().st_size == other.stat().st_size and file_hash(one) == file_hash(other)


def _is_damaged_one_of(entry: Path, *runs: str | None) -> bool:
    """Return whether one of the runs wrote a file of this name, and its content or manifest has changed since."""
    if not is_plain_file(entry) or not is_plain_file(Manifest.path_of(entry)):
        return False
    try:
        manifest = Manifest.read(entry)
    except DamagedCheckpointError:
        return True
    return manifest is not None and manifest.run in runs and not is_written_by(entry, *runs)


def manifest_or_none(entry: Path) -> Manifest | None:
    """Return the manifest of a checkpoint; None if it is missing or damaged, or the entry is a link or folder."""
    try:
        return Manifest.read(entry) if is_plain_file(entry) else None
    except DamagedCheckpointError:
        return None


def _is_in_the_way(entry: Path, last: int) -> bool:
    step = step_of(entry)
    if step is None or step <= last:
        return True
    if not entry.is_file():
        return False
    try:
        if verify(entry) is None:
            read_without_manifest(entry)
    except (ValueError, OSError):
        return False
    return True


def _refusal(entries: list[Path]) -> str:
    return (
        f"output.base_dir holds files in place of those that this run would write, and nothing shows that it wrote "
        f"them: {format_paths(entries)}. They are not replaced: move them away, or choose another folder"
    )
