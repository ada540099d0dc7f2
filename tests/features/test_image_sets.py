"""Image sets by path or name: stored images are returned unchanged, and ambiguous or damaged sets are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.data.digits import digits
from diffusion_lab.faults import ConfigWarning
from diffusion_lab.features import npz_arrays
from diffusion_lab.features.image_sets import open_image_set
from diffusion_lab.features.run_images import run_images
from diffusion_lab.files.reading import open_regular
from diffusion_lab.generation.arrays import ARRAYS, write_arrays
from diffusion_lab.generation.images import PngStore
from diffusion_lab.generation.manifest import open_manifest
from diffusion_lab.generation.open_folder import UNFINISHED
from diffusion_lab.generation.request import MANIFEST, GenerationRequest
from diffusion_lab.sweeps.job_record import RECORD
from diffusion_lab.training.sources import create_datamodule
from tests.training.tiny import tiny_config, tiny_run

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def load_all(source):
    return source.load_batch(np.arange(len(source)), None)


def write_folder(path: Path, images, names=None) -> Path:
    for index, image in enumerate(images):
        file = path / (names[index] if names else f"{index}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


@pytest.fixture
def generated(tmp_path):
    def make(labels=(0, 1), class_names=("cat", "dog"), files=True, count=6):
        metadata = {"seed": 0, "checkpoint_sha256": "a", "config_hash": "b", "data_fingerprint": "c"}
        request = GenerationRequest(metadata, labels, (1.0,), class_names, files)
        folder = tmp_path / f"generated_{labels}_{files}"
        folder.mkdir()
        pixels = torch.from_numpy(GRAY[:count, None])
        digests = [request.digest(index, pixels[index]) for index in range(count)]
        if files:
            store = PngStore(folder, request, (1, 8, 8))
            store.find_finished(count, [])
            store.add(range(count), pixels)
            Image.new("L", (99, 99)).save(folder / "grid.png")
        else:
            stored_labels = [request.label(index) for index in range(count)] if labels else None
            write_arrays(folder / ARRAYS, iter(pixels), (count, 1, 8, 8), stored_labels)
        with open_manifest(folder, request, 0, digests) as extend:
            extend(count)
        return folder

    return make


class TestFolders:
    def test_size_and_channels_are_those_of_the_images(self, tmp_path):
        gray = open_image_set(write_folder(tmp_path / "gray", GRAY))
        assert (gray.image_size, gray.channels, gray.class_names) == (8, 1, ())
        assert np.array_equal(load_all(gray)[:, 0], GRAY)
        colour = open_image_set(write_folder(tmp_path / "colour", COLOUR))
        assert (colour.image_size, colour.channels) == (8, 3)
        assert np.array_equal(load_all(colour), COLOUR.transpose(0, 3, 1, 2))
        assert open_image_set(tmp_path / "gray", channels=3).channels == 3
        assert open_image_set(tmp_path / "gray", image_size=4).image_size == 4

    def test_one_colour_image_makes_the_set_rgb(self, tmp_path):
        write_folder(tmp_path / "set", [*GRAY, COLOUR[0]])
        source = open_image_set(tmp_path / "set")
        assert source.channels == 3
        assert np.array_equal(load_all(source)[0], np.stack([GRAY[0]] * 3))

    def test_class_folders_give_labels(self, tmp_path):
        names = [f"{'ab'[index % 2]}/{index}.png" for index in range(6)]
        source = open_image_set(write_folder(tmp_path / "set", GRAY, names))
        assert source.class_names == ("a", "b")
        assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]

    def test_different_sizes_are_refused_with_the_key_to_set(self, tmp_path):
        write_folder(tmp_path / "set", [*GRAY, np.zeros((9, 9), np.uint8)])
        with pytest.raises(ValueError, match=r"reference holds .*different sizes \(6 of 8×8, 1 of 9×9\): set SIZE to"):
            open_image_set(tmp_path / "set", key="reference", size_key="SIZE")
        assert open_image_set(tmp_path / "set", image_size=8).image_size == 8
        write_folder(tmp_path / "wide", [np.zeros((8, 12), np.uint8)] * 2)
        with pytest.raises(ValueError, match=r"not square \(2 of 12×8\): set image_size"):
            open_image_set(tmp_path / "wide")

    def test_a_damaged_image_is_skipped_with_a_warning(self, tmp_path):
        write_folder(tmp_path / "set", GRAY)
        (tmp_path / "set" / "3.png").write_bytes(b"no image")
        with pytest.warns(UserWarning, match="1 corrupt image"):
            source = open_image_set(tmp_path / "set")
        assert np.array_equal(load_all(source)[:, 0], np.delete(GRAY, 3, axis=0))

    def test_paths_without_images_are_refused(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="samples holds no images"):
            open_image_set(tmp_path / "empty", key="samples")
        with pytest.raises(FileNotFoundError, match=r"samples must be .*emoji.*'nowhere', which does not exist"):
            open_image_set("nowhere", key="samples")
        (tmp_path / "text.txt").write_text("text")
        with pytest.raises(ValueError, match="samples must be an existing folder"):
            open_image_set(tmp_path / "text.txt", key="samples")

    def test_an_unwritable_cache_is_refused_with_its_key(self, tmp_path):
        write_folder(tmp_path / "set", GRAY)
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="--cache-dir cannot be used"):
            open_image_set(tmp_path / "set", cache_dir=tmp_path / "file", cache_key="--cache-dir")


class TestGenerated:
    @pytest.mark.parametrize("files", [True, False])
    def test_the_images_are_those_of_the_manifest_with_its_labels(self, generated, files):
        source = open_image_set(generated(files=files))
        assert np.array_equal(load_all(source)[:, 0], GRAY)  # and no grid.png
        assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert source.class_names == ("cat", "dog")
        assert open_image_set(source.folder, image_size=4, channels=3).load(0, None).shape == (3, 4, 4)

    def test_without_labels_there_are_no_classes(self, generated):
        assert open_image_set(generated(labels=None)).class_names == ()

    def test_classes_without_samples_are_named_by_their_numbers(self, generated):
        assert open_image_set(generated(labels=(2, 0), class_names=("a", "b", "c"))).class_names == ("a", "1", "c")

    def test_the_fingerprint_covers_images_and_labels(self, generated):
        one, other = open_image_set(generated()), open_image_set(generated(labels=(1, 0)))
        assert one.fingerprint() != other.fingerprint()
        assert one.fingerprint() == open_image_set(one.folder).fingerprint()

    def test_a_replaced_image_is_detected(self, generated):
        folder = generated()
        shutil.copy(folder / "sample_0001.png", folder / "sample_0003.png")
        with pytest.raises(ValueError, match="not the image of its line"):
            load_all(open_image_set(folder))

    def test_a_folder_of_generated_folders_is_refused(self, generated, tmp_path):
        folder = generated()
        with pytest.raises(ValueError, match=r"which holds folders made by sample\.py: name one, such as .*generated"):
            open_image_set(folder.parent)
        (tmp_path / "base/generated").mkdir(parents=True)
        folder.rename(tmp_path / "base/generated/first")
        with pytest.raises(ValueError, match=r"made by sample\.py: name one, such as .*first"):
            open_image_set(tmp_path / "base")

    def test_a_folder_with_the_manifest_of_another_program_is_an_image_folder(self, tmp_path):
        write_folder(tmp_path / "set", GRAY)
        (tmp_path / "set" / MANIFEST).write_text('{"key": "0"}\n')
        assert len(open_image_set(tmp_path / "set")) == 6

    def test_a_damaged_manifest_is_refused(self, generated):
        folder = generated()
        (folder / MANIFEST).write_text("no line\n")
        with pytest.raises(ValueError, match="damaged in line 1"):
            open_image_set(folder)

    def test_an_unfinished_folder_is_refused(self, generated):
        folder = generated()
        (folder / UNFINISHED).touch()
        with pytest.raises(ValueError, match="unfinished generation"):
            open_image_set(folder)

    def test_labels_for_only_some_images_are_refused(self, generated):
        folder = generated()
        lines = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
        lines[2]["label"] = None
        (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(ValueError, match="5 of 6 have one"):
            open_image_set(folder)


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_images_and_labels_are_read(self, tmp_path, save):
        save(tmp_path / "set.npz", COLOUR, np.array([0, 2, 1, 0, 1, 2]))
        source = open_image_set(tmp_path / "set.npz")
        assert np.array_equal(load_all(source), COLOUR.transpose(0, 3, 1, 2))
        assert source.class_names == ("0", "1", "2")
        assert source.labels.tolist() == [0, 2, 1, 0, 1, 2]
        assert open_image_set(tmp_path).fingerprint() == source.fingerprint()  # a folder that holds nothing else

    def test_the_fingerprint_depends_on_pixels_but_not_on_compression(self, tmp_path):
        def fingerprint(save, images):
            save(tmp_path / "set.npz", images)
            return open_image_set(tmp_path / "set.npz").fingerprint()

        assert fingerprint(np.savez, COLOUR) == fingerprint(np.savez_compressed, COLOUR)
        assert fingerprint(np.savez, COLOUR) != fingerprint(np.savez, COLOUR ^ np.uint8(1))
        assert fingerprint(np.savez, GRAY) == fingerprint(np.savez, GRAY[..., None])

    def test_images_that_are_not_square_need_a_size(self, tmp_path):
        np.savez(tmp_path / "set.npz", COLOUR[:, :, :6])
        with pytest.raises(ValueError, match=r"6×8 pixels, which are not square: set image_size"):
            open_image_set(tmp_path / "set.npz")
        assert np.array_equal(load_all(open_image_set(tmp_path, 6)), COLOUR[:, 1:7, :6].transpose(0, 3, 1, 2))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"arr_0": COLOUR / 255}, "uint8 .*got float64"),
            ({"arr_0": COLOUR[..., :2]}, "of 1, 3 or 4 channels"),
            ({"arr_0": COLOUR[:0]}, "empty"),
            ({"images": COLOUR}, r"holds images\.npy"),
            ({"mu": GRAY, "sigma": GRAY}, "only the statistics of Inception features"),
            ({"arr_0": COLOUR, "arr_1": np.arange(5)}, "one class number for each of its 6 images"),
            ({"arr_0": COLOUR, "arr_1": np.arange(6) - 1}, "got -1 to 4"),
            ({"arr_0": COLOUR, "arr_1": np.array([{}] * 6)}, "got object"),
        ],
    )
    def test_files_of_another_layout_are_refused(self, tmp_path, arrays, message):
        np.savez(tmp_path / "set.npz", **arrays, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            open_image_set(tmp_path / "set.npz")

    def test_damage_is_detected(self, tmp_path):
        np.savez(tmp_path / "set.npz", COLOUR)
        content = bytearray((tmp_path / "set.npz").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            open_image_set(tmp_path / "set.npz")
        (tmp_path / "set.npz").write_bytes(b"no archive")
        with pytest.raises(ValueError, match="damaged"):
            open_image_set(tmp_path / "set.npz")

    def test_the_file_is_closed_when_refused_or_garbage_collected(self, tmp_path, monkeypatch):
        opened = []
        monkeypatch.setattr(npz_arrays, "open_regular", lambda path: opened.append(open_regular(path)) or opened[-1])
        np.savez(tmp_path / "set.npz", COLOUR)
        (tmp_path / "damaged.npz").write_bytes(b"no archive")
        images = npz_arrays.NpzImages(tmp_path / "set.npz")
        with pytest.raises(ValueError, match="damaged"):
            npz_arrays.NpzImages(tmp_path / "damaged.npz")
        assert [file.closed for file in opened] == [False, True]
        del images
        assert opened[0].closed

    def test_a_compressed_file_that_exceeds_the_memory_is_refused(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "set.npz", COLOUR)
        monkeypatch.setattr("diffusion_lab.features.npz_arrays.host_memory", lambda: 1000)
        with pytest.raises(ValueError, match=r"is compressed.*numpy\.savez"):
            open_image_set(tmp_path / "set.npz")
        with zipfile.ZipFile(tmp_path / "set.npz") as archive:  # an uncompressed file needs no memory
            np.savez(tmp_path / "plain.npz", np.load(archive.open("arr_0.npy")))
        assert len(open_image_set(tmp_path / "plain.npz")) == 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Tiny run on three class folders: run folder, image folder and datamodule."""
    folder = tmp_path_factory.mktemp("run")
    names = [f"{'abc'[index % 3]}/{index}.png" for index in range(12)]
    images = write_folder(folder / "images", RNG.integers(0, 256, (12, 8, 8), dtype=np.uint8), names)
    changes = {"data.type": "image_folder", "data.paths.train": str(images), "data.cache": "memory"}
    tiny_run(folder / "runs", {**changes, "training.epochs": 1})
    return folder / "runs", images, create_datamodule(tiny_config(folder / "runs", changes), seed=0)


