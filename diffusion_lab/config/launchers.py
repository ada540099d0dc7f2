"""Launchers that start one command as several processes: what the environment tells of them, and what follows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from diffusion_lab.config.faults import CommandError, ConfigWarning

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""What Lightning takes a process's number from when it is imported."""

MAKES_A_RUN_OF_ITS_OWN = frozenset(
    ("compute.seed", "seed", "name", "output.base_dir", "output.subdirs.generated", "hydra.run.dir", "hydra.sweep.dir")
)
"""Settings in which the tasks of a job step may differ so that each makes a run of its own."""


class TaskLauncher(NamedTuple):
    """A program that starts a command several times and numbers the copies."""

    name: str
    size: str
    """Environment variable with the number of tasks."""
    rank: str
    """Environment variable with the number of this task, from 0."""
    alone: str
    """How to start one task."""


TASK_LAUNCHERS = (
    TaskLauncher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun --ntasks=1"),
    TaskLauncher("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", "jsrun --nrs=1 --tasks_per_rs=1"),
    TaskLauncher("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun -n 1"),
    TaskLauncher("mpirun", "PMI_SIZE", "PMI_RANK", "mpirun -n 1"),
    TaskLauncher("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "mpirun -n 1"),
)
"""Not by SLURM_NTASKS: it says what a batch job has asked for, and is also set where nothing was started twice."""

NOT_YET = "several devices for one run are not supported yet"


def check_launcher(overrides: Iterable[str]) -> None:
    """Refuse a command that was started as the ranks of one run; say what is assumed of any other rank variable.

    Args:
        overrides: The ``key=value`` arguments of the command.

    Raises:
        CommandError: ``torchrun`` started several processes, or a job step several tasks of which nothing on the
            command line makes runs of their own.

    Warns:
        ConfigWarning: Rank variables say that this is one of several processes, but it is run alone.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment and _size(environment, "WORLD_SIZE") > 1:
        raise CommandError(
            f"torchrun started {environment['WORLD_SIZE']} processes, but {NOT_YET}: each process would make the same "
            "run. Start the command with python instead of torchrun; for several GPUs start one run a GPU, each with "
            "its own CUDA_VISIBLE_DEVICES"
        )
    for variable in RANK_VARIABLES:
        _integer(environment, variable)  # what Lightning cannot read ends its import
    launcher = next((each for each in TASK_LAUNCHERS if _size(environment, each.size) > 1), None)
    if launcher is not None and not os.isatty(0):  # a shell of `srun --pty` is no task that was started for this
        _check_task(launcher, environment, overrides)
    else:
        _say_what_is_assumed(environment)


def _check_task(launcher: TaskLauncher, environment: Mapping[str, str], overrides: Iterable[str]) -> None:
    tasks = _size(environment, launcher.size)
    if MAKES_A_RUN_OF_ITS_OWN.isdisjoint(override.lstrip("+").partition("=")[0] for override in overrides):
        raise CommandError(
            f"{launcher.name} started this command as {tasks} tasks ({launcher.size}={tasks}), but {NOT_YET}: each "
            f"task would make the same run. Start it once ({launcher.alone}), or let each task make a run of its own: "
            f"bash -c 'python train.py compute.seed=${launcher.rank} output.base_dir=outputs/seed_${launcher.rank}'. "
            f"If this process is the only one, unset {launcher.size}"
        )
    warnings.warn(
        f"{launcher.name} started {tasks} tasks, of which this is number {environment.get(launcher.rank, '?')} (from "
        f"0): each makes a run of its own, since {NOT_YET}",
        ConfigWarning,
        stacklevel=3,
    )


def _say_what_is_assumed(environment: Mapping[str, str]) -> None:
    found = {name: _integer(environment, name) for name in RANK_VARIABLES}
    telling = [f"{name}={rank}" for name, rank in found.items() if rank]
    world = _size(environment, "WORLD_SIZE")
    if world > 1:
        telling.append(f"WORLD_SIZE={world}")
    if telling:
        warnings.warn(
            f"the environment has {' and '.join(telling)}, as if this were one of several processes, but nothing shows "
            "that a launcher started them: it runs alone, on one device, and writes everything itself. Unset what is "
            "left over to run without this warning",
            ConfigWarning,
            stacklevel=3,
        )


def _size(environment: Mapping[str, str], name: str) -> int:
    return _integer(environment, name) or 1


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    """The value of a variable; None where it is not set. Raises CommandError where it is no integer."""
    text = environment.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise CommandError(
            f"the environment variable {name} must be an integer or unset, got {text!r}: unset it"
        ) from None
