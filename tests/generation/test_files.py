"""Atomic files, and the arrays."""

from __future__ import annotations

import io
import os
import signal
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from diffusion_lab.files.writing import atomic_write, remove_partial_files
from diffusion_lab.generation.arrays import read_labels, read_pixels, write_arrays
from diffusion_lab.runtime.exit_on_signals import exit_on_signals


def test_failed_write_leaves_the_previous_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("earlier")

    def fail():
        with atomic_write(file) as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with atomic_write(file) as path:
        path.write_text("later")
    assert file.read_text() == "later"


def test_partial_files_of_killed_programs_are_removed(tmp_path):
    (tmp_path / ".a.txt.0123abcd.partial").touch()
    theirs = {".a.txt.partial", ".mine.partial", "b.txt"}
    for name in theirs:
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs


def test_error_of_a_write_names_the_file(tmp_path):
    """The system names none where the disk is full."""

    def write() -> None:
        with atomic_write(tmp_path / "image.png"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "image.png"))
    assert not list(tmp_path.iterdir())


def test_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "link").symlink_to("elsewhere")
    with atomic_write(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert (tmp_path / "link").read_text() == "new"


@pytest.mark.parametrize("labels", [[7, 8], None])
def test_arrays_equal_those_of_numpy(tmp_path, labels):
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    write_arrays(tmp_path / "a.npz", iter(pixels), (2, 3, 4, 5), labels)
    expected = {"arr_0": pixels.permute(0, 2, 3, 1).contiguous().numpy()}
    if labels:
        expected["arr_1"] = np.array(labels)
    buffer = io.BytesIO()
    np.savez(buffer, **expected)
    assert (tmp_path / "a.npz").read_bytes() == buffer.getvalue()
    assert torch.equal(torch.stack(list(read_pixels(tmp_path / "a.npz"))), pixels)
    assert read_labels(tmp_path / "a.npz") == tuple(labels or ())


def test_damaged_arrays_yield_nothing(tmp_path):
    file = tmp_path / "a.npz"
    write_arrays(file, iter(torch.zeros(9, 1, 8, 8, dtype=torch.uint8)), (9, 1, 8, 8), None)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert list(read_pixels(file)) == []
    file.write_bytes(content[:300] + b"\1" + content[301:])
    assert list(read_pixels(file)) == []
    assert list(read_pixels(tmp_path / "none.npz")) == []
    assert read_labels(file) is read_labels(tmp_path / "none.npz") is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([3, 1], dtype=np.int32), (3, 1)),
        (np.array([3, 1], dtype=">u2"), (3, 1)),
        (np.array([3.0, 1.0]), None),
        (np.array([[3, 1]]), None),
        (np.array(3), None),
    ],
)
def test_labels_are_integers_in_one_dimension(tmp_path, labels, expected):
    np.savez(tmp_path / "a.npz", np.zeros((2, 8, 8, 1), dtype=np.uint8), labels)
    assert read_labels(tmp_path / "a.npz") == expected


def test_labels_with_a_wrong_shape_are_none(tmp_path):
    images = npy_of((1, 2, 4, 1))
    for shape in ((2,), (2**62,)):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("arr_0.npy", images)
            archive.writestr("arr_1.npy", npy_of(shape, "<i8"))
        assert read_labels(tmp_path / "a.npz") is None


def npy_of(shape, kind="|u1"):
    """The bytes of an array's header, which may declare anything, and eight bytes behind it."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(8)


@pytest.mark.parametrize(
    "shape", [(), (8,), (2, 4), (1, 2, 4, 1, 1), (10**9, 2, 4, 1), (2**62, 2**62, 4, 1), (1, 2, 2, 1), (0, 2, 4, 1)]
)
def test_arrays_with_a_wrong_shape_yield_nothing(tmp_path, shape):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", npy_of(shape))
    assert list(read_pixels(file)) == []


def test_compressed_or_foreign_arrays_yield_nothing(tmp_path):
    """Packed zeros could stand for any number of bytes."""
    file = tmp_path / "a.npz"
    for kind, packed in (("|u1", zipfile.ZIP_DEFLATED), ("|i1", zipfile.ZIP_STORED), ("|u1", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(file, "w", packed) as archive:
            archive.writestr("arr_0.npy", npy_of((1, 2, 4, 1), kind))
        assert len(list(read_pixels(file))) == (kind == "|u1" and packed == zipfile.ZIP_STORED)
    os.unlink(file)
    os.mkfifo(file)
    assert list(read_pixels(file)) == []


def test_links_are_not_written_through(tmp_path):
    """The target stays unchanged, whether the link is the file or its unfinished copy."""
    outside = tmp_path / "mine.txt"
    outside.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", ".a.txt.partial"):
        (folder / name).symlink_to(outside)
    with atomic_write(folder / "a.txt") as path:
        path.write_text("theirs")
    assert outside.read_text() == "mine"
    assert (folder / "a.txt").read_text() == "theirs"
    assert not (folder / "a.txt").is_symlink()


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_exit_on_a_signal_says_how_to_continue(capsys, number, code, name):
    before = signal.getsignal(number)

    def be_stopped():
        try:
            signal.raise_signal(number)
        except BaseException as stop:
            stop.add_note("go on there")
            signal.raise_signal(signal.SIGINT)  # a second one does not disturb the leaving
            raise

    with pytest.raises(SystemExit) as left, exit_on_signals():
        be_stopped()
    assert left.value.code == code
    assert capsys.readouterr().err == f"\nStopped by {name}: go on there\n"
    assert signal.getsignal(number) is before


def test_exception_caused_by_a_signal_has_no_traceback(capsys):
    def import_something():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as stop:
            raise ImportError("half a module") from stop

    with pytest.raises(SystemExit) as left, exit_on_signals():
        import_something()
    assert left.value.code == 143
    assert "half a module" not in capsys.readouterr().err


def test_other_exceptions_pass():
    with pytest.raises(ZeroDivisionError), exit_on_signals():
        _ = 1 / 0
