"""Generation from settings: output files, and errors before anything is written."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.checkpoint import FORMAT, file_hash, load_denoiser
from diffusion_lab.config import ConfigWarning, get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_config, parse_section
from diffusion_lab.create import create_denoiser
from diffusion_lab.generation.generate import generate
from diffusion_lab.generation.request import PNG_KEY
from diffusion_lab.guidance import Guidance
from diffusion_lab.samplers import DDIMSampler
from diffusion_lab.sampling import DiffusionSampler
from diffusion_lab.shapes import to_pixels
from tests.recorded_warnings import recorded_warnings


@pytest.fixture(autouse=True)
def no_surprises():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # five images of three classes tell more in these tests than six
        warnings.filterwarnings("ignore", "generation.sampling.num_samples", ConfigWarning)
        yield


def save_checkpoint(
    path, num_classes=3, class_names=("cat", "dog", "fox"), channels=1, ema=True, class_dropout_prob=0.1
):
    """Write a checkpoint in the project's format, as a training run does."""
    model = get_default_config()["model"]
    model["architecture"] |= {"image_size": 8, "in_channels": channels, "model_channels": 8, "num_res_blocks": 1}
    model["architecture"] |= {"channel_multipliers": [1], "use_attention": [False]}
    model["diffusion"] |= {"num_timesteps": 20}
    model["conditioning"] |= {"type": "class" if num_classes else None, "num_classes": num_classes}
    model["conditioning"] |= {"class_dropout_prob": class_dropout_prob}
    torch.manual_seed(0)
    denoiser = create_denoiser(parse_section(ModelSettings, model, "model"))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    prefixes = ("denoiser.", "ema.average.") if ema else ("denoiser.",)
    state = {prefix + name: tensor for prefix in prefixes for name, tensor in denoiser.state_dict().items()}
    metadata = {"format": FORMAT, "config": {"model": model}, "class_names": list(class_names), "step": 7, "epoch": 1}
    torch.save({"state_dict": state, "diffusion_lab": metadata}, path)
    return path


@pytest.fixture
def config(tmp_path):
    """Settings of a small generation run, some values changed by section."""

    def change(sampling=(), output=(), save=(), seed=5, sampler=None, checkpoint=None, device="cpu", guidance=None):
        tree = {key: get_default_config()[key] for key in ("experiment", "compute", "output", "generation")}
        tree |= {"mode": "generate", "sampler": sampler or {"type": "ddim", "steps": 3}}
        tree |= {"guidance": guidance} if guidance else {}
        tree["compute"] = {"device": device, "seed": seed}
        tree["output"] |= {"base_dir": str(tmp_path / "out"), **dict(output)}
        tree["generation"]["checkpoint"] = str(checkpoint or save_checkpoint(tmp_path / "last.ckpt"))
        tree["generation"]["sampling"] |= {"num_samples": 5, "guidance_scale": 2.0, **dict(sampling)}
        tree["generation"]["output"] |= dict(save)
        return parse_config(tree)

    return change


def manifest_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def array_of(path):
    with Image.open(path) as image:
        return np.array(image)


def test_each_image_has_a_file_and_a_manifest_line(config, tmp_path):
    settings = config()
    done = generate(settings, show_progress=False)
    assert (done.folder, done.count, done.npz) == (tmp_path / "out" / "generated", 5, None)
    lines = manifest_of(done.folder)
    assert [line["file"] for line in lines] == [f"sample_{index:04d}.png" for index in range(5)]
    assert [line["label"] for line in lines] == [0, 1, 2, 0, 1]
    assert [line["class_name"] for line in lines] == ["cat", "dog", "fox", "cat", "dog"]
    checkpoint = tmp_path / "last.ckpt"
    common = {
        "seed": 5,
        "sampler": "ddim",
        "steps": 3,
        "guidance_scale": 2.0,
        "guidance_interval": None,
        "guidance_rescale": 0.0,
        "use_ema": True,
        "ema_decay": None,  # the file does not tell it
        "checkpoint": "last.ckpt",
        "checkpoint_sha256": file_hash(checkpoint),
    }
    assert all(line.items() >= common.items() for line in lines)
    assert {path.name for path in done.folder.iterdir()} == {line["file"] for line in lines} | {
        "manifest.jsonl",
        "grid.png",
    }


