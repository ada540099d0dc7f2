"""Hostile checkpoints: every command reports one error, quickly and with little memory."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffusion_lab.checkpoint import load_denoiser, load_tensors, read_checkpoint
from diffusion_lab.checkpoint.pickled import check_expansion
from diffusion_lab.commands.checkpoint import main
from diffusion_lab.config import get_default_config
from diffusion_lab.config.validate import parse_config
from diffusion_lab.cpu import malloc
from diffusion_lab.generation.generate import generate
from tests.checkpoint.contents import AVERAGED, own_format, same, tree
from tests.checkpoint.hostile import WRONG, doubling, places, replaced

SECONDS = 5
"""Limit on CPU time in seconds; each test takes a hundredth of it."""

ROOM = 2**30
"""Bytes of addresses that may be taken beyond those in use."""


@pytest.fixture(autouse=True)
def limited_time_and_memory() -> Iterator[None]:
    """Let what asks for gigabytes fail instead of filling the memory of this machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, scarce = resource.getrlimit(resource.RLIMIT_AS), malloc._keeping.scarce
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    started = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        malloc._keeping.scarce = scarce  # a limit on addresses is remembered
    assert time.process_time() - started < SECONDS


def sampled(path: Path) -> None:
    config = {key: get_default_config()[key] for key in ("experiment", "compute", "output", "generation")}
    config |= {"mode": "generate", "sampler": {"type": "ddim", "steps": 1}, "compute": {"device": "cpu", "seed": 0}}
    config["output"] |= {"base_dir": str(path.parent / "out"), "overwrite": True}
    config["generation"]["checkpoint"] = str(path)
    config["generation"]["sampling"] |= {"num_samples": 2, "guidance_scale": 0.0}
    generate(parse_config(config), show_progress=False)


def by_command(name: str) -> Callable[[Path], None]:
    """A command of ``python -m diffusion_lab.checkpoint``; its exit code is turned into an error."""

    def run(path: Path) -> None:
        more = ["--output", str(path.with_name("out.safetensors"))] if name == "export" else []
        if main([name, str(path), *more]):
            raise ValueError

    return run


WAYS: dict[str, Callable[[Path], Any]] = {
    "load_denoiser": load_denoiser,
    "sample": sampled,
    **{name: by_command(name) for name in ("inspect", "verify", "export")},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ["metadata", "rest"])
def test_any_field_of_a_wrong_type_is_one_error(tmp_path, capsys, way, part) -> None:
    """No traceback, no escape codes on the terminal, and the file is named."""
    whole = own_format(
        seed=4, config_hash="abc", environment={"packages": {"torch": "2"}, "git_commit": "0"}, epochs_done=1
    )
    found = [place for place in places(whole) if (place[0] == "diffusion_lab") == (part == "metadata")]
    path, draw, refused = tmp_path / "hostile.ckpt", random.Random(way + part), 0
    for _ in range(30):
        torch.save(replaced(whole, draw.choice(found), WRONG[draw.choice(list(WRONG))]), path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                WAYS[way](path)
            except (ValueError, OSError, MemoryError) as error:
                refused += 1
                output = capsys.readouterr()
                words = f"{error}{output.err}{output.out}"
                assert "hostile.ckpt" in words or "generation.sampling" in words
                assert "\x1b" not in output.err + output.out
                assert "Traceback" not in words
    assert refused > (10 if part == "metadata" else 5)


HUGE = {
    "classes": {"conditioning": {"num_classes": 10**9}},
    "more classes than an integer of C has": {"conditioning": {"num_classes": 10**30}},
    "channels": {"architecture": {"model_channels": 80_000}},
    "multipliers": {"architecture": {"channel_multipliers": [2**30], "model_channels": 2**30}},
    "stages": {"architecture": {"channel_multipliers": [1] * 10_000, "use_attention": [False] * 10_000}},
    "blocks": {"architecture": {"num_res_blocks": 10**8}},
    "blocks within bounds": {"architecture": {"num_res_blocks": 1000}},
    "image": {"architecture": {"image_size": 2**22}},
    "timesteps": {"diffusion": {"num_timesteps": 3 * 10**9}},
    "transformer": {"architecture": {"type": "dit", "model_channels": 80_000, "num_res_blocks": 500}},
}


@pytest.mark.parametrize("name", HUGE)
def test_settings_larger_than_the_weights_are_refused_early(saved, name) -> None:
    model = tree()
    for section, keys in HUGE[name].items():
        model[section] |= keys
    with pytest.raises(ValueError, match=r"last\.ckpt|model\.architecture"):
        load_denoiser(saved(own_format(model=model)))


def test_shared_values_are_counted_each_time(saved) -> None:
    """A megabyte would be needed to write thirty of these levels out, a thousand of them for each ten more."""
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint.*more than 5000000 values, shared"):
        read_checkpoint(saved(own_format(notes=doubling(60))))
    with pytest.raises(ValueError, match=r"last\.ckpt is a damaged checkpoint.*more than 200000 values"):
        read_checkpoint(saved(own_format(notes=doubling(18))))
    check_expansion(doubling(10))
    ring: list[Any] = [1]
    ring.append(ring)
    with pytest.raises(ValueError, match="contains itself"):
        read_checkpoint(saved(own_format(notes=ring)))


def test_tensors_that_repeat_their_bytes_are_refused(saved) -> None:
    """``export`` would write terabytes."""
    repeated = torch.zeros(1).expand(10**12)
    with pytest.raises(ValueError, match=r"repeats 4 bytes: save a contiguous copy"):
        read_checkpoint(saved({"weight": repeated}))
    once = torch.zeros(1000)
    with pytest.raises(ValueError, match="share 4000 bytes: save copies"):
        read_checkpoint(saved({f"weight{index}": once for index in range(50)}))
    read_checkpoint(saved({"weight": once, "tied": once}))


@pytest.mark.parametrize(
    "tensor", [torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")], ids=["sparse", "without bytes"]
)
def test_tensors_that_are_not_dense_are_refused(saved, tensor) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt (is not a checkpoint|holds a tensor that is not dense)"):
        read_checkpoint(saved({"weight": tensor}))


@pytest.mark.parametrize("name", [1, None, b"a", (1, 2)])
def test_weights_without_a_name_are_refused(tmp_path, name) -> None:
    content = own_format()
    content["state_dict"][name] = torch.zeros(2)
    torch.save(content, tmp_path / "hostile.ckpt")
    for way in WAYS.values():
        with pytest.raises(ValueError):  # noqa: PT011 - a command's exit code has no words
            way(tmp_path / "hostile.ckpt")


def test_weights_of_integers_are_refused(saved) -> None:
    content = own_format(averaged=None)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name].long()
    with pytest.raises(ValueError, match=r"is of torch\.int64"):
        load_denoiser(saved(content), use_ema=False)


def archive(path: Path, description: bytes, **storages: bytes) -> Path:
    """Write an archive of torch with a given pickle."""
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", description)
        target.writestr("archive/byteorder", "little")
        target.writestr("archive/version", "3\n")
        for key, content in storages.items():
            target.writestr(f"archive/data/{key}", content)
    return path


def key_of_tuples(levels: int) -> bytes:
    """A dict whose key is a tuple of a tuple twice, and so on: hashing it takes 2^levels steps."""
    out = io.BytesIO(b"")
    out.write(b"\x80\x02}K\x01\x85q\x00")
    for level in range(levels):
        out.write(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]))
    out.write(b"K\x01s.")
    return out.getvalue()


