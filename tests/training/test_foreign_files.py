"""Files of the user in a run folder: no run removes, replaces or follows a file that it did not write."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diffusion_lab.checkpoint import find_checkpoint, verify
from diffusion_lab.checkpoint.files import Manifest, named_steps, step_name, step_of
from diffusion_lab.training.module import DiffusionModule
from diffusion_lab.training.summary import TrainingSummary
from tests.training.tiny import saved, tiny_run

EACH = {"training.checkpointing.save_frequency": 1}
AUTO = {"training.resume": {"enabled": True, "checkpoint": "auto", "reset_optimizer": False, "reset_scheduler": False}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of three steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    tiny_run(folder, EACH)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, as `cp -a` makes one."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def output_of(folder: Path, changes: dict[str, Any]) -> str:
    """Return the console output of a run in the folder."""
    text = io.StringIO()
    tiny_run(folder, EACH | changes, Console(file=text))
    return text.getvalue()


def content(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: files with their bytes, links as such, folders as None."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink()
        else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }  # fmt: skip


def without_manifests(run: Path) -> None:
    for file in run.rglob("*.manifest.json"):
        file.unlink()


def test_checkpoints_without_manifests_are_resumed_from_and_kept(run: Path) -> None:
    without_manifests(run)
    before = {file: file.read_bytes() for file in named_steps(run / "checkpoints")}
    output = output_of(run, AUTO | {"training.epochs": 3})
    assert "step_00000006.ckpt had no manifest: it was verified by the CRC-32 sums inside it" in output
    assert "6 steps and 2 epochs done" in output
    assert "left alone, because no manifest says that this run wrote it" in output
    assert "step_00000003.ckpt" in output
    assert {file: file.read_bytes() for file in before} == before
    assert verify(run / "checkpoints" / step_name(6))
    assert find_checkpoint(run, "last").name == step_name(9)


def test_best_copied_as_a_file_by_scp_is_replaced(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    target = best.resolve()
    best.unlink()
    shutil.copy(target, best)
    assert "left alone" not in output_of(run, AUTO | {"training.epochs": 3})
    assert find_checkpoint(run).exists()
    assert find_checkpoint(run, "last").name == step_name(9)


def test_files_of_the_user_are_kept_and_listed(run: Path) -> None:
    checkpoints = run / "checkpoints"
    source = (checkpoints / step_name(6)).read_bytes()
    theirs = ["my_best_model.ckpt", "step_00000003_good.ckpt", step_name(99)]
    for name in theirs:
        (checkpoints / name).write_bytes(source)
    (checkpoints / "step_dir.ckpt").mkdir()
    (checkpoints / step_name(50)).mkdir()
    with pytest.warns(UserWarning, match="step_00000099.ckpt is not recognized .* its content is that of step 6"):
        output = output_of(run, AUTO | {"training.epochs": 4, "training.checkpointing.save_best_only": True})
    assert all((checkpoints / name).read_bytes() == source for name in theirs)
    assert all((checkpoints / name).is_dir() for name in ("step_dir.ckpt", step_name(50)))
    assert all(name in output for name in [*theirs, "step_dir.ckpt", step_name(50)])


@pytest.mark.parametrize("resuming", [False, True])
def test_a_link_instead_of_a_manifest_is_refused_before_the_first_step(
    run: Path, tmp_path: Path, resuming: bool
) -> None:
    folder = run if resuming else tmp_path / "new"
    place = Manifest.path_of(folder / "checkpoints" / step_name(9))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "elsewhere.json")
    before = content(folder)
    with pytest.raises(ValueError, match=rf"nothing shows that it wrote them: {place}\."):
        tiny_run(folder, EACH | (AUTO if resuming else {}) | {"training.epochs": 3})
    assert content(folder) == before


def test_a_plain_run_over_a_folder_that_lacks_only_its_status_is_refused(run: Path) -> None:
    (run / "status.json").unlink()
    before = content(run)
    with pytest.raises(ValueError, match=r"output\.base_dir holds .*config\.yaml.* already"):
        tiny_run(run, {"training.epochs": 1})
    assert content(run) == before


def test_a_folder_with_only_checkpoints_is_refused(run: Path) -> None:
    for file in [*run.glob("*.*"), *run.glob("logs/*")]:
        file.unlink()
    without_manifests(run)
    before = content(run)
    with pytest.raises(ValueError, match=r"output\.base_dir holds .*step_00000006\.ckpt.* already"):
        tiny_run(run, {"training.epochs": 1})
    with pytest.raises(ValueError, match=r"step_00000006\.ckpt.*nothing shows that a run wrote"):
        tiny_run(run, {"training.epochs": 1, "output.overwrite": True})
    assert content(run) == before


def in_range_file(run: Path) -> None:
    (run / "checkpoints" / step_name(8)).write_bytes(b"mine")


def in_range_folder(run: Path) -> None:
    (run / "checkpoints" / step_name(9)).mkdir()


def own_best(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    best.unlink()
    best.write_bytes(b"mine")


def best_elsewhere(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    best.unlink()
    best.symlink_to("../../mine.ckpt")


@pytest.mark.parametrize("put", [in_range_file, in_range_folder, own_best, best_elsewhere])
@pytest.mark.filterwarnings("ignore:.*an earlier checkpoint is used instead")
def test_files_in_the_way_are_refused_before_anything_is_written(run: Path, put: Callable[[Path], None]) -> None:
    put(run)
    before = content(run)
    with pytest.raises(
        ValueError, match="in place of those that this run would write, and nothing shows that it wrote them"
    ):
        tiny_run(run, EACH | AUTO | {"training.epochs": 3})
    assert content(run) == before


def test_resuming_from_an_earlier_step_is_refused_if_later_checkpoints_are_foreign(run: Path) -> None:
    """It would be used as the newest of the run from then on."""
    later = run / "checkpoints" / step_name(6)
    Manifest.path_of(later).unlink()
    back = {"training.resume": {**AUTO["training.resume"], "checkpoint": str(run / "checkpoints" / step_name(3))}}
    with pytest.raises(ValueError, match=r"step_00000006\.ckpt"):
        tiny_run(run, EACH | back)


@pytest.mark.filterwarnings("ignore:.*an earlier checkpoint is used instead")
@pytest.mark.parametrize("text", ["null", "text", '{"step": 6}'])
def test_a_checkpoint_with_a_damaged_manifest_is_skipped_and_kept(run: Path, text: str) -> None:
    damaged = run / "checkpoints" / step_name(6)
    Manifest.path_of(damaged).write_text(text)
    bytes_before = damaged.read_bytes()
    tiny_run(run, EACH | AUTO)
    assert "step_00000006.ckpt was damaged: it is kept as" in (run / "logs" / "run.log").read_text()
    assert verify(damaged)
    assert damaged.with_name(damaged.name + ".damaged").read_bytes() == bytes_before


def test_auto_without_a_valid_checkpoint_is_refused(run: Path) -> None:
    without_manifests(run)
    for file in named_steps(run / "checkpoints"):
        file.write_bytes(file.read_bytes()[:-2000])
    before = content(run)
    with (
        pytest.warns(UserWarning, match="an earlier checkpoint is used instead"),
        pytest.raises(ValueError, match=r"finds no valid checkpoint .*step_00000006\.ckpt"),
    ):
        tiny_run(run, EACH | AUTO)
    assert content(run) == before


def test_overwriting_keeps_what_the_run_did_not_write(run: Path) -> None:
    theirs = [run / "checkpoints" / "my_best_model.ckpt", run / "samples" / "epoch_best.png", run / "notes.md"]
    for file in theirs:
        file.write_text("mine")
    tiny_run(run, EACH | {"training.epochs": 1, "output.overwrite": True})
    assert all(file.read_text() == "mine" for file in theirs)
    assert [step_of(file) for file in named_steps(run / "checkpoints")] == [3]


def test_fewer_epochs_than_are_done_is_already_complete(run: Path) -> None:
    """Also for a stopped run, which has no summary."""
    for name in ("summary.json", "status.json"):
        (run / name).unlink()
    before = content(run)
    output = output_of(run, AUTO | {"training.epochs": 1})
    assert "already complete" in output
    assert content(run) == before


def test_a_run_killed_after_its_last_step_writes_its_summary(run: Path) -> None:
    for name in ("summary.json", "status.json"):
        (run / name).unlink()
    tiny_run(run, EACH | AUTO)
    assert (run / "summary.json").is_file()
    assert saved(find_checkpoint(run, "last"))["global_step"] == 6


@pytest.mark.parametrize("part", [".", "checkpoints", "logs"])
def test_a_run_whose_folder_is_removed_continues_and_saves_later_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    run = tmp_path / "run"

    def remove(module: DiffusionModule) -> None:
        if module.current_epoch == 1:
            (run / part).rename(tmp_path / "elsewhere")

    monkeypatch.setattr(DiffusionModule, "on_train_epoch_start", remove)
    output = output_of(run, {"training.epochs": 3})
    assert f"removed during the run: {run / part}" in output
    summary = TrainingSummary.read(run)
    assert summary is not None
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], summary.epochs) == ("finished", 3)
    assert find_checkpoint(run, "last").name == step_name(9)
    assert verify(find_checkpoint(run, "best"))
    assert (run / "config.yaml").is_file()
    assert summary.best_checkpoint is not None
    assert Path(summary.best_checkpoint).is_file()
    steps = [json.loads(line)["step"] for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 8
    tiny_run(run, EACH | AUTO | {"training.epochs": 4})
    assert find_checkpoint(run, "last").name == step_name(12)


def test_a_folder_taken_over_by_another_run_is_left_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(module: DiffusionModule) -> None:
        status = json.loads((tmp_path / "status.json").read_text())
        (tmp_path / "status.json").write_text(json.dumps({**status, "run": "another"}))

    monkeypatch.setattr(DiffusionModule, "on_train_epoch_start", take_over)
    with pytest.raises(ValueError, match=r"output\.base_dir was taken over by another run"):
        tiny_run(tmp_path, EACH)
    assert json.loads((tmp_path / "status.json").read_text())["run"] == "another"
