"""`python evaluate.py`: images of a checkpoint, or other images, against real ones."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import create_ddpm
from diffusion_lab.checkpoint import find_checkpoint, read_checkpoint
from diffusion_lab.data.digits import digits
from diffusion_lab.evaluation import evaluate_checkpoint, evaluate_folders, evaluator
from diffusion_lab.evaluation.__main__ import arguments_for_evaluate
from diffusion_lab.evaluation.run_data import images_of_run
from diffusion_lab.evaluation.targets import find_targets
from diffusion_lab.faults import ConfigError
from diffusion_lab.features.feature_set import FeatureSet
from diffusion_lab.generation.arrays import write_arrays
from diffusion_lab.sweeps.job_record import JobRecord
from tests.commands.conftest import Refused, run_here, succeeds

pytestmark = pytest.mark.integration

QUICK = ("device=cpu", "num_samples=40", "features=pixels")
CURVE = ("sampler.steps=[1,2]",)


def evaluated(words: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Return the results that `evaluate.py` writes, run in this process."""
    run_here("evaluate", words)
    content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return content


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run that no other module evaluates."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(digits_run, folder, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def curve(run: Path) -> dict[str, Any]:
    """Results of a command with a list."""
    return evaluated((f"ckpt={run}", *QUICK, *CURVE), run / "evaluation")


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("measured once more")

    monkeypatch.setattr(evaluator, "measure", measure)


@pytest.fixture
def nothing_is_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    measure = evaluator.measure

    def once(samples: FeatureSet, *args: Any, **options: Any) -> Any:
        assert samples.data_fingerprint not in measured, "measured once more"
        measured.append(samples.data_fingerprint)
        return measure(samples, *args, **options)

    monkeypatch.setattr(evaluator, "measure", once)


