"""Configuration of all tests: selection, number of threads, and isolation."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from diffusion_lab.runtime import torchvision_import
from tests import tensor_annotations

# Tests run side by side (pytest-xdist) and start processes of their own: one thread each is fastest, and
# sums are added up in the same order everywhere. Set before torch is imported, so it reaches all of them.
# Also in the process that collects what the workers report: a warning of Lightning's makes it import Lightning.
torchvision_import.install()
tensor_annotations.install()
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Programs started by nohup, or in the background of a script, ignore these signals, and so would all that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A machine that is busy with something else is no fault of the code. Each test draws the same values in every run, so
# that a change is judged by what it changes; --hypothesis-profile=explore draws others.
settings.register_profile("any_speed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("any_speed"), derandomize=False)
settings.load_profile("any_speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = {}
    if not config.getoption("--slow") and os.environ.get("RUN_SLOW") != "1":
        lacking["slow"] = "takes minutes: runs with --slow or RUN_SLOW=1"
    if "soak" not in config.getoption("markexpr"):
        lacking["soak"] = "takes many minutes: runs with -m soak"
    if os.environ.get("DIFFUSION_LAB_NETWORK") != "1":
        lacking["network"] = "needs a network: runs with DIFFUSION_LAB_NETWORK=1"
    if any(item.get_closest_marker("gpu") for item in items) and not has_gpu():
        lacking["gpu"] = "needs a CUDA device"
    for item in items:
        for name, reason in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Exclude the libraries from garbage collection.

    Lightning collects garbage at the end of each fit, which would go through more than a million of their objects.
    """
    gc.collect()
    gc.freeze()


def has_gpu() -> bool:
    import torch  # here, so that collecting tests that need no GPU stays fast

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def wandb_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wandb")


@pytest.fixture(autouse=True)
def environment(wandb_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep W&B offline, quiet and out of the user's folders, as caches are; environment changes are undone.

    Restored by hand, not by monkeypatch: libraries set variables behind a test's back (W&B's logger does).
    """
    before = dict(os.environ)
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_DIR", "DIFFUSION_LAB_TRACEBACK"):
        os.environ.pop(name, None)
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    os.environ.update({f"WANDB_{kind}_DIR": str(wandb_home) for kind in ("CACHE", "CONFIG", "DATA")})
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")
    yield
    os.environ.clear()
    os.environ.update(before)
