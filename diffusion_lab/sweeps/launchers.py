"""Launchers that start one command as several processes: detection from the environment."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from diffusion_lab.console.command_line import command
from diffusion_lab.faults import CommandError, ConfigWarning

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables from which Lightning takes the rank of a process when it is imported."""

SEPARATES_RUNS = frozenset(
    ("compute.seed", "seed", "name", "output.base_dir", "output.subdirs.generated", "hydra.run.dir", "hydra.sweep.dir")
)
"""Settings that may differ between the tasks of a job step, so that each is a separate run."""


class TaskLauncher(NamedTuple):
    """A program that starts a command several times and numbers the copies."""

    name: str
    size: str
    """Environment variable with the number of tasks."""
    rank: str
    """Environment variable with the rank of this task, from 0."""
    alone: str
    """Command to start a single task."""


TASK_LAUNCHERS = (
    TaskLauncher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun --ntasks=1"),
    TaskLauncher("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", "jsrun --nrs=1 --tasks_per_rs=1"),
    TaskLauncher("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun -n 1"),
    TaskLauncher("mpirun", "PMI_SIZE", "PMI_RANK", "mpirun -n 1"),
    TaskLauncher("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "mpirun -n 1"),
)
"""SLURM_NTASKS is not used: it is what a batch job requested, and is set even for a single process."""

NOT_YET = "several devices for one run are not supported yet"


def check_launcher(overrides: Iterable[str]) -> None:
    """Refuse commands started as several ranks of one run, and warn about other rank variables.

    Args:
        overrides: ``key=value`` arguments of the command.

    Raises:
        CommandError: ``torchrun`` started several processes, or a job step several tasks and nothing on the command
            line makes them separate runs.

    Warns:
        ConfigWarning: Rank variables suggest one of several processes, but this one runs alone.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment and _size(environment, "WORLD_SIZE") > 1:
        raise CommandError(
            f"torchrun started {environment['WORLD_SIZE']} processes, but {NOT_YET}: each process would perform the "
            "same run. Start the command with python instead of torchrun; for several GPUs start one run per GPU, each "
            "with its own CUDA_VISIBLE_DEVICES"
        )
    for variable in RANK_VARIABLES:
        _integer(environment, variable)  # Lightning's import fails on an invalid value
    launcher = next((each for each in TASK_LAUNCHERS if _size(environment, each.size) > 1), None)
    if launcher is not None and not os.isatty(0):  # a shell of `srun --pty` is not a task of this command
        _check_task(launcher, environment, overrides)
    else:
        _warn_about_ranks(environment)


def _check_task(launcher: TaskLauncher, environment: Mapping[str, str], overrides: Iterable[str]) -> None:
    tasks = _size(environment, launcher.size)
    if SEPARATES_RUNS.isdisjoint(override.lstrip("+").partition("=")[0] for override in overrides):
        rank = f"${launcher.rank}"
        separate = shlex.quote(f"{command('train')} compute.seed={rank} output.base_dir=outputs/seed_{rank}")
        raise CommandError(
            f"{launcher.name} started this command as {tasks} tasks ({launcher.size}={tasks}), but {NOT_YET}: each "
            f"task would perform the same run. Start it once ({launcher.alone}), or make each task a separate run: "
            f"bash -c {separate}. If this process is the only one, unset {launcher.size}"
        )
    warnings.warn(
        f"{launcher.name} started {tasks} tasks, of which this one has rank "
        f"{environment.get(launcher.rank, '?')}: each is a separate run, since {NOT_YET}",
        ConfigWarning,
        stacklevel=3,
    )


def _warn_about_ranks(environment: Mapping[str, str]) -> None:
    ranks = {name: _integer(environment, name) for name in RANK_VARIABLES}
    variables = [f"{name}={rank}" for name, rank in ranks.items() if rank]
    world = _size(environment, "WORLD_SIZE")
    if world > 1:
        variables.append(f"WORLD_SIZE={world}")
    if variables:
        warnings.warn(
            f"the environment has {' and '.join(variables)}, as if this were one of several processes, but no launcher "
            "was detected: it runs alone, on one device, and writes everything itself. Unset the variables to run "
            "without this warning",
            ConfigWarning,
            stacklevel=3,
        )


def _size(environment: Mapping[str, str], name: str) -> int:
    return _integer(environment, name) or 1


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    """Return the value of a variable, or None if it is not set. Raises CommandError if it is not an integer."""
    text = environment.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise CommandError(
            f"the environment variable {name} must be an integer or unset, got {text!r}: unset it"
        ) from None
