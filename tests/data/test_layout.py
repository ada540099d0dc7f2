"""Layout of image folders: classes, no classes, splits of a data set, links, and system files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from PIL import Image

from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.listing import list_images


def save(*names: Path) -> None:
    for name in names:
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name.name), 0, 0)).save(name)


def folder(path: Path, **options: object) -> ImageFolderSource:
    return ImageFolderSource(path, 8, 3, **options)  # type: ignore[arg-type]


def names(source: ImageFolderSource) -> list[str]:
    return [str(path.relative_to(source.path)) for path in source.paths]


@pytest.mark.parametrize(
    "system", ["@eaDir", "#recycle", "__MACOSX", "lost+found", "$RECYCLE.BIN", ".thumbnails", ".git", "Lost+Found"]
)
def test_system_folders_are_not_classes(tmp_path, system):
    save(tmp_path / "rose" / "a.png", tmp_path / "tulip" / "b.png")
    save(tmp_path / system / "c.png", tmp_path / "rose" / system / "a.png" / "SYNOPHOTO_THUMB_M.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = folder(tmp_path)
    assert source.class_names == ("rose", "tulip")
    assert names(source) == ["rose/a.png", "tulip/b.png"]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("parts", "train", "val"),
    [
        (("train", "val"), "train", "val"),
        (("Training", "Validation", "Test"), "Training", "Validation"),
        (("train2017", "val2017"), "train2017", "val2017"),
        (("train_images", "test_images"), "train_images", None),
    ],
)
@pytest.mark.parametrize("place", ["", "archive/data"])
def test_splits_of_a_data_set_are_refused_with_the_settings_to_use(tmp_path, parts, train, val, place, labelled):
    for part in parts:
        save(tmp_path / place / part / "rose" / "a.png", tmp_path / place / part / "tulip" / "b.png")
    with pytest.raises(ValueError, match="splits of a data set") as refused:
        folder(tmp_path, labelled=labelled)
    message = str(refused.value)
    assert f"set data.paths.train to {str(tmp_path / place / train)!r}" in message
    assert ("data.paths.val to" in message) == (val is not None)
    assert val is None or f"data.paths.val to {str(tmp_path / place / val)!r}" in message
    assert folder(tmp_path / place / train, labelled=labelled).class_names == ("rose", "tulip")


def test_a_line_break_in_the_name_of_a_folder_is_escaped(tmp_path):
    save(tmp_path / "rose" / "a.png", tmp_path / "lily\nError: b" / "a.png", tmp_path / "loose.png")
    with pytest.raises(ValueError, match="not both") as refused:
        folder(tmp_path)
    assert r"lily\nError: b, rose" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_splits_without_classes_are_refused_as_well(tmp_path):
    save(tmp_path / "train" / "a.png", tmp_path / "test" / "b.png")
    with pytest.raises(ValueError, match=r"splits of a data set \(test, train\)"):
        folder(tmp_path)


def test_validation_folder_with_splits_names_its_setting(tmp_path):
    save(tmp_path / "train" / "cat" / "a.png", tmp_path / "val" / "cat" / "b.png")
    with pytest.raises(ValueError, match=rf"set data\.paths\.val to {str(tmp_path / 'val')!r}"):
        folder(tmp_path, class_names=("cat",), key="data.paths.val")


@pytest.mark.parametrize("classes", [("train", "bus"), ("test", "val"), ("train",), ("training shoe", "train")])
def test_classes_named_like_splits_are_allowed_among_others(tmp_path, classes):
    save(*(tmp_path / name / "a.png" for name in classes))
    assert folder(tmp_path, labelled=True).class_names == tuple(sorted(classes))


def test_single_folder_of_class_folders_is_refused_if_classes_are_used(tmp_path):
    save(tmp_path / "flowers" / "rose" / "a.png", tmp_path / "flowers" / "tulip" / "b.png")
    with pytest.raises(ValueError, match=rf"set data\.paths\.train to {str(tmp_path / 'flowers')!r} \(rose, tulip\)"):
        folder(tmp_path, labelled=True)
    source = folder(tmp_path)
    assert (len(source), source.inner) == (2, ("flowers", ("rose", "tulip")))
    assert folder(tmp_path / "flowers", labelled=True).class_names == ("rose", "tulip")


@pytest.mark.parametrize(
    "files", [("only/a.png", "only/b.png"), ("only/a.png", "only/more/b.png"), ("only/more/b.png",)]
)
def test_one_class_folder_with_images_is_one_class(tmp_path, files):
    save(*(tmp_path / file for file in files))
    source = folder(tmp_path, labelled=True)
    assert (source.class_names, source.inner) == (("only",), None)


def test_files_next_to_class_folders_are_counted(tmp_path):
    save(tmp_path / "rose" / "a.png")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / ".hidden.csv").write_text("")
    with pytest.warns(UserWarning, match=r"1 file\(s\) that are not read as images are skipped: 1 × \.csv \(labels"):
        folder(tmp_path)


def link(place: Path, target: Path | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def test_links_to_folders_are_followed(tmp_path):
    save(*(tmp_path / "data" / "rose" / f"{number}.png" for number in range(8)))
    save(*(tmp_path / "else" / "deep" / f"{number}.png" for number in range(20)))
    link(tmp_path / "data" / "rose" / "more", tmp_path / "else")
    link(tmp_path / "data" / "tulip", tmp_path / "else")
    source = folder(tmp_path / "data")
    assert source.labels.tolist() == [0] * 28 + [1] * 20
    assert names(source)[8] == "rose/more/deep/0.png"
    assert source.load(27, None).shape == (3, 8, 8)


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "nowhere", "b"])
def test_circular_and_broken_links_end(tmp_path, target):
    save(tmp_path / "a" / "x.png", tmp_path / "b" / "y.png")
    link(tmp_path / "a" / "loop", target)
    link(tmp_path / "a" / "sub" / "loop", "../loop")
    assert list_images(tmp_path, "a").images.name(0) == b"a/x.png"
    assert len(list_images(tmp_path, "a").images) == 1


def test_many_links_to_one_folder_count_once(tmp_path):
    """Each level holds two links to the next: 2 ** 40 paths to the image."""
    for level in range(40):
        for name in ("left", "right"):
            link(tmp_path / f"{level}" / name, f"../{level + 1}")
    save(tmp_path / "40" / "x.png")
    os.rename(tmp_path / "0", tmp_path / "class")
    found = list_images(tmp_path, "class").images
    assert len(found) == 1
    assert found.name(0).endswith(b"/left/x.png")


def test_folder_name_takes_precedence_over_a_link(tmp_path):
    save(tmp_path / "a" / "z" / "x.png")
    link(tmp_path / "a" / "link", "z")
    found = list_images(tmp_path, "a").images
    assert [found.name(index) for index in range(len(found))] == [b"a/z/x.png"]


def test_linked_images_are_sorted_with_the_others(tmp_path):
    save(tmp_path / "a" / "z.png", tmp_path / "a" / "b" / "x.png", tmp_path / "else" / "m.png")
    link(tmp_path / "a" / "c", tmp_path / "else")
    found = list_images(tmp_path, "a").images
    assert [found.name(index) for index in range(3)] == [b"a/b/x.png", b"a/c/m.png", b"a/z.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_is_reported(tmp_path):
    save(tmp_path / "a" / "x.png", tmp_path / "a" / "locked" / "y.png")
    (tmp_path / "a" / "locked").chmod(0)
    try:
        with pytest.warns(UserWarning, match=r"1 folder\(s\) that cannot be read.*\n  a/locked"):
            assert len(folder(tmp_path)) == 1
    finally:
        (tmp_path / "a" / "locked").chmod(0o700)
