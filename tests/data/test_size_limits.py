"""Images that are too large, endless files, and the record of skipped files."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import image_folder, pixels
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.pixels import decode_image, to_channels
from diffusion_lab.data.remarks import Remarks
from diffusion_lab.data.skipped_images import DataWarning, ImageTooLargeError, Reason
from tests.data.test_damaged_images import png


def folder(path: Path, **options: object) -> ImageFolderSource:
    return ImageFolderSource(path, 8, 3, **options)  # type: ignore[arg-type]


def jpeg(size: tuple[int, int], **options: object) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(file, "JPEG", **options)
    return file


def declared(file: io.BytesIO, width: int, height: int) -> io.BytesIO:
    """The same JPEG with another size in its header."""
    data = bytearray(file.getvalue())
    start = next(place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := data.find(mark)) >= 0) + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return io.BytesIO(bytes(data))


def in_passes(file: io.BytesIO) -> io.BytesIO:
    """Return the same JPEG with a first scan of only one of the three components."""
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xda")
    return io.BytesIO(bytes(data[:start] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + data[start + 14 :]))


def test_large_image_is_not_corrupt_and_a_setting_allows_it(tmp_path):
    (tmp_path / "large.png").write_bytes(png(300, 200))
    (tmp_path / "small.png").write_bytes(png(30, 20))
    source = folder(tmp_path, max_pixels=50_000)
    with pytest.warns(DataWarning) as caught:
        source.check()
    (message,) = [str(each.message) for each in caught]
    assert "1 image(s) larger than data.max_pixels = 50000 skipped:" in message
    assert "large.png: 300 × 200, which takes a data.max_pixels of 60000" in message
    assert "corrupt" not in message
    assert [each.reason for each in source.skipped_images] == [Reason.TOO_LARGE]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raised = folder(tmp_path, max_pixels=60_000)
        raised.check()
    assert len(raised) == 2


def test_large_image_is_fatal_on_request_and_names_the_setting(tmp_path):
    (tmp_path / "large.png").write_bytes(png(300, 200))
    (tmp_path / "small.png").write_bytes(png(3, 2))
    (tmp_path / "text.png").write_text("no picture")
    expected = (
        r"1 corrupt image(?s:.*)text\.png(?s:.*)1 image\(s\) larger than data\.max_pixels = 50, and (?s:.*)large\.png"
    )
    with pytest.raises(ValueError, match=expected):
        folder(tmp_path, max_pixels=50, on_corrupt="error").check()


def test_images_beyond_pillows_limit_are_read_with_a_higher_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "large.png").write_bytes(png(30, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder(tmp_path).load(0, None).shape == (3, 8, 8)


def test_a_jpeg_counts_as_it_is_decoded():
    """14,000 × 14,000, decoded at an eighth of that."""
    with decode_image(declared(jpeg((64, 64)), 14_000, 14_000), 64) as image:
        assert image.size == (1750, 1750)


@pytest.mark.parametrize("change", [lambda file: file, in_passes], ids=["progressive", "colour after colour"])
def test_jpeg_with_several_scans_counts_with_its_coefficients(change):
    options = {"progressive": True} if change is not in_passes else {}
    bomb = declared(change(jpeg((64, 64), **options)), 14_000, 14_000)
    expected = r"14000 × 14000, which takes a data\.max_pixels of 58800000"
    with pytest.raises(ImageTooLargeError, match=expected), decode_image(bomb, 64):
        pass


@pytest.mark.parametrize("size", [65_500, 40_000])
def test_a_jpeg_that_declares_gigabytes_is_refused(size):
    with pytest.raises(ImageTooLargeError), decode_image(declared(jpeg((64, 64)), size, 65_500), 4096):
        pass


def test_threads_share_the_limit_of_pixels_in_memory(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100)
    at_once, held, most = pixels._PixelBudget(), [0], [0]
    lock = threading.Lock()

    def decode(count: int) -> None:
        for _ in range(20):
            with at_once.taking(count):
                with lock:
                    held[0] += count
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= count

    threads = [threading.Thread(target=decode, args=(count,)) for count in (30, 40, 60, 100, 250, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [0]
    assert most[0] <= 250


@pytest.mark.parametrize("kind", ["pipe", "endless device", "empty device"])
def test_special_files_are_never_opened(tmp_path, kind):
    place = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if kind == "endless device" else "/dev/null")
    (tmp_path / "b.png").write_bytes(png(9, 9))
    source = folder(tmp_path)
    with pytest.warns(DataWarning, match=r"1 corrupt image(?s:.*)a\.png: not a regular file"):
        source.check()
    assert len(source) == 1


def test_a_file_of_endless_zeros_is_not_read_to_its_end(tmp_path, monkeypatch):
    """A file without a place on the disk that declares a terabyte."""
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "b.png").write_bytes(png(9, 9))
    source = folder(tmp_path)
    with pytest.warns(DataWarning, match=r"a\.png: 1099\.5 GB, which takes a data\.max_pixels of"):
        source.check()


def test_other_files_are_not_hashed(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"no picture")
    monkeypatch.setattr(image_folder, "content_of", lambda stream: pytest.fail("read to the end"))
    assert isinstance(folder(tmp_path).content_or_fault(0), Exception)


def gray_png(values: np.ndarray, bits: int, transparent: int) -> io.BytesIO:
    """A gray PNG that declares one value transparent."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes() for row in values.astype(np.uint8)
        ]
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), chunk(b"tRNS", struct.pack(">H", transparent)), chunk(b"IDAT", body))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("bits", "value"), [(16, 1000), (16, 65535), (8, 100), (4, 5), (2, 1), (1, 1)])
def test_transparent_value_of_a_gray_image_is_transparent(bits, value):
    values = np.array([[0, value, 0, value]] * 2)
    with decode_image(gray_png(values, bits, value), 8) as image:
        alpha = np.asarray(to_channels(image, 4, (255, 255, 255)))[..., 3]
        blue = np.asarray(to_channels(image, 3, (0, 0, 255)))
    assert alpha.tolist() == [[255, 0, 255, 0]] * 2
    assert blue[0].tolist() == [[0, 0, 0], [0, 0, 255]] * 2


