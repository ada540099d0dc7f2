"""A cache is only read by its owner, never if others could have written it, and is verified by its checksums."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import cache_files, cache_location, disk_cache, verification
from diffusion_lab.data.cache_files import CheckedWriter, first_damaged_block
from diffusion_lab.data.cache_location import CacheLocation
from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.decoded import DecodedSource
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.source import Subset
from diffusion_lab.data.verification import DamagedCacheError

ANOTHER_USER = 54_321


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 7, 9)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def folder(images: Path) -> ImageFolderSource:
    return ImageFolderSource(images, 8, 3)


def cached(images: Path, base: Path) -> tuple[DecodedSource, Path, list[str]]:
    """Return the images, the folder of their cache, and the messages."""
    messages: list[str] = []
    place = CacheLocation.from_source(folder(images), base)
    return cached_on_disk(folder(images), base, messages.append), place.cache, messages


def firsts(source: DecodedSource) -> list[int]:
    """Red of each image."""
    return [int(source.load(index, None)[0, 0, 0]) for index in range(len(source))]


TRUE = [0, 40, 80, 120, 160, 200]


def forge(cache: Path) -> None:
    """Make all images black, with checksums that fit."""
    pixels = np.zeros((cache / "pixels.bin").stat().st_size, np.uint8)
    (cache / "pixels.bin").write_bytes(pixels.tobytes())
    with (cache.parent / "unused").open("wb") as unused:
        writer = CheckedWriter(unused)
        writer.write(pixels.data)
    (cache.parent / "unused").unlink()
    about = cache_files.read_about(cache)
    np.save(cache / "checks.npy", writer.checks())
    cache_files.write_about(cache, {key: value for key, value in about.items() if key != "sha256"})


def test_forged_cache_of_the_same_user_is_used(images, tmp_path):
    """Assumption of the tests below: only owner and permissions reveal a planted cache."""
    _, cache, _ = cached(images, tmp_path / "caches")
    forge(cache)
    assert firsts(cached(images, tmp_path / "caches")[0]) == [0] * 6


@pytest.mark.parametrize("name", ["pixels.bin", "about.json", "checks.npy", "corrupt.npy", "hashes.npy"])
def test_a_cache_that_others_may_write_is_not_used(images, tmp_path, name):
    _, cache, _ = cached(images, tmp_path / "caches")
    forge(cache)
    (cache / name).chmod(0o666)
    source, again, messages = cached(images, tmp_path / "caches")
    assert again == cache
    assert firsts(source) == TRUE
    assert any(str(cache / name) in line and "not used" in line for line in messages)
    assert (cache / name).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def as_another_user(monkeypatch):
    """Make this process act as another user from here on."""
    files: set[int] = set()
    real_fstat, real_stat, real_lstat = os.fstat, os.stat, os.lstat

    def shifted(state: os.stat_result) -> os.stat_result:
        return os.stat_result([*state[:4], state.st_uid + ANOTHER_USER, *state[5:]]) if state.st_ino in files else state

    def begin(base: Path) -> None:
        for place in (base, *base.rglob("*")):
            files.add(real_lstat(place).st_ino)
        monkeypatch.setattr(os, "fstat", lambda descriptor: shifted(real_fstat(descriptor)))
        monkeypatch.setattr(os, "stat", lambda *given, **options: shifted(real_stat(*given, **options)))
        monkeypatch.setattr(os, "lstat", lambda *given, **options: shifted(real_lstat(*given, **options)))

    return begin


def test_the_cache_of_another_user_is_not_used_and_two_users_share_a_folder(images, tmp_path, as_another_user):
    base = tmp_path / "caches"
    _, planted, _ = cached(images, base)
    forge(planted)
    base.chmod(0o1777)
    as_another_user(base)
    source, cache, _ = cached(images, base)
    assert firsts(source) == TRUE
    assert cache.parent == planted.parent.with_name(f"{planted.parent.name}-{os.geteuid()}")
    assert planted.exists()
    assert cached(images, base)[2] == []  # it is found again


def test_folder_of_another_user_in_place_of_the_own_one_is_an_error(images, tmp_path, as_another_user):
    base = tmp_path / "caches"
    _, planted, _ = cached(images, base)
    planted.parent.with_name(f"{planted.parent.name}-{os.geteuid()}").mkdir()
    as_another_user(base)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cached(images, base)


def test_a_folder_that_others_may_write_is_closed_to_them(images, tmp_path):
    base = tmp_path / "caches"
    _, cache, _ = cached(images, base)
    cache.parent.chmod(0o777)
    (images / "0.png").unlink()
    cached(images, base)
    assert cache.parent.stat().st_mode & 0o777 == 0o755


def test_a_file_system_without_permissions_is_refused_before_anything_is_decoded(images, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_location, "is_private", lambda state: False)
    with pytest.raises(OSError, match="keeps neither owners nor permissions"):
        cached_on_disk(folder(images), tmp_path / "caches", progress=lambda *_: pytest.fail("decoded"))


def test_a_cache_moved_into_the_place_of_another_is_not_used(images, tmp_path):
    _, cache, _ = cached(images, tmp_path / "caches")
    forge(cache)
    (images / "0.png").unlink()
    other = CacheLocation.from_source(folder(images), tmp_path / "caches").cache
    cache.rename(other)
    assert firsts(cached(images, tmp_path / "caches")[0]) == TRUE[1:]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_lock_that_is_not_a_file_never_blocks(images, tmp_path, kind):
    place = CacheLocation.from_source(folder(images), tmp_path / "caches")
    place.folder.mkdir(parents=True, mode=0o700)
    if kind == "pipe":
        os.mkfifo(place.folder / ".lock")
        assert firsts(cached(images, tmp_path / "caches")[0]) == TRUE
    else:
        (place.folder / ".lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="lock"):
            cached(images, tmp_path / "caches")
        assert not (tmp_path / "elsewhere").exists()


def test_shrinking_file_is_an_error_not_a_crash(images, tmp_path):
    source, cache, _ = cached(images, tmp_path / "caches")
    with (cache / "pixels.bin").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ValueError, match=r"6 decoded images must be 1152 bytes, got 10 in .*pixels\.bin"):
        source.load_batch(np.arange(6), None)


@pytest.fixture
def verified_in_background(monkeypatch):
    """Every cache counts as large; its comparison waits for the event."""
    may_begin = threading.Event()
    real = verification.open_private

    def opened(file: Path) -> BinaryIO:
        assert may_begin.wait(60)
        return real(file)

    monkeypatch.setattr(disk_cache, "SMALL", 0)
    monkeypatch.setattr(verification, "open_private", opened)
    monkeypatch.setattr(verification, "_verified", set())
    return may_begin


def test_damaged_large_cache_is_detected_while_training(images, tmp_path, verified_in_background):
    _, cache, _ = cached(images, tmp_path / "caches")
    (255 - np.fromfile(cache / "pixels.bin", np.uint8)).tofile(cache / "pixels.bin")
    source, _, messages = cached(images, tmp_path / "caches")
    data = ImageDataModule(Subset(source, [0, 1, 2, 3]), Subset(source, [4, 5]), 2)
    batches = iter(data.train_dataloader())
    data.on_after_batch_transfer(next(batches), 0)  # nothing is known yet
    verified_in_background.set()
    with pytest.raises(DamagedCacheError, match=r"data\.paths\.train: the cached images in .* are not those"):
        data.teardown("fit")
    with pytest.raises(DamagedCacheError):
        data.on_after_batch_transfer(next(batches), 0)
    assert messages == []
    assert not cache.exists()
    assert firsts(cached(images, tmp_path / "caches")[0]) == TRUE


def test_intact_cache_is_verified_once_per_process(images, tmp_path, verified_in_background, monkeypatch):
    verified_in_background.set()
    cached(images, tmp_path / "caches")
    for _ in range(2):
        source = cached(images, tmp_path / "caches")[0]
        source.raise_if_damaged(wait=True)
        monkeypatch.setattr(verification, "first_damaged_block", lambda *_: pytest.fail("again"))


def test_unreadable_pixels_count_as_damaged(images, tmp_path, verified_in_background):
    cached(images, tmp_path / "caches")
    source, cache, _ = cached(images, tmp_path / "caches")
    (cache / "pixels.bin").chmod(0o666)  # by now somebody else may have written it
    verified_in_background.set()
    with pytest.raises(DamagedCacheError):
        source.raise_if_damaged(wait=True)


@pytest.mark.parametrize("size", [1, 9, 10, 11, 20, 35])
@pytest.mark.parametrize("piece", [1, 3, 10, 64])
def test_checksums_find_every_changed_byte(tmp_path, monkeypatch, size, piece):
    monkeypatch.setattr(cache_files, "BLOCK", 10)
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    with (tmp_path / "pixels").open("wb") as stream:
        writer = CheckedWriter(stream)
        for start in range(0, size, piece):
            writer.write(content[start : start + piece].data)
    with (tmp_path / "pixels").open("r+b") as stream:
        assert first_damaged_block(stream.fileno(), writer.checks()) is None
        for place in range(size):
            os.pwrite(stream.fileno(), bytes([content[place] ^ 64]), place)
            assert first_damaged_block(stream.fileno(), writer.checks()) == place // 10
            os.pwrite(stream.fileno(), bytes([content[place]]), place)


def test_spawned_worker_checks_the_owner(images, tmp_path):
    source, cache, _ = cached(images, tmp_path / "caches")
    state = source.__getstate__()
    (cache / "pixels.bin").chmod(0o666)
    with pytest.raises(cache_files.UntrustedCacheError):
        DecodedSource.__new__(DecodedSource).__setstate__(state)
