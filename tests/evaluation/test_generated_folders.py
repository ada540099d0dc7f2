"""Generated folders are evaluated only if their images match the manifest, and are all of one model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion_lab.data.digits import digits
from diffusion_lab.features.stored_images import GeneratedSource
from diffusion_lab.generation.arrays import ARRAYS, write_arrays
from diffusion_lab.generation.images import PngStore
from diffusion_lab.generation.manifest import open_manifest
from diffusion_lab.generation.open_folder import UNFINISHED
from diffusion_lab.generation.request import PNG_KEY, GenerationRequest

IDENTITY = {"checkpoint_sha256": "c0ffee", "config_hash": "ab12", "data_fingerprint": "cd34"}
REAL = digits(subset="heldout")
COUNT = 40


@pytest.fixture
def write_folder(tmp_path):
    """Function that writes an output folder of ``sample.py``, with real digits instead of generated ones."""

    def make(name, first=0, files=True, labels=True, **identity):
        folder = tmp_path / name
        folder.mkdir()
        chosen = slice(first, first + COUNT)
        pixels = torch.from_numpy(REAL.images[chosen])
        numbers = tuple(REAL.labels[chosen].tolist()) if labels else None
        order = GenerationRequest({**IDENTITY, **identity, "seed": 0}, numbers, (1.0,), REAL.class_names, files)
        if files:
            images = PngStore(folder, order, (1, 8, 8))
            images.find_finished(COUNT, ())
            images.add(range(COUNT), pixels)
        else:
            write_arrays(folder / ARRAYS, iter(pixels), (COUNT, 1, 8, 8), numbers)
        digests = [order.digest(index, image) for index, image in enumerate(pixels)]
        with open_manifest(folder, order, COUNT, digests):
            pass
        return folder

    return make


def read(folder):
    """Return all images of a folder, uint8 (N, C, H, W), with their labels."""
    source = GeneratedSource(folder)
    return np.stack([source.load(index, None) for index in range(len(source))]), source.labels


def test_png_and_arrays_hold_the_same(write_folder):
    (pixels, labels), (others, other_labels) = read(write_folder("a")), read(write_folder("b", files=False))
    np.testing.assert_array_equal(pixels, others)
    np.testing.assert_array_equal(labels, other_labels)
    np.testing.assert_array_equal(pixels, REAL.images[:COUNT])


@pytest.mark.parametrize("name", IDENTITY)
def test_a_line_of_another_model_is_refused(write_folder, name):
    folder = write_folder("a")
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    lines[7][name] = "other"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=rf"different {name} must not be mixed.*image 7"):
        read(folder)


def test_an_image_of_another_model_is_refused(write_folder):
    folder, other = write_folder("a"), write_folder("b", config_hash="other")
    shutil.copy(other / "sample_0003.png", folder / "sample_0003.png")
    with pytest.raises(ValueError, match=r"different config_hash must not be mixed.*sample_0003\.png"):
        read(folder)


def test_unknown_identities_are_accepted(write_folder):
    assert len(read(write_folder("a", **dict.fromkeys(("config_hash", "data_fingerprint"))))[0]) == COUNT


def test_incomplete_or_damaged_folders_are_refused(write_folder, tmp_path):
    def message(folder):
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            read(folder)
        return str(refused.value)

    (tmp_path / "empty").mkdir()
    assert "holds no generated images" in message(tmp_path / "empty")
    lacking = write_folder("lacking")
    (lacking / "sample_0001.png").unlink()
    assert "sample_0001.png is missing" in message(lacking)
    cut = write_folder("cut")
    (cut / "sample_0001.png").write_bytes((cut / "sample_0001.png").read_bytes()[:-60])
    assert "sample_0001.png is damaged" in message(cut)
    (cut / UNFINISHED).write_text("{}")
    assert "is an unfinished generation" in message(cut)
    half = write_folder("half")
    (half / "manifest.jsonl").write_bytes((half / "manifest.jsonl").read_bytes()[:-5])
    assert f"is damaged in line {COUNT}" in message(half)
    gone = write_folder("gone", files=False)
    (gone / ARRAYS).unlink()
    assert f"does not hold its {COUNT} images" in message(gone)


def edit(folder, change):
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(line) + "\n" for line in change(lines))
    (folder / "manifest.jsonl").write_text(text)


def swap_labels(lines):
    lines[3]["label"], lines[4]["label"] = 8, 9
    return lines


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_labels, r"sample_0003\.png is not the image of its line: its label|are not those of manifest"),
        (lambda lines: lines + lines, f"damaged in line {COUNT + 1}: it is of image 0, not {COUNT}"),
        (lambda lines: lines[::-1], "damaged in line 1: it is of image 39, not 0"),
        (lambda lines: [{**lines[0], "label": "x"}, *lines[1:]], 'its label is "x"'),
        (lambda lines: [{**lines[0], "label": 10**30}, *lines[1:]], "its label is 1000"),
        (lambda lines: [{**lines[0], "sha256": "0" * 64}, *lines[1:]], "image 0 in .* is not the one of its line"),
        (lambda lines: [{**lines[0], "file": "../a.png"}, *lines[1:]], r"its file is \"\.\./a\.png\""),
        (lambda lines: [{key: lines[0][key] for key in lines[0] if key != "sha256"}, *lines[1:]], "has no sha256"),
        (lambda lines: [None, *lines[1:]], "damaged in line 1: it is not a manifest line"),
        (lambda lines: ["text", *lines[1:]], "damaged in line 1"),
        (lambda lines: [json.loads("[" * 900 + "]" * 900), *lines[1:]], "damaged in line 1"),
    ],
)
def test_an_edited_manifest_is_refused(write_folder, files, change, message):
    folder = write_folder("a", files=files)
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_a_manifest_that_is_not_text_is_refused(write_folder):
    folder = write_folder("a")
    (folder / "manifest.jsonl").write_bytes(b"\xff\xfe" + (folder / "manifest.jsonl").read_bytes())
    with pytest.raises(ValueError, match="damaged in line 1"):
        read(folder)


def test_copies_of_one_image_are_refused(write_folder):
    folder = write_folder("a")
    for file in folder.glob("sample_*.png"):
        if file.name != "sample_0000.png":
            shutil.copy(folder / "sample_0000.png", file)
    with pytest.raises(ValueError, match=r"sample_0001\.png is not the image of its line: its file is"):
        read(folder)


def test_an_image_with_changed_pixels_and_a_valid_line_is_refused(write_folder):
    folder = write_folder("a")
    text = PngInfo()
    with Image.open(folder / "sample_0001.png") as picture:
        text.add_text(PNG_KEY, picture.info[PNG_KEY])
    with Image.open(folder / "sample_0000.png") as other:
        other.save(folder / "sample_0001.png", pnginfo=text)
    with pytest.raises(ValueError, match=r"image 1 in .*sample_0001\.png is not the one of its line"):
        read(folder)


def test_arrays_with_changed_pixels_are_refused(write_folder):
    """The arrays are written by NumPy, so that the checksums of the archive are valid."""
    folder = write_folder("a", files=False)
    arrays = dict(np.load(folder / ARRAYS))
    arrays["arr_0"][5, 0, 0, 0] ^= 1
    np.savez(folder / ARRAYS, **arrays)
    with pytest.raises(ValueError, match=r"image 5 in .*samples\.npz is not the one of its line"):
        read(folder)
    arrays["arr_0"][5, 0, 0, 0] ^= 1
    np.savez(folder / ARRAYS, arr_0=np.concatenate([arrays["arr_0"]] * 2))
    with pytest.raises(ValueError, match="must hold the 40 images of its manifest, got 80"):
        read(folder)


@pytest.mark.parametrize("change", [lambda labels: labels[::-1], lambda labels: labels[1:], None])
def test_arrays_with_changed_labels_are_refused(write_folder, change):
    """Other programs read these labels."""
    folder = write_folder("a", files=False)
    arrays = dict(np.load(folder / ARRAYS))
    labels = arrays.pop("arr_1")
    np.savez(folder / ARRAYS, **arrays, **({"arr_1": change(labels)} if change else {}))
    with pytest.raises(
        ValueError,
        match=r"\(arr_1\) in .*samples\.npz are not those of manifest\.jsonl|arr_1 holds one class number for each",
    ):
        read(folder)