CALLS = {
    "a key of nested tuples": key_of_tuples(60),
    "a terabyte": b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "a large tensor": b"\x80\x02ctorch\nFloatTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "an encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R.",
    "another protocol": pickle.dumps({"weight": 1}, protocol=4),
    "nothing": b"",
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x020.",
    "a mark that is missing": b"\x80\x02}u.",
    "something from nowhere": b"\x80\x02h\x07.",
}


@pytest.mark.parametrize("name", CALLS)
def test_pickle_that_would_hang_or_fill_memory_is_refused(tmp_path, name) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint"):
        load_tensors(archive(tmp_path / "last.ckpt", CALLS[name]))


def test_storage_larger_than_its_bytes_is_never_read(tmp_path, saved) -> None:
    """torch would read whatever lies behind it in memory."""
    with zipfile.ZipFile(saved({"weight": torch.zeros(1000)})) as source:
        content = source.read("last/data.pkl")
        data = source.read("last/data/0")
    place = content.index(b"M\xe8\x03")  # 1000, of the storage; the shape comes later
    swollen = content[:place] + b"J\x00\x00\x01\x00" + content[place + 3 :]
    with pytest.raises(ValueError, match="declares 262144 bytes for storage 0, which has 4000"):
        load_tensors(archive(tmp_path / "swollen.ckpt", swollen, **{"0": data}))


def test_two_parts_with_the_same_name_are_refused(tmp_path, saved) -> None:
    path = saved({"weight": torch.zeros(1000)})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as target:
        warnings.simplefilter("ignore")
        target.writestr("last/data/0", bytes(4000))
    with pytest.raises(ValueError, match="two of its parts have the same name"):
        load_tensors(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("way", WAYS)
def test_special_files_never_block(tmp_path, capsys, way, suffix) -> None:
    path = tmp_path / f"hostile{suffix}"
    os.mkfifo(path)
    with pytest.raises((ValueError, OSError)) as refused:
        WAYS[way](path)
    assert "hostile" in f"{refused.value}{''.join(capsys.readouterr())}"


def test_a_file_larger_than_the_memory_is_not_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "large.ckpt"
    with path.open("wb") as file:
        file.truncate(2**30)
    monkeypatch.setattr("diffusion_lab.checkpoint.tensors.host_memory", lambda: 2**29)
    with pytest.raises(MemoryError, match=r"large\.ckpt has 1 GiB and is read as a whole"):
        load_tensors(path)


@pytest.mark.parametrize(
    "text", ["null", "[" * 100_000, '{"format": 1' + "0" * 5000 + "}", "\udcff", '{"format": 1, "config": []}', "{}"]
)
def test_an_export_with_hostile_settings_is_one_error(tmp_path, text) -> None:
    path = tmp_path / "hostile.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={"diffusion_lab": text.encode("utf-8", "replace").decode()})
    with pytest.raises(ValueError, match=r"hostile\.safetensors"):
        read_checkpoint(path)


def test_legitimate_checkpoints_pass(saved) -> None:
    assert same(load_denoiser(saved(own_format())), AVERAGED)
