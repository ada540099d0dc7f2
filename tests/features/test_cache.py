"""Cache of features: computed once, private to the user, atomic, and recomputed if damaged."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffusion_lab.data.digits import digits
from diffusion_lab.data.source import ArraySource, Subset
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.features import cached_features, create_extractor, extract, find_or_compute, open_image_set
from diffusion_lab.features.tensor_cache import cached_tensors

DIGITS = digits()
PIXELS = create_extractor("pixels", source=DIGITS)


class Counting(type(PIXELS)):
    """Pixel extractor that counts the images."""

    def __init__(self):
        super().__init__(8, 1)
        self.count = 0

    def __call__(self, pixels):
        self.count += len(pixels)
        return super().__call__(pixels)


def find(folder, source=DIGITS, extractor=PIXELS):
    """Return the cached features and the reported messages."""
    messages = []
    return find_or_compute(extractor, source, folder, lambda *_: None, report=messages.append), messages


def is_equal(one, other):
    return all(torch.equal(a, b) for a, b in ((one.values, other.values), (one.labels, other.labels))) and (
        one.class_names,
        one.data_fingerprint,
        one.extractor,
    ) == (
        other.class_names,
        other.data_fingerprint,
        other.extractor,
    )


class TestComputedOnce:
    def test_features_are_computed_only_once(self, tmp_path):
        extractor = Counting()
        first, messages = find(tmp_path, extractor=extractor)
        assert (first.was_cached, messages, extractor.count) == (False, [], len(DIGITS))
        second, messages = find(tmp_path, extractor=extractor)
        assert (second.was_cached, messages, extractor.count) == (True, [], len(DIGITS))
        assert first.file == second.file
        assert is_equal(first.features, second.features)
        assert is_equal(second.features, extract(PIXELS, DIGITS))

    def test_images_without_classes_have_no_labels(self, tmp_path):
        source = ArraySource(DIGITS.images[:5], np.zeros(5), ())
        assert find(tmp_path, source)[0].features.labels is None
        assert find(tmp_path, source)[0].features.labels is None

    def test_features_do_not_change_when_the_file_is_overwritten(self, tmp_path):
        find(tmp_path)
        read = find(tmp_path)[0]
        content = read.file.read_bytes()
        with read.file.open("r+b") as file:
            file.write(bytes(len(content)))
        assert is_equal(read.features, extract(PIXELS, DIGITS))

    def test_logits_are_cached(self, tmp_path):
        extractor = create_extractor("efflite0")
        first, second = (cached_features(extractor, Subset(DIGITS, [0, 1]), tmp_path) for _ in range(2))
        assert first.logits.shape == (2, 1000)
        assert torch.equal(first.logits, second.logits)

    @pytest.mark.parametrize("change", ["images", "labels", "order", "extractor"])
    def test_features_of_other_data_are_computed(self, tmp_path, change):
        find(tmp_path)
        images, labels, names = DIGITS.images.copy(), DIGITS.labels.copy(), DIGITS.class_names
        if change == "images":
            images[-1, 0, 0, 0] ^= 1
        if change == "labels":
            labels[0] = (labels[0] + 1) % 10
        if change == "order":
            images, labels = images[::-1].copy(), labels[::-1].copy()
        extractor = create_extractor("pixels", source=open_image_set("digits", 7)) if change == "extractor" else PIXELS
        assert not find(tmp_path, ArraySource(images, labels, names), extractor)[0].was_cached

    def test_the_path_of_the_images_does_not_matter(self, tmp_path):
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            for index in range(3):
                Image.fromarray(DIGITS.images[index, 0]).save(tmp_path / name / f"{index}.png")
        assert not find(tmp_path, open_image_set(tmp_path / "one"))[0].was_cached
        assert find(tmp_path, open_image_set(tmp_path / "other"))[0].was_cached

    def test_a_progress_bar_is_shown_while_computing(self, tmp_path, capsys):
        cached_features(PIXELS, DIGITS, tmp_path)
        assert f"{len(DIGITS)}/{len(DIGITS)}" in capsys.readouterr().err
        cached_features(PIXELS, DIGITS, tmp_path)
        assert not capsys.readouterr().err

    @pytest.mark.filterwarnings("error")
    def test_in_a_notebook_there_is_no_progress_bar_which_would_ask_for_ipywidgets(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        cached_features(PIXELS, DIGITS, tmp_path)
        assert not capsys.readouterr().err


def flip(file: Path, position: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            *(lambda file, position=position: flip(file, position) for position in (0, 0.0005, 0.002, 0.3, 1)),
            lambda file: file.write_bytes(file.read_bytes()[:-1]),
            lambda file: file.write_bytes(b""),
            lambda file: file.write_bytes(b"no tensors at all"),
            lambda file: save_file({"values": torch.zeros(len(DIGITS), 64)}, file),
        ],
    )
    def test_a_damaged_cache_is_reported_and_recomputed(self, tmp_path, damage):
        before, _ = find(tmp_path)
        damage(before.file)
        after, messages = find(tmp_path)
        assert not after.was_cached
        assert len(messages) == 1
        assert "is damaged" in messages[0]
        assert "recomputed" in messages[0]
        assert is_equal(after.features, before.features)
        assert find(tmp_path)[0].was_cached

    def test_a_cache_copied_over_another_is_not_used(self, tmp_path):
        one = find(tmp_path)[0]
        other = find(tmp_path, Subset(DIGITS, [1, 2, 3]))[0]
        other.file.write_bytes(one.file.read_bytes())
        again, messages = find(tmp_path, Subset(DIGITS, [1, 2, 3]))
        assert len(again.features) == 3
        assert messages == [f"{other.file} is the cache of other data: it is recomputed"]

    def test_partial_files_of_a_killed_process_are_removed(self, tmp_path):
        file = find(tmp_path)[0].file
        file.rename(file.with_name(f".{file.name}.0123abcd.partial"))
        assert not find(tmp_path)[0].was_cached
        assert sorted(entry.name for entry in file.parent.iterdir()) == [".lock", file.name]


class TestOwner:
    def test_a_file_writable_by_others_is_not_read(self, tmp_path):
        file = find(tmp_path)[0].file
        file.chmod(0o666)
        again, messages = find(tmp_path)
        assert not again.was_cached
        assert "others may write it" in messages[0]
        assert file.stat().st_mode & 0o777 == 0o600

    def test_the_folder_of_another_user_is_not_used(self, tmp_path, monkeypatch):
        folder = find(tmp_path)[0].file.parent
        monkeypatch.setattr(
            "diffusion_lab.data.cache_location._owner", lambda path: 54321 if path == folder else os.geteuid()
        )
        again, _ = find(tmp_path)
        assert not again.was_cached
        assert again.file.parent == folder.with_name(f"{folder.name}-{os.geteuid()}")

    def test_only_the_owner_can_read_and_write(self, tmp_path):
        file = find(tmp_path)[0].file
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o022 == 0


class TestUnusableFolder:
    def test_a_given_folder_that_cannot_be_used_is_an_error(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"evaluation\.cache_dir cannot be used, got .*file'"):
            cached_features(PIXELS, DIGITS, tmp_path / "file", cache_key="evaluation.cache_dir")

    def test_an_unusable_default_folder_is_a_warning(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(ConfigWarning, match=r"features cannot be cached: .*computed each time \(cache_dir"):
            features = cached_features(PIXELS, DIGITS)
        assert is_equal(features, extract(PIXELS, DIGITS))

    def test_a_full_disk_only_prevents_caching(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

        monkeypatch.setattr("diffusion_lab.features.tensor_cache.save_file", full)
        with pytest.warns(ConfigWarning, match="no space left on device.* not cached"):
            result, _ = find(tmp_path)
        assert result.file is None
        assert is_equal(result.features, extract(PIXELS, DIGITS))


class TestTwoProcesses:
    """With locks, one waits for the other; see tests/faults/test_features.py."""

    def test_without_locks_each_computes_and_the_file_is_complete(self, tmp_path, monkeypatch):
        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "lockf", no_locks)

        def compute():
            inner = cached_tensors("name", {}, lambda: ({"x": torch.ones(2)}, {}), print, tmp_path)  # finishes first
            assert not inner.was_cached
            return {"x": torch.ones(2)}, {}

        assert torch.equal(cached_tensors("name", {}, compute, print, tmp_path).tensors["x"], torch.ones(2))
        assert cached_tensors("name", {}, None, print, tmp_path).was_cached
