"""An interrupted generation resumes, with the result of an uninterrupted one."""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref

import numpy as np
import pytest
import torch

from diffusion_lab.generation.generate import generate
from diffusion_lab.image_grids import to_image
from diffusion_lab.runtime.exit_on_signals import Terminated
from diffusion_lab.sampling import DiffusionSampler, SampleBatch
from diffusion_lab.shapes import to_pixels
from tests.generation.conftest import ALL, BATCHES, WAYS, contents, made
from tests.generation.test_generate import manifest_of


@pytest.fixture
def whole(config, tmp_path):
    """Return the files of an uninterrupted run."""

    def run(**change):
        output = {"base_dir": str(tmp_path / "whole"), "overwrite": True}
        return contents(made(config(output=output, **change)).folder)

    return run


@pytest.mark.parametrize("save", WAYS)
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_result_equals_that_of_an_uninterrupted_run(config, whole, drawn, save, batches):
    expected = whole(sampling=BATCHES, save=save)
    drawn.take()
    settings = config(sampling=BATCHES, save=save)
    drawn.stop = batches
    with pytest.raises(Terminated):
        made(settings)
    assert drawn.take() == [*range(4 * batches)]
    drawn.stop = -1
    done = made(settings)
    assert drawn.take() == [*range(4 * batches, 11)]
    assert done.made == 11 - 4 * batches
    assert contents(done.folder) == expected


@pytest.mark.parametrize("save", WAYS)
def test_finished_generation_is_already_complete(config, drawn, save):
    settings = config(sampling=BATCHES, save=save)
    first = made(settings)
    before = contents(first.folder)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    drawn.take()
    again = made(settings)
    assert (again.made, drawn.take()) == (0, [])
    assert "complete" in str(again)
    assert "complete" not in str(first)
    assert contents(again.folder) == before
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == times


@pytest.mark.parametrize("save", WAYS)
def test_more_images_of_the_same_generation_extend_it(config, whole, drawn, save):
    expected = whole(sampling={"num_samples": 12, "batch_size": 4}, save=save)
    made(config(sampling={"num_samples": 8, "batch_size": 4}, save=save))
    drawn.take()
    done = made(config(sampling={"num_samples": 12, "batch_size": 4}, save=save))
    kept = save["save_individual"] or save["save_npz"] or not save["save_grid"]
    assert drawn.take() == [*range(8 if kept else 0, 12)]  # a grid alone is no copy of the images
    assert contents(done.folder) == expected


def test_fewer_images_leave_existing_ones(config, drawn):
    before = contents(made(config(sampling=BATCHES)).folder)
    drawn.take()
    done = made(config(sampling={**BATCHES, "num_samples": 5}))
    assert (done.count, done.made, drawn.take()) == (11, 0, [])
    assert contents(done.folder) == before


def damage_partial_line(folder):
    file = folder / "manifest.jsonl"
    file.write_bytes(file.read_bytes()[:-30])


def damage_partial_image(folder):
    file = folder / "sample_0006.png"
    file.write_bytes(file.read_bytes()[:-20])


def damage_one_bit(folder):
    content = bytearray((folder / "sample_0002.png").read_bytes())
    content[-30] ^= 1
    (folder / "sample_0002.png").write_bytes(content)


def damage_leftover(folder):
    (folder / ".sample_0003.png.0123abcd.partial").write_bytes(b"half")
    (folder / "sample_0003.png").unlink()


def damage_empty_grid(folder):
    (folder / "grid.png").write_bytes(b"")


def damage_cut_arrays(folder):
    file = folder / "samples.npz"
    file.write_bytes(file.read_bytes()[:400])


def damage_a_bit_of_the_arrays(folder):
    content = bytearray((folder / "samples.npz").read_bytes())
    content[400] ^= 1  # of a pixel
    (folder / "samples.npz").write_bytes(content)


def damage_arrays_of_other_images(folder):
    arrays = dict(np.load(folder / "samples.npz"))
    arrays["arr_0"] = arrays["arr_0"][::-1]
    np.savez(folder / "samples.npz", **arrays)


