"""The cache of features: computed once, never torn, never another user's, and made anew where it is damaged."""

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
    """Pixels, and how many images were asked for."""

    def __init__(self):
        super().__init__(8, 1)
        self.count = 0

    def __call__(self, pixels):
        self.count += len(pixels)
        return super().__call__(pixels)


def found(folder, source=DIGITS, extractor=PIXELS):
    """The cached features, and what was said."""
    said = []
    return find_or_compute(extractor, source, folder, lambda *_: None, say=said.append), said


def same(one, other):
    return all(torch.equal(a, b) for a, b in ((one.values, other.values), (one.labels, other.labels))) and (
        one.class_names,
        one.data_fingerprint,
        one.extractor,
    ) == (
        other.class_names,
        other.data_fingerprint,
        other.extractor,
    )


class TestOnce:
    def test_what_was_computed_is_not_computed_again(self, tmp_path):
        extractor = Counting()
        first, said = found(tmp_path, extractor=extractor)
        assert (first.was_there, said, extractor.count) == (False, [], len(DIGITS))
        second, said = found(tmp_path, extractor=extractor)
        assert (second.was_there, said, extractor.count) == (True, [], len(DIGITS))
        assert first.file == second.file
        assert same(first.features, second.features)
        assert same(second.features, extract(PIXELS, DIGITS))

    def test_images_without_classes_stay_so(self, tmp_path):
        source = ArraySource(DIGITS.images[:5], np.zeros(5), ())
        assert found(tmp_path, source)[0].features.labels is None
        assert found(tmp_path, source)[0].features.labels is None

    def test_what_was_read_does_not_change_with_the_file(self, tmp_path):
        found(tmp_path)
        read = found(tmp_path)[0]
        content = read.file.read_bytes()
        with read.file.open("r+b") as file:
            file.write(bytes(len(content)))
        assert same(read.features, extract(PIXELS, DIGITS))

    def test_logits_are_kept(self, tmp_path):
        extractor = create_extractor("efflite0")
        first, second = (cached_features(extractor, Subset(DIGITS, [0, 1]), tmp_path) for _ in range(2))
        assert first.logits.shape == (2, 1000)
        assert torch.equal(first.logits, second.logits)

    @pytest.mark.parametrize("change", ["images", "labels", "order", "extractor"])
    def test_anything_else_is_computed(self, tmp_path, change):
        found(tmp_path)
        images, labels, names = DIGITS.images.copy(), DIGITS.labels.copy(), DIGITS.class_names
        if change == "images":
            images[-1, 0, 0, 0] ^= 1
        if change == "labels":
            labels[0] = (labels[0] + 1) % 10
        if change == "order":
            images, labels = images[::-1].copy(), labels[::-1].copy()
        extractor = create_extractor("pixels", source=open_image_set("digits", 7)) if change == "extractor" else PIXELS
        assert not found(tmp_path, ArraySource(images, labels, names), extractor)[0].was_there

    def test_the_place_of_a_folder_is_of_no_account(self, tmp_path):
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            for index in range(3):
                Image.fromarray(DIGITS.images[index, 0]).save(tmp_path / name / f"{index}.png")
        assert not found(tmp_path, open_image_set(tmp_path / "one"))[0].was_there
        assert found(tmp_path, open_image_set(tmp_path / "other"))[0].was_there

    def test_a_bar_is_shown_while_it_computes(self, tmp_path, capsys):
        cached_features(PIXELS, DIGITS, tmp_path)
        assert f"{len(DIGITS)}/{len(DIGITS)}" in capsys.readouterr().err
        cached_features(PIXELS, DIGITS, tmp_path)
        assert not capsys.readouterr().err


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            *(lambda file, place=place: flip(file, place) for place in (0, 0.0005, 0.002, 0.3, 1)),
            lambda file: file.write_bytes(file.read_bytes()[:-1]),
            lambda file: file.write_bytes(b""),
            lambda file: file.write_bytes(b"no tensors at all"),
            lambda file: save_file({"values": torch.zeros(len(DIGITS), 64)}, file),
        ],
    )
    def test_it_is_noticed_told_and_made_anew(self, tmp_path, damage):
        before, _ = found(tmp_path)
        damage(before.file)
        after, said = found(tmp_path)
        assert not after.was_there
        assert len(said) == 1
        assert "is damaged" in said[0]
        assert "recomputed" in said[0]
        assert same(after.features, before.features)
        assert found(tmp_path)[0].was_there

    def test_a_file_in_the_place_of_another_is_not_taken_for_it(self, tmp_path):
        one = found(tmp_path)[0]
        other = found(tmp_path, Subset(DIGITS, [1, 2, 3]))[0]
        other.file.write_bytes(one.file.read_bytes())
        again, said = found(tmp_path, Subset(DIGITS, [1, 2, 3]))
        assert len(again.features) == 3
        assert said == [f"{other.file} holds what was made of something else: it is recomputed"]

    def test_what_a_killed_process_left_is_removed(self, tmp_path):
        file = found(tmp_path)[0].file
        file.rename(file.with_name(f".{file.name}.0123abcd.partial"))
        assert not found(tmp_path)[0].was_there
        assert sorted(entry.name for entry in file.parent.iterdir()) == [".lock", file.name]


class TestOwner:
    def test_a_file_that_others_may_write_is_not_read(self, tmp_path):
        file = found(tmp_path)[0].file
        file.chmod(0o666)
        again, said = found(tmp_path)
        assert not again.was_there
        assert "others may write it" in said[0]
        assert file.stat().st_mode & 0o777 == 0o600

    def test_the_folder_of_another_user_is_left_alone(self, tmp_path, monkeypatch):
        folder = found(tmp_path)[0].file.parent
        monkeypatch.setattr(
            "diffusion_lab.data.cache_location._owner", lambda path: 54321 if path == folder else os.geteuid()
        )
        again, _ = found(tmp_path)
        assert not again.was_there
        assert again.file.parent == folder.with_name(f"{folder.name}-{os.geteuid()}")

    def test_only_the_owner_can_read_and_write(self, tmp_path):
        file = found(tmp_path)[0].file
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o022 == 0


class TestNoPlace:
    def test_a_folder_that_was_asked_for_is_insisted_on(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"evaluation\.cache_dir cannot be used, got .*file'"):
            cached_features(PIXELS, DIGITS, tmp_path / "file", cache_key="evaluation.cache_dir")

    def test_the_one_of_the_system_is_not(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(ConfigWarning, match=r"features cannot be cached: .*computed each time \(cache_dir"):
            features = cached_features(PIXELS, DIGITS)
        assert same(features, extract(PIXELS, DIGITS))

    def test_a_full_disk_costs_only_the_cache(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

        monkeypatch.setattr("diffusion_lab.features.tensor_cache.save_file", full)
        with pytest.warns(ConfigWarning, match="no space left on device.* not kept"):
            result, _ = found(tmp_path)
        assert result.file is None
        assert same(result.features, extract(PIXELS, DIGITS))


class TestTwoProcesses:
    """With locks, one waits for the other: tests/faults/test_features.py."""

    def test_without_locks_each_computes_and_the_file_is_whole(self, tmp_path, monkeypatch):
        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "lockf", no_locks)

        def compute():
            inner = cached_tensors("name", {}, lambda: ({"x": torch.ones(2)}, {}), print, tmp_path)  # was quicker
            assert not inner.was_there
            return {"x": torch.ones(2)}, {}

        assert torch.equal(cached_tensors("name", {}, compute, print, tmp_path).tensors["x"], torch.ones(2))
        assert cached_tensors("name", {}, None, print, tmp_path).was_there