class TestCheckpoint:
    def test_results_contain_their_conditions(self, curve: dict[str, Any], run: Path) -> None:
        result = curve["results"][0]
        conditions = result["conditions"]
        assert (conditions["num_samples"], conditions["features"], conditions["split"]) == (40, "pixels", "train")
        assert conditions["reference_images"] + conditions["held_out_images"] == len(digits())
        metadata = read_checkpoint(find_checkpoint(run)).metadata
        assert (
            result["samples"]["data_fingerprint"] == metadata["data_fingerprint"] == conditions["reference_fingerprint"]
        )
        assert {"sampler": "ddim", "steps": 1, "guidance_scale": 1.0, "seed": 0, "use_ema": True}.items() <= result[
            "samples"
        ].items()
        assert all(result["seconds"][name] > 0 for name in ("sampling", "features", "metrics"))
        rows = {row["metric"]: row for row in result["measurement"]["rows"]}
        assert {"fd", "kid", "precision", "recall", "density", "coverage", "label_agreement"} <= rows.keys()
        assert rows["fd"]["name"] == "fd_pixels"
        assert all(
            row["estimate"]["low"] <= row["estimate"]["value"] <= row["estimate"]["high"] for row in rows.values()
        )
        assert all(row["null"] is not None for row in rows.values())

    def test_a_list_gives_one_table_and_one_plot(self, curve: dict[str, Any], run: Path) -> None:
        assert [result["varying"] for result in curve["results"]] == [{"sampler.steps": 1}, {"sampler.steps": 2}]
        assert curve["groups"] == [[0, 1]]
        table = (run / "evaluation/evaluation.txt").read_text()
        assert table.count("real images ") >= 1
        assert "fd∞" in table
        with Image.open(run / "evaluation/curves.png") as plot:
            assert plot.width > 600
            assert len(plot.convert("RGB").getcolors(10**6) or ()) > 10

    def test_the_nearest_pairs_are_drawn(self, curve: dict[str, Any]) -> None:
        result = curve["results"][0]
        assert len(result["measurement"]["memorization"]["pairs"]) == 10
        with Image.open(result["pictures"]["nearest"]) as picture:
            assert picture.width > picture.height > 100

    def test_labels_have_the_frequencies_of_the_real_images(self, curve: dict[str, Any]) -> None:
        manifest = Path(curve["results"][0]["samples"]["folder"]) / "manifest.jsonl"
        labels = [json.loads(line)["label"] for line in manifest.read_text().splitlines()]
        assert np.bincount(labels, minlength=10).tolist() == [4] * 10  # the digits are almost equally frequent
        assert curve["results"][0]["samples"]["labels"] == "as real images"

    @pytest.mark.usefixtures("nothing_is_measured")
    def test_the_same_command_again_samples_and_measures_nothing(self, curve: dict[str, Any], run: Path) -> None:
        arrays = sorted(run.rglob("samples.npz"))
        before = [file.stat().st_mtime_ns for file in arrays]
        again = evaluated((f"ckpt={run}", *QUICK, *CURVE), run / "evaluation")
        assert again["results"] == curve["results"]
        assert [file.stat().st_mtime_ns for file in arrays] == before

    def test_a_damaged_measurement_is_repeated(self, curve: dict[str, Any], run: Path) -> None:
        for file in run.rglob("measurements/*.json"):
            file.write_text(file.read_text().replace("0.", "1.", 1))
        again = evaluated((f"ckpt={run}", *QUICK, *CURVE), run / "evaluation")
        for now, then in zip(again["results"], curve["results"], strict=True):
            assert now["measurement"] == then["measurement"]

    def test_more_images_are_added_to_existing_ones(self, curve: dict[str, Any], run: Path) -> None:
        words = (f"ckpt={run}", *QUICK, "sampler.steps=1", "num_samples=60", "metrics=[kid]")
        (result,) = evaluated(words, run / "evaluation")["results"]
        assert result["samples"]["folder"] == curve["results"][0]["samples"]["folder"]
        assert result["conditions"]["num_samples"] == 60
        assert len(np.load(Path(result["samples"]["folder"]) / "samples.npz")["arr_0"]) == 60
        fewer = evaluate_checkpoint(
            run, num_samples=40, sampler={"type": "ddim", "steps": 1}, features="pixels", device="cpu"
        )
        assert fewer["fd"].value == curve["results"][0]["measurement"]["rows"][0]["estimate"]["value"]

    def test_the_validation_images(self, run: Path) -> None:
        result = evaluate_checkpoint(
            run, num_samples=40, split="val", sampler={"type": "ddim", "steps": 1}, features="pixels", device="cpu"
        )
        assert result.conditions["reference"] == "validation images"
        assert result["memorization"].value <= 1  # still compared with the training images
        assert result.measurement["memorization"]["compared_with"] == "held-out images"

    def test_changed_images_are_refused_with_a_remedy(self, run: Path) -> None:
        checkpoint = read_checkpoint(find_checkpoint(run))
        other = replace(checkpoint, metadata={**checkpoint.metadata, "data_fingerprint": "0" * 64})
        with pytest.raises(
            ValueError, match=r"are not those that .* was trained on.*data\.paths\.train=DIR.*reference=DIR"
        ):
            images_of_run(other, "train", (), {})
        other = replace(checkpoint, metadata={**checkpoint.metadata, "validation_fingerprint": "0" * 64})
        with pytest.raises(ValueError, match=r"validated on.*data\.paths\.val=DIR"):
            images_of_run(other, "val", (), {})

    def test_a_metric_that_does_not_apply(self, run: Path, refused: Refused) -> None:
        err = refused("evaluate", f"ckpt={run}", *QUICK, "metrics=[inception_score]")
        assert "evaluation.metrics = inception_score needs features with class probabilities" in err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("ema_decay=[0.999,0.5]",), "must be one of the averages in"),
            (("sampler.steps=[1,5000]",), "5000"),
            (("evaluation.cache_dir=/dev/null",), "evaluation.cache_dir cannot be used"),
        ],
    )
    def test_invalid_sampling_options_are_refused_before_sampling(
        self, words: tuple[str, ...], message: str, run: Path, refused: Refused
    ) -> None:
        assert message in refused("evaluate", f"ckpt={run}", *QUICK, *words)

    def test_results_of_several_runs_are_in_a_separate_folder(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        others = [shutil.copytree(run, tmp_path / name, symlinks=True) for name in ("one", "two")]
        (last,) = [find_checkpoint(others[0], "last")]
        pairs = [[run, others[0]], [run, others[1]]]
        folders = [find_targets(pair, None)[1] for pair in pairs]
        assert [folder.parent for folder in folders] == [Path("outputs/evaluation")] * 2
        assert folders[0] != folders[1]
        shutil.copy(last, tmp_path / "weights.ckpt")
        targets, folder = find_targets([tmp_path / "weights.ckpt"], None)
        assert folder.parent == Path("outputs/evaluation")
        assert targets[0].folder.parent == folder

    def test_a_checkpoint_is_named_once(self, run: Path) -> None:
        targets, folder = find_targets([run], None)
        assert (folder, targets[0].name) == (run / "evaluation", "run")
        with pytest.raises(ValueError, match="must name different checkpoints"):
            find_targets([run, find_checkpoint(run)], None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits in class folders, noisy in `c`, and as an npz of the ADM suite; and unusual sets."""
    top, source = tmp_path_factory.mktemp("sets"), digits()
    rng = np.random.default_rng(0)
    for name, first in (("a", 0), ("c", 200)):
        for index in range(first, first + 100):
            pixels = source.images[index, 0]
            if name == "c":
                pixels = (pixels + rng.integers(0, 120, pixels.shape)).clip(0, 255).astype(np.uint8)
            file = top / name / source.class_names[source.labels[index]] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    chosen = torch.from_numpy(source.images[100:200])
    write_arrays(top / "b.npz", iter(chosen), (100, 1, 8, 8), source.labels[100:200].tolist())
    (top / "gray").mkdir()
    (top / "three").mkdir()
    for index in range(30):
        Image.new("L", (8, 8), 128).save(top / "gray" / f"{index}.png")
    for index in range(3):
        Image.new("L", (8, 8), index).save(top / "three" / f"{index}.png")
    Image.new("L", (9, 7)).save(top / "three" / "wide.png")
    return top


class TestFolders:
    def test_images_against_an_npz(self, folders: Path, tmp_path: Path) -> None:
        words = (f"samples=[{folders / 'c'},{folders / 'a'}]", f"reference={folders / 'b.npz'}", "features=pixels")
        content = evaluated((*words, f"output.base_dir={tmp_path}", "device=cpu"), tmp_path)
        noisy, real = content["results"]
        assert (noisy["name"], real["name"]) == ("c", "a")
        fd = [result["measurement"]["rows"][0]["estimate"]["value"] for result in (noisy, real)]
        assert fd[0] > 1.5 * fd[1]
        assert "label_agreement" in {row["metric"] for row in real["measurement"]["rows"]}
        assert (tmp_path / "curves.png").is_file()

    def test_from_python(self, folders: Path, tmp_path: Path) -> None:
        result = evaluate_folders(
            folders / "a", folders / "b.npz", num_samples=50, metrics=["kid"], features="pixels", base_dir=tmp_path
        )
        assert result.conditions["num_samples"] == 50
        (row,) = result.rows
        assert row.key == "kid"
        assert result["kid"] == result["kid_pixels"]
        with pytest.raises(KeyError, match="no metric 'fid'"):
            result["fid"]

    def test_nothing_is_written_among_the_images(self, folders: Path) -> None:
        before = sorted(folders.glob("a/**/*"))
        result = evaluate_folders(folders / "a", folders / "b.npz", features="pixels", base_dir=folders)
        assert sorted(folders.glob("a/**/*")) == before
        assert Path(result.pictures["nearest"]).parent == folders / "a_evaluation"
        shutil.rmtree(folders / "a_evaluation")

    def test_images_that_are_all_equal_give_no_nan(self, folders: Path, tmp_path: Path) -> None:
        result = evaluate_folders(folders / "gray", folders / "a", features="pixels", base_dir=tmp_path)
        assert all(math.isfinite(row.value) for row in result.rows)
        assert "label_agreement" in result.measurement["skipped"]

    def test_three_images_are_refused_with_the_number_needed(self, folders: Path, refused: Refused) -> None:
        few = (f"samples={folders / 'three'}", f"reference={folders / 'a'}", "features=pixels", "device=cpu")
        assert "evaluation.samples must be at least 20 images, got 4 in " in refused("evaluate", *few)
        few = (f"samples={folders / 'a'}", f"reference={folders / 'three'}", "evaluation.image_size=8")
        err = refused("evaluate", *few, "features=pixels", "device=cpu")
        assert "evaluation.reference must be at least 20 real images, got 4" in err

    @pytest.mark.parametrize("path", ["tests.features.own_features.Nothing", "tests.nowhere.Nothing"])
    def test_features_that_cannot_be_imported_are_named_by_their_key_or_argument(
        self, folders: Path, refused: Refused, path: str
    ) -> None:
        words = (f"samples={folders / 'a'}", f"reference={folders / 'a'}", f"features={path}")
        assert "evaluation.features" in refused("evaluate", *words, "device=cpu")
        with pytest.raises(ConfigError, match=r"^1 argument is wrong:\n  features = "):
            evaluate_folders(folders / "a", folders / "a", features=path, device="cpu", base_dir=folders / "out")

    def test_labels_of_an_npz_are_numbers_of_the_real_classes(self, folders: Path, tmp_path: Path) -> None:
        named = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")
        for digit, name in enumerate(sorted(named)):
            shutil.copytree(folders / "a" / str(digit), tmp_path / "named" / name)
        kind = {"features": "pixels", "metrics": ["label_agreement"]}
        by_number = evaluate_folders(folders / "b.npz", folders / "a", base_dir=tmp_path / "1", **kind)
        by_name = evaluate_folders(folders / "b.npz", tmp_path / "named", base_dir=tmp_path / "2", **kind)
        assert by_name["label_agreement"].value == pytest.approx(by_number["label_agreement"].value, abs=0.1)

    @pytest.mark.usefixtures("nothing_is_measured_twice")
    def test_results_of_other_folders_are_kept(
        self, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        quick = (f"reference={folders / 'b.npz'}", "features=pixels", "metrics=[kid]", "device=cpu")
        for name in ("a", "c", "a"):  # the last one finds the measurement of the first
            run_here("evaluate", (f"samples={folders / name}", *quick))
        files = sorted(tmp_path.glob("outputs/evaluation/*/evaluation.json"))
        assert [re.sub("[0-9a-f]{8}$", "", file.parent.name) for file in files] == ["a-b-", "c-b-"]
        assert str(files[0].relative_to(tmp_path)) in capsys.readouterr().out

    def test_more_images_than_available(self, folders: Path, refused: Refused) -> None:
        words = (f"samples={folders / 'a'}", f"reference={folders / 'b.npz'}", "num_samples=101", "features=pixels")
        assert "evaluation.num_samples must be at most 100, the images in" in refused("evaluate", *words)

    def test_metrics_of_labels_need_classes(self, folders: Path, refused: Refused) -> None:
        words = (f"samples={folders / 'gray'}", f"reference={folders / 'a'}", "metrics=[label_agreement]")
        assert "evaluation.metrics contains metrics that do not apply" in refused("evaluate", *words, "features=pixels")


def test_weights_of_another_program_against_a_folder(
    folders: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_ddpm(
        image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1, 2], use_attention=[False, True]
    )
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    which = (
        f"ckpt={tmp_path / 'weights.pt'}",
        "model=unet_tiny",
        "diffusion=cosine",
        "conditioning=none",
        "model.architecture.num_res_blocks=2",
        "use_ema=false",
    )
    words = (*which, "model.architecture.model_channels=8", "num_samples=20", "features=pixels", "device=cpu")
    words = (*words, "sampler.steps=1", f"output.base_dir={tmp_path / 'out'}")
    assert "reference=DIR compares with the images of a folder" in refused("evaluate", *words)
    words = (*words, f"reference={folders / 'a'}")
    err = refused("evaluate", *words, "guidance_scale=[1,2]")
    assert re.search(r"guidance_scale must be 1 for .*weights\.pt, got 2: .* unconditional", err)
    err = refused("evaluate", *words, "metrics=[kid,label_agreement]")
    assert re.search(r"metrics contains label_agreement, which does not apply to .*weights\.pt: .* unconditional", err)
    assert not list(tmp_path.rglob("samples.npz"))
    (result,) = evaluated(words, tmp_path / "out")["results"]
    assert result["measurement"]["skipped"] == {
        "label_agreement": "the samples have no labels",
        "memorization": "the training images of the run cannot be read",
    }
    assert "Skipped: label_agreement, because the samples have no labels." in capsys.readouterr().out
    evaluated((*words, "use_ema=true"), tmp_path / "out")
    assert "EMA off: weights holds no EMA weights" in capsys.readouterr().out


class TestSweeps:
    def test_comparable_jobs_are_ranked_by_the_distance(self, run: Path, tmp_path: Path) -> None:
        few = ("num_samples=20", "features=pixels", "metrics=[kid]", "device=cpu", "hydra.sweep.dir=sweep")
        done = succeeds(tmp_path, "evaluate.py", "-m", f"ckpt={run}", "sampler.steps=1,2", *few)
        jobs = json.loads((tmp_path / "sweep/sweep.json").read_text())
        assert [job["metric"] for job in jobs] == ["kid_pixels"] * 2
        assert sorted(job["rank"] for job in jobs) == [1, 2]
        assert len(list(tmp_path.glob("sweep/*/evaluation.json"))) == 2
        assert "sample from the best job" not in done.stderr
        again = succeeds(tmp_path, "evaluate.py", "-m", f"ckpt={run}", "sampler.steps=1,2", *few)
        assert again.stderr.count("already finished, skipped") == 2

    def test_a_sweep_evaluates_its_finished_jobs(
        self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, state in (("a", "finished"), ("b", "finished"), ("c", "failed")):
            shutil.copytree(run / "checkpoints", tmp_path / name / "checkpoints", symlinks=True)
            shutil.copy(run / "config.yaml", tmp_path / name / "config.yaml")
            JobRecord((f"name={name}",), state, {}).write(tmp_path / name)
        targets, folder = find_targets([tmp_path], None)
        assert [target.name for target in targets] == ["a", "b"]
        assert folder == tmp_path / "evaluation"
        assert [target.folder.parent for target in targets] == [tmp_path / "a/evaluation", tmp_path / "b/evaluation"]
        assert "c (failed)" in capsys.readouterr().err


def test_the_module_names_folders_without_a_key() -> None:
    assert arguments_for_evaluate(["a", "reference=b", "--config-dir", "mine", "c"]) == [
        *("reference=b", "--config-dir", "mine"),
        "samples=[a,c]",
    ]