def damage_labels_of_the_arrays(folder):
    arrays = dict(np.load(folder / "samples.npz"))
    arrays["arr_1"] = arrays["arr_1"][::-1]
    np.savez(folder / "samples.npz", **arrays)


def damage_arrays_without_labels(folder):
    np.savez(folder / "samples.npz", arr_0=np.load(folder / "samples.npz")["arr_0"])


def damage_arrays_with_more_in_them(folder):
    np.savez(folder / "samples.npz", **np.load(folder / "samples.npz"), arr_2=np.zeros(1))


def damage_junk_line(folder):
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b"\xff junk\n")


def damage_manifest_twice(folder):
    file = folder / "manifest.jsonl"
    file.write_bytes(file.read_bytes() * 2)


def damage_a_label(folder):
    file = folder / "manifest.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace(' "sha256": "', ' "sha256": "0')
    file.write_text("".join(lines))


def damage_same_image_everywhere(folder):
    for index in range(1, 11):
        shutil.copy(folder / "sample_0000.png", folder / f"sample_{index:04d}.png")


def damage_deep_line(folder):
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b"[" * 100_000 + b"\n")


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (damage_a_bit_of_the_arrays, []),
        (damage_arrays_of_other_images, []),
        (damage_labels_of_the_arrays, []),
        (damage_arrays_without_labels, []),
        (damage_arrays_with_more_in_them, []),
        (damage_junk_line, []),
        (damage_manifest_twice, []),
        (damage_a_label, []),
        (damage_same_image_everywhere, [*range(11)]),
        (damage_deep_line, []),
        (damage_partial_line, []),
        (damage_partial_image, [4, 5, 6, 7]),
        (damage_one_bit, [0, 1, 2, 3]),
        (damage_leftover, [0, 1, 2, 3]),
        (damage_empty_grid, []),
        (damage_cut_arrays, []),
    ],
)
def test_damaged_files_are_repaired(config, drawn, damage, again):
    settings = config(sampling=BATCHES, save=ALL)
    done = made(settings)
    expected = contents(done.folder)
    drawn.take()
    damage(done.folder)
    made(settings)
    assert drawn.take() == again  # the batch, for bits depend on it
    assert contents(done.folder) == expected


@pytest.mark.parametrize("damage", [damage_a_bit_of_the_arrays, damage_arrays_of_other_images])
def test_damaged_arrays_are_regenerated_if_they_hold_the_only_copy(config, whole, drawn, damage):
    expected = whole(sampling=BATCHES, save=WAYS[1])
    settings = config(sampling=BATCHES, save=WAYS[1])
    folder = made(settings).folder
    damage(folder)
    drawn.take()
    made(settings)
    assert drawn.take() == [*range(11)]
    assert contents(folder) == expected


def test_changed_raw_bytes_are_regenerated(config, whole, drawn):
    expected = whole(sampling=BATCHES, save=WAYS[1])
    settings = config(sampling=BATCHES, save=WAYS[1])
    drawn.stop = 2
    with pytest.raises(Terminated):
        made(settings)
    folder = settings.output.folder("generated")
    raw = bytearray((folder / ".pixels.raw").read_bytes())
    raw[5 * 64] ^= 1
    (folder / ".pixels.raw").write_bytes(raw)
    drawn.stop = -1
    drawn.take()
    made(settings)
    assert drawn.take() == [*range(4, 11)]
    assert contents(folder) == expected


def test_repair_is_reported(config, capsys):
    settings = config(sampling=BATCHES)
    folder = made(settings).folder
    damage_junk_line(folder)
    generate(settings, show_progress=True)
    assert f"All 11 images are in {folder}; the manifest, grid or arrays are renewed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.jsonl", "grid.png", "samples.npz", "sample_0003.png", ".pixels.raw"])
