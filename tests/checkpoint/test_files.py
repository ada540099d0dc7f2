"""Finding, verifying and writing checkpoint files."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.checkpoint import DamagedCheckpointError, Manifest, file_hash, find_checkpoint, load_denoiser, verify
from diffusion_lab.checkpoint.files import newest_valid, step_name, step_of
from diffusion_lab.files.writing import atomic_write
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO
from tests.checkpoint.contents import AVERAGED, own_format, same


@pytest.fixture
def step(tmp_path: Path) -> Callable[[int], Path]:
    """Save a checkpoint of a step, with its manifest."""

    def save(number: int, folder: str = "run/checkpoints") -> Path:
        path = tmp_path / folder / step_name(number)
        AtomicCheckpointIO().save_checkpoint(own_format(step=number, config_hash="abc"), path)
        return path

    return save


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_manifest_describes_the_file(step) -> None:
    path = step(70)
    manifest = verify(path)
    assert manifest == Manifest(step=70, size=path.stat().st_size, sha256=file_hash(path), config_hash="abc")
    assert Manifest.read(path) == manifest


def test_newest_is_the_latest_step_not_the_last_written(step, tmp_path) -> None:
    late, early = step(1000), step(99)
    assert newest_valid(late.parent) == late
    assert find_checkpoint(tmp_path / "run", "last") == late
    assert find_checkpoint(early) == early


def test_without_manifest_a_checkpoint_is_verified_by_its_own_checksums(step, tmp_path) -> None:
    listed, unlisted = step(5), step(6)
    Manifest.path_of(unlisted).unlink()
    assert find_checkpoint(tmp_path / "run", "last") == unlisted
    flip(unlisted, 4000)
    with pytest.warns(UserWarning, match=r"step_00000006.* damaged.* an earlier checkpoint is used instead"):
        assert find_checkpoint(tmp_path / "run", "last") == listed


def test_without_manifest_the_content_must_match_the_step_in_the_name(step, tmp_path) -> None:
    listed = step(5)
    (listed.parent / step_name(99)).write_bytes(listed.read_bytes())
    (listed.parent / step_name(98)).write_text("something else")
    with pytest.warns(UserWarning, match="an earlier checkpoint is used instead") as warned:
        assert find_checkpoint(tmp_path / "run", "last") == listed
    messages = [str(warning.message) for warning in warned]
    assert "its content is that of step 5" in messages[0]
    assert "step_00000098.ckpt is not a checkpoint" in messages[1]


@pytest.mark.parametrize(
    "content", [b"null", b"[1]", b"text", b'"\xff"', b"[" * 100_000, b'{"step": 5, "size": "x", "sha256": 1}']
)
def test_invalid_manifest_is_damage(step, content) -> None:
    path = step(5)
    Manifest.path_of(path).write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is damaged"):
        verify(path)


def test_manifest_that_is_not_a_file_is_damage(step) -> None:
    path = step(5)
    Manifest.path_of(path).unlink()
    os.mkfifo(Manifest.path_of(path))
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json is damaged"):
        verify(path)


def test_folder_named_like_a_checkpoint_is_ignored(step, tmp_path) -> None:
    path = step(5)
    for name in ("step_x.ckpt", step_name(7)):
        (path.parent / name).mkdir()
    assert find_checkpoint(tmp_path / "run", "last") == path
    with pytest.raises(FileNotFoundError, match="holds no valid checkpoint"):
        find_checkpoint(path.parent / step_name(7))


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "manifest", "other step"])
def test_damaged_newest_is_reported_and_the_previous_one_is_used(step, tmp_path, harm) -> None:
    whole, damaged = step(5), step(6)
    if harm == "flip":
        flip(damaged, 4000)
    elif harm == "cut":
        os.truncate(damaged, 4000)
    elif harm == "empty":
        damaged.write_bytes(b"")
    elif harm == "manifest":
        Manifest.path_of(damaged).write_text("{")
    else:
        manifest = json.loads(Manifest.path_of(damaged).read_text())
        Manifest.path_of(damaged).write_text(json.dumps({**manifest, "step": 7}))
    with pytest.warns(UserWarning, match=r"step_00000006.* damaged.* an earlier checkpoint is used instead"):
        assert find_checkpoint(tmp_path / "run", "last") == whole
    with pytest.raises(DamagedCheckpointError, match="step_00000006"):
        load_denoiser(damaged)


def test_every_flipped_bit_and_truncation_is_detected(step) -> None:
    """A hundred random positions and both ends are tried."""
    path = step(5)
    whole = path.read_bytes()
    draw = random.Random(0)
    places = [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(100))]
    for number, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged if number % 3 else whole[:place])
        os.utime(path, ns=(number, number))  # written within one tick of the clock, a file may look unchanged
        with pytest.raises(DamagedCheckpointError):
            verify(path)


def test_damaged_best_link_is_skipped(step, tmp_path) -> None:
    best, last = step(5), step(6)
    (best.parent / "best.ckpt").symlink_to(best.name)
    assert find_checkpoint(tmp_path / "run").resolve() == best
    assert find_checkpoint(tmp_path / "run", "last") == last
    assert same(load_denoiser(tmp_path / "run"), AVERAGED)
    flip(best, 4000)
    with pytest.warns(UserWarning, match=r"step_00000005|best\.ckpt"):
        assert find_checkpoint(tmp_path / "run") == last


def test_best_alone_also_counts_as_last(saved, tmp_path) -> None:
    best = saved(own_format(), "run/checkpoints/best.ckpt")
    assert find_checkpoint(tmp_path / "run", "last") == best


def test_unrelated_manifest_next_to_a_file_is_ignored(saved) -> None:
    path = saved(own_format(), "model.ckpt")
    path.with_suffix(".json").write_text("[]")
    assert verify(path) is None
    assert same(load_denoiser(path), AVERAGED)


def test_checkpoints_are_found_in_a_subfolder_of_any_name(step, tmp_path) -> None:
    last = step(3, "run/weights")
    assert find_checkpoint(str(tmp_path / "run")) == last


def test_a_folder_without_checkpoints_says_so(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no valid checkpoint"):
        find_checkpoint(tmp_path)


def test_step_names_sort_and_parse() -> None:
    assert [step_of(Path(step_name(step))) for step in (0, 230, 10**9)] == [0, 230, 10**9]
    assert step_of(Path("best.ckpt")) is None
    assert step_of(Path("step_12.ckpt")) is None


def test_file_gets_its_name_only_when_complete(tmp_path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(target) as partial:
            partial.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hash_is_that_of_the_bytes(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