def test_files_hold_the_images_of_the_sampler(config, tmp_path):
    done = generate(config(save={"save_npz": True}), show_progress=False)
    denoiser = load_denoiser(tmp_path / "last.ckpt")
    images = DiffusionSampler(denoiser).sample(5, [0, 1, 2, 0, 1], 2.0, sampler=DDIMSampler(steps=3), seed=5)
    expected = to_pixels(images)[:, 0].numpy()
    for index in range(5):
        np.testing.assert_array_equal(array_of(done.folder / f"sample_{index:04d}.png"), expected[index])
    arrays = np.load(done.npz)
    assert sorted(arrays) == ["arr_0", "arr_1"]
    assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (5, 8, 8, 1))
    np.testing.assert_array_equal(arrays["arr_0"][..., 0], expected)
    assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("trust", ["os.system", ("os.system",)])
def test_trust_in_a_class_that_the_checkpoint_does_not_name_is_refused(trust, config, tmp_path):
    settings = config()
    generation = settings.generation.model_copy(update={"trust": trust})
    with pytest.raises(
        ValueError, match=r"generation\.trust.*last\.ckpt names \(it names none\), got os\.system: leave"
    ):
        generate(settings.model_copy(update={"generation": generation}), show_progress=False)
    assert not (tmp_path / "out").exists()


def test_each_cycle_of_labels_has_the_next_scale(config, tmp_path):
    scales = [1.0, 4.0, 2.5]
    settings = config(sampling={"num_samples": 11, "guidance_scale": scales, "batch_size": 4}, save={"save_npz": True})
    done = generate(settings, show_progress=False)
    lines = manifest_of(done.folder)
    assert [line["label"] for line in lines] == [0, 1, 2] * 3 + [0, 1]
    assert [line["guidance_scale"] for line in lines] == [1.0] * 3 + [4.0] * 3 + [2.5] * 3 + [1.0] * 2
    denoiser = load_denoiser(tmp_path / "last.ckpt")
    found = np.load(done.npz)["arr_0"][..., 0].astype(int)
    for round_, scale in enumerate(scales):  # as where that is the only scale
        images = DiffusionSampler(denoiser).sample(9, [0, 1, 2] * 3, scale, sampler=DDIMSampler(steps=3), seed=5)
        rows = slice(3 * round_, 3 * round_ + 3)
        assert abs(found[rows] - to_pixels(images)[rows, 0].numpy()).max() <= 1


def test_guidance_of_the_settings_is_that_of_the_images(config, tmp_path):
    guidance = {"interval": [0.1, 2.0], "rescale": 0.7}
    done = generate(config(sampling={"guidance_scale": 5.0}, guidance=guidance), show_progress=False)
    way = Guidance(interval=(0.1, 2.0), rescale=0.7)
    denoiser, labels = load_denoiser(tmp_path / "last.ckpt"), [0, 1, 2, 0, 1]
    images = DiffusionSampler(denoiser).sample(5, labels, 5.0, sampler=DDIMSampler(steps=3), guidance=way, seed=5)
    for index, expected in enumerate(to_pixels(images)[:, 0].numpy()):
        np.testing.assert_array_equal(array_of(done.folder / f"sample_{index:04d}.png"), expected)
    assert {(*line["guidance_interval"], line["guidance_rescale"]) for line in manifest_of(done.folder)} == {
        (0.1, 2.0, 0.7)
    }


def test_each_png_contains_its_manifest_line(config):
    done = generate(config(), show_progress=False)
    for line in manifest_of(done.folder):
        with Image.open(done.folder / line["file"]) as image:
            assert json.loads(image.text[PNG_KEY]) == line


def test_class_names_of_any_script_survive(config, tmp_path):
    path = save_checkpoint(tmp_path / "names.ckpt", class_names=("кот", "犬", "🦊"))
    done = generate(config(sampling={"labels": ["犬"]}, checkpoint=path), show_progress=False)
    assert {line["class_name"] for line in manifest_of(done.folder)} == {"犬"}
    with Image.open(done.folder / "sample_0000.png") as image:
        assert json.loads(image.text[PNG_KEY])["class_name"] == "犬"


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_does_not_change_the_images(config, tmp_path, batch_size):
    (tmp_path / "other").mkdir()
    whole = generate(config(), show_progress=False)
    output = {"base_dir": str(tmp_path / "other")}
    parts = generate(config(sampling={"batch_size": batch_size}, output=output), show_progress=False)
    for index in range(5):
        one, two = (array_of(run.folder / f"sample_{index:04d}.png").astype(int) for run in (whole, parts))
        assert abs(one - two).max() <= 1


