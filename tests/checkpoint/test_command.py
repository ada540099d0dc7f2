"""``python -m diffusion_lab.checkpoint``, and what it exports."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffusion_lab.checkpoint import Manifest, load_denoiser, read_checkpoint
from diffusion_lab.commands.checkpoint import main
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO
from tests.checkpoint.contents import AVERAGED, RAW, own_format, same


@pytest.fixture
def run(tmp_path) -> Path:
    environment = {"packages": {"torch": "2.13.0"}, "git_commit": "0123abc"}
    content = own_format(seed=4, config_hash="abc", environment=environment)
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "run" / "checkpoints" / "step_00000070.ckpt")
    return tmp_path / "run"


def test_inspect_shows_the_contents(run, capsys) -> None:
    assert main(["inspect", str(run)]) == 0
    output = capsys.readouterr().out
    for words in (
        "step_00000070.ckpt",
        "0123abc",
        "torch 2.13.0",
        "cat, dog",
        "image_size: 8",
        "config hash",
        "optimizer",
    ):
        assert words in output
    assert f"{sum(tensor.numel() for tensor in RAW.state_dict().values()):,}" in output


def test_inspect_prints_json_with_all_settings(run, capsys) -> None:
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["config"]["experiment"]) == (70, "cats")


def test_verify_finds_the_damaged_checkpoint(run, capsys) -> None:
    assert main(["verify", str(run)]) == 0
    damaged = run / "checkpoints" / "step_00000080.ckpt"
    AtomicCheckpointIO().save_checkpoint(own_format(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["verify", str(run)]) == 1
    whole, broken = capsys.readouterr().out.splitlines()[1:]
    assert whole.startswith("valid")
    assert broken.startswith("DAMAGED")
    assert "step_00000080.ckpt" in broken


def test_error_of_a_damaged_checkpoint_names_the_command_that_finds_valid_ones(run, capsys) -> None:
    damaged = run / "checkpoints" / "step_00000080.ckpt"
    AtomicCheckpointIO().save_checkpoint(own_format(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["inspect", str(damaged)]) == 2
    message, command = capsys.readouterr().err.splitlines()
    assert message.endswith("were written. Take another checkpoint of its folder; this command shows which are valid:")
    _, module_flag, module, *arguments = shlex.split(command)
    assert (module_flag, module) == ("-m", "diffusion_lab.checkpoint")
    assert main(arguments) == 1
    found = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found] == ["valid", "DAMAGED"]
    assert "Take another" not in found[1]


def test_verify_reports_every_file_of_a_folder(run, capsys) -> None:
    """Unusual files come before, between and after the damaged one."""
    folder = run / "checkpoints"
    source = folder / "step_00000070.ckpt"
    for name in ("a.ckpt", "step_00000072.ckpt", "step_00000073.ckpt"):
        shutil.copy(source, folder / name)
    flip(folder / "a.ckpt", 4000)
    (folder / "step_00000060.ckpt").mkdir()
    os.mkfifo(folder / "step_00000061.ckpt")
    (folder / "step_00000062.ckpt").write_bytes(b"")
    (folder / "step_00000063.ckpt").write_text("text")
    Manifest.path_of(folder / "step_00000072.ckpt").write_text("null")
    save_file({"weight": torch.zeros(2)}, folder / "theirs.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "theirs.safetensors").read_bytes()[:-1])
    assert main(["verify", str(run)]) == 1
    states = dict(reversed(line.split(maxsplit=1)) for line in capsys.readouterr().out.splitlines())
    found = {Path(line.split(": ")[0].split("  ")[0]).name: state for line, state in states.items()}
    assert found == {
        "a.ckpt": "DAMAGED",
        "cut.safetensors": "DAMAGED",
        "step_00000060.ckpt": "ignored",
        "step_00000061.ckpt": "ignored",
        "step_00000062.ckpt": "DAMAGED",
        "step_00000063.ckpt": "DAMAGED",
        "step_00000070.ckpt": "valid",
        "step_00000072.ckpt": "DAMAGED",
        "step_00000073.ckpt": "valid",
        "theirs.safetensors": "unverified",
    }


def test_unexpected_error_does_not_hide_the_next_file(run, capsys, monkeypatch) -> None:
    def fail(file: Path) -> None:
        raise RecursionError

    shutil.copy(run / "checkpoints" / "step_00000070.ckpt", run / "checkpoints" / "a.ckpt")
    monkeypatch.setattr("diffusion_lab.commands.checkpoint.read_checkpoint", fail)
    assert main(["verify", str(run)]) == 1
    broken, whole = capsys.readouterr().out.splitlines()
    assert broken.startswith("DAMAGED")
    assert broken.endswith("a.ckpt: RecursionError")
    assert whole.startswith("valid")


def test_verify_reports_the_checksums_of_a_file_without_manifest(run, capsys) -> None:
    for file in run.rglob("*.manifest.json"):
        file.unlink()
    assert main(["verify", str(run)]) == 0
    assert "(no manifest; by the CRC-32 sums inside it, which cover its tensors and settings" in capsys.readouterr().out


def test_weights_of_other_programs_are_unverified(tmp_path, capsys) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "theirs.safetensors")
    assert main(["verify", str(tmp_path)]) == 3
    assert "no manifest, and the format has no checksums" in capsys.readouterr().out


def test_file_name_cannot_fake_an_output_line(run, capsys) -> None:
    (run / "a\nvalid  b.ckpt").write_bytes(b"")
    assert main(["verify", str(run)]) == 1
    assert not any(line.startswith("valid  b") for line in capsys.readouterr().out.splitlines())


def test_names_reach_the_terminal_escaped(run, capsys) -> None:
    shutil.copy(run / "checkpoints" / "step_00000070.ckpt", run / "checkpoints" / "\x1b[2J.ckpt")
    main(["verify", str(run)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2J.ckpt" in out


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("arguments", [["inspect", "nothing"], ["verify", "."], ["export", "nothing"]])
def test_failure_is_reported_in_one_line(arguments, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_export_loads_like_a_checkpoint(run, capsys) -> None:
    assert main(["export", str(run)]) == 0
    file = run / "model.safetensors"
    assert str(file) in capsys.readouterr().out
    assert same(load_denoiser(file), AVERAGED)
    assert load_denoiser(file).class_names == ("cat", "dog")
    assert read_checkpoint(file).metadata["config_hash"] == "abc"
    assert main(["verify", str(file)]) == 0
    assert main(["inspect", str(file)]) == 0


def test_raw_weights_can_be_exported_as_well(run, tmp_path) -> None:
    assert main(["export", str(run), "--raw", "--output", str(tmp_path / "raw.safetensors")]) == 0
    with pytest.warns(UserWarning, match="no EMA weights"):
        assert same(load_denoiser(tmp_path / "raw.safetensors"), RAW)


def test_export_can_be_read_without_this_project(run) -> None:
    main(["export", str(run)])
    with safe_open(run / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["diffusion_lab"])["config"]["model"]["architecture"]["image_size"] == 8
        assert all(torch.equal(file.get_tensor(name), value) for name, value in AVERAGED.state_dict().items())


def test_a_damaged_export_is_refused(run) -> None:
    main(["export", str(run)])
    file = run / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_denoiser(file)


def test_export_without_manifest_is_verified_by_its_own_hash(run, capsys) -> None:
    """Twenty bits all over the file are flipped, including its header."""
    main(["export", str(run)])
    file = run / "model.safetensors"
    Manifest.path_of(file).unlink()
    assert main(["verify", str(file)]) == 0
    assert "(no manifest; by the SHA-256 inside it)" in capsys.readouterr().out
    content = file.read_bytes()
    for number in range(20):
        flip(file, number * (len(content) - 1) // 19)
        assert main(["verify", str(file)]) == 1, number
        with pytest.raises(ValueError, match=r"damaged|is not an export"):
            load_denoiser(file)
        file.write_bytes(content)


def test_raw_weights_are_not_taken_from_an_export_of_averaged_ones(run, tmp_path, capsys) -> None:
    main(["export", str(run)])
    file, target = run / "model.safetensors", tmp_path / "raw.safetensors"
    assert main(["export", str(file), "--raw", "--output", str(target)]) == 2
    assert "is an export of averaged weights, and holds no others" in capsys.readouterr().err
    assert not target.exists()
    with pytest.raises(ValueError, match="is an export of averaged weights, and holds no others"):
        load_denoiser(file, use_ema=False)
    assert main(["inspect", str(file)]) == 0
    assert main(["export", str(file), "--output", str(target)]) == 0
    assert same(load_denoiser(target), AVERAGED)


def test_an_export_replaces_an_earlier_one_and_nothing_else(run, capsys) -> None:
    file = run / "model.safetensors"
    assert main(["export", str(run)]) == 0
    assert main(["export", str(run), "--raw"]) == 0
    with pytest.warns(UserWarning, match="no EMA weights"):
        assert same(load_denoiser(file), RAW)
    for put in (put_text, put_weights, put_link, put_folder):
        put(file)
        assert main(["export", str(run)]) == 2
        assert "is not an export of diffusion_lab: choose another --output" in capsys.readouterr().err
        assert same(load_denoiser(run), AVERAGED)


def put_text(file: Path) -> None:
    file.write_text("mine")


def put_weights(file: Path) -> None:
    save_file({"weight": torch.zeros(2)}, file)


def put_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("checkpoints/step_00000070.ckpt")


def put_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def test_export_does_not_replace_the_manifest_of_a_checkpoint(run, capsys) -> None:
    output = run / "checkpoints" / "step_00000070.safetensors"
    assert main(["export", str(run), "--output", str(output)]) == 2
    assert "needs another name than the checkpoint" in capsys.readouterr().err
    assert main(["verify", str(run)]) == 0


def test_read_only_run_folder_asks_for_another_output(run, tmp_path, monkeypatch, capsys) -> None:
    """The check is mocked: the user who runs the tests may have all permissions."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run and allowed(path, mode))
    assert main(["export", str(run)]) == 2
    assert "give --output FILE.safetensors" in capsys.readouterr().err
    assert main(["export", str(run), "--output", str(tmp_path / "model.safetensors")]) == 0


def test_export_needs_the_suffix(run) -> None:
    assert main(["export", str(run), "--output", str(run / "model.bin")]) == 2
