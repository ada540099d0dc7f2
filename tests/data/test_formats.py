"""Which files are pictures: by suffix, by content, and by what Pillow can decode here."""

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
def test_what_pillow_decodes_is_a_picture(tmp_path, suffix, name):
    save(tmp_path / f"a{suffix}", name)
    source = folder(tmp_path)
    assert source.load(0, None).shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_file_without_a_suffix_is_known_by_its_first_bytes(tmp_path, name):
    save(tmp_path / "a", name)
    assert is_image_file(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"Python is no picture", b"BMW builds cars", b"P1\n", b"\n\5\1\0", b"GIF"])
def test_a_text_without_a_suffix_is_no_picture(tmp_path, content):
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


def test_what_is_no_picture_is_counted_and_named(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.txt", "c.txt", "d.svg", ".hidden.txt", "Thumbs.db", "@eaDir/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    with pytest.warns(
        DataWarning, match=r"3 file\(s\) that are not read as images.*: 2 × \.txt \(b\.txt\); 1 × \.svg \(d\.svg\)$"
    ):
        source = folder(tmp_path)
    assert (source.others.counts.total(), len(source)) == (3, 1)


def test_names_of_files_reach_no_terminal_as_they_are(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "\x1b[2J.txt").write_text("no picture")
    (tmp_path / "\x1b[3J.png").write_text("no picture")
    with pytest.warns(DataWarning, match=r"\\x1b\[2J") as told:
        folder(tmp_path).check()
    assert not any("\x1b" in str(each.message) for each in told)


@pytest.fixture
def fresh_formats():
    """The formats are looked up once a process; here anew, and again afterwards."""
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


def test_without_the_plugin_heic_is_left_out_and_the_way_to_read_it_is_said(tmp_path, monkeypatch, fresh_formats):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    monkeypatch.setattr(Image, "EXTENSION", {k: v for k, v in Image.registered_extensions().items() if v != "HEIF"})
    save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0" * 40)
    with pytest.warns(DataWarning, match=r"1 × \.heic \(b\.heic, readable after: pip install pillow-heif\)"):
        folder(tmp_path)


def test_a_build_of_pillow_that_lacks_a_format_leaves_its_files_out(tmp_path, monkeypatch, fresh_formats):
    monkeypatch.setattr(formats.features, "check", lambda name: name != "webp")
    save(tmp_path / "a.png")
    save(tmp_path / "b.webp", "WEBP")
    with pytest.warns(DataWarning, match=r"1 × \.webp \(b\.webp, readable after: a build of Pillow with WEBP\)"):
        folder(tmp_path)


@pytest.mark.parametrize("suffix", [".eps", ".wmf", ".mpg", ".fits", ".h5", ".ico", ".icns", ".blp"])
def test_formats_that_start_programs_or_have_no_bound_are_no_pictures(suffix):
    assert suffix not in image_suffixes()


def test_an_icon_is_not_opened_under_another_name(tmp_path):
    """The picture in it may be a thousand times as large as it says."""
    with pytest.raises(UnidentifiedImageError):
        open_image(io.BytesIO(save(tmp_path / "a.ico", "ICO").read_bytes()), ".png")


def test_a_tga_is_taken_for_one_only_by_its_suffix(tmp_path):
    content = save(tmp_path / "a.tga", "TGA").read_bytes()
    assert open_image(io.BytesIO(content), ".tga").size == (9, 12)
    with pytest.raises(UnidentifiedImageError):
        open_image(io.BytesIO(content), ".png")


def test_a_pipe_without_a_suffix_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_image_file(tmp_path / "pipe")
