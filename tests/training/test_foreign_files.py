"""Whatever a user puts into a run folder stays there: no run removes, replaces or follows what it did not write."""

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


def said(folder: Path, changes: dict[str, Any]) -> str:
    """What a run in the folder says on the console."""
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
    told = said(run, AUTO | {"training.epochs": 3})
    assert "step_00000006.ckpt had no manifest: it was verified by the CRC-32 sums inside it" in told
    assert "6 steps and 2 epochs done" in told
    assert "left alone, because no manifest says that this run wrote it" in told
    assert "step_00000003.ckpt" in told
    assert {file: file.read_bytes() for file in before} == before
    assert verify(run / "checkpoints" / step_name(6))
    assert find_checkpoint(run, "last").name == step_name(9)


def test_of_a_folder_copied_with_scp_best_is_a_file_and_gives_way(run: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    target = best.resolve()
    best.unlink()
    shutil.copy(target, best)
    assert "left alone" not in said(run, AUTO | {"training.epochs": 3})
    assert find_checkpoint(run).exists()
    assert find_checkpoint(run, "last").name == step_name(9)


def test_files_of_the_users_naming_stay_and_are_named(run: Path) -> None:
    checkpoints = run / "checkpoints"
    source = (checkpoints / step_name(6)).read_bytes()
    theirs = ["my_best_model.ckpt", "step_00000003_good.ckpt", step_name(99)]
    for name in theirs:
        (checkpoints / name).write_bytes(source)
    (checkpoints / "step_dir.ckpt").mkdir()
    (checkpoints / step_name(50)).mkdir()
    with pytest.warns(UserWarning, match="step_00000099.ckpt is not recognized .* its content is of step 6"):
        told = said(run, AUTO | {"training.epochs": 4, "training.checkpointing.save_best_only": True})
    assert all((checkpoints / name).read_bytes() == source for name in theirs)
    assert all((checkpoints / name).is_dir() for name in ("step_dir.ckpt", step_name(50)))
    assert all(name in told for name in [*theirs, "step_dir.ckpt", step_name(50)])


@pytest.mark.parametrize("resuming", [False, True])
def test_a_link_in_the_place_of_a_manifest_is_refused_before_the_first_step(
    run: Path, tmp_path: Path, resuming: bool
) -> None:
    folder = run if resuming else tmp_path / "new"
    place = Manifest.place(folder / "checkpoints" / step_name(9))
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


def test_checkpoints_alone_are_reason_enough_to_refuse(run: Path) -> None:
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
@pytest.mark.filterwarnings("ignore:.*an earlier checkpoint is taken instead")
def test_what_would_have_to_be_replaced_is_refused_before_anything_is_written(
    run: Path, put: Callable[[Path], None]
) -> None:
    put(run)
    before = content(run)
    with pytest.raises(ValueError, match="at places where this run would write, and nothing shows that it wrote them"):
        tiny_run(run, EACH | AUTO | {"training.epochs": 3})
    assert content(run) == before


def test_a_later_checkpoint_that_the_run_did_not_write_is_in_the_way_of_going_back(run: Path) -> None:
    """It would be taken for the newest of the run ever after."""
    later = run / "checkpoints" / step_name(6)
    Manifest.place(later).unlink()
    back = {"training.resume": {**AUTO["training.resume"], "checkpoint": str(run / "checkpoints" / step_name(3))}}
    with pytest.raises(ValueError, match=r"step_00000006\.ckpt"):
        tiny_run(run, EACH | back)


@pytest.mark.filterwarnings("ignore:.*an earlier checkpoint is taken instead")
@pytest.mark.parametrize("text", ["null", "text", '{"step": 6}'])
def test_a_damaged_manifest_is_passed_over_and_its_checkpoint_kept(run: Path, text: str) -> None:
    damaged = run / "checkpoints" / step_name(6)
    Manifest.place(damaged).write_text(text)
    bytes_before = damaged.read_bytes()
    tiny_run(run, EACH | AUTO)
    assert "step_00000006.ckpt was damaged: it is kept as" in (run / "logs" / "run.log").read_text()
    assert verify(damaged)
    assert damaged.with_name(damaged.name + ".damaged").read_bytes() == bytes_before


def test_auto_where_nothing_is_whole_starts_nothing(run: Path) -> None:
    without_manifests(run)
    for file in named_steps(run / "checkpoints"):
        file.write_bytes(file.read_bytes()[:-2000])
    before = content(run)
    with (
        pytest.warns(UserWarning, match="an earlier checkpoint is taken instead"),
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
    """Also of a run that was stopped, and so has no summary."""
    for name in ("summary.json", "status.json"):
        (run / name).unlink()
    before = content(run)
    told = said(run, AUTO | {"training.epochs": 1})
    assert "already complete" in told
    assert content(run) == before


def test_a_run_killed_after_its_last_step_writes_its_last_words(run: Path) -> None:
    for name in ("summary.json", "status.json"):
        (run / name).unlink()
    tiny_run(run, EACH | AUTO)
    assert (run / "summary.json").is_file()
    assert saved(find_checkpoint(run, "last"))["global_step"] == 6


@pytest.mark.parametrize("part", [".", "checkpoints", "logs"])
def test_a_run_whose_folder_is_removed_goes_on_and_saves_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    run = tmp_path / "run"

    def remove(module: DiffusionModule) -> None:
        if module.current_epoch == 1:
            (run / part).rename(tmp_path / "elsewhere")

    monkeypatch.setattr(DiffusionModule, "on_train_epoch_start", remove)
    told = said(run, {"training.epochs": 3})
    assert f"removed during the run: {run / part}" in told
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


def test_a_folder_that_another_run_took_over_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(module: DiffusionModule) -> None:
        status = json.loads((tmp_path / "status.json").read_text())
        (tmp_path / "status.json").write_text(json.dumps({**status, "run": "another"}))

    monkeypatch.setattr(DiffusionModule, "on_train_epoch_start", take_over)
    with pytest.raises(ValueError, match=r"output\.base_dir was taken over by another run"):
        tiny_run(tmp_path, EACH)
    assert json.loads((tmp_path / "status.json").read_text())["run"] == "another"