def test_only_the_manifest_is_written_if_nothing_else_is_requested(config):
    done = generate(config(save={"save_individual": False, "save_grid": False}), show_progress=False)
    assert [path.name for path in done.folder.iterdir()] == ["manifest.jsonl"]
    assert [line["file"] for line in manifest_of(done.folder)] == [None] * 5
    assert (done.grid, done.npz) == (None, None)


@pytest.mark.parametrize(("columns", "rows_of_cells"), [(2, 3), (5, 1), (10, 1)])
def test_grid_has_the_requested_columns_and_no_empty_ones(config, tmp_path, columns, rows_of_cells):
    unconditional = save_checkpoint(tmp_path / "plain.ckpt", num_classes=None, class_names=())
    done = generate(config(save={"grid_nrow": columns}, checkpoint=unconditional), show_progress=False)
    height, width, _ = array_of(done.grid).shape
    assert (width - 2, height - 2) == (min(columns, 5) * 50, rows_of_cells * 50)


def test_colour_images_keep_their_channels(config, tmp_path):
    path = save_checkpoint(tmp_path / "colour.ckpt", channels=4)
    done = generate(config(checkpoint=path, save={"save_npz": True}), show_progress=False)
    assert array_of(done.folder / "sample_0000.png").shape == (8, 8, 4)
    assert np.load(done.npz)["arr_0"].shape == (5, 8, 8, 4)


def test_a_seed_of_null_is_drawn_and_recorded(config, tmp_path):
    done = generate(config(seed=None), show_progress=False)
    seed = manifest_of(done.folder)[0]["seed"]
    again = generate(config(seed=seed, output={"base_dir": str(tmp_path / "again")}), show_progress=False)
    assert (again.folder / "sample_0004.png").read_bytes() == (done.folder / "sample_0004.png").read_bytes()


def test_options_of_the_sampler_are_recorded(config):
    done = generate(config(sampler={"type": "ddim", "steps": 4, "eta": 0.5}), show_progress=False)
    line = manifest_of(done.folder)[0]
    assert (line["sampler"], line["steps"], line["sampler_options"]["eta"]) == ("ddim", 4, 0.5)


def test_an_unconditional_model_makes_unlabelled_images(config, tmp_path):
    path = save_checkpoint(tmp_path / "plain.ckpt", num_classes=None, class_names=())
    settings = config(sampling={"guidance_scale": 1.0}, checkpoint=path, save={"save_npz": True})
    done = generate(settings, show_progress=False)
    assert {(line["label"], line["class_name"]) for line in manifest_of(done.folder)} == {(None, None)}
    assert sorted(np.load(done.npz)) == ["arr_0"]


def generation_warnings(settings):
    """Return the warnings of a generation."""
    with recorded_warnings() as caught:
        generate(settings, show_progress=False)
    return [str(warning.message) for warning in caught if issubclass(warning.category, ConfigWarning)]


@pytest.mark.parametrize(
    ("scale", "warns"), [(0.0, False), (1.0, False), (2.0, False), (0.5, True), (1.5, True), (3.0, True)]
)
def test_guidance_of_an_unconditional_model_warns_if_requested(config, tmp_path, scale, warns):
    """Two is the default in sample.yaml, not requested by the user."""
    path = save_checkpoint(tmp_path / "plain.ckpt", num_classes=None, class_names=())
    expected = [f"generation.sampling.guidance_scale = {scale:g} has no effect: the model is unconditional"] * warns
    assert generation_warnings(config(sampling={"guidance_scale": scale}, checkpoint=path)) == expected


@pytest.mark.parametrize(("scales", "warns"), [([0.0, 1.0], False), ([1.0, 2.0], True)])
def test_list_of_scales_counts_as_requested_guidance(config, tmp_path, scales, warns):
    path = save_checkpoint(tmp_path / "plain.ckpt", num_classes=None, class_names=())
    expected = ["generation.sampling.guidance_scale = [1, 2] has no effect: the model is unconditional"] * warns
    assert generation_warnings(config(sampling={"guidance_scale": scales}, checkpoint=path)) == expected


@pytest.mark.parametrize(("scale", "warns"), [(0.0, False), (1.0, False), (0.5, True), (2.0, True), ([1.0, 3.0], True)])
def test_guidance_without_label_dropout_warns(config, tmp_path, scale, warns):
    path = save_checkpoint(tmp_path / "no_dropout.ckpt", class_dropout_prob=0.0)
    found = generation_warnings(config(sampling={"num_samples": 6, "guidance_scale": scale}, checkpoint=path))
    shown = "[1, 3]" if isinstance(scale, list) else f"{scale:g}"
    assert [each.partition(" weighs the label against an unconditional estimate")[0] for each in found] == (
        [f"generation.sampling.guidance_scale = {shown}"] * warns
    )


