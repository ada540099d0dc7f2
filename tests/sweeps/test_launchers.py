"""Launchers detected from the environment: refused, run as a single process, or ignored."""

from __future__ import annotations

import warnings

import pytest

from diffusion_lab.faults import ConfigWarning
from diffusion_lab.sweeps.launchers import RANK_VARIABLES, TASK_LAUNCHERS, check_launcher

SRUN = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    of_tasks = [name for launcher in TASK_LAUNCHERS for name in (launcher.size, launcher.rank)]
    for name in (*RANK_VARIABLES, *of_tasks, *SRUN, *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.isatty", lambda _: False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "4"},  # a batch script
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {**TORCHRUN, "WORLD_SIZE": "1"},
        {"PMI_RANK": "1", "PMIX_RANK": "1", "PALS_RANKID": "1", "OMPI_COMM_WORLD_RANK": "1"},  # of no task's size
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
    ],
)
def test_a_single_process_gives_no_warning(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    set_all(monkeypatch, variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_launcher([])


def test_torchrun_is_refused_with_any_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TORCHRUN)
    with pytest.raises(
        ValueError, match=r"torchrun started 2 processes.*not supported yet.*python instead of torchrun"
    ):
        check_launcher(["output.base_dir=mine"])


@pytest.mark.parametrize(
    ("size", "rank"),
    [
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
        ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("PMI_SIZE", "PMI_RANK"),
        ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ],
)
def test_tasks_that_would_perform_the_same_run_are_refused(
    monkeypatch: pytest.MonkeyPatch, size: str, rank: str
) -> None:
    set_all(monkeypatch, {size: "4", rank: "2"})
    with pytest.raises(ValueError, match=rf"4 tasks \({size}=4\).*compute.seed=\${rank} output.base_dir=") as caught:
        check_launcher(["training.epochs=3"])
    assert f"unset {size}" in str(caught.value)


@pytest.mark.parametrize("own", ["compute.seed=2", "output.base_dir=outputs/seed_2", "hydra.sweep.dir=here"])
def test_one_run_per_task_is_allowed_with_a_warning(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    set_all(monkeypatch, SRUN)
    with pytest.warns(ConfigWarning, match=r"4 tasks, of which this one has rank 2: each is a separate run"):
        check_launcher([own])


def test_a_shell_of_srun_is_not_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**SRUN, "SLURM_PROCID": "0"})
    monkeypatch.setattr("os.isatty", lambda _: True)
    check_launcher([])


@pytest.mark.parametrize("variable", RANK_VARIABLES)
def test_a_stale_rank_variable_warns(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.warns(ConfigWarning, match=rf"{variable}=1.*runs alone.*[Uu]nset"):
        check_launcher([])


def test_a_stale_world_size_is_named_with_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.warns(ConfigWarning, match="RANK=1 and WORLD_SIZE=2"):
        check_launcher([])


@pytest.mark.parametrize("variable", RANK_VARIABLES)
def test_an_invalid_rank_is_reported(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "")
    with pytest.raises(ValueError, match=f"{variable} must be an integer or unset, got ''"):
        check_launcher([])