@pytest.mark.parametrize("save", WAYS[:2])
def test_links_in_the_folder_are_not_written_through(config, tmp_path, drawn, save, name):
    """Their targets stay unchanged."""
    settings = config(sampling=BATCHES, save=save)
    drawn.stop = 1
    with pytest.raises(Terminated):
        made(settings)
    folder, outside = settings.output.folder("generated"), tmp_path / "outside"
    outside.write_bytes(b"mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    drawn.stop = -1
    made(settings)
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name", ["manifest.jsonl", "samples.npz", "sample_0003.png", ".unfinished.json", ".pixels.raw"]
)
def test_special_files_never_block(config, tmp_path, name):
    settings = config(sampling=BATCHES, save=ALL)
    folder = made(settings).folder
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with contextlib.suppress(ValueError, OSError):
        made(settings)


def test_unrelated_images_with_similar_names_are_never_removed(config):
    settings = config(sampling=BATCHES)
    folder = made(settings).folder
    (folder / "sample_best.png").write_bytes(b"mine")
    made(config(sampling=BATCHES, output={"overwrite": True}, seed=6))
    assert (folder / "sample_best.png").read_bytes() == b"mine"


def test_existing_images_are_not_rewritten(config, monkeypatch):
    settings = config(sampling=BATCHES)
    folder = made(settings).folder
    (folder / "sample_0006.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sample_*.png")}
    done = made(settings)
    assert done.made == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_truncated_raw_bytes_continue_after_the_last_complete_image(config, whole, drawn):
    save = WAYS[1]
    expected = whole(sampling=BATCHES, save=save)
    settings = config(sampling=BATCHES, save=save)
    drawn.stop = 2
    with pytest.raises(Terminated):
        made(settings)
    folder = settings.output.folder("generated")
    raw = folder / ".pixels.raw"
    assert raw.stat().st_size == 8 * 64
    raw.write_bytes(raw.read_bytes()[: 5 * 64 + 10])
    drawn.stop = -1
    drawn.take()
    made(settings)
    assert drawn.take() == [*range(4, 11)]
    assert contents(folder) == expected


def test_interrupted_while_an_image_is_written(config, whole, drawn, monkeypatch):
    expected = whole(sampling=BATCHES, save=ALL)
    settings = config(sampling=BATCHES, save=ALL)
    count = iter(range(100))

    def breaks(pixels):
        if next(count) == 6:
            raise KeyboardInterrupt
        return to_image(pixels)

    monkeypatch.setattr("diffusion_lab.generation.images.to_image", breaks)
    with pytest.raises(KeyboardInterrupt) as stopped:
        made(settings)
    folder = settings.output.folder("generated")
    assert any("run the same command again to continue" in note for note in stopped.value.__notes__)
    assert len(manifest_of(folder)) == 4
    assert len(list(folder.glob("sample_*.png"))) == 6
    assert made(settings).made == 5
    assert contents(folder) == expected


@pytest.mark.parametrize("save", WAYS[:3])
@pytest.mark.parametrize(
    "moment",
    [
        "diffusion_lab.generation.completion.ClassGrid.draw",
        "diffusion_lab.generation.completion.write_arrays",
        "diffusion_lab.generation.open_folder.GenerationFolder.finish",
        "diffusion_lab.generation.images.ImageStore.close",
        "diffusion_lab.generation.images.RawStore.close",
    ],
)
def test_interrupted_after_all_images(config, whole, monkeypatch, save, moment):
    expected = whole(sampling=BATCHES, save=save)
    settings = config(sampling=BATCHES, save=save)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(moment, stop)
        with contextlib.suppress(KeyboardInterrupt):  # not all kinds of images come to each moment
            made(settings)
    made(settings)
    assert contents(settings.output.folder("generated")) == expected


def test_stored_images_are_released(config, monkeypatch):
    """Ten thousand images take the memory of a hundred."""
    alive = weakref.WeakSet()
    most = []

    def counted(tensor):
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    def many(self, count, *arguments, first=0, batch_size=64, **options):
        for start in range(0, count, batch_size):
            yield SampleBatch(first + start, counted(torch.zeros(min(batch_size, count - start), 1, 8, 8)))

    monkeypatch.setattr(DiffusionSampler, "stream", many)
    monkeypatch.setattr("diffusion_lab.generation.completion.to_pixels", lambda images: counted(to_pixels(images)))
    made(config(sampling={"num_samples": 640}, save=WAYS[1]))
    assert len(most) == 20
    assert max(most) <= 4
