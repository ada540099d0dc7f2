"""Which files of a checkpoint folder a run may remove or replace: those that it wrote itself, as their manifests say.

Whatever else lies in the folder stays as it is: checkpoints of the user's own naming, copies, checkpoints whose
manifest was lost, folders and links. What would have to be replaced is refused by name before a run writes anything.
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
    read_unlisted,
    step_of,
    verify,
)
from diffusion_lab.terminal import printable

SET_ASIDE = ".damaged"
"""Ending that a damaged checkpoint of a run gets when the run writes that step again."""


def is_written_by(file: Path, *runs: str | None) -> bool:
    """Return whether a file is a checkpoint that one of these runs wrote, unchanged since: its manifest says both."""
    if not is_plain_file(file):
        return False
    try:
        manifest = verify(file)
    except (DamagedCheckpointError, OSError):
        return False
    return manifest is not None and manifest.run in runs


def is_own_link(best: Path) -> bool:
    """Return whether ``best.ckpt`` is a link as a run makes it: to a checkpoint of a step beside it."""
    return best.name == BEST and best.is_symlink() and STEP_NAME.fullmatch(os.readlink(best)) is not None


def is_plain_file(file: Path) -> bool:
    """Return whether something is a regular file itself, not a link to one."""
    return file.is_file() and not file.is_symlink()


def blocking_entries(folder: Path, run: str | None, first: int, last: int) -> list[Path]:
    """Return what a run must not replace at the places of the checkpoints it will write.

    Those are the steps after ``first`` up to ``last``, and ``best.ckpt``. A whole checkpoint of a still later step is
    in the way as well: it would be taken for the newest of the run.

    Args:
        folder: Of the checkpoints; it need not exist.
        run: Id of the run.
        first: Optimizer steps done when the run begins to write.
        last: Optimizer steps done at its end.
    """
    found = [entry for entry in _named_as_ours(folder) if (step_of(entry) or 0) > first or entry.name == BEST]
    checkpoints = [entry for entry in found if not may_replace(entry, run) and _stands_in_the_way(entry, last)]
    return [*checkpoints, *(place for step, place in _blocked_manifests(folder) if first < step <= last)]


def not_replaceable(folder: Path, earlier: Collection[str | None]) -> list[Path]:
    """Return the checkpoints that a run which begins anew in the folder of ``earlier`` runs must not remove."""
    checkpoints = [entry for entry in _named_as_ours(folder) if not may_replace(entry, *earlier)]
    return [*checkpoints, *(place for _, place in _blocked_manifests(folder))]


def unrecognized_entries(folder: Path, run: str | None) -> list[Path]:
    """Return what is called a checkpoint in the folder and, as far as its manifest says, is not of this run."""
    found = [entry for entry in sorted(folder.glob("*.ckpt")) if not is_own_link(entry) and not _is_copy_of_best(entry)]
    return [entry for entry in found if (manifest := listed(entry)) is None or manifest.run != run]


def remove_checkpoint(file: Path) -> None:
    """Remove a checkpoint and its manifest."""
    file.unlink(missing_ok=True)
    Manifest.place(file).unlink(missing_ok=True)


def make_way(entry: Path, *runs: str | None) -> Path | None:
    """Prepare the place of a checkpoint for one that replaces what ``runs`` wrote there.

    What they wrote stays until it is replaced, but without its manifest, which is about to tell of other bytes. A
    damaged one of theirs is moved aside, bytes and all, and its new place returned.

    Raises:
        FileExistsError: Something else is there.
    """
    place = Manifest.place(entry)
    if not os.path.lexists(entry):
        if os.path.lexists(place) and not is_plain_file(place):
            raise FileExistsError(_refusal([place]))
        place.unlink(missing_ok=True)  # a leftover: it tells of a file that is gone
        return None
    if not may_replace(entry, *runs):
        raise FileExistsError(_refusal([entry]))
    aside = None
    if _is_damaged_one_of(entry, *runs):
        aside = _free_name(entry)
        entry.rename(aside)
    place.unlink(missing_ok=True)
    return aside


def _free_name(damaged: Path) -> Path:
    names = (damaged.with_name(f"{damaged.name}{SET_ASIDE}{number or ''}") for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def adopt(file: Path, run_of_folder: str | None, run: str | None) -> bool:
    """Verify a checkpoint of a step that has no manifest by its own checksums, and give it one.

    The manifest names the run only if both the content and the folder are of that run. What was copied into the folder
    from elsewhere is named to no run, so that none ever removes it.

    Args:
        file: The checkpoint.
        run_of_folder: Id in the status of the run folder, None where it tells none.
        run: Id of the run that goes on.

    Returns:
        Whether it had no manifest.
    """
    if step_of(file) is None or Manifest.of(file) is not None:
        return False
    about = read_unlisted(file)
    known = run if run is not None and run == run_of_folder == about.get("run_id") else None
    config_hash = about["config_hash"] if isinstance(about.get("config_hash"), str) else None
    Manifest(step_of(file), file.stat().st_size, file_hash(file), config_hash, known).write(file)
    return True


def listed_names(files: Sequence[Path]) -> str:
    """Return the paths in words, at most five of them, safe to print."""
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return printable(", ".join(map(str, files[:5])) + more)


def refuse(entries: list[Path]) -> None:
    """Raise ValueError that names what is in the way, if anything is."""
    if entries:
        raise ValueError(_refusal(entries))


def _named_as_ours(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.glob("*.ckpt")):
        if STEP_NAME.fullmatch(entry.name) or entry.name == BEST:
            yield entry


def _blocked_manifests(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the links and folders at the places of manifests, with their steps."""
    for place in sorted(folder.glob("step_*.manifest.json")):
        step = step_of(place.with_name(place.name.replace(".manifest.json", ".ckpt")))
        if step is not None and not is_plain_file(place):
            yield step, place