def test_the_transparent_colour_of_sixteen_bits_is_transparent():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    colours = np.array([[[51400, 25700, 12850], [0, 0, 0]]])
    parts = (
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">HHH", 51400, 25700, 12850)),
        chunk(b"IDAT", zlib.compress(b"\0" + colours.astype(">u2").tobytes())),
    )
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    with decode_image(file, 8) as image:
        assert np.asarray(to_channels(image, 4, (255, 255, 255)))[0, :, 3].tolist() == [0, 255]


def test_damaged_exif_data_is_reported_and_the_image_used(tmp_path):
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "damaged.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "whole.jpg")
    source = folder(tmp_path)
    with pytest.warns(DataWarning, match=r"1 image\(s\) with damaged metadata.*:\n  .*damaged\.jpg: Corrupt EXIF data"):
        source.check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.load(0, None)  # the warning was issued before
    assert len(source) == 2


def test_loading_adds_no_second_filter_of_warnings(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9, 9))
    source = folder(tmp_path)
    with warnings.catch_warnings():
        source.load(0, None)
        once = list(warnings.filters)
        source.load(0, None)
        assert warnings.filters == once


def test_skipped_files_are_recorded_for_the_run(tmp_path):
    for name, content in (("a.png", png(9, 9)), ("b.png", b"no picture"), ("c.png", png(300, 200)), ("d.txt", b"")):
        (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = folder(tmp_path, max_pixels=1000)
        source.check()
    remarks = Remarks.from_folders([source], ["a note"])
    assert remarks.counts() == {"damaged": 1, "too_large": 1, "no_pictures": 1}
    lines = list(remarks.lines())
    assert lines[1] == "a note"
    assert any(f"(damaged): {tmp_path / 'b.png'}" in line for line in lines)
    assert any(f"(too_large): {tmp_path / 'c.png'}: 300 × 200" in line for line in lines)
    assert "d.txt" in lines[0]
