"""Cached images equal those without a cache, whatever happens to the folder, the cache and its builders."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import cache_location, disk_cache
from diffusion_lab.data.datamodule import BatchDataset
from diffusion_lab.data.decoded import decode_in_memory
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.order import EpochOrder
from diffusion_lab.data.source import Subset

SIZES = ((20, 12), (12, 20), (9, 9), (8, 8), (500, 300), (5, 200), (8, 30))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Noise of many sizes, in two classes, and one file of each class that is corrupt."""
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        file = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    for name in ("cat/3.png", "dog/2.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no picture")
    return tmp_path / "images"


def folder(path: Path, **options: object) -> ImageFolderSource:
    return ImageFolderSource(path, **{"image_size": 8, "channels": 3, **options})  # type: ignore[arg-type]


def checked(path: Path, **options: object) -> ImageFolderSource:
    """Return the images without a cache."""
    source = folder(path, **options)
    quietly(source.check)
    return source


def quietly(task, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return task(*arguments, **options)


def epoch(source) -> bytes:
    """All images of an epoch, as its batches have them."""
    dataset = BatchDataset(source, labelled=True, training=True)
    batches = [dataset.__getitems__(draw) for draw in EpochOrder(len(source), 3, seed=5)]
    return b"".join(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes() for batch in batches)


@pytest.mark.parametrize("options", [{}, {"crop": "random"}, {"channels": 1, "image_size": 5}, {"class_names": ()}])
@pytest.mark.parametrize("way", ["memory", "built", "opened"])
def test_every_cache_gives_the_same_images_as_without(images, tmp_path, options, way):
    plain = checked(images, **options)
    if way == "memory":
        cached = quietly(decode_in_memory, folder(images, **options))
    for _ in range({"memory": 0, "built": 1, "opened": 2}[way]):
        cached = quietly(cached_on_disk, folder(images, **options), tmp_path / "caches")
    assert (cached.labels.tolist(), cached.class_names) == (plain.labels.tolist(), plain.class_names)
    for index in range(len(plain)):
        np.testing.assert_array_equal(cached.load(index, None), plain.load(index, None))
    assert epoch(cached) == epoch(plain)
    assert cached.fingerprint() == plain.fingerprint()
    assert Subset(cached, [2, 0]).fingerprint() == Subset(plain, [2, 0]).fingerprint()
    np.testing.assert_array_equal(Subset(cached, [2, 0]).load_batch(np.array([1]), None)[0], plain.load(0, None))


def test_random_crops_differ_from_epoch_to_epoch(images, tmp_path):
    cached = quietly(cached_on_disk, folder(images, crop="random"), tmp_path)
    batches = {cached.load_batch(np.arange(7), np.random.default_rng(seed)).tobytes() for seed in range(5)}
    assert len(batches) == 5


def built(images: Path, base: Path, **options: object) -> tuple[Path, list[str]]:
    """Return the folder of the only cache of these images, and the messages."""
    messages: list[str] = []
    source = folder(images, **options)
    place = cache_location.CacheLocation.from_source(source, base)
    quietly(cached_on_disk, source, base, messages.append)
    return place.cache, messages


def test_a_second_run_decodes_nothing(images, tmp_path, monkeypatch):
    cache, messages = built(images, tmp_path / "caches")
    assert f"data.paths.train: decoding 9 images once, 0.0 MB in {cache}" in messages
    for broken in ("cat/3.png", "dog/2.jpg"):
        (images / broken).unlink()
    built(images, tmp_path / "caches")
    monkeypatch.setattr(ImageFolderSource, "decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFolderSource, "content", lambda *_: pytest.fail("read"))
    assert built(images, tmp_path / "caches")[1] == []


def change(images: Path, how: str) -> None:
    file = images / "cat" / "0.png"
    if how == "touched":
        os.utime(file, ns=(1, 1))
    elif how == "renamed":
        file.rename(images / "cat" / "9.png")
    elif how == "added":
        Image.new("RGB", (9, 9)).save(images / "cat" / "new.png")
    elif how == "removed":
        file.unlink()
    elif how == "same size and time":
        stamp, content = file.stat(), bytearray(file.read_bytes())
        content[-1] ^= 1  # of the last checksum, which Pillow does not read
        file.write_bytes(content)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif how == "moved":
        file.rename(images / "dog" / "0.png")
    else:
        stamp = file.stat()
        Image.new("RGB", (9, 9)).save(file)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize(
    "how", ["touched", "renamed", "added", "removed", "moved", "another size", "same size and time"]
)
def test_changed_folder_is_decoded_again_and_its_old_cache_removed(images, tmp_path, how):
    old, _ = built(images, tmp_path / "caches")
    change(images, how)
    new, messages = built(images, tmp_path / "caches")
    assert new != old
    assert not old.exists()
    assert any(str(old) in line and "removed" in line for line in messages)
    assert epoch(quietly(cached_on_disk, folder(images), tmp_path / "caches")) == epoch(checked(images))


@pytest.mark.parametrize("option", [{"image_size": 4}, {"channels": 1}, {"crop": "random"}, {"background": "black"}])
def test_other_settings_have_their_own_cache_and_are_reported(images, tmp_path, option):
    first, _ = built(images, tmp_path)
    second, messages = built(images, tmp_path, **option)
    assert first.exists()
    assert second.exists()
    assert first != second
    assert any("1 cache(s) of the same images with other settings" in line for line in messages)


def test_corrupt_files_are_named_in_every_run_and_fatal_on_request(images, tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"2 corrupt image\(s\) skipped(?s:.*)3\.png(?s:.*)2\.jpg"):
            cached_on_disk(folder(images), tmp_path)
    for base in (tmp_path, tmp_path / "another"):  # from a cache, and before there is one
        with pytest.raises(ValueError, match=r"2 corrupt image\(s\), and data\.on_corrupt = error(?s:.*)3\.png"):
            cached_on_disk(folder(images, on_corrupt="error"), base)


def test_temporarily_unreadable_file_is_used_again(images, tmp_path, monkeypatch):
    real = ImageFolderSource.content_and_decode

    def content_and_decode(self, index):
        if self.paths[index].name == "0.png":
            raise OSError(5, "Input/output error")
        return real(self, index)

    with monkeypatch.context() as broken:
        broken.setattr(ImageFolderSource, "content_and_decode", content_and_decode)
        assert len(quietly(cached_on_disk, folder(images), tmp_path)) == 6
    again = quietly(cached_on_disk, folder(images), tmp_path)
    assert epoch(again) == epoch(checked(images))


def test_a_folder_of_only_corrupt_files_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 images"):
        cached_on_disk(folder(tmp_path / "images"), tmp_path / "caches")
    assert [file.name for file in (tmp_path / "caches").rglob("*") if file.is_file()] == [".lock"]


def damage(cache: Path, how: str) -> None:
    if how == "no pixels":
        (cache / "pixels.bin").unlink()
    elif how == "cut":
        with (cache / "pixels.bin").open("r+b") as file:
            file.truncate(100)
    elif how == "empty":
        (cache / "pixels.bin").write_bytes(b"")
    elif how in ABOUTS:
        (cache / "about.json").write_bytes(ABOUTS[how])
    elif how == "other words":
        about = json.loads((cache / "about.json").read_text())
        (cache / "about.json").write_text(json.dumps({**about, "fingerprint": "0" * 64}))
    elif how in ("inverted", "one bit"):
        pixels = np.fromfile(cache / "pixels.bin", np.uint8)
        pixels[-1] ^= 1 if how == "one bit" else 255
        (255 - pixels if how == "inverted" else pixels).tofile(cache / "pixels.bin")
    elif how.startswith("pipe "):
        (cache / how.removeprefix("pipe ")).unlink()
        os.mkfifo(cache / how.removeprefix("pipe "))
    elif how.startswith("endless "):
        (cache / how.removeprefix("endless ")).unlink()
        (cache / how.removeprefix("endless ")).symlink_to("/dev/zero")
    else:
        (cache / f"{how.removeprefix('zeros ')}").write_bytes(b"\0" * 9)


ABOUTS = {
    "no words": b"{}",
    "list": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "no utf-8": b"\xff\xfe\x00",
    "huge": b" " * 2**21,
}
FILES = ("pixels.bin", "about.json", "corrupt.npy", "checks.npy", "hashes.npy")


@pytest.mark.parametrize(
    "how",
    [
        *("no pixels", "cut", "empty", *ABOUTS, "other words", "inverted", "one bit"),
        *(f"{kind} {name}" for kind in ("zeros", "pipe", "endless") for name in FILES),
    ],
)
def test_damaged_cache_is_re_created(images, tmp_path, how):
    cache, _ = built(images, tmp_path)
    damage(cache, how)
    assert epoch(quietly(cached_on_disk, folder(images), tmp_path)) == epoch(checked(images))
    assert json.loads((cache / "about.json").read_text())["images"] == 7


def decode_slowly(images: Path, base: Path) -> None:
    def report(done: int, total: int) -> None:
        if done == 4:
            (base / "midway").touch()
            time.sleep(60)

    quietly(cached_on_disk, folder(images), base, progress=report)


def test_killed_builder_leaves_no_cache_that_counts_as_complete(images, tmp_path):
    base = tmp_path / "caches"
    base.mkdir()
    builder = multiprocessing.get_context("fork").Process(target=decode_slowly, args=(images, base))
    builder.start()
    wait_for(base / "midway")
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(base.glob("*/.partial-*/pixels.bin"))
    assert epoch(quietly(cached_on_disk, folder(images), base)) == epoch(checked(images))
    assert not list(base.glob("*/.partial-*"))


BUILD = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from diffusion_lab.data.disk_cache import cached_on_disk
from diffusion_lab.data.image_folder import ImageFolderSource
calls = []
source = ImageFolderSource(Path(sys.argv[1]), 8, 3)
cached = cached_on_disk(source, Path(sys.argv[2]), progress=lambda *progress: calls.append(progress))
print(len(calls) > 0, cached.fingerprint())
"""


def test_only_one_of_several_processes_decodes(images, tmp_path):
    command = [sys.executable, "-c", BUILD, str(images), str(tmp_path / "caches")]
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(3)]
        outputs = [run.communicate()[0].split() for run in runs]
    assert sorted(decoded for decoded, _ in outputs) == ["False", "False", "True"]
    assert {fingerprint for _, fingerprint in outputs} == {checked(images).fingerprint()}


def test_without_locks_the_first_cache_stays(images, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache_location.fcntl, "lockf", no_locks)
    inner: list[Path] = []

    def meanwhile(done: int, total: int) -> None:
        if done == 1 and not inner:  # another process comes and is faster
            inner.append(built(images, tmp_path / "caches")[0])
            (inner[0] / "mark").touch()

    slower = quietly(cached_on_disk, folder(images), tmp_path / "caches", progress=meanwhile)
    assert epoch(slower) == epoch(checked(images))
    assert (inner[0] / "mark").exists()
    assert not list((tmp_path / "caches").glob("*/.partial-*"))


def test_too_small_disk_is_detected_before_decoding(images, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"0\.0 MB are needed in .* and 0\.0 MB are free"):
        cached_on_disk(folder(images), tmp_path, progress=lambda *_: pytest.fail("decoded"))


def test_too_little_memory_is_reported_before_decoding(images, monkeypatch):
    monkeypatch.setattr("diffusion_lab.data.decoded.host_memory", lambda: 10)
    with pytest.raises(ValueError, match=r"data\.cache = memory takes .*: take data\.cache = disk"):
        decode_in_memory(folder(images), lambda *_: pytest.fail("decoded"))


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """100 MB of pixels; a tenth of that would mean that images are kept."""
    (tmp_path / "images").mkdir()
    for number in range(128):
        Image.new("L", (1, 1), number).save(tmp_path / "images" / f"{number:03}.png")
    source = folder(tmp_path / "images", image_size=512)
    tracemalloc.start()
    cached = cached_on_disk(source, tmp_path / "caches")
    for draw in EpochOrder(len(cached), 2, seed=0):
        cached.load_batch(np.array(draw.indices), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "caches").exists()
    assert sum(file.stat().st_size for file in (tmp_path / "caches").rglob("pixels.bin")) > 100e6
    assert peak < 40e6
    assert cached.load(127, None)[0, 0, 0] == 127


def test_spawned_worker_maps_the_images_itself(images, tmp_path):
    cached = quietly(cached_on_disk, folder(images, image_size=64), tmp_path)
    sent = pickle.dumps(cached)
    assert len(sent) < 3 * 64 * 64
    assert epoch(pickle.loads(sent)) == epoch(cached)
    kept = quietly(decode_in_memory, folder(images))
    assert epoch(pickle.loads(pickle.dumps(kept))) == epoch(kept)


def wait_for(file: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