class TestRuns:
    def test_the_images_are_loaded_by_the_checkpoint(self, run):
        base, _, data = run
        train, val = open_image_set(base), open_image_set(find_checkpoint(base), split="val")
        assert (len(train), len(val)) == (len(data.train), len(data.val))
        assert train.fingerprint() == data.train.fingerprint()
        assert val.fingerprint() == data.val.fingerprint()
        assert open_image_set(base, image_size=4, channels=3).load(0, None).shape == (3, 4, 4)

    def test_a_folder_of_runs_is_refused(self, run, tmp_path):
        shutil.copytree(run[0], tmp_path / "runs" / "one")
        with pytest.raises(ValueError, match="which holds runs: name one"):
            open_image_set(tmp_path / "runs")

    def test_a_sweep_stands_for_its_best_job(self, run, tmp_path):
        shutil.copytree(run[0], tmp_path / "sweep" / "0")
        (tmp_path / "sweep" / "0" / RECORD).write_text("{}")
        with pytest.raises(ValueError, match=r"the sweep .* has no finished job"):  # before any image is loaded
            open_image_set(tmp_path / "sweep")

    def test_changed_images_give_a_warning(self, run, tmp_path):
        base, images, _ = run
        moved = tmp_path / "images"
        shutil.copytree(images, moved)
        Image.fromarray(GRAY[0]).save(moved / "a" / "0.png")
        checkpoint = read_checkpoint(find_checkpoint(base))
        checkpoint.config["data"]["paths"]["train"] = str(moved)
        with pytest.warns(ConfigWarning, match="not those that .* was trained on"):
            run_images(checkpoint)

    def test_a_run_without_validation_has_no_validation_images(self, run):
        checkpoint = read_checkpoint(find_checkpoint(run[0]))
        checkpoint.config["training"]["validation"]["enabled"] = False
        with pytest.warns(ConfigWarning), pytest.raises(ValueError, match=r"split must be train .*kept no images"):
            run_images(checkpoint, "val")

    def test_a_class_of_the_checkpoint_is_imported_only_if_trusted(self, run, tmp_path, monkeypatch):
        (tmp_path / "my_images.py").write_text("raise SystemError('imported')")
        monkeypatch.syspath_prepend(tmp_path)
        checkpoint = read_checkpoint(find_checkpoint(run[0]))
        checkpoint.config["data"]["type"] = "my_images.Photos"
        with pytest.raises(ValueError, match=r"only where you say so.*trust=\[my_images\.Photos\]"):
            run_images(checkpoint)
        with pytest.raises(ValueError, match="SystemError: imported"):
            run_images(checkpoint, trust=["my_images.Photos"])

    def test_a_checkpoint_without_data_settings_is_refused(self, tmp_path):
        torch.save({"weight": torch.zeros(3)}, tmp_path / "plain.pt")
        with pytest.raises(ValueError, match="does not say which images"):
            open_image_set(tmp_path / "plain.pt")


