"""Reading run folders: complete, half written, damaged, and with secrets."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from diffusion_lab.console.redaction import REDACTED
from diffusion_lab.reports.comparison import null_values
from diffusion_lab.reports.discovery import find_runs, names_of
from diffusion_lab.reports.facts import best_value, device_of, environment_of, facts_of, steps_per_epoch
from diffusion_lab.reports.images import ImageStore
from diffusion_lab.reports.run_reader import read_results, read_run
from diffusion_lab.reports.sampled_files import index_text
from tests.reports.synthetic_runs import STEPS_PER_EPOCH, picture, settings, write_evaluation, write_run


def test_a_complete_run_is_read(tmp_path):
    folder = write_run(tmp_path / "run", epochs=3, pictures=2, extra={"val/kid_digits": 0.5})
    run = read_run(folder, "run")
    assert run.notes == []
    assert run.state == "finished"
    assert run.settings["training.optimizer.learning_rate"] == 1e-3
    assert run.epoch_ends == {epoch: STEPS_PER_EPOCH * (epoch + 1) - 1 for epoch in range(3)}
    assert run.curves["val/kid_digits"].values == [0.5] * 3
    assert len(run.curves["train/loss"]) == 3 * STEPS_PER_EPOCH // 5
    assert [picture.epoch for picture in run.pictures] == [1, 2]
    assert run.log == ["2026-01-01 00:00:00 WARNING diffusion_lab.run: loss spike"]


def test_a_line_that_is_being_written_is_no_fault(tmp_path):
    folder = write_run(tmp_path / "run")
    complete = read_run(folder, "run").curves
    with (folder / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "seconds": 1')
    run = read_run(folder, "run")
    assert run.notes == []
    assert run.curves == complete


def test_other_invalid_lines_are_counted(tmp_path):
    folder = write_run(tmp_path / "run")
    complete = read_run(folder, "run").curves
    file = folder / "logs" / "metrics.jsonl"
    file.write_text('not JSON\n[1]\n{"step": -1, "seconds": 0}\n{"step": 1, "seconds": NaN}\n' + file.read_text())
    run = read_run(folder, "run")
    assert run.notes == ["4 lines of metrics.jsonl are not valid and were skipped"]
    assert run.curves == complete


def test_nan_is_an_unknown_value(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "logs" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "seconds": 99, "train/loss": NaN, "epoch": 4}\n')
    assert read_run(folder, "run").curves["train/loss"].values[-1] is None


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "status.json", "summary.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"- 1\n", b"null", b"[" * 100_000, b'{"training": {"validation": 3}, "epochs": []}'],
    ids=["empty", "open", "binary", "list", "null", "deep", "other types"],
)
def test_a_damaged_file_becomes_a_note(tmp_path, name, content):
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    run = read_run(folder, "run")
    assert run.curves
    if content[:1] != b"{" or content == b"{":
        assert [note.partition(" cannot be read: ")[0] for note in run.notes] == [name]


def test_a_settings_file_that_would_fill_the_memory_becomes_a_note(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (folder / "config.yaml").write_text("\n".join(lines))
    assert read_run(folder, "run").notes == ["config.yaml cannot be read: it has too many values"]


def test_files_that_are_no_files_become_notes(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    (folder / "logs" / "metrics.jsonl").unlink()
    os.mkfifo(folder / "logs" / "metrics.jsonl")  # reading it would wait for ever
    run = read_run(folder, "run")
    assert [note.partition(" ")[0] for note in run.notes] == ["summary.json", "metrics.jsonl"]


def test_an_empty_folder_has_a_record(tmp_path):
    run = read_run(tmp_path, "nothing")
    assert run.state == "unknown"
    assert (run.curves, run.pictures, run.notes) == ({}, [], [])


def test_secrets_are_hidden_wherever_they_occur(tmp_path):
    tree = settings() | {"logger": {"api_key": "abcdef123456"}, "data": {"path": "https://anna:hunter2secret@host/x"}}
    folder = write_run(tmp_path / "run", tree, command=("train.py", "logger.api_key=abcdef123456"))
    (folder / "logs" / "run.log").write_text("sent abcdef123456 and hunter2secret\n")
    status = {"state": "failed", "why": "refused abcdef123456"}
    (folder / "status.json").write_text(json.dumps(status))
    run = read_run(folder, "run")
    assert "abcdef123456" not in repr(run)
    assert "hunter2secret" not in repr(run)
    assert run.log == [f"sent {REDACTED} and {REDACTED}"]


def test_links_to_other_files_are_not_followed(tmp_path):
    folder = write_run(tmp_path / "run", pictures=1)
    (tmp_path / "private").write_text("private: 1\n")
    for name in ("config.yaml", "logs/run.log", "samples/epoch_0001.png"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "private")
    run = read_run(folder, "run")
    assert (run.settings, run.log) == ({}, [])
    assert run.notes == [f"{name} is a link, which is not followed" for name in ("config.yaml", "run.log")]
    (picture,) = run.pictures
    assert ImageStore().add_all([picture.file]) == {picture.file: "it is a link, which is not followed"}


def test_a_subfolder_outside_of_the_run_is_not_read(tmp_path):
    tree = settings()
    tree["output"] = {"subdirs": {"logs": "../elsewhere", "samples": "/etc"}}
    write_run(tmp_path / "elsewhere_run")
    folder = write_run(tmp_path / "run", tree)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "elsewhere_run" / "logs")
    (folder / "logs" / "metrics.jsonl").unlink()
    assert read_run(folder, "run").curves == {}


def test_a_run_whose_process_is_gone_has_died(tmp_path):
    folder = write_run(tmp_path / "run", state="running")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"host": socket.gethostname(), "pid": 2**22 + 1}))
    assert read_run(folder, "run").state == "died"


def test_a_failed_job_without_a_run_folder_has_its_reason(tmp_path):
    record = {"overrides": ["training.epochs=0"], "state": "failed", "settings": settings(), "why": "at least 1"}
    (tmp_path / "job.json").write_text(json.dumps(record))
    run = read_run(tmp_path, "job")
    assert (run.state, run.why) == ("failed", "at least 1")
    assert run.settings["training.epochs"] == 4


FACTS = {
    "device": "cuda",
    "device_name": "NVIDIA H200",
    "precision": "bfloat16",
    "threads": 8,
    "parameters": 12,
    "train_images": 34,
    "epochs_planned": 3,
    "evaluation": {"null": {"val/kid_digits": {"value": 0.25}}},
}


class TestFacts:
    def test_of_a_running_run_are_those_of_its_start(self, tmp_path):
        folder = write_run(tmp_path / "run", state="running", epochs=2)
        add_facts(folder, FACTS)
        run = read_run(folder, "run")
        assert device_of(run) == ("NVIDIA H200", "cuda, bfloat16")
        assert ("Device", "NVIDIA H200, cuda, bfloat16") in environment_of(run)
        known = facts_of(run)
        assert (known["parameters"], known["train_images"]) == (12, 34)
        assert (known["epochs"], known["total_epochs"]) == (2, 3)
        assert null_values(run) == {"val/kid_digits": 0.25}

    def test_threads_are_those_of_a_cpu(self, tmp_path):
        folder = write_run(tmp_path / "run")
        add_facts(folder, {"device": "cpu", "device_name": None, "precision": "float32", "threads": 1})
        assert device_of(read_run(folder, "run")) == ("cpu", "1 thread, float32")

    def test_of_older_runs_are_those_of_the_summary(self, tmp_path):
        run = read_run(write_run(tmp_path / "run"), "run")
        assert device_of(run) is None
        assert facts_of(run)["parameters"] == 750_000

    def test_results_from_before_it_was_resumed_are_left_out(self, tmp_path):
        folder = write_run(tmp_path / "run", epochs=2)
        with (folder / "logs" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 59, "seconds": 99, "val/loss": 0.001, "epoch": 2}\n')
        (folder / "status.json").write_text('{"state": "running", "host": "elsewhere", "pid": 1}')
        run = read_run(folder, "run")
        assert best_value(run) == (0.001, 3)
        assert facts_of(run)["steps"] == 60
        assert facts_of(run)["parameters"] == 750_000

    @pytest.mark.parametrize("epochs", [(2, 3, 4), (0, 1, 4), (0, 2, 4)], ids=["continued", "gap", "every other"])
    def test_epochs_have_the_numbers_in_the_log(self, tmp_path, epochs):
        folder = write_run(tmp_path / "run", settings(epochs=10), state="running", epochs=5, pictures=0)
        log = folder / "logs" / "metrics.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        lines = [line | {"seconds": 0.5 * line["step"]} for line in lines if line["epoch"] in epochs]
        seconds = lines[0]["seconds"]  # a run that is continued elsewhere starts its clock again
        log.write_text("".join(json.dumps(line | {"seconds": line["seconds"] - seconds}) + "\n" for line in lines))
        run = read_run(folder, "run")
        known = facts_of(run)
        assert (known["epochs"], steps_per_epoch(run)) == (5, STEPS_PER_EPOCH)
        assert best_value(run) == (run.curves["val/loss"].values[-1], 5)
        assert known["remaining"] == pytest.approx(5 * STEPS_PER_EPOCH * 0.5)

    @pytest.mark.parametrize("facts", [3, [], {"device": 3, "threads": "x", "evaluation": 4, "parameters": 10**400}])
    def test_damaged_ones_are_unknown(self, tmp_path, facts):
        folder = write_run(tmp_path / "run", state="running")
        add_facts(folder, facts)
        run = read_run(folder, "run")
        assert device_of(run) is None
        assert null_values(run) == {}
        assert "parameters" not in facts_of(run)


def add_facts(folder: Path, facts: object) -> None:
    """Add to ``environment.json`` what a run knows at its start."""
    file = folder / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"run": facts}))


class TestEvaluation:
    def test_rows_have_intervals_and_null_rows(self, tmp_path):
        folder = write_run(tmp_path / "run")
        write_evaluation(folder, value=1.5)
        run = read_run(folder, "run")
        (row,) = run.quality
        assert (row.estimate.low, row.estimate.value, row.estimate.high) == (1.25, 1.5, 1.75)
        assert row.null is not None
        assert row.null.value == 0.5
        assert row.sampling == "ddim, 50 steps, guidance 2"
        assert [picture.file.name for picture in run.nearest] == ["nearest.png"]
        assert [(each.name, each.estimate.value) for each in row.classes] == [
            ("two", 2.5),
            ("one", 1.25),
            ("three", 0.75),
        ]

    def test_results_of_a_sweep_are_those_of_its_runs(self, tmp_path):
        write_evaluation(tmp_path, checkpoint="job-1/step_00000080.ckpt")
        results = read_results(tmp_path, [])
        assert results is not None
        assert list(results.by_run) == ["job-1"]

    @pytest.mark.parametrize("content", ["", "{}", '{"results": 3}', '{"results": [3, {"samples": 4}]}'])
    def test_damaged_results_are_a_note_or_nothing(self, tmp_path, content):
        folder = write_run(tmp_path / "run")
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "evaluation.json").write_text(content)
        run = read_run(folder, "run")
        assert run.quality == []
        assert len(run.notes) == ("[3" not in content)


@pytest.mark.parametrize(("best", "shown"), [(20, True), (40, False), (None, False)])
def test_sampled_images_are_those_of_the_best_checkpoint(tmp_path, best, shown):
    folder = write_run(tmp_path / "run", pictures=0)
    for part in ("checkpoints", "report"):
        (folder / part).mkdir()
    for step in (20, 40):
        (folder / "checkpoints" / f"step_{step:08d}.ckpt").touch()
        (folder / "checkpoints" / f"step_{step:08d}.manifest.json").write_text(json.dumps({"sha256": str(step)}))
    if best is not None:
        (folder / "checkpoints" / "best.ckpt").symlink_to(f"step_{best:08d}.ckpt")
    picture(1).save(folder / "report" / "denoising.png")
    entries = [{"file": "denoising.png", "caption": "from noise to image"}]
    checkpoint = folder / "checkpoints" / "step_00000020.ckpt"
    (folder / "report" / "sampled.json").write_text(index_text(checkpoint, "20", "raw", entries))
    run = read_run(folder, "run")
    text = "Sampled from the weights without averaging of step_00000020.ckpt."
    assert (len(run.sampled), run.sampled_from) == ((1, text) if shown else (0, None))


class TestDiscovery:
    def test_runs_are_found_at_any_depth_once(self, tmp_path):
        deep = write_run(tmp_path / "outputs" / "digits" / "a")
        flat = write_run(tmp_path / "outputs" / "b")
        (tmp_path / "outputs" / "notes").mkdir()
        assert find_runs([tmp_path / "outputs"]) == [flat, deep]
        assert find_runs([deep, tmp_path / "outputs"]) == [deep, flat]

    def test_folders_inside_a_run_are_not_searched(self, tmp_path):
        run = write_run(tmp_path / "run")
        write_run(run / "samples" / "inner")
        assert find_runs([tmp_path]) == [run]

    @pytest.mark.parametrize(
        ("name", "message"), [("missing", "there is no folder"), ("file", "is a file"), ("empty", "contains no run")]
    )
    def test_other_targets_are_refused(self, tmp_path, name, message):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=message):
            find_runs([tmp_path / name])

    def test_names_are_unique(self):
        assert names_of([Path("a/x"), Path("b/x"), Path("b/y/z")]) == ["a/x", "b/x", "b/y/z"]
