"""Hydra's launchers and sweepers in optional packages, with the command to install each."""

from __future__ import annotations

import shlex
import sys

OPTUNA = ("hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "sqlalchemy<2", "alembic<1.16")
PACKAGES = {
    "hydra/launcher/joblib": ("hydra-joblib-launcher==1.2.0",),
    "hydra/launcher/submitit_local": ("hydra-submitit-launcher==1.2.0",),
    "hydra/launcher/submitit_slurm": ("hydra-submitit-launcher==1.2.0",),
    "hydra/launcher/ray": ("hydra-ray-launcher==1.2.2",),
    "hydra/launcher/ray_aws": ("hydra-ray-launcher==1.2.2",),
    "hydra/sweeper/optuna": OPTUNA,
    **{f"hydra/sweeper/sampler/{name}": OPTUNA for name in ("cmaes", "grid", "motpe", "nsgaii", "random", "tpe")},
}
"""Packages by the file that Hydra looks for: those of the extras ``launchers`` and ``optuna`` in ``pyproject.toml``."""


def install_hint(option: str) -> str | None:
    """Return a message for an option whose package is not installed; None for any other option.

    Args:
        option: Group and name, such as ``hydra/launcher/joblib``.
    """
    packages = PACKAGES.get(option)
    if packages is None:
        return None
    group, _, name = option.rpartition("/")
    command = shlex.join([sys.executable, "-m", "pip", "install", *packages])
    return f"{group}={name} is in a package that is not installed. To install it:\n  {command}"


def names_in(group: str) -> list[str]:
    """Return the options of a group that optional packages provide."""
    return [option.rpartition("/")[2] for option in PACKAGES if option.rpartition("/")[0] == group]
