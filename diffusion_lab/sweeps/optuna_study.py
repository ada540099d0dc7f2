"""Searches by Hydra's Optuna sweeper that the same command can resume, however they ended."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_lab.console.terminal import printable

OPTUNA_SWEEPER = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
SQLITE = "sqlite:///"


def prepare_study(config: DictConfig) -> None:
    """Change the configuration of the sweeper, so that ``n_trials`` is the number of trials of the whole search.

    Without ``hydra.sweeper.storage`` a search is repeated: the sampler is seeded with ``compute.seed`` if it has no
    seed of its own, so it proposes the same trials again, and finished ones are skipped with their values. With a
    storage, the stored study is resumed: complete trials count, and an interrupted trial is repeated with the same
    values, so that its run resumes from its checkpoint. A study without a name is named after the sweep's folder.

    Args:
        config: Configuration that Hydra composed for the sweep.
    """
    sweeper = config.hydra.sweeper
    with read_write(config), open_dict(config):
        if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
            sweeper.sampler.seed = OmegaConf.select(config, "compute.seed", default=None)
        if not isinstance(sweeper.storage, str):
            return
        sweeper.study_name = sweeper.study_name or Path(config.hydra.sweep.dir).name
        _make_folder(sweeper.storage, Path(config.hydra.sweep.dir))
        study = _load_study(sweeper.study_name, sweeper.storage)
        if study is not None:
            _resume(study, sweeper)


def _make_folder(storage: str, sweep: Path) -> None:
    """Create the sweep's folder if the database is inside: Hydra creates it later, SQLite never."""
    if storage.startswith(SQLITE) and sweep.resolve() in Path(storage.removeprefix(SQLITE)).resolve().parents:
        sweep.mkdir(parents=True, exist_ok=True)


def _load_study(name: str, storage: str) -> Any:
    import optuna

    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def _resume(study: Any, sweeper: DictConfig) -> None:
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
        sweeper.sampler.seed += len(trials)  # otherwise it would repeat the first trials
    repeated = f"; {len(interrupted)} interrupted, repeated" if interrupted else ""
    print(
        f"study {printable(study.study_name)}: {complete} of {sweeper.n_trials} trials are complete{repeated}",
        file=sys.stderr,
    )
    sweeper.n_trials = max(0, sweeper.n_trials - complete)
