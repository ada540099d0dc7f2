"""Output folders in which a generation resumes, and those that are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from diffusion_lab.checkpoint import read_checkpoint
from diffusion_lab.files.folder_lock import LOCK_NAME
from diffusion_lab.generation.generate import generate
from diffusion_lab.generation.open_folder import UNFINISHED
from diffusion_lab.generation.request import PNG_KEY
from diffusion_lab.runtime import process_identity
from diffusion_lab.runtime.exit_on_signals import Terminated
from diffusion_lab.runtime.process_identity import own_identity
from tests.another_process import holding
from tests.generation.conftest import BATCHES, contents, made
from tests.generation.test_generate import manifest_of, save_checkpoint


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 6}, "compute.seed is 5 there and 6 here"),
        ({"sampler": {"type": "ddim", "steps": 4}}, "sampler.steps is 3 there and 4 here"),
        ({"sampler": {"type": "ddim", "steps": 3, "eta": 0.5}}, "the options of sampler"),
        ({"sampling": {"labels": [1, 0]}}, "generation.sampling.labels"),
        ({"sampling": {"guidance_scale": [2.0, 3.0]}}, "generation.sampling.guidance_scale"),
        ({"sampling": {"use_ema": False}}, "generation.sampling.use_ema is true there and false here"),
        ({"guidance": {"rescale": 0.5}}, "guidance.rescale is 0.0 there and 0.5 here"),
        ({"save": {"save_individual": False}}, "generation.output.save_individual"),
    ],
)
def test_another_generation_is_refused_with_the_differences(config, drawn, finished, change, expected):
    sampling = {"num_samples": 9, "batch_size": 3}
    settings = config(sampling=sampling)
    drawn.stop = -1 if finished else 1
    try:
        made(settings)
    except Terminated:
        drawn.stop = -1
    folder = settings.output.folder("generated")
    before = contents(folder)
    change = {**change, "sampling": {**sampling, **change.get("sampling", {})}}
    with pytest.raises(ValueError, match="holds generated images already") as refused:
        made(config(**change))
    assert expected in str(refused.value)
    assert contents(folder) == before


def test_folder_in_use_is_refused_even_without_its_lock(config, drawn):
    settings = config(sampling=BATCHES)
    folder = settings.output.folder("generated")
    drawn.stop = 1
    with pytest.raises(Terminated):
        made(settings)
    drawn.stop = -1
    note = json.loads((folder / UNFINISHED).read_text())
    assert note["process"] == own_identity()
    with holding(folder) as other:
        (folder / LOCK_NAME).unlink()
        note["process"] |= {"pid": other.pid, "started": process_identity._started(other.pid)}
        (folder / UNFINISHED).write_text(json.dumps(note))
        before = contents(folder)
        with pytest.raises(ValueError, match=rf"is in use by another process, got .* \(process {other.pid} on "):
            made(settings)
        assert contents(folder) == before
    assert made(settings).made == 7  # the process is gone


def test_checkpoint_content_but_not_path_identifies_a_generation(config, tmp_path):
    made(config())
    moved = tmp_path / "moved.ckpt"
    shutil.copy(tmp_path / "last.ckpt", moved)
    assert made(config(checkpoint=moved)).made == 0
    other = save_checkpoint(tmp_path / "other.ckpt", ema=False)
    with (
        pytest.warns(UserWarning, match="holds no EMA weights"),
        pytest.raises(ValueError, match=r"the SHA-256 of generation\.checkpoint"),
    ):
        made(config(checkpoint=other))


def test_generated_images_name_no_folder_of_the_user(config, tmp_path):
    """The checkpoint is named by run, file and SHA-256, so the folder can be completed from another path."""
    run = tmp_path / "of-anna" / "run1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    checkpoint = save_checkpoint(run / "checkpoints" / "step_00000001.ckpt")
    (run / "checkpoints" / "best.ckpt").symlink_to(checkpoint.name)
    settings = config(checkpoint=run / "checkpoints" / "best.ckpt", save={"save_npz": True})
    folder = made(settings).folder
    assert {line["checkpoint"] for line in manifest_of(folder)} == {"run1/step_00000001.ckpt"}
    assert [path for path in folder.iterdir() if b"of-anna" in path.read_bytes()] == []
    whole = contents(folder)
    (folder / "sample_0003.png").unlink()
    moved = shutil.move(run, tmp_path / "elsewhere")
    assert made(config(checkpoint=moved, save={"save_npz": True})).made == 1
    assert contents(folder) == whole


def test_lines_of_an_earlier_version_keep_their_path(config, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusion_lab.generation.generate.public_name", str)
    folder = made(config()).folder
    whole = contents(folder)
    monkeypatch.undo()
    (folder / "sample_0003.png").unlink()
    assert made(config()).made == 1
    assert contents(folder) == whole


def test_checkpoint_identity_is_in_every_line_and_image(config, monkeypatch):
    assert {(line["config_hash"], line["data_fingerprint"]) for line in manifest_of(made(config()).folder)} == {
        (None, None)  # an older checkpoint does not tell them
    }
    identity = {"config_hash": "ab12", "data_fingerprint": "cd34"}
    monkeypatch.setattr(
        "diffusion_lab.generation.generate.read_checkpoint",
        lambda path: dataclasses.replace(read_checkpoint(path), metadata=identity),
    )
    with pytest.raises(ValueError, match='config_hash is null there and "ab12" here; data_fingerprint is null there'):
        made(config())
    folder = made(config(output={"overwrite": True})).folder
    for line in manifest_of(folder):
        assert (line["config_hash"], line["data_fingerprint"]) == ("ab12", "cd34")
        with Image.open(folder / line["file"]) as image:
            assert json.loads(image.text[PNG_KEY]) == line


def test_drawn_seed_is_kept(config, drawn):
    settings = config(sampling=BATCHES, seed=None)
    drawn.stop = 0
    with pytest.raises(Terminated):  # before the first image
        made(settings)
    drawn.stop = 1
    with pytest.raises(Terminated):
        made(settings)
    (seed,) = {line["seed"] for line in manifest_of(settings.output.folder("generated"))}
    drawn.stop = -1
    done = made(settings)
    assert {line["seed"] for line in manifest_of(done.folder)} == {seed}
    assert made(settings).made == 0
    assert made(config(sampling=BATCHES, seed=seed)).made == 0


def test_overwrite_resumes_an_unfinished_generation_and_replaces_a_finished_one(config, drawn):
    settings = config(sampling=BATCHES, output={"overwrite": True})
    drawn.stop = 1
    with pytest.raises(Terminated):
        made(settings)
    drawn.stop = -1
    drawn.take()
    made(settings)
    assert drawn.take() == [*range(4, 11)]
    made(settings)
    assert drawn.take() == [*range(11)]
    made(config(sampling=BATCHES, output={"overwrite": True}, seed=6))
    assert drawn.take() == [*range(11)]


class TestDefaultFolders:
    def folder(self, time):
        return {"subdirs": {"logs": "l", "checkpoints": "c", "samples": "s", "generated": f"generated/{time}"}}

    def test_unfinished_folder_of_the_same_command_is_resumed(self, config, drawn):
        early, late = self.folder("2030-01-01_00-00-00"), self.folder("2030-01-01_00-00-07")
        drawn.stop = 1
        with pytest.raises(Terminated):
            made(config(sampling=BATCHES, output=early))
        drawn.stop = -1
        done = made(config(sampling=BATCHES, output=late))
        assert (done.folder.name, done.made) == ("2030-01-01_00-00-00", 7)
        assert made(config(sampling=BATCHES, output=late)).made == 11  # a finished one is no reason not to begin

    @pytest.mark.parametrize("change", [{"seed": 6}, {"sampling": {**BATCHES, "num_samples": 8}}])
    def test_folder_of_another_command_is_not_resumed(self, config, drawn, change):
        drawn.stop = 1
        with pytest.raises(Terminated):
            made(config(sampling=BATCHES, output=self.folder("2030-01-01_00-00-00")))
        drawn.stop = -1
        done = made(config(**{"sampling": BATCHES, **change}, output=self.folder("2030-01-01_00-00-07")))
        assert done.folder.name == "2030-01-01_00-00-07"

    def test_folder_in_use_is_not_resumed(self, config, drawn):
        early = config(sampling=BATCHES, output=self.folder("2030-01-01_00-00-00"))
        drawn.stop = 1
        with pytest.raises(Terminated):
            made(early)
        drawn.stop = -1
        with holding(early.output.folder("generated")):
            done = made(config(sampling=BATCHES, output=self.folder("2030-01-01_00-00-07")))
        assert done.folder.name == "2030-01-01_00-00-07"


def test_renewing_takes_the_place_of_other_images_and_leaves_the_same_ones(config, drawn):
    made(config())
    drawn.take()
    assert generate(config(), show_progress=False, renew=True).made == 0
    assert generate(config(seed=6), show_progress=False, renew=True).made == 5
    assert {line["seed"] for line in manifest_of(config().output.folder("generated"))} == {6}
