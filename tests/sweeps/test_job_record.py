"""Detection of running jobs: by process, distinguished from others with the same PID, and by lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_lab.runtime.process_identity import _started
from diffusion_lab.sweeps import job_lock
from diffusion_lab.sweeps.job_lock import LOCK, Lock
from diffusion_lab.sweeps.job_record import DIED, RECORD, RUNNING, JobProcess, JobRecord

HOLD = """
import sys
from pathlib import Path
from diffusion_lab.sweeps.job_lock import take
print(take(Path(sys.argv[1])).name, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process_has(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the job's lock in a process that ends with the context."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "OURS\n"
        try:
            yield holder
        finally:
            holder.kill()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def running(process: JobProcess | None) -> JobRecord:
    return JobRecord(("compute.seed=1",), RUNNING, {"compute": {"seed": 1}}, process)


def process(pid: int) -> JobProcess:
    """Return a process that runs on this machine."""
    return JobProcess(JobProcess.this().host, pid, _started(pid))


def parent() -> JobProcess:
    """Return a running process other than this one."""
    return process(os.getppid())


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process started")


class TestProcess:
    def test_this_one_runs(self) -> None:
        assert JobProcess.this().is_alive() is True

    @needs_proc
    def test_another_program_with_the_same_pid_is_not_the_job(self) -> None:
        assert parent().is_alive() is True
        assert replace(parent(), started="another start").is_alive() is False

    def test_those_of_other_machines_cannot_be_seen(self) -> None:
        assert JobProcess("elsewhere", os.getpid(), "another start").is_alive() is None

    @needs_proc
    def test_one_that_has_ended_and_is_not_collected_yet_does_not_run(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            found = process(child.pid)
            assert found.is_alive() is True
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # waits, and leaves it a zombie
            assert found.is_alive() is False


class TestLock:
    def test_is_released_when_its_process_ends(self, tmp_path: Path) -> None:
        assert job_lock.is_taken(tmp_path) is False
        with another_process_has(tmp_path) as holder:
            assert job_lock.is_taken(tmp_path) is True
            assert job_lock.take(tmp_path) is Lock.TAKEN
            holder.kill()
            holder.wait()
            assert job_lock.is_taken(tmp_path) is False

    def test_querying_the_own_lock_does_not_release_it(self, tmp_path: Path) -> None:
        assert job_lock.take(tmp_path) is Lock.OURS
        try:
            assert job_lock.is_taken(tmp_path) is True
            assert job_lock.take(tmp_path) is Lock.OURS
            seen = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], input="", capture_output=True, text=True)
            assert seen.stdout == "TAKEN\n"
        finally:
            job_lock.release(tmp_path)
        assert job_lock.is_taken(tmp_path) is False

    def test_a_file_system_without_locks_is_detected(self, tmp_path: Path, without_locks: None) -> None:
        assert job_lock.take(tmp_path) is Lock.UNSUPPORTED
        assert job_lock.is_taken(tmp_path) is None

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic"):
            job_lock.take(tmp_path)
        assert not (tmp_path / "elsewhere").exists()


class TestRecord:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        record = replace(running(JobProcess.this()), state="finished", best_value=0.1, measured={"a": [1, None]})
        record.write(tmp_path)
        assert JobRecord.read(tmp_path) == record

    def test_a_killed_job_is_not_running_because_another_program_has_its_process_id(self, tmp_path: Path) -> None:
        running(JobProcess(JobProcess.this().host, os.getppid())).write(tmp_path)
        found = JobRecord.read(tmp_path)
        assert found is not None
        assert found.state == DIED

    def test_a_job_on_another_machine_runs_as_long_as_its_lock_is_held(self, tmp_path: Path) -> None:
        running(JobProcess("elsewhere", 1, "another start")).write(tmp_path)
        with another_process_has(tmp_path):
            found = JobRecord.read(tmp_path)
            assert found is not None
            assert found.state == RUNNING
        found = JobRecord.read(tmp_path)
        assert found is not None
        assert found.state == DIED

    @needs_proc
    @pytest.mark.parametrize(
        ("change", "state"),
        [
            ({}, RUNNING),
            ({"started": "another start"}, DIED),
            ({"host": "elsewhere"}, RUNNING),  # as far as can be seen from here
        ],
    )
    def test_without_locks_the_process_is_checked(
        self, tmp_path: Path, without_locks: None, change: dict[str, object], state: str
    ) -> None:
        running(replace(parent(), **change)).write(tmp_path)  # type: ignore[arg-type]
        (tmp_path / LOCK).touch()
        found = JobRecord.read(tmp_path)
        assert found is not None
        assert found.state == state

    @pytest.mark.parametrize("content", ["null", "[]", '{"state": 1}', "[" * 10**5, "\udce9", '{"overrides": null}'])
    def test_invalid_records_are_ignored(self, tmp_path: Path, content: str) -> None:
        (tmp_path / RECORD).write_bytes(content.encode("utf-8", "surrogateescape"))
        assert JobRecord.read(tmp_path) is None

    def test_one_of_an_earlier_version_is_read(self, tmp_path: Path) -> None:
        old = {"overrides": ["a=1"], "state": "finished", "pid": 1, "settings": {}, "why": None, "best_value": 0.5}
        (tmp_path / RECORD).write_text(json.dumps(old))
        found = JobRecord.read(tmp_path)
        assert found is not None
        assert (found.best_value, found.process) == (0.5, None)