class TestNames:
    def test_options_of_runs_are_refused_for_other_sets(self, tmp_path):
        with pytest.raises(ValueError, match=r"split is for runs and checkpoints, and DATA is 'digits'.* got 'val'"):
            open_image_set("digits", split="val", key="DATA")
        with pytest.raises(ValueError, match="trust is for runs"):
            open_image_set(write_folder(tmp_path / "set", GRAY), trust=["my.Images"])

    def test_included_sets_have_names(self, tmp_path, monkeypatch):
        assert open_image_set("digits").fingerprint() == digits().fingerprint()
        assert len(open_image_set("digits_heldout")) == len(digits(subset="heldout"))
        source = open_image_set("emoji", image_size=16)
        assert (source.image_size, source.channels) == (16, 3)

    def test_a_name_that_is_also_a_path_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_folder(tmp_path / "digits", GRAY)
        with pytest.raises(ValueError, match=r"write \./digits for the path"):
            open_image_set("digits")
        assert len(open_image_set("./digits")) == 6


def test_warnings_that_only_concern_training_are_not_shown(tmp_path, recwarn):
    names = [f"{'ab'[index % 2]}/{index}.png" for index in range(6)]
    open_image_set(write_folder(tmp_path / "set", GRAY, names))
    assert not [warning for warning in recwarn if issubclass(warning.category, ConfigWarning)]


