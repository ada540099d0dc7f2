"""Loader workers that are lost; how real ones die and hang is in tests/faults."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from diffusion_lab.data.datamodule import ImageDataModule
from diffusion_lab.data.source import ArraySource
from diffusion_lab.data.workers import MAX_WAIT, SuspendableLoader, _SuspendableIterator, explain_worker_failures

DIED = "DataLoader worker (pid 12) is killed by signal: Killed. "
ENDED = "DataLoader worker (pid(s) 12, 13) exited unexpectedly"


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        (DIED, ChildProcessError, r"process id 12\) was killed by signal Killed"),
        (ENDED, ChildProcessError, r"process id 12, 13\) ended unexpectedly"),
        (
            "DataLoader timed out after 2.5 seconds",
            TimeoutError,
            r"for 2\.5 s, the limit data\.loading\.worker_timeout",
        ),
        ("CUDA error", RuntimeError, "^CUDA error$"),
    ],
)
def test_lost_worker_is_explained_and_other_errors_pass(message: str, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected), explain_worker_failures():
        raise RuntimeError(message)


def test_signal_is_reported_if_it_came_while_waiting_for_a_batch():
    vaguer = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    vaguer.__cause__ = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    with (
        pytest.raises(ChildProcessError, match=r"\(process id 12\) was killed by signal Killed"),
        explain_worker_failures(),
    ):
        raise vaguer


class NothingStarts:
    """Start method that refuses every process, as joblib's refuses all but its own."""

    class Process:
        @staticmethod
        def _Popen(process: object) -> None:
            raise AttributeError("'Process' object has no attribute 'env'")


def test_images_are_loaded_if_the_default_start_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a sweep on the joblib launcher run in processes whose default start method is loky's."""
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", NothingStarts)
    images = ArraySource(np.zeros((6, 1, 4, 4), dtype=np.uint8), [0] * 6, ["zero"])
    data = ImageDataModule(images, None, batch_size=3, num_workers=1)
    assert [len(batch.images) for batch in data.train_dataloader()] == [3, 3]


def fail_to_start() -> None:
    try:
        raise OSError(12, "Cannot allocate memory")
    finally:
        raise RuntimeError("Please call `iter(combined_loader)` first.")


def test_reason_of_a_failed_loader_start_is_not_hidden() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"), explain_worker_failures():
        fail_to_start()


class Waits:
    """Stands for torch's wait for a batch: each one that is over without any is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batch_after: int) -> None:
        self.waits: list[float] = []
        self.batch_after = batch_after
        monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", lambda _, timeout: self.wait(timeout))

    def wait(self, timeout: float) -> tuple[bool, str | None]:
        self.waits.append(timeout)
        return (True, "batch") if len(self.waits) > self.batch_after else (False, None)

    def result(self, timeout: float) -> tuple[bool, object]:
        iterator = _SuspendableIterator.__new__(_SuspendableIterator)
        iterator._shutdown = True  # it has no workers
        return iterator._try_get_data(timeout)


def test_suspended_wait_is_not_a_hang(monkeypatch):
    """By the clock it lasted hours; a worker that continues then has the rest of its time."""
    waits = Waits(monkeypatch, batch_after=1)
    assert waits.result(timeout=120) == (True, "batch")
    assert waits.waits == [MAX_WAIT] * 2


@pytest.mark.parametrize("limit", [0.25, 1.0, 2.5, 7.0])
def test_a_worker_counts_as_hung_after_the_complete_limit(monkeypatch, limit):
    waits = Waits(monkeypatch, batch_after=100)
    assert waits.result(timeout=limit) == (False, None)
    assert sum(waits.waits) == limit
    assert max(waits.waits) <= MAX_WAIT


def test_datamodule_uses_the_loader():
    images = ArraySource(np.zeros((4, 1, 2, 2), np.uint8), [0] * 4, ())
    data = ImageDataModule(images, images, 2, num_workers=1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader, SuspendableLoader)
        assert loader.timeout == data.worker_timeout
        assert [len(batch.images) for batch in loader] == [2, 2]
        assert isinstance(loader._iterator, _SuspendableIterator)
