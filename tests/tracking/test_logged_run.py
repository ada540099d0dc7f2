"""What W&B's own reader and TensorBoard's find of a run."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_lab.cli.compose_evaluation import parse_evaluation
from diffusion_lab.evaluation.command import Evaluation
from diffusion_lab.metric_names import METRICS, logged_names
from diffusion_lab.tracking.axes import IMAGES, STEP
from diffusion_lab.tracking.evaluations import log_evaluation
from scripts.wandb_workspace import Panel, layout
from tests.tracking.conftest import SECRET, Logged, sample

PANELS = [panel for section in layout() for panel in section.panels]


def test_metrics_have_both_axes(logged: Logged) -> None:
    """The default one is images seen. An epoch has 60 images, in steps of 25."""
    assert logged.steps("train/loss") == [(0, 25), (1, 50), (2, 60), (3, 85), (4, 110), (5, 120)]
    assert logged.steps("val/loss") == [(2, 60), (5, 120)]
    assert {logged.axes[name] for name in ("train/loss", "val/loss", "samples", "denoising")} == {IMAGES}


def test_metrics_are_those_of_the_file(logged: Logged) -> None:
    lines = [json.loads(line) for line in (logged.folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    for name in {name for line in lines for name in line} - {"step", "seconds"}:
        assert logged.values(name) == [line[name] for line in lines if name in line], name


def test_quality_is_next_to_that_of_real_images(logged: Logged) -> None:
    assert len(logged.values("val/kid_pixels")) == 2
    assert len(set(logged.values("null/kid_pixels"))) == 1
    assert logged.steps("null/kid_pixels") == logged.steps("val/kid_pixels")


def test_pictures_have_captions(logged: Logged) -> None:
    assert logged.values("samples.captions") == [["after epoch 1"], ["after epoch 2"]]
    assert logged.values("samples_by_class.captions") == [["low", "middle", "high"]] * 2
    assert logged.values("denoising.captions") == [["from noise (left) to image (right): what the sampler holds"]]


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel.kind in ("lines", "media", "bar", "table")], ids=str
)
def test_every_panel_has_data(panel: Panel, logged: Logged) -> None:
    known = {key.removesuffix("._type") for line in logged.history for key in line} | set(logged.summary)
    missing = [key for key in panel.keys if key not in known]
    assert not [key for key in missing if not key.endswith("_at_extreme_noise")], known  # a band that few images have
    if panel.pattern is not None:  # of the metrics that need other features, one is enough
        logs = {*known, *logged_names(METRICS, "digits"), *logged_names(METRICS, "inception")}
        assert [name for name in logs if re.search(panel.pattern, name)]


def test_settings_on_the_parallel_coordinates_are_in_the_config(logged: Logged) -> None:
    (panel,) = [panel for panel in PANELS if panel.kind == "coordinates"]
    for key in panel.keys:
        tree = logged.runs[0]["config"]["update"]
        for part in key.split("."):
            tree = tree[part]
        assert isinstance(tree, int | float)


def test_settings_are_the_config(logged: Logged) -> None:
    (run, *_) = logged.runs
    config = run["config"]["update"]
    assert config["training"]["optimizer"]["learning_rate"] == 0.01
    assert config["output"]["base_dir"] == "tiny"
    assert (run["run_group"], run["job_type"], run["tags"]) == ("tiny", "train", ["first try"])
    assert run["notes"] == "see https://[redacted]@example.org"
    assert logged.summary["parameters"] > 0
    assert logged.summary["best_value"] == min(logged.values("val/loss"))


def test_nothing_private_is_sent(logged: Logged) -> None:
    """The real path of a file is in the records, for it is sent later; online it is another one."""
    text = re.sub(r'"local_path": "[^"]*"', "", json.dumps(logged.records))
    page = (next(logged.folder.glob("logs/wandb/*/report.html"))).read_text()
    for private in (SECRET, str(logged.folder), str(logged.folder.parent), f'"{socket.gethostname()}"'):
        assert private not in text
        assert private not in page
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text) or getpass.getuser() == "root"


def test_report_and_checkpoint_are_artifacts(logged: Logged) -> None:
    artifacts = logged.artifacts()
    run_id = logged.runs[0]["run_id"]
    (report,) = artifacts[f"report-{run_id}"]["manifest"]["contents"]
    page = Path(report["local_path"]).read_text()
    assert '"state":"finished"' in page
    assert "training.epochs" in page
    assert '["Sample","python sample.py ckpt=tiny"]' in page
    checkpoint = artifacts[f"checkpoint-{run_id}"]
    assert set(checkpoint["aliases"]) >= {"latest", "last"}
    assert checkpoint["manifest"]["contents"][0]["path"].endswith(".ckpt")


def test_samples_and_evaluations_are_in_the_same_run(logged: Logged) -> None:
    run_id = (logged.folder / "logs" / "wandb_id").read_text().split()[0]
    assert [run["run_id"] for run in logged.runs] == [run_id] * 3
    assert [run.get("job_type", "") for run in logged.runs] == ["train", "", ""]  # unchanged
    (caption,) = logged.values("generated/samples.captions")
    assert caption == ["ddim, guidance 3, seed 0, step_00000006.ckpt"]
    assert logged.values("evaluation/sampler.steps") == [2, 3]
    assert len(set(logged.values("evaluation/kid_pixels"))) == 2
    assert logged.summary[STEP] == 5  # by which a resumed run knows what W&B has


def test_results_stay_here_unless_the_run_is_online(logged: Logged) -> None:
    sample(logged.folder, wanted="auto", name="more")
    sample(logged.folder, wanted="never", name="even more")
    assert len(list(logged.folder.glob("logs/wandb/offline-run-*"))) == len(logged.runs)


def test_tensorboard_has_the_same(logged: Logged) -> None:
    folder = logged.folder / "logs" / "tensorboard" / "tiny"
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    sent = {name for line in logged.history for name in line if name.startswith(("train/", "val/", "null/"))}
    scalars = {name for name in events.Tags()["scalars"] if "/" in name}
    assert scalars == sent
    for name in sent - {"train/images_per_second"}:
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx(logged.values(name), nan_ok=True), name
    assert [event.step for event in events.Images("samples")] == [2, 5]
    assert {"samples", "denoising", "estimates"} <= set(events.Tags()["images"])


def test_images_of_folders_belong_to_no_run(logged: Logged) -> None:
    images = str(logged.folder / "images" / "generated")
    request = parse_evaluation({"evaluation": {"samples": images, "reference": images}})
    file = logged.folder / "evaluation" / "evaluation.json"
    log_evaluation(request, Evaluation((), (file,)))
    assert len(list(logged.folder.glob("logs/wandb/offline-run-*"))) == len(logged.runs)


def test_no_error_of_wandb_ends_the_command(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffusion_lab.tracking.results_run.start_run", lambda *_: 1 / 0)
    sample(logged.folder, name="others")
    assert "Warning: the results are not on W&B: division by zero" in capsys.readouterr().err
