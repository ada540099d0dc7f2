from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from diffusion_lab.files.folder_lock import check_unused, hold_lock
from diffusion_lab.runtime.process_identity import is_alive, own_identity
from tests.another_process import holding


def test_locked_folder_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holding(folder) as holder:
        message = rf"key is in use by another process, got .*run' \(process {holder.pid} on "
        with pytest.raises(ValueError, match=message):
            check_unused(folder, "key")
        with pytest.raises(ValueError, match=message), hold_lock(folder, "key"):
            pass
    assert list(folder.iterdir())  # the file of one that was killed: nobody holds it
    check_unused(folder, "key")
    with hold_lock(folder, "key"):
        pass
    assert not list(folder.iterdir())


def test_check_creates_nothing(tmp_path: Path) -> None:
    check_unused(tmp_path / "run", "key")
    (tmp_path / "empty").mkdir()
    check_unused(tmp_path / "empty", "key")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that answers requests for a lock as those do that have none."""

    def refuse(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_warning_is_issued(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    check_unused(folder, "key")
    with pytest.warns(UserWarning, match=r"the file system of key=.*run has no locks"), hold_lock(folder, "key"):
        assert (folder / ".lock").is_file()
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_on_this_host_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holding(folder) as holder:
        with pytest.raises(ValueError, match=rf"in use by another process.*process {holder.pid} on "):
            check_unused(folder, "key")
        with pytest.raises(ValueError, match=rf"process {holder.pid} on "), hold_lock(folder, "key"):
            pass
    assert (folder / ".lock").exists()
    check_unused(folder, "key")  # it is gone, its file stayed


def test_other_file_system_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="Input/output error"), hold_lock(tmp_path, "key"):
        pass


def test_removed_lock_belongs_to_the_next_holder(tmp_path: Path) -> None:
    with hold_lock(tmp_path, "key"):
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").write_text("of another process")
    assert (tmp_path / ".lock").read_text() == "of another process"


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "text", "list", "not UTF-8", "deep"])
def test_other_entries_in_place_of_the_lock_are_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / ".lock"
    (tmp_path / "precious").write_text("precious")
    contents = {"text": b"mine", "list": b"[1]", "not UTF-8": b'"\xff"', "deep": b"[" * 4000}
    if kind == "link":
        place.symlink_to("precious")
    elif kind == "folder":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.write_bytes(contents[kind])
    for use in (lambda: check_unused(tmp_path, "key"), hold_lock(tmp_path, "key").__enter__):
        with pytest.raises(ValueError, match=r"\.lock is in the way"):
            use()
    assert os.path.lexists(place)
    assert (tmp_path / "precious").read_text() == "precious"
    assert kind not in contents or place.read_bytes() == contents[kind]


def test_process_with_the_same_id_and_another_start_is_another() -> None:
    own = own_identity()
    assert is_alive(own)
    assert is_alive({**own, "started": None})  # where the system does not tell, the number decides
    assert not is_alive({**own, "started": "before the last start of the system"})
    assert not is_alive({**own, "pid": 2**22 + 1})
    assert is_alive({**own, "host": "another"}) is None
    assert not any(is_alive({**own, "pid": pid}) for pid in (0, -1, None, True, "1", [1], 10**30))
