"""Python API of the evaluation: invalid arguments are refused, and suggestions of messages are accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_lab.checkpoint import read_checkpoint
from diffusion_lab.evaluation import api, evaluate_checkpoint, evaluate_folders
from diffusion_lab.evaluation.run_data import training_images
from diffusion_lab.faults import ConfigError, ConfigWarning
from diffusion_lab.sweeps.job_record import RECORD
from tests.evaluation.untrained import OWN_IMAGES, untrained

FEW: dict[str, Any] = {"features": "pixels", "metrics": ["kid"], "device": "cpu"}


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_results(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(api, "find_results", find_results)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoint of a process of 20 steps, with images of a custom class."""
    return untrained(tmp_path / "run.ckpt")


def test_split_has_no_effect_with_a_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\n  split = "val": has no effect, since reference'):
        evaluate_checkpoint(tmp_path, reference=tmp_path, split="val")


@pytest.mark.usefixtures("nothing_is_measured")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sampler": {"type": "ddim", "steps": [5, 10]}},
            r"^sampler\.steps must be a single value, got \[5, 10\]",
        ),
        (
            {"guidance_scale": [1.0, 2.0]},
            r"^guidance_scale must be a single value, got \[1\.0, 2\.0\]",
        ),
        ({"seed": [0, 1, 2]}, r"^seed must be a single value, got \[0, 1, 2\]: this returns one result"),
    ],
)
def test_lists_of_values_are_refused_by_argument_name(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_checkpoint(tmp_path, **arguments)


@pytest.mark.usefixtures("nothing_is_measured")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 3}, r"\n  num_samples = 3: must be at least 20"),
        ({"sampler": "heunn"}, r"\n  sampler = .*did you mean 'heun'"),
        ({"sampler": {"type": "ddim", "eta": 2}}, r"\n  sampler\.eta = 2: must be at most 1"),
        ({"guidance_scale": -1.0}, r"\n  guidance_scale = -1.0: must be at least 0"),
        ({"metrics": ["kidd"]}, r"\n  metrics\[0\] = .*did you mean 'kid'"),
        ({"seed": -1}, r"\n  seed = -1: must be at least 0"),
        ({"use_ema": "no"}, r"\n  use_ema = .*must be true or false"),
        ({"path": "nowhere"}, r"\n  path = "),
    ],
)
def test_an_invalid_argument_is_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^1 argument is wrong:" + message) as caught:
        evaluate_checkpoint(**({"path": tmp_path} | arguments))
    assert not any(section in str(caught.value) for section in ("evaluation.", "generation.", "compute."))


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / RECORD).write_text("{}")
    with pytest.raises(ValueError, match=r"path must be a checkpoint file or a run folder, got .*, which is a sweep"):
        evaluate_checkpoint(tmp_path)


def test_default_steps_are_limited_by_the_noise_process(run: Path, tmp_path: Path) -> None:
    base_dir = tmp_path / "out"
    given: dict[str, Any] = {"trust": [OWN_IMAGES], "num_samples": 20, "base_dir": base_dir, **FEW}
    assert evaluate_checkpoint(run, **given).samples["steps"] == 20
    assert evaluate_checkpoint(run, sampler="unipc", **given).samples["steps"] == 20
    with pytest.raises(ValueError, match="5000"):
        evaluate_checkpoint(run, sampler={"type": "ddim", "steps": 5000}, **given)


def test_custom_image_classes_of_runs_can_be_trusted(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"if you trust it, trust=\[{OWN_IMAGES}\]"):
        evaluate_folders(run, run, base_dir=tmp_path / "out", **FEW)
    assert evaluate_folders(run, run, base_dir=tmp_path / "out", trust=[OWN_IMAGES], **FEW)["kid"].value <= 0
    once = {
        "sampler": {"type": "ddim", "steps": 1},
        "num_samples": 20,
        "base_dir": tmp_path / "out",
        "trust": [OWN_IMAGES],
    }
    assert evaluate_checkpoint(run, **once, **FEW).conditions["reference"] == "training images"
    beside = evaluate_checkpoint(run, reference=run, **once, **FEW)
    assert beside.conditions["reference_images"] == 45


def test_trust_without_effect_is_refused(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", np.zeros((20, 8, 8), np.uint8))
    images = tmp_path / "set.npz"
    with pytest.raises(ValueError, match=r"trust = my\.Images has no effect, since none of samples"):
        evaluate_folders(images, images, base_dir=tmp_path / "out", trust=["my.Images"], **FEW)
    with pytest.raises(ValueError, match=r"must contain only classes that path names, got my\.X"):
        evaluate_checkpoint(run, base_dir=tmp_path / "out", trust=[OWN_IMAGES, "my.X"], num_samples=20, **FEW)


def test_suggestions_of_messages_are_accepted_arguments(run: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    given: dict[str, Any] = {"weights": tmp_path / "weights.pth", "features": "inception", "device": "cpu"}
    with pytest.raises(ValueError, match="pass that as sha256 as well"):
        evaluate_folders(run, run, trust=[OWN_IMAGES], base_dir=tmp_path / "out", **given)
    with pytest.raises(ValueError, match=f"with SHA-256 {'0' * 64}"):
        evaluate_folders(run, run, trust=[OWN_IMAGES], base_dir=tmp_path / "out", sha256="0" * 64, **given)
    with pytest.raises(ConfigError, match=r'data_paths\[\'train\'\] = "nowhere": must be an existing folder'):
        evaluate_checkpoint(run, data_paths={"train": "nowhere"})


def test_memorization_uses_the_training_images_of_the_run_with_any_reference(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    once: dict[str, Any] = {"sampler": {"type": "ddim", "steps": 1}, "num_samples": 20, "base_dir": tmp_path / "out"}
    once |= {"reference": tmp_path / "test.npz", "features": "pixels", "device": "cpu"}
    found = evaluate_checkpoint(run, trust=[OWN_IMAGES], **once)
    counts = {row["metric"]: row["reference_n"] for row in found.measurement["rows"]}
    assert (counts["fd"], counts["memorization"]) == (30, 45)
    with pytest.warns(ConfigWarning, match=r"memorization is skipped: the images .* was trained on cannot be read"):
        unread = evaluate_checkpoint(run, **once)
    assert unread.measurement["skipped"]["memorization"] == "the training images of the run cannot be read"
    assert unread["fd"] == found["fd"]
    with pytest.raises(ValueError, match=r"metrics contains memorization, but the images .* if you trust it, trust="):
        evaluate_checkpoint(run, metrics=["kid", "memorization"], **once)


def test_changed_training_images_are_refused(run: Path) -> None:
    checkpoint = read_checkpoint(run)
    assert len(training_images(checkpoint, [OWN_IMAGES], {})) == 45
    other = replace(checkpoint, metadata={**checkpoint.metadata, "data_fingerprint": "0" * 64})
    with pytest.raises(ValueError, match="some were added, removed or changed"):
        training_images(other, [OWN_IMAGES], {})
    with pytest.raises(ValueError, match="the checkpoint does not record which they are"):
        training_images(replace(checkpoint, config=None), [OWN_IMAGES], {})
