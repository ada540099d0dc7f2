"""A run that was logged offline, with images and evaluations, and everything that W&B's own reader finds of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb

from diffusion_lab.cli.compose_evaluation import parse_evaluation
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.config.validate import parse_as
from diffusion_lab.evaluation.command import evaluate
from diffusion_lab.generation.generate import generate
from diffusion_lab.tracking.evaluations import log_evaluation
from diffusion_lab.tracking.generations import log_generation
from tests.training.tiny import tiny_run, tiny_tree

SOURCE = "tests.training.tiny.TinySource"
SECRET = "hunter2hunter2"
LOGGER = {
    "backends": ["wandb", "tensorboard"],
    "tags": ["first try"],
    "notes": f"see https://anna:{SECRET}@example.org",
    "log_checkpoints": True,
}


@dataclass
class Logged:
    """What W&B's reader finds in the files of a run.

    Attributes:
        folder: The run folder.
        runs: Record of the run in each file, in the order of the commands.
        history: Lines of metrics of all files; keys of nested values are joined by dots.
        axes: Step metric of each metric.
        summary: Last value of each key.
        records: All records.
    """

    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def values(self, key: str) -> list[Any]:
        return [line[key] for line in self.history if key in line]

    def steps(self, key: str) -> list[tuple[int, int]]:
        """Return steps and images seen at which a key was logged."""
        return [(line["trainer/global_step"], line["trainer/images_seen"]) for line in self.history if key in line]

    def artifacts(self) -> dict[str, Any]:
        found = [record["request"] for record in self.records if "log_artifact" in record.get("request", {})]
        found = [request["log_artifact"]["artifact"] for request in found]
        found += [record["artifact"] for record in self.records if "artifact" in record]
        return {artifact["name"]: artifact for artifact in found}


def read_back(folder: Path) -> Logged:
    """Read the files of a run with W&B's reader, `wandb leet inspect`."""
    logged = Logged(folder)
    for file in sorted((folder / "logs" / "wandb").glob("*run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
        for record in map(json.loads, text.splitlines()):
            logged.records.append(record)
            content = record.get(record["type"], {})
            match record["type"]:
                case "run":
                    logged.runs.append(content)
                case "history":
                    logged.history.append(content["item"])
                case "metric":
                    logged.axes[content["name"]] = content.get("step_metric", "")
                case "summary":
                    logged.summary |= content["update"]
    return logged


@pytest.fixture(scope="package")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """Train with an evaluation, sample and evaluate, all logged offline."""
    folder = tmp_path_factory.mktemp("tracking") / "tiny"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("WANDB_MODE", "offline")
        for kind in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{kind}_DIR", str(folder.parent / "wandb"))
        tiny_run(
            folder,
            {
                "logger": LOGGER,
                "data.count": 100,
                "data.validation_split": {"fraction": 0.4, "seed": 0},
                "data.loading.batch_size": 25,
                "training.visualization": {"enabled": True, "interval": 1, "num_samples": 6, "guidance_scale": 1.0},
                "evaluation": {"enabled": True, "every": 1, "features": "pixels", "num_samples": 20, "split": "train"},
                "training.checkpointing.save_frequency": 1,
            },
        )
        sample(folder)
        measure(folder)
        wandb.teardown()  # ends its service, whose address would stay in the environment
        yield read_back(folder)


def sample(folder: Path, wanted: str = "always", name: str = "images") -> None:
    tree = tiny_tree(folder / name, {"mode": "generate", "generation.checkpoint": str(folder)})
    tree["generation"]["sampling"] |= {"num_samples": 3}
    tree["generation"]["wandb"] = wanted
    config = parse_as(GenerateConfig, tree, [])
    log_generation(config, generate(config, show_progress=False))


def measure(folder: Path, wanted: str = "always") -> None:
    request = parse_evaluation(
        {
            "compute": {"device": "cpu"},
            "evaluation": {"features": "pixels", "num_samples": 20, "metrics": ["kid", "memorization"]},
            "generation": {"checkpoint": str(folder), "wandb": wanted, "trust": SOURCE},
            "sampler": {"type": "ddim", "steps": [2, 3]},
        }
    )
    log_evaluation(request, evaluate(request))
