"""The command: where the page goes, errors, watching, and sampling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusion_lab.commands import report as command
from diffusion_lab.commands import train
from diffusion_lab.commands.report import main
from diffusion_lab.reports.run_reader import read_run
from diffusion_lab.sweeps.jobs import SweepCallback
from tests.generation.test_generate import save_checkpoint
from tests.reports.synthetic_runs import write_run


def test_the_page_of_one_folder_is_in_it(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    assert (folder / "report.html").is_file()


def test_the_page_of_several_is_in_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b"))]) == 0
    assert (tmp_path / "report.html").is_file()


def test_output_names_the_page(tmp_path):
    assert main([str(write_run(tmp_path / "a")), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").is_file()


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "contains no run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def watched(file: Path) -> float | None:
    text = file.read_text(encoding="utf-8").partition('id="content">')[2].partition("</script>")[0]
    value: float | None = json.loads(text)["watch"]
    return value


def test_watching_ends_with_the_run(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run", state="running", epochs=2, pictures=1)
    versions = []

    def sleep(seconds):
        versions.append(watched(folder / "report.html"))
        if len(versions) == 3:
            status = json.loads((folder / "status.json").read_text())
            (folder / "status.json").write_text(json.dumps(status | {"state": "finished"}))

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert main([str(folder), "--watch"]) == 0
    assert versions == [command.WATCH_SECONDS] * (3 + command.QUIET_ROUNDS - 1)
    assert watched(folder / "report.html") is None
    assert capsys.readouterr().out.endswith("nothing is running any more: the page is complete\n")


def test_interrupting_leaves_a_page_that_stays(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", state="running")

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert main([str(folder), "--watch"]) == 0
    assert watched(folder / "report.html") is None


class TestSweep:
    @pytest.fixture
    def sweep(self, tmp_path, monkeypatch) -> Path:
        for name in ("adam", "adamw"):
            write_run(tmp_path / "sweep" / name, overrides=(f"optimizer={name}",))
        monkeypatch.setattr(SweepCallback, "folder", tmp_path / "sweep")
        return tmp_path / "sweep"

    def test_it_ends_with_a_report(self, sweep, capsys, monkeypatch):
        monkeypatch.setattr(train, "launch", lambda *_: None)
        train.main([])
        assert capsys.readouterr().err == f"look at all jobs side by side: {sweep / 'report.html'}\n"
        assert (sweep / "report.html").is_file()

    @pytest.mark.parametrize(("code", "written"), [(1, True), (2, False), (143, False)])
    def test_it_has_one_if_jobs_failed_but_not_after_a_signal(self, sweep, monkeypatch, code, written):
        def launch(*_):
            raise SystemExit(code)

        monkeypatch.setattr(train, "launch", launch)
        with pytest.raises(SystemExit):
            train.main([])
        assert (sweep / "report.html").exists() == written

    def test_a_report_that_cannot_be_written_is_a_warning(self, sweep, capsys):
        (sweep / "report.html").mkdir()
        train.write_sweep_report()
        assert capsys.readouterr().err.startswith("Warning: the report of the sweep could not be written: ")

    def test_other_runs_have_none(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(SweepCallback, "folder", None)
        train.write_sweep_report()
        assert capsys.readouterr().err == ""


class TestSampling:
    @pytest.fixture
    def run(self, tmp_path) -> Path:
        folder = write_run(tmp_path / "run")
        (folder / "checkpoints").mkdir()
        checkpoint = save_checkpoint(folder / "checkpoints" / "step_00000007.ckpt")
        self.write_manifest(checkpoint)
        return folder

    def write_manifest(self, checkpoint: Path) -> None:
        from diffusion_lab.checkpoint import file_hash

        manifest = {"step": 7, "size": checkpoint.stat().st_size, "sha256": file_hash(checkpoint)}
        checkpoint.with_name("step_00000007.manifest.json").write_text(json.dumps(manifest))

    def test_images_are_sampled_once_and_shown(self, run, capsys):
        assert main([str(run), "--sample"]) == 0
        names = ["denoising.png", "estimates.png", "guidance_steps.png"]
        assert [shown.file.name for shown in read_run(run, "run").sampled] == names
        first = (run / "report" / names[0]).stat().st_mtime_ns
        capsys.readouterr()
        assert main([str(run), "--sample"]) == 0
        assert "up to date" in capsys.readouterr().out
        assert (run / "report" / names[0]).stat().st_mtime_ns == first

    def test_images_of_another_checkpoint_are_not_shown(self, run):
        assert main([str(run), "--sample"]) == 0
        self.write_manifest(save_checkpoint(run / "checkpoints" / "step_00000007.ckpt", class_names=("a", "b", "c")))
        assert read_run(run, "run").sampled == []

    def test_an_unconditional_model_has_no_guidance(self, run):
        checkpoint = save_checkpoint(run / "checkpoints" / "step_00000007.ckpt", num_classes=None, class_names=())
        self.write_manifest(checkpoint)
        assert main([str(run), "--sample"]) == 0
        assert read_run(run, "run").sampled[2].caption.startswith("numbers of steps")

    def test_a_run_without_a_checkpoint_is_named(self, tmp_path, capsys):
        folder = write_run(tmp_path / "run")
        assert main([str(folder), "--sample"]) == 0
        assert f"{folder}: no checkpoint to sample from" in capsys.readouterr().out
