"""Recognition of image files: by suffix, by content, and by what Pillow can decode."""

from __future__ import annotations

import io
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError, features

from diffusion_lab.data import formats
from diffusion_lab.data.formats import image_suffixes, is_image_file, open_image, readable_formats
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.skipped_images import DataWarning

NOISE = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def save(path: Path, name: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE).save(path, name)
    return path


def folder(path: Path) -> ImageFolderSource:
    return ImageFolderSource(path, 8, 3)


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        *((suffix, "JPEG") for suffix in (".jpg", ".jpeg", ".jfif", ".jpe", ".JPE")),
        *((".tiff", "TIFF"), (".dib", "DIB"), (".ppm", "PPM"), (".tga", "TGA"), (".apng", "PNG")),
        *([(".avif", "AVIF")] if features.check("avif") else []),
        *([(".jp2", "JPEG2000")] if features.check("jpg_2000") else []),
    ],
)
def test_formats_decoded_by_pillow_are_images(tmp_path, suffix, name):
    save(tmp_path / f"a{suffix}", name)
    source = folder(tmp_path)
    assert source.load(0, None).shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_file_without_suffix_is_recognized_by_its_first_bytes(tmp_path, name):
    save(tmp_path / "a", name)
    assert is_image_file(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"Python is no picture", b"BMW builds cars", b"P1\n", b"\n\5\1\0", b"GIF"])
def test_text_without_suffix_is_not_an_image(tmp_path, content):
    (tmp_path / "README").write_bytes(content)
    assert not is_image_file(tmp_path / "README")


def test_mixed_suffixes_are_all_trained_on(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png")
    for number in range(6):
        save(tmp_path / f"{number}.jfif", "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(folder(tmp_path)) == 10


def test_other_files_are_counted_and_named(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.txt", "c.txt", "d.svg", ".hidden.txt", "Thumbs.db", "@eaDir/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    with pytest.warns(
        DataWarning, match=r"3 file\(s\) that are not read as images.*: 2 × \.txt \(b\.txt\); 1 × \.svg \(d\.svg\)$"
    ):
        source = folder(tmp_path)
    assert (source.others.counts.total(), len(source)) == (3, 1)


def test_file_names_are_escaped(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "\x1b[2J.txt").write_text("no picture")
    (tmp_path / "\x1b[3J.png").write_text("no picture")
    with pytest.warns(DataWarning, match=r"\\x1b\[2J") as caught:
        folder(tmp_path).check()
    assert not any("\x1b" in str(each.message) for each in caught)


@pytest.fixture
def fresh_formats():
    """Look up the formats again for this test, and again afterwards; they are cached per process."""
    for cached in (readable_formats, image_suffixes):
        cached.cache_clear()
    yield
    for cached in (readable_formats, image_suffixes):
        cached.cache_clear()


class FakeHeif(ImageFile.ImageFile):
    """Stands for the format of the plugin: a mark, then any PNG."""

    format = "FAKEHEIF"

    def _open(self) -> None:
        with Image.open(io.BytesIO(self.fp.read()[8:])) as inner:
            inner.load()
            self.im, self._size, self._mode = inner.im, inner.size, inner.mode
        self.tile = []


def test_heic_is_read_where_the_plugin_is_installed(tmp_path, monkeypatch, fresh_formats):
    picture = save(tmp_path / "a.png")
    picture.rename(tmp_path / "a.heic").write_bytes(b"fakeheif" + (tmp_path / "a.heic").read_bytes())

    def register() -> None:
        Image.register_open("FAKEHEIF", FakeHeif, lambda prefix: prefix.startswith(b"fakeheif"))
        Image.register_extension("FAKEHEIF", ".heic")

    Image.init()
    for table, copied in (("OPEN", dict), ("EXTENSION", dict), ("ID", list)):
        monkeypatch.setattr(Image, table, copied(getattr(Image, table)))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(formats, "find_spec", lambda name: name == "pillow_heif")
    assert folder(tmp_path).load(0, None).shape == (3, 8, 8)


def test_without_the_plugin_heic_is_skipped_with_an_install_hint(tmp_path, monkeypatch, fresh_formats):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr(Image, "EXTENSION", {k: v for k, v in Image.registered_extensions().items() if v != "HEIF"})
    save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0" * 40)
    with pytest.warns(DataWarning, match=r"1 × \.heic \(b\.heic, readable after: pip install pillow-heif\)"):
        folder(tmp_path)


def test_formats_missing_in_pillow_are_skipped(tmp_path, monkeypatch, fresh_formats):
    monkeypatch.setattr(formats.features, "check", lambda name: name != "webp")
    save(tmp_path / "a.png")
    save(tmp_path / "b.webp", "WEBP")
    with pytest.warns(DataWarning, match=r"1 × \.webp \(b\.webp, readable after: a build of Pillow with WEBP\)"):
        folder(tmp_path)


@pytest.mark.parametrize("suffix", [".eps", ".wmf", ".mpg", ".fits", ".h5", ".ico", ".icns", ".blp"])
def test_unsafe_formats_are_not_images(suffix):
    assert suffix not in image_suffixes()


def test_an_icon_is_not_opened_under_another_name(tmp_path):
    """The image in it may be a thousand times larger than declared."""
    with pytest.raises(UnidentifiedImageError):
        open_image(io.BytesIO(save(tmp_path / "a.ico", "ICO").read_bytes()), ".png")


def test_tga_is_recognized_only_by_its_suffix(tmp_path):
    content = save(tmp_path / "a.tga", "TGA").read_bytes()
    assert open_image(io.BytesIO(content), ".tga").size == (9, 12)
    with pytest.raises(UnidentifiedImageError):
        open_image(io.BytesIO(content), ".png")


def test_pipe_without_suffix_never_blocks(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_image_file(tmp_path / "pipe")
