"""``python -m diffusion_lab.checkpoint``, and what it exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from diffusion_lab.checkpoint import load_denoiser, read_checkpoint
from diffusion_lab.checkpoint.__main__ import main
from diffusion_lab.training.checkpoint_io import AtomicCheckpointIO
from tests.checkpoint.contents import AVERAGED, RAW, own_format, same


@pytest.fixture
def run(tmp_path) -> Path:
    environment = {"packages": {"torch": "2.13.0"}, "git_commit": "0123abc"}
    content = own_format(seed=4, config_hash="abc", environment=environment)
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "run" / "checkpoints" / "step_00000070.ckpt")
    return tmp_path / "run"


def test_inspect_tells_what_is_in_it(run, capsys) -> None:
    assert main(["inspect", str(run)]) == 0
    told = capsys.readouterr().out
    for words in (
        "step_00000070.ckpt",
        "0123abc",
        "torch 2.13.0",
        "cat, dog",
        "image_size: 8",
        "config hash",
        "optimizer",
    ):
        assert words in told
    assert f"{sum(tensor.numel() for tensor in RAW.state_dict().values()):,}" in told


def test_inspect_gives_json_with_all_settings(run, capsys) -> None:
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["config"]["experiment"]) == (70, "cats")


def test_verify_finds_the_damaged_one(run, capsys) -> None:
    assert main(["verify", str(run)]) == 0
    damaged = run / "checkpoints" / "step_00000080.ckpt"
    AtomicCheckpointIO().save_checkpoint(own_format(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["verify", str(run)]) == 1
    whole, broken = capsys.readouterr().out.splitlines()[1:]
    assert whole.startswith("whole")
    assert broken.startswith("DAMAGED")
    assert "step_00000080.ckpt" in broken


@pytest.mark.parametrize("arguments", [["inspect", "nothing"], ["verify", "."], ["export", "nothing"]])
def test_what_cannot_be_done_says_why_in_one_line(arguments, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_export_is_a_checkpoint_of_its_own(run, capsys) -> None:
    assert main(["export", str(run)]) == 0
    file = run / "model.safetensors"
    assert str(file) in capsys.readouterr().out
    assert same(load_denoiser(file), AVERAGED)
    assert load_denoiser(file).class_names == ("cat", "dog")
    assert read_checkpoint(file).about["config_hash"] == "abc"
    assert main(["verify", str(file)]) == 0
    assert main(["inspect", str(file)]) == 0


def test_raw_weights_can_be_exported_as_well(run, tmp_path) -> None:
    assert main(["export", str(run), "--raw", "--output", str(tmp_path / "raw.safetensors")]) == 0
    with pytest.warns(UserWarning, match="no EMA weights"):
        assert same(load_denoiser(tmp_path / "raw.safetensors"), RAW)


def test_an_export_reads_without_this_project(run) -> None:
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


def test_an_export_has_its_ending(run) -> None:
    assert main(["export", str(run), "--output", str(run / "model.bin")]) == 2