class TestFormats:
    """The same images in other formats, modes and sizes load equally, up to losses of the format."""

    @pytest.fixture
    def expected(self, tmp_path):
        return load_all(open_image_set(write_folder(tmp_path / "expected", SMOOTH)))

    @pytest.mark.parametrize(
        ("suffix", "convert"),
        [
            ("bmp", lambda image: image),
            ("tiff", lambda image: image),
            ("png", lambda image: image.convert("RGBA")),
            ("png", lambda image: Image.merge("LA", (image, Image.new("L", image.size, 255)))),
            ("png", lambda image: image.convert("P")),
            ("png", lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257)),
            ("tiff", lambda image: Image.fromarray(np.asarray(image).astype(np.float32) / 255)),
        ],
    )
    def test_lossless_formats_load_equally(self, tmp_path, expected, suffix, convert):
        (tmp_path / "set").mkdir()
        for index, image in enumerate(SMOOTH):
            convert(Image.fromarray(image)).save(tmp_path / "set" / f"{index}.{suffix}")
        assert np.array_equal(load_all(open_image_set(tmp_path / "set", channels=1)), expected)

    def test_jpeg_and_resized_images_are_close(self, tmp_path, expected):
        (tmp_path / "jpeg").mkdir()
        (tmp_path / "large").mkdir()
        for index, image in enumerate(SMOOTH):
            Image.fromarray(image).save(tmp_path / "jpeg" / f"{index}.JPG", quality=95)
            large = Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)
            large.save(tmp_path / "large" / f"{index}.png")
        for source in (open_image_set(tmp_path / "jpeg"), open_image_set(tmp_path / "large", image_size=16)):
            assert source.channels == 1
            assert np.abs(load_all(source).astype(int) - expected).mean() < 6

    def test_transparent_pixels_are_white(self, tmp_path):
        image = np.zeros((8, 8, 4), np.uint8)
        image[:, :4, 3] = 255
        source = open_image_set(write_folder(tmp_path / "set", [image] * 2))
        assert source.channels == 3
        assert np.array_equal(source.load(0, None)[0], np.repeat([[0] * 4 + [255] * 4], 8, axis=0))


WAVES = np.add.outer(np.arange(16), np.arange(16))
SMOOTH = [(127 + 120 * np.sin(WAVES / (3 + index))).astype(np.uint8) for index in range(4)]
