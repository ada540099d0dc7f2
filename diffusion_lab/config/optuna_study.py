"""A search by Hydra's Optuna sweeper that the same command goes on with, however it ended."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_lab.terminal import printable

OPTUNA_SWEEPER = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
SQLITE = "sqlite:///"


def prepare_study(config: DictConfig) -> None:
    """Change what the sweeper is about to read, so that ``n_trials`` is the number of trials of the whole search.

    Without ``hydra.sweeper.storage`` a search is repeated: the sampler draws from ``compute.seed`` where it has no seed
    of its own, so it asks for the same trials again, and those that are finished are skipped with the value they had.
    With a storage it is the stored study that goes on: complete trials count, and one that was interrupted is tried
    again, with the same values, so that its run goes on from its checkpoint. A study without a name has that of the
    sweep's folder.

    Args:
        config: What Hydra composed for the sweep.
    """
    sweeper = config.hydra.sweeper
    with read_write(config), open_dict(config):
        if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
            sweeper.sampler.seed = OmegaConf.select(config, "compute.seed", default=None)
        if not isinstance(sweeper.storage, str):
            return
        sweeper.study_name = sweeper.study_name or Path(config.hydra.sweep.dir).name
        _make_folder(sweeper.storage, Path(config.hydra.sweep.dir))
        study = _stored(sweeper.study_name, sweeper.storage)
        if study is not None:
            _go_on(study, sweeper)


def _make_folder(storage: str, sweep: Path) -> None:
    """Make the sweep's folder where the database is to lie in it: Hydra makes it later, SQLite never."""
    if storage.startswith(SQLITE) and sweep.resolve() in Path(storage.removeprefix(SQLITE)).resolve().parents:
        sweep.mkdir(parents=True, exist_ok=True)


def _stored(name: str, storage: str) -> Any:
    import optuna

    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def _go_on(study: Any, sweeper: DictConfig) -> None:
    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    interrupted = [trial for trial in trials if trial.state == TrialState.RUNNING]
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        for trial in interrupted:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    if "seed" in sweeper.sampler and sweeper.sampler.seed is not None:
        sweeper.sampler.seed += len(trials)  # else it would begin with the first trials again
    again = f"; {len(interrupted)} interrupted, tried again" if interrupted else ""
    print(
        f"study {printable(study.study_name)}: {complete} of {sweeper.n_trials} trials are complete{again}",
        file=sys.stderr,
    )
    sweeper.n_trials = max(0, sweeper.n_trials - complete)
