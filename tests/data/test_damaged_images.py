"""Hundreds of damaged files: each is an image or is named as corrupt; none raises, hangs or fills the memory."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.pixels import MAX_PIXELS
from tests.recorded_warnings import recorded_warnings

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
OTHER_FORMATS = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"BM", b"II*\0", b"\0\0\0\0", b"RIFF", b"")
DAMAGED_OF_EACH = 80
SECONDS, MEGABYTES = 60, 700


def encoded(name: str) -> bytes:
    """Return an image of 24 × 20 pixels of noise and a gradient; GIF and WebP are animated."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    pixels[:, :10] = np.linspace(0, 255, 24, dtype=np.uint8)[:, None]
    frames = [Image.fromarray(frame) for frame in pixels]
    more = {"save_all": True, "append_images": frames[1:]} if name in ("GIF", "WEBP") else {}
    file = io.BytesIO()
    frames[0].save(file, name, **more)
    return file.getvalue()


WHOLE = {name: encoded(name) for name in FORMATS}


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, with bits flipped, with its header or a part of it overwritten, or of another format by its start."""
    data, kind = bytearray(whole), rng.integers(5)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        for place in rng.integers(len(data), size=rng.integers(1, 20)):
            data[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        place = rng.integers(min(40, len(data)))
        data[place : place + 8] = rng.bytes(8)
    elif kind == 3:
        place = rng.integers(len(data))
        data[place : place + 64] = bytes([rng.choice([0, 255])]) * 64
    else:
        start = OTHER_FORMATS[rng.integers(len(OTHER_FORMATS))]
        data[: len(start)] = start
    return bytes(data)


def write_all(folder: Path, name: str) -> int:
    """Create a folder of damaged files and a valid one; returns their number."""
    rng = np.random.default_rng(FORMATS.index(name))
    folder.mkdir()
    for number in range(DAMAGED_OF_EACH):
        (folder / f"{number:03}.{name.lower()}").write_bytes(damaged(WHOLE[name], rng))
    (folder / f"whole.{name.lower()}").write_bytes(WHOLE[name])
    return DAMAGED_OF_EACH + 1


def read(folder: Path, **options: str) -> ImageFolderSource:
    return ImageFolderSource(folder, 16, 3, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Fail a test that takes long or raises the peak of the memory by much."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_skipped_by_name_or_are_images(tmp_path: Path, name: str) -> None:
    count = write_all(tmp_path / "images", name)
    source = read(tmp_path / "images")
    with recorded_warnings() as caught:
        source.check()
    (warning,) = [each for each in caught if "corrupt image(s) skipped" in str(each.message)]
    assert 0 < source.skipped < count
    assert str(warning.message).startswith(f"data.paths.train: {source.skipped} corrupt image(s) skipped")
    assert len(source) == count - source.skipped
    for index in range(len(source)):
        image = source.load(index, None)
        assert (image.shape, image.dtype) == ((3, 16, 16), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_one_error_if_fatal(tmp_path: Path, name: str) -> None:
    write_all(tmp_path / "images", name)
    with pytest.raises(ValueError, match=r"data\.on_corrupt = error .*:\n  .*images"):
        read(tmp_path / "images", on_corrupt="error").check()


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(data=st.data(), name=st.sampled_from(FORMATS))
@settings(max_examples=100)
def test_only_own_errors_are_raised(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str) -> None:
    whole = WHOLE[name]
    cut = data.draw(st.integers(0, len(whole)))
    place, replaced = data.draw(st.integers(0, cut)), data.draw(st.binary(max_size=12))
    folder = tmp_path_factory.mktemp("images")
    (folder / "a.png").write_bytes(whole[:place] + replaced + whole[place + len(replaced) : cut])
    with contextlib.suppress(ValueError):
        assert read(folder, on_corrupt="error").load(0, None).shape == (3, 16, 16)


def png(width: int, height: int, mode: int = 6) -> bytes:
    """A PNG of one colour (mode 6 is RGBA): kilobytes, whatever its size."""
    row = b"\0" + bytes(width * (4 if mode == 6 else 1))
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def declaring(name: str, width: int, height: int) -> bytes:
    """Return a small file whose header declares a huge image."""
    data = bytearray(WHOLE[name])
    if name == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif name == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif name == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", height, width)
    else:
        start = data.index(b"VP8X") + 12
        data[start : start + 6] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(data)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(8000, 8000), (16000, 16000), (65500, 65500)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_declared_size_is_refused_or_harmless(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    if name == "WEBP" and size[0] > 16383:
        pytest.skip("more than the format can hold")
    (tmp_path / "bomb.png").write_bytes(declaring(name, *size))
    (tmp_path / "whole.png").write_bytes(WHOLE["PNG"])
    source = read(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.check()
    assert "whole.png" in [path.name for path in source.paths]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_named_and_takes_no_memory(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 100
    bomb = png(side, side)
    assert len(bomb) < 1_000_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(
        ValueError, match=rf"larger than data\.max_pixels = {MAX_PIXELS}, (?s:.*)bomb\.png: {side} × {side}"
    ):
        read(tmp_path, on_corrupt="error").load(0, None)


def test_file_that_pillow_would_pass_to_another_program_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(OTHER_FORMATS[0] + b"showpage\n%%EOF\n")
    with pytest.raises(ValueError, match=r"a\.png: UnidentifiedImageError"):
        read(tmp_path, on_corrupt="error").load(0, None)
