"""Files that are whole or not there, and the arrays."""

from __future__ import annotations

import io
import signal

import numpy as np
import pytest
import torch

from diffusion_lab.generation.arrays import stored_count, stored_pixels, write_arrays
from diffusion_lab.generation.interruption import leaving_when_told
from diffusion_lab.whole_files import remove_partial_files, written_whole


def test_what_fails_midway_leaves_the_earlier_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("earlier")

    def fail():
        with written_whole(file) as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with written_whole(file) as path:
        path.write_text("later")
    assert file.read_text() == "later"


def test_what_a_killed_program_had_begun_is_removed(tmp_path):
    (tmp_path / ".a.txt.partial").touch()
    (tmp_path / "b.txt").touch()
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("labels", [[7, 8], None])
def test_arrays_are_those_that_numpy_writes(tmp_path, labels):
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    write_arrays(tmp_path / "a.npz", iter(pixels), (2, 3, 4, 5), labels)
    expected = {"arr_0": pixels.permute(0, 2, 3, 1).contiguous().numpy()}
    if labels:
        expected["arr_1"] = np.array(labels)
    buffer = io.BytesIO()
    np.savez(buffer, **expected)
    assert (tmp_path / "a.npz").read_bytes() == buffer.getvalue()
    assert stored_count(tmp_path / "a.npz") == 2
    assert torch.equal(torch.stack(list(stored_pixels(tmp_path / "a.npz"))), pixels)


def test_damaged_arrays_hold_nothing(tmp_path):
    file = tmp_path / "a.npz"
    write_arrays(file, iter(torch.zeros(9, 1, 8, 8, dtype=torch.uint8)), (9, 1, 8, 8), None)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert stored_count(file) == 0
    file.write_bytes(content[:300] + b"\1" + content[301:])
    assert list(stored_pixels(file)) == []
    assert stored_count(tmp_path / "none.npz") == 0


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_leaving_when_told_says_how_to_go_on(capsys, number, code, name):
    before = signal.getsignal(number)

    def be_stopped():
        try:
            signal.raise_signal(number)
        except BaseException as stop:
            stop.add_note("go on there")
            signal.raise_signal(signal.SIGINT)  # a second one does not disturb the leaving
            raise

    with pytest.raises(SystemExit) as left, leaving_when_told():
        be_stopped()
    assert left.value.code == code
    assert capsys.readouterr().err == f"\nStopped by {name}: go on there\n"
    assert signal.getsignal(number) is before


def test_an_exception_that_a_signal_was_turned_into_is_no_traceback_either(capsys):
    def import_something():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as stop:
            raise ImportError("half a module") from stop

    with pytest.raises(SystemExit) as left, leaving_when_told():
        import_something()
    assert left.value.code == 143
    assert "half a module" not in capsys.readouterr().err


def test_other_exceptions_pass():
    with pytest.raises(ZeroDivisionError), leaving_when_told():
        _ = 1 / 0