def may_replace(entry: Path, *runs: str | None) -> bool:
    """Return whether what is at the place of a checkpoint may give way: one of these runs wrote it."""
    if entry.is_symlink():
        return is_own_link(entry)
    return is_written_by(entry, *runs) or _is_damaged_one_of(entry, *runs) or _is_copy_of_best(entry)


def _is_copy_of_best(entry: Path) -> bool:
    """Whether it is ``best.ckpt`` as a file (no links there, or copied with ``scp -r``) of a checkpoint beside it."""
    if entry.name != BEST or not is_plain_file(entry):
        return False
    return any(_same_bytes(entry, file) for file in named_steps(entry.parent))


def _same_bytes(one: Path, other: Path) -> bool:
    """Return whether two files hold the same."""
    return one.stat().st_size == other.stat().st_size and file_hash(one) == file_hash(other)


def _is_damaged_one_of(entry: Path, *runs: str | None) -> bool:
    """Whether one of the runs wrote a file of this name, whose bytes, or whose manifest, changed since."""
    if not is_plain_file(entry) or not is_plain_file(Manifest.place(entry)):
        return False
    try:
        manifest = Manifest.of(entry)
    except DamagedCheckpointError:
        return True
    return manifest is not None and manifest.run in runs and not is_written_by(entry, *runs)


def listed(entry: Path) -> Manifest | None:
    """Return the manifest of a checkpoint; None for what has none, or a damaged one, or is a link or folder."""
    try:
        return Manifest.of(entry) if is_plain_file(entry) else None
    except DamagedCheckpointError:
        return None


def _stands_in_the_way(entry: Path, last: int) -> bool:
    step = step_of(entry)
    if step is None or step <= last:
        return True
    if not entry.is_file():
        return False
    try:
        if verify(entry) is None:
            read_unlisted(entry)
    except (ValueError, OSError):
        return False
    return True


def _refusal(entries: list[Path]) -> str:
    return (
        f"output.base_dir holds files at places where this run would write, and nothing shows that it wrote them: "
        f"{listed_names(entries)}. They are not replaced: move them away, or choose another folder"
    )