@pytest.mark.parametrize(("count", "left"), [(12, 0), (6, 2), (3, 3)])
def test_scales_without_an_image_warn(config, count, left):
    expected = (
        f"generation.sampling.num_samples = {count} leaves {left} of 4 guidance scales without an image: each takes "
    )
    found = generation_warnings(config(sampling={"num_samples": count, "guidance_scale": [1, 2, 3, 4]}))
    assert found == [expected + "a round of 3 labels"] * bool(left)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"num_samples": 6, "guidance_scale": 7.5}, []),
        ({"num_samples": 7}, ["does not divide evenly among 3 classes: the first class has one more image"]),
        ({"num_samples": 2}, ["leaves 1 of 3 classes without an image"]),
        ({"num_samples": 2, "labels": [0, 2]}, []),
        ({"num_samples": 3, "labels": [0, 2]}, ["does not divide evenly among 2 classes"]),
        ({"num_samples": 1, "labels": [1]}, []),
    ],
)
def test_uneven_number_of_images_per_class_warns(config, sampling, expected):
    found = generation_warnings(config(sampling=sampling))
    assert len(found) == len(expected)
    for warning, start in zip(found, expected, strict=True):
        assert warning.startswith(f"generation.sampling.num_samples = {sampling['num_samples']} {start}")


def test_missing_averaged_weights_warn(config, tmp_path):
    path = save_checkpoint(tmp_path / "raw.ckpt", ema=False)
    with pytest.warns(UserWarning, match="holds no EMA weights"):
        generate(config(checkpoint=path), show_progress=False)


def test_earlier_images_are_kept_unless_they_may_be_overwritten(config):
    done = generate(config(), show_progress=False)
    kept = (done.folder / "sample_0004.png").read_bytes()
    with pytest.raises(ValueError, match=r"holds generated images already.*output\.overwrite=true"):
        generate(config(sampling={"num_samples": 2}, seed=6), show_progress=False)
    assert (done.folder / "sample_0004.png").read_bytes() == kept

    (done.folder / "notes.txt").write_text("mine")
    generate(config(sampling={"num_samples": 2}, output={"overwrite": True}), show_progress=False)
    assert {path.name for path in done.folder.iterdir()} == {
        *("sample_0000.png", "sample_0001.png", "manifest.jsonl", "grid.png", "notes.txt"),
    }


