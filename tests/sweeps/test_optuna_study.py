"""A search is resumed: repeated from its seed, or from the study in its storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.sweeps.optuna_study import prepare_study

Search = Callable[..., DictConfig]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Relevant part of what Hydra composes for a search."""

    def composed(seed: int | None = 0, **sweeper: Any) -> DictConfig:
        settings: dict[str, Any] = {"sampler": {"seed": None}, "storage": None, "study_name": None, "n_trials": 10}
        tree = {
            "compute": {"seed": seed},
            "hydra": {"sweep": {"dir": str(tmp_path / "sweep")}, "sweeper": settings | sweeper},
        }
        config = OmegaConf.create(tree)
        OmegaConf.set_struct(config, True)
        OmegaConf.set_readonly(config, True)
        return config

    return composed


@pytest.mark.parametrize(("seed", "typed", "drawn"), [(3, None, 3), (3, 8, 8), (None, None, None)])
def test_a_search_draws_from_the_seed_of_the_run(
    search: Search, seed: int | None, typed: int | None, drawn: int | None
) -> None:
    config = search(seed, sampler={"seed": typed})
    prepare_study(config)
    assert config.hydra.sweeper.sampler.seed == drawn
    assert config.hydra.sweeper.n_trials == 10


def test_a_deterministic_sampler_is_unchanged(search: Search) -> None:
    config = search(sampler={"_target_": "optuna.samplers.GridSampler"})
    prepare_study(config)
    assert "seed" not in config.hydra.sweeper.sampler


class TestStored:
    @pytest.fixture(autouse=True)
    def optuna(self) -> Any:
        return pytest.importorskip("optuna", reason="pip install -e '.[optuna]'")

    @pytest.fixture
    def storage(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'sweep' / 'study.db'}"

    def test_a_new_study_has_a_name_and_a_folder(self, search: Search, storage: str, tmp_path: Path) -> None:
        config = search(storage=storage)
        prepare_study(config)
        assert config.hydra.sweeper.study_name == "sweep"
        assert (tmp_path / "sweep").is_dir()

    def test_complete_trials_count_and_interrupted_ones_are_repeated(
        self, search: Search, storage: str, tmp_path: Path, optuna: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "sweep").mkdir()
        study = optuna.create_study(study_name="sweep", storage=storage)
        rate = optuna.distributions.UniformDistribution(0, 1)
        for value in (0.5, 0.25):
            trial = study.ask({"rate": rate})
            study.tell(trial, value)
        killed = study.ask({"rate": rate})
        config = search(storage=storage)
        prepare_study(config)
        assert (config.hydra.sweeper.n_trials, config.hydra.sweeper.sampler.seed) == (8, 3)
        assert study.ask({"rate": rate}).params == killed.params
        assert "study sweep: 2 of 10 trials are complete; 1 interrupted, repeated" in capsys.readouterr().err

    def test_a_complete_study_runs_no_trials(self, search: Search, storage: str, tmp_path: Path, optuna: Any) -> None:
        (tmp_path / "sweep").mkdir()
        study = optuna.create_study(study_name="sweep", storage=storage)
        for value in (0.5, 0.25):
            study.tell(study.ask(), value)
        config = search(storage=storage, n_trials=2)
        prepare_study(config)
        assert config.hydra.sweeper.n_trials == 0