@pytest.mark.parametrize("name", ["sample_0042.png", "grid.png", "samples.npz"])
def test_unrelated_files_with_our_names_are_kept(config, tmp_path, name):
    folder = tmp_path / "out" / "generated"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds generated images already"):
        generate(config(), show_progress=False)
    assert (folder / name).read_bytes() == b"precious"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sampling": {"labels": [3]}},
            r"generation\.sampling\.labels must be classes .*0 to 2 \(cat, dog, fox\), got 3",
        ),
        ({"sampling": {"labels": ["cow"]}}, "got 'cow'"),
        (
            {"sampling": {"ema_decay": 0.5}},
            r"generation\.sampling\.ema_decay must be one of the averages in .* got 0\.5",
        ),
        ({"sampler": {"type": "ddim", "steps": 21}}, r"sampler\.steps must be at most .*20, got 21"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(config, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        generate(config(**change), show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_device_is_named_before_anything_is_written(config, tmp_path):
    with pytest.raises(
        ValueError, match=r"compute\.device must be a device of this machine \(cpu, or auto\), got 'cuda'"
    ):
        generate(config(device="cuda"), show_progress=False)
    assert not (tmp_path / "out").exists()


def test_failure_keeps_the_finished_images(config, monkeypatch):
    stream = DiffusionSampler.stream

    def breaks(self, *arguments, **options):
        yield next(stream(self, *arguments, **options))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(DiffusionSampler, "stream", breaks)
    settings = config(sampling={"batch_size": 2})
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(settings, show_progress=False)
    folder = settings.output.folder("generated")
    assert len(manifest_of(folder)) == 2
    assert sorted(path.name for path in folder.glob("*.png")) == ["sample_0000.png", "sample_0001.png"]


def test_images_before_non_finite_ones_stay(config, monkeypatch):
    """Black images are never written; the message says what to do, and where the finished ones are."""
    stream = DiffusionSampler.stream

    def breaks(self, *arguments, **options):
        batches = stream(self, *arguments, **options)
        yield next(batches)
        next(self.model.parameters()).data[:] = float("nan")
        yield from batches

    monkeypatch.setattr(DiffusionSampler, "stream", breaks)
    settings = config(sampling={"batch_size": 2})
    with pytest.raises(ValueError, match="another checkpoint") as stopped:
        generate(settings, show_progress=False)
    folder = settings.output.folder("generated")
    assert f"step 1 of 3 in image 2 and 1 more; 2 of 5 images are finite and stay in {folder}:" in str(stopped.value)
    assert len(manifest_of(folder)) == 2
    assert sorted(path.name for path in folder.glob("*.png")) == ["sample_0000.png", "sample_0001.png"]


def checkpoint_without_a_fox(path):
    """A checkpoint whose embedding of class 2 is NaN: every third image is, whatever batch it is in."""
    content = torch.load(save_checkpoint(path), weights_only=True)
    tables = [tensor for name, tensor in content["state_dict"].items() if name.endswith("embed_label.weight")]
    assert tables
    for table in tables:
        table[2] = float("nan")
    torch.save(content, path)
    return path


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_finite_images_of_a_failed_batch_stay(config, tmp_path, batch_size):
    """Sampling is finished for them, and each has its image file and its line."""
    expected = generate(config(sampling={"num_samples": 8, "batch_size": batch_size}), show_progress=False).folder
    broken = checkpoint_without_a_fox(tmp_path / "broken.ckpt")
    settings = config(
        checkpoint=broken,
        sampling={"num_samples": 8, "batch_size": batch_size},
        output={"base_dir": str(tmp_path / "broken")},
    )
    last = min(batch_size, 8) if batch_size > 2 else 3
    good = [number for number in range(last) if number % 3 != 2]
    with pytest.raises(ValueError, match=f"{len(good)} of 8 images are finite and stay in "):
        generate(settings, show_progress=False)
    folder = settings.output.folder("generated")
    assert [line["index"] for line in manifest_of(folder)] == good
    assert sorted(path.name for path in folder.glob("*.png")) == [f"sample_{number:04d}.png" for number in good]
    for number in good:
        name = f"sample_{number:04d}.png"
        np.testing.assert_array_equal(array_of(folder / name), array_of(expected / name))
    with pytest.raises(ValueError, match=f"{len(good)} of 8 images are finite and stay in "):
        generate(settings, show_progress=False)  # what is there is found again


def test_finite_images_without_files_can_make_a_grid(config, tmp_path):
    """Only images without gaps, which grid and arrays cannot have; the message names the setting."""
    broken = checkpoint_without_a_fox(tmp_path / "broken.ckpt")
    save = {"save_individual": False, "save_npz": True}
    settings = config(checkpoint=broken, save=save, sampling={"num_samples": 5})
    with pytest.raises(ValueError, match=r"2 of 5 images are finite .* \(num_samples=2 makes grid and arrays of them"):
        generate(settings, show_progress=False)
    done = generate(config(checkpoint=broken, save=save, sampling={"num_samples": 2}), show_progress=False)
    assert (done.count, done.made) == (2, 0)
    assert len(np.load(done.npz)["arr_0"]) == 2


class TestStepsOfAShortProcess:
    """The checkpoint's process has 20 steps, the samplers' default is 50."""

    def test_default_steps_follow_the_process(self, config, capsys):
        settings = config(sampler={"type": "ddim", "steps": 50, "eta": 0.5})
        settings = settings.model_copy(update={"sampler": settings.sampler.with_default_steps()})
        lines = manifest_of(generate(settings).folder)
        assert {(line["steps"], line["sampler_options"]["eta"]) for line in lines} == {(20, 0.5)}
        assert "sampler.steps is 20: the noise process of the checkpoint has no more" in capsys.readouterr().err

    def test_settings_without_a_sampler_follow_the_process(self, config):
        tree = config().model_dump(mode="json")
        del tree["sampler"]
        assert {line["steps"] for line in manifest_of(generate(parse_config(tree)).folder)} == {20}

    def test_sampler_without_steps_follows_the_process(self, config):
        assert {line["steps"] for line in manifest_of(generate(config(sampler={"type": "euler"})).folder)} == {20}

    def test_requested_steps_are_refused(self, config):
        with pytest.raises(
            ValueError, match=r"sampler\.steps must be at most model\.diffusion\.num_timesteps, 20, got 50"
        ):
            generate(config(sampler={"type": "ddim", "steps": 50}))


def test_used_classes_are_printed(config, capsys):
    generate(config({"labels": ["fox", 1], "num_samples": 2}))
    assert 'labels: class 2 ("fox"), class 1 ("dog")' in capsys.readouterr().err
